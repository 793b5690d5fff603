"""A TCP proxy in front of a server's Unix socket, as a network far away: late, and now and then stalled or reset."""

import contextlib
import queue
import random
import socket
import threading
import time
from pathlib import Path
from typing import Self

from tests.relay import Relay, to_unix


class FarServer(Relay):
    """Forwards TCP connections to ``server``; every byte is ``late_s`` late each way.

    Args:
        server: the Unix socket behind it.
        address: where it listens.
        late_s: seconds each way.
    """

    def __init__(self, server: Path, address: tuple[str, int], late_s: float) -> None:
        self.address, self._late_s = address, late_s
        self._stalled_until = 0.0
        self.resets = self.stalls = 0
        super().__init__(socket.create_server(address, backlog=50), to_unix(server))

    def stall(self, seconds: float) -> None:
        """Deliver nothing for a while; what is sent meanwhile comes later, in order."""
        self.stalls += 1
        self._stalled_until = time.monotonic() + seconds

    def cut(self) -> None:
        """With RST, as a middlebox does that has lost its table."""
        self.resets += 1
        while self._open:
            one = self._open.pop()
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.shutdown(socket.SHUT_RDWR)  # wakes who reads it
            one.close()

    def _carry(self, front: socket.socket, back: socket.socket) -> None:
        front.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((front, back), (back, front)):
            line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=self._read, args=(source, line), daemon=True).start()
            threading.Thread(target=self._write, args=(line, sink), daemon=True).start()

    def _read(self, source: socket.socket, line: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                line.put((time.monotonic() + self._late_s, data))
        line.put((time.monotonic() + self._late_s, b""))

    def _write(self, line: "queue.SimpleQueue[tuple[float, bytes]]", sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = line.get()
                while (wait := max(due, self._stalled_until) - time.monotonic()) > 0:
                    time.sleep(wait)
                if not data:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(data)


class Weather:
    """Stalls and resets of some servers at random, until it is stopped.

    Args:
        servers: what is hit.
        seed: so that it can be had again.
        every_s: mean time between two of them, seconds.
    """

    def __init__(self, servers: list[FarServer], seed: int, every_s: float = 6) -> None:
        self._servers, self._random, self._every_s = servers, random.Random(seed), every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _loop(self) -> None:
        while not self._stop.wait(self._random.expovariate(1 / self._every_s)):
            server = self._random.choice(self._servers)
            if self._random.random() < 0.5:
                server.stall(self._random.uniform(0.5, 3))
            else:
                server.cut()
