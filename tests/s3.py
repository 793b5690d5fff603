"""A real S3 server for tests (nanio, over HTTP, which checks signatures), and a wire to it that is cut and bent."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests import processes
from tests.relay import Relay

KEY, SECRET = "AKIDLIVERSEGTESTS", "a-secret-that-must-be-seen-nowhere-3f9c"
BUCKET, PREFIX = "lab-files", "liver"
ADDRESS = f"s3://{BUCKET}/{PREFIX}"


class Server:
    """nanio serving a folder as S3; what is stored lies in ``folder`` as plain files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lvs3-", dir="/tmp"))
        (self.folder / BUCKET).mkdir()
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, or start it again after :meth:`stop`."""
        command = [str(Path(sys.executable).with_name("nanio")), "serve", "--data-dir", str(self.folder)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--no-access-log"]
        keys = {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | keys)
        processes.wait_for("the S3 server", self._answers, 30)

    def stop(self) -> None:
        """SIGKILL it; what it had taken whole is on disk."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def path_of(self, sha256: str) -> Path:
        """Where the server keeps an object."""
        return self.folder / BUCKET / PREFIX / sha256[:2] / sha256

    def objects(self) -> list[Path]:
        return sorted(path for path in (self.folder / BUCKET / PREFIX).rglob("*") if path.is_file())

    def clear(self) -> None:
        for path in (self.folder / BUCKET).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def surroundings(self, port: int | None = None) -> dict[str, str]:
        """The environment of a process that uses it, over a wire's port where one is given."""
        return {
            "LIVERSEG_ARTIFACTS": ADDRESS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False


class Wire(Relay):
    """A TCP proxy before a server.

    Attributes:
        down: called with each piece that comes from the server; what it returns goes on, None cuts the connection.
        up: the same of what goes to the server.
        requests: methods and targets of the requests that went up.
        came_down: bytes that came from the server.
    """

    def __init__(self, port: int) -> None:
        self.down: Callable[[bytes], bytes | None] = lambda piece: piece
        self.up: Callable[[bytes], bytes | None] = lambda piece: piece
        self.requests: list[str] = []
        self.came_down = 0
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        super().__init__(listener, lambda: socket.create_connection(("127.0.0.1", port), 5))

    def _carry(self, front: socket.socket, back: socket.socket) -> None:
        threading.Thread(target=self._pump, args=(front, back, self._went), daemon=True).start()
        threading.Thread(target=self._pump, args=(back, front, self._came), daemon=True).start()

    def _went(self, piece: bytes) -> bytes | None:
        self.requests += [found.decode() for found in re.findall(rb"(?:GET|PUT|POST|HEAD|DELETE) /\S*", piece)]
        return self.up(piece)

    def _came(self, piece: bytes) -> bytes | None:
        self.came_down += len(piece)
        return self.down(piece)

    def _pump(self, source: socket.socket, sink: socket.socket, bend: Callable[[bytes], bytes | None]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                if (bent := bend(piece)) is None:
                    break
                sink.sendall(bent)
        for one in (sink, source):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            self._open.discard(one)
            one.close()


def cutting(after: int, times: int = 10**9) -> Callable[[bytes], bytes | None]:
    """Cut a connection whenever ``after`` more bytes have come down, ``times`` times."""
    left = {"bytes": after, "times": times}
    lock = threading.Lock()

    def down(piece: bytes) -> bytes | None:
        with lock:
            left["bytes"] -= len(piece)
            if left["bytes"] > 0 or left["times"] == 0:
                return piece
            left.update(bytes=after, times=left["times"] - 1)
            return None

    return down


def flipping(times: int, marker: bytes) -> Callable[[bytes], bytes | None]:
    """Flip a bit in ``marker`` where it comes by, ``times`` times."""
    left = [times]

    def down(piece: bytes) -> bytes | None:
        if left[0] and marker in piece:
            left[0] -= 1
            return piece.replace(marker, bytes([marker[0] ^ 1]) + marker[1:], 1)
        return piece

    return down


def slowly(seconds: float) -> Callable[[bytes], bytes | None]:
    """Every piece takes its time."""

    def down(piece: bytes) -> bytes | None:
        time.sleep(seconds)
        return piece

    return down


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
