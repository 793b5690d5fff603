"""Files by content hash: ``artifacts/ab/abcdef...``. Written whole or not at all, never changed."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from liverseg_core.errors import DISK_FULL, LiversegError
from store.settings import settings

HASH = re.compile("[0-9a-f]{64}")
FOLDER = re.compile("[0-9a-f]{2}")
NAMED = "the artifact folder of LIVERSEG_HOME"
"""What it is called where users see it; where it lies is the operator's to know."""


class Away(LiversegError):
    """The folder cannot be used now (not mounted, not writable, gone); who writes waits for it and tries again."""


@dataclass(frozen=True)
class Stored:
    """A file in the store."""

    sha256: str
    bytes: int


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(sha256: str) -> Path:
    """Where the file with this hash lies (or would lie).

    Raises:
        ValueError: ``sha256`` is no hash, so it must not become a path.
    """
    if not HASH.fullmatch(sha256):
        raise ValueError(f"no SHA-256 in hex. Received: {sha256!r}")
    return settings().artifacts / sha256[:2] / sha256


def trouble() -> str | None:
    """Why results cannot be stored now, in words; None: they can.

    An empty folder is one that is not mounted: what a run trains on lies in it.
    """
    folder = settings().artifacts
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        return f"{NAMED} is away ({error.strerror})"
    if not any(map(FOLDER.fullmatch, names)):
        return f"{NAMED} is empty; is it mounted?"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{NAMED} cannot be written to"


def put(source: Path) -> Stored:
    """Copy ``source`` into the store; safely on disk when this returns.

    What is hashed is what is written, and a file that was there before is replaced: so a damaged one heals. A file
    of the store itself stays as it is.

    Raises:
        Away: the folder cannot be used now.
        OSError: the disk is full, or ``source`` cannot be read.
    """
    if HASH.fullmatch(source.name) and source == locate(source.name):
        with _away_or_full():
            return Stored(source.name, source.stat().st_size)
    with source.open("rb") as origin, _away_or_full():
        return _put(origin)


@contextmanager
def _away_or_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise Away(f"{NAMED} cannot be used ({error.strerror or error.errno})") from error


def _put(origin: BinaryIO) -> Stored:
    settings().artifacts.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=settings().artifacts, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            stored = _copy(origin, copy)
        place = locate(stored.sha256)
        place.parent.mkdir(exist_ok=True)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(place.parent)
    _sync(settings().artifacts)
    return stored


def _copy(origin: BinaryIO, copy: BinaryIO) -> Stored:
    digest, size = hashlib.sha256(), 0
    while block := origin.read(1 << 20):
        digest.update(block)
        size += copy.write(block)
    copy.flush()
    os.fsync(copy.fileno())
    return Stored(digest.hexdigest(), size)


def intact(sha256: str) -> bool:
    """Whether the file is there and its content still has this hash."""
    place = locate(sha256)
    return place.is_file() and sha256_of(place) == sha256


def size(sha256: str) -> int:
    """Bytes of the file with this hash; 0 where it is not there."""
    try:
        return locate(sha256).stat().st_size
    except FileNotFoundError:
        return 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
