"""Slots of devices: at most one trainer in each, whichever worker of this host started it.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from store.settings import settings

CPU = "cpu"
"""The device that is none: the processor, on a host that has a GPU as well."""


@dataclass(frozen=True)
class Slot:
    """A slot that this process has, until it is closed.

    Attributes:
        file: holds the lock.
        surroundings: what a trainer in it has in its environment, so that it sees its own device and no other.
    """

    file: IO[str]
    surroundings: dict[str, str]

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Slots:
    """The slots of one worker, numbered from 0 on each device; another worker for the same device has the same ones.

    Args:
        count: how many trainers this worker runs at the same time on a device.
        owner: what the files say to who finds a slot taken.
        devices: as ``CUDA_VISIBLE_DEVICES`` calls them, or ``cpu``; none: the one that the surroundings name.
    """

    def __init__(self, count: int, owner: str, devices: Sequence[str] = ()) -> None:
        self._count, self._owner = count, owner
        self._places = {name: surroundings(name) for name in devices} or {device(): {}}
        self._folder = settings().home / "slots" / socket.gethostname()

    @property
    def surroundings(self) -> Sequence[dict[str, str]]:
        """Of each device, see :class:`Slot`."""
        return list(self._places.values())

    @property
    def total(self) -> int:
        return self._count * len(self._places)

    def take(self) -> Slot | None:
        """A free slot, to be closed by the caller, on the device that is least in use; None: each is in use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path, around in self._paths():
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            file.truncate(0)
            file.write(self._owner)
            file.flush()
            return Slot(file, around)
        return None

    def taken(self) -> str:
        """By whom they are in use, in words."""
        slots = "slot 0" if self._count == 1 else f"slots 0 to {self._count - 1}"
        names = " and ".join(self._places)
        of = f"device {names}" if len(self._places) == 1 else f"devices {names}"
        owners = " and ".join(sorted(set(self._owners())))
        return (
            f"{slots} of {of} on this host in use by worker {owners}; to train more at "
            "once start one worker with more --slots, or name other devices with --devices or LIVERSEG_DEVICE"
        )

    def in_use(self) -> list[str]:
        """Who has each slot that cannot be taken now."""
        owners = []
        for path, _ in self._paths():
            if path.exists() and not _is_free(path):
                owners.append(path.read_text() or "somebody")
        return owners

    def _owners(self) -> Iterator[str]:
        for path, _ in self._paths():
            with contextlib.suppress(OSError):
                yield path.read_text()

    def _paths(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """The first slot of every device comes before the second of any."""
        for number in range(self._count):
            for name, around in self._places.items():
                yield self._folder / f"{quote(name, safe='')}-{number}", around


def _is_free(path: Path) -> bool:
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def device() -> str:
    """The device that this worker trains on, by the name that people gave it."""
    return settings().device or os.environ.get("CUDA_VISIBLE_DEVICES") or "default"


def surroundings(name: str) -> dict[str, str]:
    """What a process needs in its environment, before it loads TensorFlow, to see the device ``name`` alone."""
    return {"CUDA_VISIBLE_DEVICES": "-1" if name == CPU else name}
