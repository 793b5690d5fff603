"""Slots of a device: at most one trainer in each, whichever worker of this host started it.

A slot is a file with a lock, which the trainer process holds open beside its supervisor: the kernel frees it when
both are gone, however they died. The files lie in LIVERSEG_HOME, since workers of one home take from one queue and
compete for a device without knowing of each other; another home is another installation (a demo, a test) that
somebody started beside this one on purpose, and need not wait for it. Hosts may share a home, so the host is in the
name.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

from store.settings import settings


class Slots:
    """The slots of one worker, numbered from 0; another worker for the same device has the same ones.

    Args:
        count: how many trainers this worker runs at the same time.
        owner: what the files say to who finds a slot taken.
    """

    def __init__(self, count: int, owner: str) -> None:
        self._count, self._owner = count, owner
        self._folder = settings().home / "slots" / socket.gethostname()

    def take(self) -> IO[str] | None:
        """A free slot, to be closed by the caller; None: each is in use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(self._count):
            file = self._path(number).open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            file.truncate(0)
            file.write(self._owner)
            file.flush()
            return file
        return None

    def taken(self) -> str:
        """By whom they are in use, in words."""
        slots = "slot 0" if self._count == 1 else f"slots 0 to {self._count - 1}"
        owners = sorted(set(self._owners()))
        return (
            f"{slots} of device {device()} on this host in use by worker {' and '.join(owners)}; to train more at "
            "once start one worker with more --slots, or name another device in LIVERSEG_DEVICE"
        )

    def _owners(self) -> Iterator[str]:
        for number in range(self._count):
            with contextlib.suppress(OSError):
                yield self._path(number).read_text()

    def _path(self, number: int) -> Path:
        return self._folder / f"{quote(device(), safe='')}-{number}"


def device() -> str:
    """The device that this worker trains on, by the name that people gave it."""
    return settings().device or os.environ.get("CUDA_VISIBLE_DEVICES") or "default"
