"""A proxy in front of a server's Unix socket that can stall, cut and slow what goes through it."""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.relay import Relay, to_unix


class Proxy(Relay):
    """Forwards every connection to ``server``; ``stalled``: it takes bytes and forwards none, as a dead network does.

    Args:
        server: the socket behind it.
        name: of the socket in front, in a folder of its own.
    """

    def __init__(self, server: Path, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lvp-", dir="/tmp"))
        self.path = self.folder / name
        self.delay_s = 0.0
        self._forward = threading.Event()
        self._forward.set()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(50)
        super().__init__(listener, to_unix(server))

    def stall(self) -> None:
        self._forward.clear()

    def go_on(self) -> None:
        self._forward.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        super().__exit__(kind, error, trace)
        shutil.rmtree(self.folder)

    def _carry(self, front: socket.socket, back: socket.socket) -> None:
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
