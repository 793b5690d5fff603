"""Backing up and restoring: the ledger by ``pg_dump``, and the files that it names by their content.

A file is stored before the row that names it, and removed after that row. So the ledger is looked at first and its
files are copied afterwards, while the lock of ``store.tidy`` keeps them from being removed: a backup made while
runs finish and are deleted still holds each file that its ledger names. Files never change, so a second backup into
the same folder copies what it lacks.

    FOLDER/backup.json             what is in it; written last, so that what it names is whole
    FOLDER/ledger-....dump         the database, as pg_restore reads it
    FOLDER/artifacts/ab/abcd...    the files

Checkpoints, caches, logs and the broker's messages are in no backup: they are made again.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import delete, make_url, select, text

from liverseg_core.disk import sync
from liverseg_core.errors import DataError, InputError, LiversegError
from store import artifacts, bundled, database, endings, schema, usage
from store.database import looking, snapshot, transaction
from store.endings import Ending
from store.models import Run, Worker
from store.queue import Claim
from store.settings import settings
from store.states import OWNED
from store.stored import copied
from store.tidy import LOCK

ABOUT = "backup.json"
FILES = "artifacts"
FORMAT = 1

Say = Callable[[str], None]


class BackupFailed(LiversegError):
    """The database could not be written out or read in; the message holds what the program said."""


@dataclass(frozen=True)
class About:
    """What ``backup.json`` holds: when and by which version it was made, and what belongs to it.

    ``dump`` is the name of the ledger's file and ``dump_sha256`` its hash; ``schema`` the newest migration in it;
    ``files`` how many files it names, ``bytes`` in all; ``missing``: those of them that were not there, or damaged.
    """

    format: int
    liverseg: str
    schema: str
    taken_at: str
    dump: str
    dump_sha256: str
    files: int
    bytes: int
    missing: list[str]


def back_up(folder: Path, say: Say) -> About:
    """Make ``folder`` hold the ledger as it is now and all files that it names; what was made.

    Args:
        folder: where to; made if it is not there. An earlier backup in it stays good until this one is whole.
        say: is told what is done.

    Raises:
        InputError: ``folder`` lies within what is backed up.
        BackupFailed: the database cannot be written out.
        Away: the store of files cannot be used now.
        OSError: ``folder`` cannot be written to.
    """
    if folder.resolve().is_relative_to(settings().home.resolve()):
        raise InputError(
            "FOLDER", "lies in LIVERSEG_HOME and would be lost with it; choose another disk.", str(folder)
        )
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    taken = datetime.now(UTC)
    dump = folder / f"ledger-{taken:%Y%m%dT%H%M%S.%f}.dump"
    with _nothing_removed():
        say("writing out the database")
        number, names = _dump(dump)
        say(f"copying {len(names):,} files, those that are not there yet")
        missing = sorted(sha256 for sha256 in names if not _copied(sha256, folder))
    size = sum((folder / FILES / sha256[:2] / sha256).stat().st_size for sha256 in names - set(missing))
    about = About(
        FORMAT, version("liverseg"), number, taken.isoformat(timespec="seconds"), dump.name,
        artifacts.sha256_of(dump), len(names), size, missing,
    )  # fmt: skip
    _write_whole(folder / ABOUT, json.dumps(asdict(about), indent=1).encode() + b"\n")
    for older in folder.glob("ledger-*.dump"):
        if older.name != dump.name:
            older.unlink()
    return about


@contextmanager
def _nothing_removed() -> Iterator[None]:
    """Inside the block no file of the store is removed; nobody waits for it, and no transaction stays open."""
    with looking() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock_shared{LOCK}"))
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock_shared{LOCK}"))


def _dump(to: Path) -> tuple[str, set[str]]:
    """Write the database out; its newest migration, and the files that it names, as of that same moment."""
    with snapshot() as session:
        moment = session.scalar(text("SELECT pg_export_snapshot()"))
        number = session.scalar(text("SELECT version_num FROM alembic_version"))
        names = usage.named(session)
        _postgres(
            "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={moment}", "-f", str(to)
        )
    sync(to)
    return str(number), names


def _copied(sha256: str, folder: Path) -> bool:
    """Whether the backup has the file now; False: it is not in the store, or not what it was."""
    place = folder / FILES / sha256[:2] / sha256
    if place.is_file() and place.stat().st_size == artifacts.size(sha256):
        return True
    place.parent.mkdir(exist_ok=True)
    new = place.with_name(f".new-{sha256}")
    try:
        with artifacts.held(sha256) as source, source.open("rb") as origin, new.open("wb") as copy:
            if copied(origin, copy).sha256 != sha256:
                return False
        new.replace(place)
    except (DataError, FileNotFoundError):
        return False
    finally:
        new.unlink(missing_ok=True)
    return True


def _write_whole(place: Path, content: bytes) -> None:
    new = place.with_name(f"{place.name}.new")
    new.write_bytes(content)
    sync(new)
    new.replace(place)
    sync(place.parent)


# ---- restoring -----------------------------------------------------------------------------------------------


def read_about(folder: Path) -> About:
    """What the backup in ``folder`` holds.

    Raises:
        InputError: there is none that is whole, or it was made by a newer version.
    """
    try:
        told: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
        about = About(**told)
    except (OSError, ValueError, TypeError):
        raise InputError("FOLDER", f"holds no {ABOUT}, so no whole backup; choose another.", str(folder)) from None
    if about.format != FORMAT or about.schema > schema.newest():
        raise InputError(ABOUT, "is of a newer liverseg; restore with that version or a later one.", about.liverseg)
    dump = folder / about.dump
    if not dump.is_file() or artifacts.sha256_of(dump) != about.dump_sha256:
        raise InputError(about.dump, "is missing or damaged; take another backup.", str(dump))
    return about


def restore(folder: Path, say: Say) -> list[str]:
    """Put a backup into an empty database and the artifact folder; the files that could not be put back.

    Files come first, then the whole ledger in one transaction: what breaks off may simply be started again. Runs that
    a worker carried when the backup was made go back to the queue.

    Args:
        folder: of the backup.
        say: is told what is done.

    Raises:
        InputError: there is no whole backup, or the database is not empty.
        BackupFailed: the database cannot be read in.
    """
    about = read_about(folder)
    with looking() as connection:
        tables = connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    if tables:
        told = "has tables already; restore into an empty one (an unused LIVERSEG_HOME, or a new database)."
        raise InputError("the database", told, f"{tables} tables")
    say(f"putting back {about.files:,} files of {about.taken_at}")
    lost = sorted({*about.missing, *_put_back(folder / FILES)})
    say("reading in the database")
    _postgres(
        "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges",
        str(folder / about.dump), dbname=True,
    )  # fmt: skip
    schema.upgrade()
    _give_back()
    return lost


def _put_back(files: Path) -> Iterator[str]:
    """Put every file into the store; yields the names of those that are damaged."""
    for path in sorted(files.glob("[0-9a-f][0-9a-f]/*")):
        if artifacts.HASH.fullmatch(path.name) and not _is_back(path):
            yield path.name


def _is_back(path: Path) -> bool:
    if artifacts.sha256_of(path) != path.name:
        return False
    return artifacts.intact(path.name) or artifacts.put(path).sha256 == path.name


def _give_back() -> None:
    """What workers carried then they carry no more; it burns nothing. Who worked then is gone."""
    with transaction() as session:
        for run in session.scalars(select(Run).where(Run.state.in_(OWNED))).all():
            endings.release(session, Claim(run.id, run.fence), Ending(message="restored from a backup"))
        session.execute(delete(Worker))


def _postgres(program: str, *words: str, dbname: bool = False) -> None:
    """Run a program of Postgres on this process's database.

    Raises:
        BackupFailed: it fails.
    """
    url = make_url(database.url()).set(drivername="postgresql")
    shown = url.set(password=None).render_as_string(hide_password=False)
    surroundings = os.environ | (
        {"PGPASSWORD": str(url.password)} if url.password else {}
    )  # no list of processes shows it
    command = [str(bundled.program(program)), *words, *(["--dbname", shown] if dbname else [shown])]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupFailed(f"{program} failed: {done.stderr.strip()[-2000:]}")
