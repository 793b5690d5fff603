"""A store in a folder: ``artifacts/ab/abcdef...``."""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from liverseg_core.disk import sync
from liverseg_core.errors import DISK_FULL
from store.stored import HASH, Away, Found, Stored, copied, place_of, sha256_of

NAMED = "the artifact folder of LIVERSEG_HOME"
"""What it is called where users see it; where it lies is the operator's to know."""

SUBFOLDER = re.compile("[0-9a-f]{2}")


class Folder:
    """Files by content hash in a folder that API and workers share.

    Args:
        root: the folder; made when something is put into it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def locate(self, sha256: str) -> Path:
        return self._root / place_of(sha256)

    def trouble(self) -> str | None:
        """An empty folder is one that is not mounted: what a run trains on lies in it."""
        try:
            names = [path.name for path in self._root.iterdir()]
        except OSError as error:
            return f"{NAMED} is away ({error.strerror})"
        if not any(map(SUBFOLDER.fullmatch, names)):
            return f"{NAMED} is empty; is it mounted?"
        return None if os.access(self._root, os.W_OK | os.X_OK) else f"{NAMED} cannot be written to"

    def put(self, source: Path) -> Stored:
        if HASH.fullmatch(source.name) and source == self.locate(source.name):
            with _away_or_full():
                return Stored(source.name, source.stat().st_size)
        with source.open("rb") as origin, _away_or_full():
            return self._put(origin)

    def _put(self, origin: BinaryIO) -> Stored:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._root, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as copy:
                stored = copied(origin, copy)
            place = self.locate(stored.sha256)
            place.parent.mkdir(exist_ok=True)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(place.parent)
        sync(self._root)
        return stored

    @contextmanager
    def held(self, sha256: str, going_on: Callable[[], None]) -> Iterator[Path]:  # noqa: ARG002 - nothing is fetched
        """It is where it is; nothing but a deletion takes it away."""
        yield self.locate(sha256)

    def there(self, sha256: str) -> bool:
        return self.locate(sha256).is_file()

    def intact(self, sha256: str) -> bool:
        place = self.locate(sha256)
        return place.is_file() and sha256_of(place) == sha256

    def size(self, sha256: str) -> int:
        try:
            return self.locate(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def age(self, sha256: str) -> float:
        found = _found(self.locate(sha256))
        return found.age_s if found else float("inf")

    def remove(self, name: str) -> bool:
        place = self._root / name
        there = place.exists()
        place.unlink(missing_ok=True)
        return there

    def listed(self) -> Iterator[Found]:
        """Files of the store, and halves that killed writers left."""
        ours = [path for path in self._root.glob("*/*") if HASH.fullmatch(path.name)]
        for path in [*ours, *self._root.glob(".new-*")]:
            if found := _found(path):
                yield replace(found, name=str(path.relative_to(self._root)))


@contextmanager
def _away_or_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise Away(f"{NAMED} cannot be used ({error.strerror or error.errno})") from error


def _found(path: Path) -> Found | None:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return Found(path.name, seen.st_size, time.time() - seen.st_mtime)
