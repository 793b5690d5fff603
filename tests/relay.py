"""What stands between a client and a server: takes connections, opens one to the server for each, and can cut all."""

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay(ABC):
    """Takes connections at ``listener`` until its context ends.

    Args:
        listener: a socket that listens.
        connect: opens a connection to the server; OSError: there is none, and the client is turned away.
    """

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener, self._connect = listener, connect
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @abstractmethod
    def _carry(self, front: socket.socket, back: socket.socket) -> None:
        """Start the threads that forward what the client (front) and the server (back) send."""

    def cut(self) -> None:
        """End every connection that is open now."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                front, _ = self._listener.accept()
                try:
                    back = self._connect()
                except OSError:
                    front.close()
                    continue
                self._open |= {front, back}
                self._carry(front, back)


def to_unix(server: Path) -> Callable[[], socket.socket]:
    """Opens connections to a server's Unix socket."""

    def connect() -> socket.socket:
        back = socket.socket(socket.AF_UNIX)
        try:
            back.connect(str(server))
        except OSError:
            back.close()
            raise
        return back

    return connect
