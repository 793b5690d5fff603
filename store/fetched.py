"""What a host can have again: files fetched from a store elsewhere, by hash. What was used least lately goes first.

A file is in use while somebody holds a shared lock on it; the kernel frees that when its holder dies. Whoever removes
a file holds its lock alone, and so does whoever fetches it: others wait, and share what came.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from liverseg_core.errors import DISK_FULL
from store.stored import HASH

LOOK_AGAIN_S = 0.1
"""How often it looks whether another process has fetched what it needs."""

PART = ".part-"

Fetch = Callable[[FileIO], None]
"""Writes what a file still lacks; what it has written when it raises is where the next one goes on."""


@dataclass(frozen=True)
class Kept:
    """A file or folder; ``used_at``: seconds since 1970; ``remove``: of its path, gives the bytes that went."""

    path: Path
    used_at: float
    bytes: int
    remove: Callable[[Path], int]


@dataclass(frozen=True)
class Fetched:
    """A folder of at most ``most`` bytes, more only where what is in use is more.

    Attributes:
        root: the folder; made where absent.
        most: its bound, in bytes.
        decoded: folder of decoded slices (``liverseg_core.data.cache``), which count as well and go like files.
    """

    root: Path
    most: int
    decoded: Path | None = None

    def locate(self, sha256: str) -> Path:
        return self.root / sha256

    @contextmanager
    def held(self, sha256: str, bytes_: Callable[[], int], fetch: Fetch, waits: Callable[[], None]) -> Iterator[Path]:
        """A file, fetched unless it is here, in use until the context ends.

        Args:
            sha256: its hash, which is its name.
            bytes_: how large it will be; asked for when it must be fetched.
            fetch: makes it whole.
            waits: called while another process fetches it; may raise to give up.
        """
        file = self._open(sha256) or self._fetched(sha256, bytes_, fetch, waits)
        try:
            os.utime(file.fileno())  # used now
            yield self.locate(sha256)
        finally:
            file.close()
            self.shrink()

    def has(self, sha256: str) -> bool:
        return self.locate(sha256).is_file()

    def names(self) -> list[str]:
        """Hashes of the files that are here."""
        return [path.name for path in self._files() if HASH.fullmatch(path.name)]

    def drop(self, sha256: str) -> bool:
        """Remove a file that nobody uses; False: somebody does, or it is not here."""
        return _removed(self.locate(sha256)) > 0

    def shrink(self, room: int = 0) -> None:
        """Remove what was used least lately, until all and ``room`` more bytes are within the bound."""
        kept = sorted(self._kept(), key=lambda one: one.used_at)
        total = room + sum(one.bytes for one in kept)
        for one in kept:
            if total <= self.most:
                return
            total -= one.remove(one.path)

    def taken(self) -> int:
        """Bytes of all that is kept."""
        return sum(one.bytes for one in self._kept())

    def _kept(self) -> Iterator[Kept]:
        for one in _seen(self._files()):
            yield Kept(*one, _removed)
        from liverseg_core.data import cache  # NumPy is loaded when somebody asks

        for one in cache.built(self.decoded) if self.decoded else ():
            yield Kept(*one, cache.remove)

    def _files(self) -> list[Path]:
        return [path for path in self.root.glob("*") if HASH.fullmatch(path.name.removeprefix(PART))]

    def _open(self, sha256: str) -> FileIO | None:
        """A file that is here, locked against removal; None: it is not."""
        place = self.locate(sha256)
        with contextlib.suppress(FileNotFoundError):
            file = FileIO(place)
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is_at(file, place):
                return file
            file.close()
        return None

    def _fetched(self, sha256: str, bytes_: Callable[[], int], fetch: Fetch, waits: Callable[[], None]) -> FileIO:
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / f"{PART}{sha256}"
        while True:
            file = FileIO(part, "a+")
            try:
                if not self._ours(file, part, waits):
                    file.close()
                elif not self.has(sha256):
                    self._complete(file, part, bytes_, fetch)
                else:  # it came while we waited
                    part.unlink(missing_ok=True)
                    file.close()
            except BaseException:
                file.close()
                raise
            if not file.closed and _is_at(file, self.locate(sha256)):
                return file
            file.close()
            if found := self._open(sha256):
                return found

    def _ours(self, file: FileIO, part: Path, waits: Callable[[], None]) -> bool:
        """Wait until nobody else fetches it; False: it is whole, or the part is gone."""
        while _is_at(file, part):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                time.sleep(LOOK_AGAIN_S)
            else:
                return _is_at(file, part)
        return False

    def _complete(self, file: FileIO, part: Path, bytes_: Callable[[], int], fetch: Fetch) -> None:
        self.shrink(max(0, bytes_() - os.fstat(file.fileno()).st_size))
        try:
            fetch(file)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self.shrink(self.most)  # all that nobody uses: the disk is smaller than the bound
            fetch(file)
        os.fsync(file.fileno())
        part.rename(part.with_name(part.name.removeprefix(PART)))
        fcntl.flock(file, fcntl.LOCK_SH)  # others may use it too; should it go in between, it is fetched again


def _is_at(file: FileIO, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _removed(path: Path) -> int:
    """Remove a file unless somebody uses it; the bytes that went."""
    try:
        with FileIO(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, path):
                return 0
            path.unlink()
            return os.fstat(file.fileno()).st_size
    except (FileNotFoundError, BlockingIOError):
        return 0


def _seen(files: list[Path]) -> Iterator[tuple[Path, float, int]]:
    """Files with when they were used last, and their bytes."""
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            seen = path.stat()
            yield path, seen.st_mtime, seen.st_size
