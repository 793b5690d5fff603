"""Batches on their way to the database: on disk first, each with its checksum, delivered in order, then deleted.

What is written here while the database is away survives the death of the worker: the next attempt on this host
hands it in.
"""

import contextlib
import dataclasses
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from liverseg_core.records import EpochRecord
from store.batches import Batch, Finished, Steps

log = logging.getLogger(__name__)


class Spool:
    """The batches of one attempt that have not been delivered yet.

    Args:
        folder: holds one file a batch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batches: list[Batch] = []
        self._last = 0

    @property
    def empty(self) -> bool:
        return not self._batches

    def add(self, steps: list[Steps], epochs: list[Finished]) -> None:
        """Put a batch behind the others; on disk when this returns, unless the disk is full."""
        self._last += 1
        batch = Batch(self._last, tuple(steps), tuple(epochs))
        self._batches.append(batch)
        try:
            _write(self.folder / f"{batch.number:06d}.json", batch)
        except OSError as error:  # a full disk must not lose what memory still holds
            log.warning("batch %s could not be spooled (%s); it stays in memory", batch.number, error)

    def deliver(self, store: Callable[[Batch], object]) -> None:
        """``store`` each batch, oldest first; whatever it raises leaves that batch and those behind it here."""
        while self._batches:
            store(self._batches[0])
            batch = self._batches.pop(0)
            with contextlib.suppress(OSError):
                (self.folder / f"{batch.number:06d}.json").unlink(missing_ok=True)


def left_behind(folder: Path) -> Iterator[Batch]:
    """Intact batches that a dead worker could not deliver, in order; ends at the first that is damaged."""
    for path in sorted(folder.glob("*.json")):
        batch = _read(path)
        if batch is None:
            log.warning("%s is damaged; it and what follows will be computed again", path)
            return
        yield batch


def _write(path: Path, batch: Batch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = json.dumps(dataclasses.asdict(batch)).encode()
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        file.write(b"%08x\n" % zlib.crc32(body) + body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> Batch | None:
    checksum, _, body = path.read_bytes().partition(b"\n")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    value: dict[str, Any] = json.loads(body)
    steps = [Steps(one["epoch"], one["first"], tuple(one["losses"])) for one in value["steps"]]
    epochs = [Finished(EpochRecord(**one["record"]), one["checkpoint"]) for one in value["epochs"]]
    return Batch(value["number"], tuple(steps), tuple(epochs))
