"""A proxy in front of a server's Unix socket that can stall, cut and slow what goes through it."""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards every connection to ``server``; ``stalled``: it takes bytes and forwards none, as a dead network does.

    Args:
        server: the socket behind it.
        name: of the socket in front, in a folder of its own.
    """

    def __init__(self, server: Path, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lvp-", dir="/tmp"))
        self.path = self.folder / name
        self.delay_s = 0.0
        self._server = server
        self._forward = threading.Event()
        self._forward.set()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(50)
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        self._forward.clear()

    def go_on(self) -> None:
        self._forward.set()

    def cut(self) -> None:
        """Close every connection that is open now."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        self._listener.close()
        self.cut()
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                front, _ = self._listener.accept()
                back = socket.socket(socket.AF_UNIX)
                try:
                    back.connect(str(self._server))
                except OSError:
                    front.close()
                    back.close()
                    continue
                self._open |= {front, back}
                for source, sink in ((front, back), (back, front)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                time.sleep(self.delay_s)
                self._forward.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            source.close()
        self._open.discard(source)
