"""Removing files that no row names any more. Rows go first, in a transaction; then the files, here.

Whoever commits a row that names a file holds the store's lock shared while it makes sure that the file is there;
whoever removes files holds it alone while it looks for rows. So a file is never removed between these two. A file
is younger than its row, hence the age below; should one be removed all the same, its row is refused.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store import artifacts, usage
from store.artifacts import HASH, Found
from store.database import transaction
from store.models import Dataset, Deletion, Run
from store.queue import locking
from store.settings import settings
from store.states import FINAL, State
from store.stored import place_of

YOUNG_S = 3600.0
"""A file stored since then may be one that a worker is just about to name in a row."""

ORPHAN_S = 86_400.0
"""Age at which a file without a row is called an orphan: whatever stored it has ended long ago."""

BATCH = 500

LOCK = "(815002, 1)"


class FileGone(Exception):
    """A file that a row was about to name has been removed from the store."""


def storing(session: Session, hashes: Collection[str] = ()) -> None:
    """From here to the end of the transaction no file is removed; those of ``hashes`` are there.

    Raises:
        FileGone: one of them is not.
        Away: the store cannot be asked.
    """
    session.execute(text(f"SELECT pg_advisory_xact_lock_shared{LOCK}"))
    for sha256 in hashes:
        session.execute(text("SELECT 1"))  # else a slow store makes this a transaction in which nothing is asked
        if not artifacts.there(sha256):
            raise FileGone(f"{sha256} was removed from the store before its row was written")


def tidy() -> int:
    """Remove what deletions have left over, and checkpoints of ended runs; how many files and folders went."""
    with transaction() as session:
        files = remove_deleted(session)
    return files + remove_checkpoints() + forget_deleted()


def remove_deleted(session: Session) -> int:
    """Remove the files that deletions gave up and that no row names; young ones wait for a later pass."""
    if not session.scalar(text(f"SELECT pg_try_advisory_xact_lock{LOCK}")):
        return 0
    query = select(Deletion).where(Deletion.tidied_at.is_(None)).order_by(Deletion.id).limit(BATCH)
    count = 0
    for deletion in session.scalars(query):
        alone = set(deletion.files) - usage.held(session, deletion.files)
        left = [sha256 for sha256 in alone if artifacts.age(sha256) < YOUNG_S]
        count += sum(artifacts.remove(place_of(sha256)) for sha256 in alone.difference(left))
        count += _remove_cache(session, deletion.detail.get("content_hash"))
        if not left:
            deletion.tidied_at = func.clock_timestamp()
    return count


def _remove_cache(session: Session, content_hash: str | None) -> int:
    """Decoded slices go with the last data set of their content."""
    place = settings().cache / str(content_hash)
    if content_hash is None or not place.is_dir():
        return 0
    if session.scalar(select(Dataset.id).where(Dataset.content_hash == content_hash).limit(1)) is not None:
        return 0
    shutil.rmtree(_aside(place), ignore_errors=True)
    return 1


def shrink() -> None:
    """Keep what this host has fetched or decoded within its bound."""
    artifacts.data_cache().shrink()


def forget_deleted() -> int:
    """Remove what this host has fetched from a store elsewhere and no row names any more; how many files went.

    Where this host shares no folder with the API also decoded slices, which else go with the deletion, see
    :func:`remove_deleted`.
    """
    kept = artifacts.data_cache()
    names = kept.names()
    with transaction() as session:
        held = usage.held(session, names)
    return sum(kept.drop(name) for name in names if name not in held) + _forget_decoded()


def _forget_decoded() -> int:
    if settings().data_cache is None and settings().artifacts_at is None:
        return 0
    found = {path.name: path for path in settings().cache.glob("*") if HASH.fullmatch(path.name)}
    with transaction() as session:
        query = select(Dataset.content_hash).where(Dataset.content_hash.in_(found))
        foreign = found.keys() - set(session.scalars(query))
    for name in foreign:
        shutil.rmtree(_aside(found[name]), ignore_errors=True)
    return len(foreign)


def remove_checkpoints() -> int:
    """Remove the checkpoints of runs that have ended for good, or were given up; a dead run keeps its own.

    API processes do it and workers: a host's folder may be its own. Most runs' are gone before, with their attempt;
    left are those of runs that were cancelled while they waited, or whose worker died.
    """
    if not settings().checkpoints.is_dir():
        return 0
    found = [int(path.name) for path in settings().checkpoints.iterdir() if path.name.isdecimal()]
    gone = []
    for run_id in found:
        with transaction() as session:
            if _over(session, run_id):
                gone.append(_aside(usage.checkpoint_folder(run_id)))
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return len(gone)


def _over(session: Session, run_id: int) -> bool:
    """Whether nobody needs a run's checkpoints; its row is locked, so that nobody queues it again meanwhile."""
    deleted = select(func.max(Deletion.at)).where(Deletion.run_id == run_id)
    given_up = session.scalar(deleted) is not None
    run = session.scalar(locking(select(Run).where(Run.id == run_id), skip_locked=True))
    if run is None:  # locked by somebody, of another ledger, or deleted
        return given_up and session.scalar(select(Run.id).where(Run.id == run_id)) is None
    if run.state not in FINAL:
        return False
    if given_up:
        return bool(session.scalar(select(Run.finished_at < deleted.scalar_subquery()).where(Run.id == run_id)))
    return run.state != State.DEAD


