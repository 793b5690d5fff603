"""A store in a bucket that speaks S3: ``s3://bucket/prefix/ab/abcdef...``.

Where it is and who asks stands in the usual variables (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and so on), which
the client reads by itself: none of them passes through here, so none can get into the ledger or a log.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from liverseg_core.errors import DataError
from store.fetched import Fetched
from store.stored import HASH, Away, Found, Stored, place_of

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

log = logging.getLogger(__name__)

NAMED = "the artifact store"

BLOCK = 8 << 20
"""Bytes of one request, up or down: what a torn connection costs at most."""

MOST_PARTS = 9000
"""Of an upload; S3 takes 10,000."""

TRIES, FIRST_WAIT_S = 5, 0.2
"""How often a block is asked for before the store counts as away, and the wait after the first; it doubles."""

TOLD_AWAY_S = 5.0
"""For how long nobody asks for a size again after the store did not answer: a page must not wait for each file."""

CLIENT: "ClientConfig" = {
    "allow_http": True,
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=60),
}
"""``http://`` is for whoever names such an endpoint. A block may take a minute, a silence ten seconds."""

RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
"""The client's own, of one request."""


class Bucket:
    """Files by content hash in a bucket; what is read comes over this host's :class:`Fetched`.

    Args:
        address: ``s3://bucket`` or ``s3://bucket/prefix``.
        fetched: what this host keeps of it.
    """

    def __init__(self, address: str, fetched: Fetched) -> None:
        parts = urlsplit(address)
        self._fetched = fetched
        self._sizes: dict[str, int] = {}
        self._asks_from = 0.0
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options=CLIENT,
            retry_config=RETRIES,
        )

    def locate(self, sha256: str) -> Path:
        place_of(sha256)
        return self._fetched.locate(sha256)

    def trouble(self) -> str | None:
        try:
            with _asking():
                next(iter(self._store.list(chunk_size=1)), None)
        except (FileNotFoundError, Away) as error:
            return str(error)
        return None

    # --- in ---------------------------------------------------------------------------------------------------

    def put(self, source: Path) -> Stored:
        """What was stored is read back before anybody relies on it."""
        if HASH.fullmatch(source.name) and source == self.locate(source.name):
            return Stored(source.name, self._size(source.name))
        with source.open("rb") as origin:
            stored = _measured(origin)
            if not self.intact(stored.sha256):
                self._upload(origin, stored)
        return stored

    def _upload(self, origin: BinaryIO, stored: Stored) -> None:
        for _ in range(2):
            origin.seek(0)
            block = max(BLOCK, stored.bytes // MOST_PARTS + 1)
            whole = origin.read(stored.bytes) if stored.bytes <= block else _parts(origin, stored.bytes, block)
            with _asking(), _bucket_is_there():
                self._store.put(place_of(stored.sha256), whole, chunk_size=block, max_concurrency=2)
            if self.intact(stored.sha256):
                return
        raise Away(f"{NAMED} gives back other bytes than it was given")

    # --- out --------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, sha256: str, going_on: Callable[[], None]) -> Iterator[Path]:
        place_of(sha256)
        fetch = partial(self._fetch, sha256, going_on)
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self._fetched.held(sha256, partial(self._size, sha256), fetch, going_on))
            except FileNotFoundError:
                raise DataError(sha256[:12], f"is gone from {NAMED}") from None
            yield path

    def _fetch(self, sha256: str, going_on: Callable[[], None], file: FileIO) -> None:
        """Append what ``file`` lacks; from its start, where what came is not what was asked for.

        Raises:
            DataError: the store holds something else.
        """
        for _ in range(2):
            digest = hashlib.sha256()
            file.seek(0)
            while block := file.read(BLOCK):
                digest.update(block)
            for block in self._blocks(sha256, file.tell(), going_on):
                digest.update(block)
                _write(file, block)
            if digest.hexdigest() == sha256:
                return
            log.warning("what came as %s has another hash", sha256)
            file.truncate(0)
        raise DataError(sha256[:12], f"is damaged in {NAMED}; import or compute it again")

    def _blocks(self, sha256: str, begin: int, going_on: Callable[[], None]) -> Iterator[bytes]:
        """Its content from ``begin`` on."""
        size = self._size(sha256)
        for start in range(begin, size, BLOCK):
            yield self._patiently(partial(self._block, sha256, start, min(start + BLOCK, size)), going_on)
            going_on()

    def _block(self, sha256: str, start: int, end: int) -> bytes:
        with _asking():
            return bytes(self._store.get_range(place_of(sha256), start=start, end=end))

    def _patiently(self, ask: Callable[[], bytes], going_on: Callable[[], None]) -> bytes:
        for number in range(TRIES - 1):
            try:
                return ask()
            except Away as error:
                log.info("%s; trying again", error)
            going_on()
            time.sleep(FIRST_WAIT_S * 2**number)
        return ask()

    # --- what is there ----------------------------------------------------------------------------------------

    def there(self, sha256: str) -> bool:
        try:
            return self._size(sha256) >= 0
        except FileNotFoundError:
            return False

    def intact(self, sha256: str) -> bool:
        """It is read from the store, whatever this host has of it."""
        digest = hashlib.sha256()
        try:
            for block in self._blocks(sha256, 0, lambda: None):
                digest.update(block)
        except FileNotFoundError:
            return False
        return digest.hexdigest() == sha256

    def size(self, sha256: str) -> int:
        if (known := self._sizes.get(sha256)) is not None or time.monotonic() < self._asks_from:
            return known or 0
        try:
            found = self._size(sha256)
        except FileNotFoundError:
            return 0
        except Away:
            self._asks_from = time.monotonic() + TOLD_AWAY_S
            return 0
        self._sizes[sha256] = found
        return found

    def age(self, sha256: str) -> float:
        try:
            return _age(self._head(sha256)["last_modified"])
        except FileNotFoundError:
            return float("inf")

    def remove(self, name: str) -> bool:
        """The store forgets it; this host too, unless somebody reads it just now."""
        sha256 = name.rpartition("/")[2]
        name = place_of(sha256)
        self._sizes.pop(sha256, None)
        self._fetched.drop(sha256)
        there = self.age(sha256) < float("inf")
        with _asking():
            self._store.delete(name)
        return there

    def listed(self) -> Iterator[Found]:
        with _asking():
            for some in self._store.list():
                for one in some:
                    found = Found(one["path"], one["size"], _age(one["last_modified"]))
                    if found.sha256 and found.name == place_of(found.sha256):  # the bucket may hold other things too
                        yield found

    def _size(self, sha256: str) -> int:
        return self._head(sha256)["size"]

    def _head(self, sha256: str) -> "ObjectMeta":
        with _asking():
            return self._store.head(place_of(sha256))


