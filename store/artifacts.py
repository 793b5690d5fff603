"""Files by content hash, written whole or not at all, never changed: in a folder, or in a bucket.

Who reads a file asks for it with :func:`held`: from a bucket it is fetched first, unless this host still has it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from store.fetched import Fetched
from store.folder import Folder
from store.settings import settings
from store.stored import HASH, Away, Found, Stored, sha256_of

__all__ = [
    "HASH", "Away", "Found", "Stored", "age", "held", "intact", "listed", "locate", "put", "remove", "sha256_of",
    "size", "there", "trouble",
]  # fmt: skip


class Place(Protocol):
    """Where files lie; the functions below say what each of these does."""

    def locate(self, sha256: str) -> Path: ...
    def trouble(self) -> str | None: ...
    def put(self, source: Path) -> Stored: ...
    def held(self, sha256: str, going_on: Callable[[], None]) -> AbstractContextManager[Path]: ...
    def there(self, sha256: str) -> bool: ...
    def intact(self, sha256: str) -> bool: ...
    def size(self, sha256: str) -> int: ...
    def age(self, sha256: str) -> float: ...
    def remove(self, name: str) -> bool: ...
    def listed(self) -> Iterator[Found]: ...


def place() -> Place:
    """Where this process keeps and finds files."""
    chosen = settings()
    if chosen.artifacts_at is None:
        return Folder(chosen.artifacts)
    return _bucket(chosen.artifacts_at, data_cache())


@lru_cache(maxsize=4)
def _bucket(address: str, kept: Fetched) -> Place:
    from store.bucket import Bucket  # its client, only where it is needed

    return Bucket(address, kept)


def data_cache() -> Fetched:
    """What this host has fetched; decoded slices count towards its bound and go like files."""
    chosen = settings()
    return Fetched(chosen.fetched, chosen.data_cache_mb << 20, decoded=chosen.cache)


def locate(sha256: str) -> Path:
    """Where the file with this hash lies on this host, or would lie; who reads it asks :func:`held`.

    Raises:
        ValueError: ``sha256`` is no hash, so it must not become a path.
    """
    return place().locate(sha256)


def trouble() -> str | None:
    """Why results cannot be stored now, in words; None: they can."""
    return place().trouble()


def put(source: Path) -> Stored:
    """Copy ``source`` into the store; safely there when this returns.

    A file that was there before and is damaged is replaced: so it heals. A file of the store itself stays as it is.

    Raises:
        Away: the store cannot be used now.
        OSError: the disk is full, or ``source`` cannot be read.
    """
    return place().put(source)


def held(sha256: str, going_on: Callable[[], None] = lambda: None) -> AbstractContextManager[Path]:
    """The file with this hash, as a path that stays for as long as the context is open.

    Args:
        sha256: of its content.
        going_on: called every now and then while it is fetched, or while another process of this host fetches it;
            may raise to give up.

    Raises:
        DataError: it is gone from the store, or is not what it was (of a folder, whoever opens the path sees that).
        Away: the store cannot be used now.
        OSError: the disk is full.
    """
    return place().held(sha256, going_on)


def there(sha256: str) -> bool:
    """Whether the store has the file; Away: it cannot be asked now."""
    return place().there(sha256)


def intact(sha256: str) -> bool:
    """Whether the file is there and its content still has this hash."""
    return place().intact(sha256)


def size(sha256: str) -> int:
    """Bytes of the file with this hash; 0 where it is not there or nobody can say."""
    return place().size(sha256)


def age(sha256: str) -> float:
    """Seconds since the file was stored; of what is not there: old."""
    return place().age(sha256)


def remove(name: str) -> bool:
    """Remove what lies there under this name (see :class:`Found`); False: nothing did."""
    return place().remove(name)


def listed() -> Iterator[Found]:
    """Everything that lies in the store."""
    return place().listed()