def _aside(folder: Path) -> Path:
    """Out of the way in one step; the rest may take its time, and ``orphans`` finds it after a crash."""
    hidden = folder.with_name(f".gone-{folder.name}-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        folder.replace(hidden)
    return hidden


# ---- what nothing knows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Orphan:
    """A file or folder of ours that no row names; ``name``: of a file in the store, see ``artifacts.Found``."""

    path: Path
    bytes: int
    name: str | None = None


def orphans(session: Session) -> list[Orphan]:
    """Everything in the store and below ``LIVERSEG_HOME`` that this ledger does not know, untouched for a day."""
    files = [Orphan(_path(one.name), one.bytes, one.name) for one in _files(session)]
    folders = [Orphan(path, _bytes(path)) for path in _folders(session)]
    return sorted([*files, *folders], key=lambda one: one.path)


def remove_orphans(session: Session) -> list[Orphan]:
    """Remove :func:`orphans`; those removed."""
    session.execute(text(f"SELECT pg_advisory_xact_lock{LOCK}"))
    found = orphans(session)
    for orphan in found:
        if orphan.name is not None:
            artifacts.remove(orphan.name)
        elif orphan.path.is_dir():
            shutil.rmtree(orphan.path, ignore_errors=True)
        else:
            orphan.path.unlink(missing_ok=True)
    return found


def _files(session: Session) -> list[Found]:
    """Files that no row names, and halves that killed writers left."""
    old = [one for one in artifacts.listed() if one.age_s >= ORPHAN_S]
    held = usage.held(session, [one.sha256 for one in old if one.sha256])
    return [one for one in old if one.sha256 not in held]


def _path(name: str) -> Path:
    """What a file of the store is shown as: in a bucket there are no paths of this host."""
    return Path(name) if settings().artifacts_at else settings().artifacts / name


def _folders(session: Session) -> Iterator[Path]:
    yield from _children(settings().scratch, "upload-*")
    for folder in (settings().checkpoints, settings().cache):
        yield from _children(folder, ".gone-*")
    known = set(session.scalars(select(Run.id)))
    for path in _children(settings().checkpoints, "[0-9]*"):
        if not path.name.isdecimal() or int(path.name) not in known:
            yield path
    contents = set(session.scalars(select(Dataset.content_hash)))
    yield from (path for path in _children(settings().cache, "*") if _is_foreign(path, contents))


def _is_foreign(cache: Path, contents: set[str]) -> bool:
    return HASH.fullmatch(cache.name) is not None and cache.name not in contents


def _children(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if _age(path) >= ORPHAN_S]


def _bytes(path: Path) -> int:
    return usage.folder_bytes(path) if path.is_dir() else path.stat().st_size


def _age(path: Path) -> float:
    """Seconds since a file or folder was last changed; of what is not there: old."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