# --- words ------------------------------------------------------------------------------------------------------


@contextmanager
def _asking() -> Iterator[None]:
    """The client's errors name hosts and keys; users are told what is the matter, in our words.

    Raises:
        FileNotFoundError: there is no such object, or bucket.
        Away: any other trouble.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"no such object in {NAMED}") from None
    except BaseError as error:
        raise Away(f"{NAMED} {_told(error)}") from None


WORDS = (
    ("nosuchbucket", "has no such bucket as LIVERSEG_ARTIFACTS names"),
    ("status code: 403", "refuses what these credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) ask for"),
    ("status code: 401", "refuses what these credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) ask for"),
    ("connection refused", "is away (connection refused)"),
    ("timedout", "is away (it does not answer)"),
    ("kind: timeout", "is away (it does not answer)"),
    ("dns error", "is away (its name is not known)"),
    ("certificate", "is away (its certificate is not trusted)"),
)
"""What the client's errors hold, and what it means."""


def _told(error: BaseError) -> str:
    said = str(error).lower()
    if meant := next((words for sign, words in WORDS if sign in said), None):
        return meant
    status = re.search(r"status code: (\d{3})", said)
    return f"is away (status {status[1]})" if status else "is away (the connection broke)"


@contextmanager
def _bucket_is_there() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Away(f"{NAMED} has no such bucket as LIVERSEG_ARTIFACTS names") from None


# --- bytes ------------------------------------------------------------------------------------------------------


def _measured(origin: BinaryIO) -> Stored:
    digest, size = hashlib.sha256(), 0
    while block := origin.read(1 << 20):
        digest.update(block)
        size += len(block)
    return Stored(digest.hexdigest(), size)


def _parts(origin: BinaryIO, size: int, block: int) -> Iterator[bytes]:
    """The first ``size`` bytes: a log may have grown since it was measured."""
    for start in range(0, size, block):
        yield origin.read(min(block, size - start))


def _write(file: FileIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _age(since: datetime) -> float:
    return (datetime.now(UTC) - since).total_seconds()
