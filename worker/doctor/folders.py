"""Where a host reads and writes: LIVERSEG_HOME, the store of artifacts, and what it keeps of both to read again."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from liverseg_core.errors import DISK_FULL
from store import artifacts
from store.settings import settings
from store.stored import place_of
from worker.doctor.findings import Finding, fail, ok, warn

TRIED = 1 << 20
"""Bytes that are written to see whether that can be done."""

LEAST, FEW = 1e9, 10e9
"""Free bytes below which a run may not end, and below which somebody should look."""


def examine(newest: tuple[str, str] | None) -> Iterator[Finding]:
    """``newest``: name and artifact of the ledger's newest data set, if there is one that is known."""
    home = settings().home
    yield _home(home)
    if address := settings().artifacts_at:
        yield _in_bucket(address, newest)
    elif home.is_dir():
        yield _in_folder(newest)
    if home.is_dir():
        yield _free("disk", home, "LIVERSEG_HOME")
    yield _cache()


def _home(home: Path) -> Finding:
    if not home.is_dir():
        return fail("home", f"{home} is no folder", "mount it, make it, or correct LIVERSEG_HOME")
    try:
        _write_and_rename(home)
    except OSError as error:
        return fail("home", f"{home} cannot be written to ({error.strerror})", _mend(error, home))
    return ok("home", f"{home} can be written to, and files move into their place in one step")


def _write_and_rename(folder: Path) -> None:
    """As artifacts and checkpoints are written; leaves nothing.

    Raises:
        OSError: it cannot be done here.
    """
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".doctor-")
    moved = Path(f"{name}-moved")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())
        moved.write_bytes(b"replaced by what is moved here")
        Path(name).replace(moved)
        if moved.stat().st_size != TRIED:
            raise OSError(None, "a moved file is not what was moved")
    finally:
        for path in (Path(name), moved):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _mend(error: OSError, folder: Path) -> str:
    if error.errno in DISK_FULL:
        return f"free space on the disk of {folder}; paused runs go on when they are resumed"
    return f"let the user of the worker write there (id {os.getuid()}), or mount it for writing"


def _in_folder(newest: tuple[str, str] | None) -> Finding:
    folder = settings().artifacts
    if newest is None and not folder.is_dir():
        return ok("artifacts", f"nothing is stored in {folder} yet")
    trouble = artifacts.trouble()
    if trouble:
        return fail("artifacts", f"{trouble} ({folder})", "mount the folder that the API stores into")
    return _newest(newest, str(folder), "point LIVERSEG_HOME at the folder that the API uses, at the same path")


BUCKET_TODO = (
    "correct LIVERSEG_ARTIFACTS, AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or let "
    "this host through to it"
)


def _in_bucket(address: str, newest: tuple[str, str] | None) -> Finding:
    try:
        if trouble := artifacts.trouble():
            return fail("artifacts", f"{trouble} ({address})", BUCKET_TODO)
        _put_and_remove()
        return _newest(newest, address, "name the bucket and prefix that the API uses in LIVERSEG_ARTIFACTS")
    except artifacts.Away as error:
        return fail("artifacts", f"{address} cannot be written to: {error}", BUCKET_TODO)


def _put_and_remove() -> None:
    """Store what nobody else has, and take it away again.

    Raises:
        Away: the store refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / "tried"
        tried.write_bytes(os.urandom(1024))
        artifacts.remove(place_of(artifacts.put(tried).sha256))


def _newest(newest: tuple[str, str] | None, where: str, todo: str) -> Finding:
    if newest is None:
        return ok("artifacts", f"{where} is there")
    if not artifacts.there(newest[1]):
        return fail("artifacts", f"data set {newest[0]} of the ledger is not in {where}", todo)
    return ok("artifacts", f"{where} is there, with what the ledger imported last")


def _free(check: str, folder: Path, name: str) -> Finding:
    usage = shutil.disk_usage(folder)
    told = f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB free where {name} lies"
    if usage.free < LEAST:
        return fail(check, told, "free some, else runs pause for want of space")
    return warn(check, told, "free some before it runs out") if usage.free < FEW else ok(check, told)


def _cache() -> Finding:
    folder, most = settings().data_cache or settings().home, settings().data_cache_mb << 20
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_and_rename(folder)
    except OSError as error:
        return fail("data cache", f"{folder} cannot be written to ({error.strerror})", _mend(error, folder))
    taken = artifacts.data_cache().taken()
    told = f"{taken / 1e9:,.1f} of at most {most / 1e9:,.1f} GB of fetched files and decoded slices in {folder}"
    free = shutil.disk_usage(folder).free
    if taken + free < min(most, FEW):
        return warn(
            "data cache",
            f"{told}, {free / 1e9:,.1f} GB free",
            "lower LIVERSEG_DATA_CACHE_MB or name a larger disk in LIVERSEG_DATA_CACHE",
        )
    return ok("data cache", told)
