"""Files by content hash: ``artifacts/ab/abcdef...``. Written whole or not at all, never changed."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from store.settings import settings


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
    """Where the file with this hash lies (or would lie)."""
    return settings().artifacts / sha256[:2] / sha256


def put(source: Path) -> Stored:
    """Copy ``source`` into the store; safely on disk when this returns."""
    stored = Stored(sha256_of(source), source.stat().st_size)
    place = locate(stored.sha256)
    if place.exists():
        return stored
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".new-")
    try:
        with source.open("rb") as origin, os.fdopen(descriptor, "wb") as copy:
            shutil.copyfileobj(origin, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(place.parent)
    return stored


def intact(sha256: str) -> bool:
    """Whether the file is there and its content still has this hash."""
    place = locate(sha256)
    return place.is_file() and sha256_of(place) == sha256


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
