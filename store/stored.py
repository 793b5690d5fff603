"""What is said of a file in the store, wherever that lies."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from liverseg_core.errors import LiversegError

HASH = re.compile("[0-9a-f]{64}")


class Away(LiversegError):
    """The store cannot be used now (not mounted, not writable, no answer); who needs it waits and tries again."""


@dataclass(frozen=True)
class Stored:
    """A file in the store."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Found:
    """Something that lies in the store: its name there, its bytes, and for how many seconds it has been there."""

    name: str
    bytes: int
    age_s: float

    @property
    def sha256(self) -> str | None:
        """Of what the file holds; None: it is none of ours, or half of one."""
        name = self.name.rpartition("/")[2]
        return name if HASH.fullmatch(name) else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_of(sha256: str) -> str:
    """Where a store keeps the file with this hash, below its root.

    Raises:
        ValueError: ``sha256`` is no hash, so it must not become a path.
    """
    if not HASH.fullmatch(sha256):
        raise ValueError(f"no SHA-256 in hex. Received: {sha256!r}")
    return f"{sha256[:2]}/{sha256}"


def copied(origin: BinaryIO, copy: BinaryIO) -> Stored:
    """Copy to the disk; what is hashed is what was written."""
    digest, size = hashlib.sha256(), 0
    while block := origin.read(1 << 20):
        digest.update(block)
        size += copy.write(block)
    copy.flush()
    os.fsync(copy.fileno())
    return Stored(digest.hexdigest(), size)
