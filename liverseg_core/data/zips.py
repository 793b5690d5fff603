"""Zip files of untrusted origin: judged before they are read, read with limits, never unpacked; and written."""

import os
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from liverseg_core.errors import DataError

MAX_ENTRIES = 400_000
MAX_TOTAL_BYTES = 64 * 2**30

_MAX_DIRECTORY_BYTES = MAX_ENTRIES * 128
_EPOCH = (1980, 1, 1, 0, 0, 0)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An untrusted zip, after a look at its end.

    Raises:
        DataError: gone, no zip, cut short, or a table of contents that would not fit in memory.
    """
    if not path.is_file():
        raise DataError(path.name, "is gone from the store; send it again")
    with path.open("rb") as file:
        _check_directory(file, path.name)
        with _open_zip(file, path.name) as bundle:
            yield bundle


def checked_names(bundle: zipfile.ZipFile, check_place: Callable[[str], None]) -> set[str]:
    """Names of all entries, each judged without being read.

    Args:
        bundle: an untrusted zip.
        check_place: refuses a name that is safe but does not belong there.

    Raises:
        DataError: too many entries or bytes, an unsafe name, a link, an encrypted or strangely packed file.
    """
    infos = bundle.infolist()
    if len(infos) > MAX_ENTRIES:
        raise DataError("archive", f"holds too many files; the most is {MAX_ENTRIES:,}", len(infos))
    total = sum(info.file_size for info in infos)
    if total > MAX_TOTAL_BYTES:
        raise DataError("archive", f"unpacks to more than {MAX_TOTAL_BYTES // 2**30} GiB", total)
    names: set[str] = set()
    for info in infos:
        _check_entry(info)
        check_place(info.filename)
        if info.filename in names:
            raise DataError(info.filename, "is in the archive twice; pack it again")
        names.add(info.filename)
    return names


def member(bundle: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """One file's bytes, at most ``limit``, whatever its header promises."""
    if bundle.getinfo(name).file_size > limit:
        raise DataError(name, f"is larger than {limit:,} bytes", bundle.getinfo(name).file_size)
    return beginning(bundle, name, limit + 1)


def beginning(bundle: zipfile.ZipFile, name: str, count: int) -> bytes:
    """The first ``count`` bytes of a file, or all it has.

    Raises:
        DataError: it is damaged as far as that.
    """
    try:
        with bundle.open(name) as file:
            return file.read(count)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
        struct.error,
    ) as error:
        raise DataError(name, f"is damaged inside the archive ({error}); pack it again") from error


def write(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write named files as a stored zip, whole or not at all; the same files give the same bytes."""
    handle, name = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as bundle:
                for inner, data in files:
                    bundle.writestr(_entry(inner), data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_file(path: Path, name: str, limit: int) -> bytes:
    """The bytes of a plain file, never through a link and never of a device."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "is a symbolic link; put the file itself there" if path.is_symlink() else f"cannot be read ({error})"
        raise DataError(name, reason) from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(name, "is no plain file; put the file itself there")
        if facts.st_size > limit:
            raise DataError(name, f"is larger than {limit:,} bytes", facts.st_size)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(handle)


def _check_directory(file: BinaryIO, name: str) -> None:
    """Refuse a table of contents that would not fit in memory, before zipfile reads it."""
    size = file.seek(0, os.SEEK_END)
    tail_size = min(size, 22 + 20 + 56)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06":
        raise DataError(name, "is no zip archive, is cut short, or has a comment; pack it again")
    directory = struct.unpack_from("<L", tail, len(tail) - 22 + 12)[0]
    if tail[-42:-38] == b"PK\x06\x07" and tail[-98:-94] == b"PK\x06\x06":
        directory = max(struct.unpack_from("<Q", tail, len(tail) - 98 + 40)[0], directory % 0xFFFFFFFF)
    if directory > _MAX_DIRECTORY_BYTES:
        raise DataError(name, f"lists too many files; the most is {MAX_ENTRIES:,}", f"{directory} bytes of names")


def _open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise DataError(name, f"is no zip archive that can be read ({error}); pack it again") from error


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if "\\" in name or "\0" in name or name.startswith("/") or ".." in name.split("/") or ":" in name:
        raise DataError(name, "is no safe name: no absolute paths, no '..', no backslashes, drives or null bytes")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(name, "is a link or special file; only plain files belong here")
    if info.flag_bits & 0x1:
        raise DataError(name, "is encrypted; pack it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(name, "is compressed in an unknown way; store or deflate it", info.compress_type)


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
