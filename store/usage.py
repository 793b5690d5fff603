"""What runs and data sets take on disk, and what would really be freed.

Files are stored by their content, so several runs may hold one file: it goes when the last of them goes.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store import artifacts
from store.models import Artifact, Dataset, Deletion, Run
from store.settings import settings

LARGE = ("probabilities",)
"""Kinds of files that kept weights can make again; with the checkpoints on disk they are most of what a run takes."""

LARGEST = 20
"""How many runs a report of the whole project names."""

_USES = """
    SELECT sha256, run_id, kind, bytes FROM artifacts
    UNION ALL SELECT weights, id, 'weights', NULL FROM runs WHERE weights IS NOT NULL
    UNION ALL SELECT images, id, 'images', NULL FROM runs WHERE images IS NOT NULL
    UNION ALL SELECT artifact, NULL, 'data set', NULL FROM datasets"""
"""Every place in the ledger that names a file of the store; a new one must be added here."""


@dataclass(frozen=True)
class Use:
    """A file, and who holds it; ``run`` None: a data set."""

    sha256: str
    run: int | None
    kind: str
    bytes: int


@dataclass(frozen=True)
class Part:
    """What a run has of one kind; ``shared``: other runs that hold the same file."""

    kind: str
    bytes: int
    shared: list[int]


@dataclass(frozen=True)
class RunDisk:
    """What a run takes: ``bytes`` in all; what deleting its large files, or all of it, would free now."""

    parts: list[Part]
    bytes: int
    frees_files: int
    frees_run: int


@dataclass(frozen=True)
class DatasetDisk:
    """The stored zip of a data set, and its decoded slices, which are made again when needed."""

    name: str
    bytes: int
    cache: int


@dataclass(frozen=True)
class RunTotal:
    """A run among the largest; files that others hold too are counted."""

    run: int
    name: str
    state: str
    bytes: int


@dataclass(frozen=True)
class ProjectDisk:
    """What a project takes; every file is counted once.

    ``leaving``: bytes of deleted files that are still there, since they were stored less than an hour ago.
    """

    bytes: int
    kinds: dict[str, int]
    datasets: list[DatasetDisk]
    checkpoints: int
    leaving: int
    runs: list[RunTotal]


def by_runs(session: Session, run_ids: Collection[int]) -> list[Use]:
    """The files that runs hold; none of reused runs, whose files are their original's."""
    return _read(session, "run_id = ANY(:wanted)", list(run_ids))


def of_files(session: Session, hashes: Collection[str]) -> list[Use]:
    """Everybody who holds one of these files, in every project."""
    return _read(session, "sha256 = ANY(:wanted)", list(hashes))


def named(session: Session) -> set[str]:
    """Every file that the ledger names, of all projects."""
    return set(session.scalars(text(f"SELECT DISTINCT sha256 FROM ({_USES}) u")))  # nosec B608  # noqa: S608 - from here


def held(session: Session, hashes: Collection[str]) -> set[str]:
    """Those of these files that anybody holds."""
    query = text(f"SELECT DISTINCT sha256 FROM ({_USES}) u WHERE sha256 = ANY(:wanted)")  # nosec B608  # noqa: S608
    return set(session.scalars(query, {"wanted": list(hashes)}))


def _read(session: Session, condition: str, wanted: Sequence[Any]) -> list[Use]:
    if not wanted:
        return []
    query = f"SELECT DISTINCT ON (sha256, run_id, kind) * FROM ({_USES}) u WHERE {condition} ORDER BY 1, 2, 3, bytes"  # nosec B608  # noqa: S608 - texts from here
    rows = session.execute(text(query), {"wanted": wanted})
    return [Use(sha, run, kind, artifacts.size(sha) if size is None else size) for sha, run, kind, size in rows]


def freed(session: Session, given_up: Collection[Use]) -> dict[str, int]:
    """SHA-256 -> bytes of the files that nobody would hold any more, if all these uses went."""
    going = {(use.sha256, use.run, use.kind) for use in given_up}
    every = of_files(session, {use.sha256 for use in given_up})
    kept = {use.sha256 for use in every if (use.sha256, use.run, use.kind) not in going}
    return {use.sha256: use.bytes for use in given_up if use.sha256 not in kept}


def of_run(session: Session, run: Run) -> RunDisk:
    """What one run takes."""
    own = by_runs(session, [run.id])
    others = [use for use in of_files(session, {use.sha256 for use in own}) if use.run != run.id]
    parts = [
        Part(use.kind, use.bytes, sorted({one.run for one in others if one.sha256 == use.sha256 and one.run}))
        for use in sorted(own, key=lambda one: one.kind)
    ]
    checkpoints = folder_bytes(checkpoint_folder(run.id))
    if checkpoints:
        parts.append(Part("checkpoints", checkpoints, []))
    large = freed(session, [use for use in own if use.kind in LARGE])
    return RunDisk(
        parts=parts,
        bytes=_once(own) + checkpoints,
        frees_files=sum(large.values()) + checkpoints,
        frees_run=sum(freed(session, own).values()) + checkpoints,
    )


def of_project(session: Session, project_id: int) -> ProjectDisk:
    """What a project takes, by kind of file and by data set, and its largest runs."""
    ids = session.scalars(select(Run.id).where(Run.project_id == project_id)).all()
    uses = by_runs(session, ids)
    kinds: dict[str, int] = {}
    for use in {use.sha256: use for use in uses}.values():
        kinds[use.kind] = kinds.get(use.kind, 0) + use.bytes
    datasets = [dataset_disk(one) for one in _datasets(session, project_id)]
    checkpoints = sum(folder_bytes(checkpoint_folder(run)) for run in _with_checkpoints(set(ids)))
    leaving = _leaving(session, project_id)
    total = sum(kinds.values()) + sum(one.bytes + one.cache for one in datasets) + checkpoints + leaving
    ordered = dict(sorted(kinds.items(), key=lambda one: -one[1]))
    return ProjectDisk(total, ordered, datasets, checkpoints, leaving, _largest(session, project_id))


def dataset_disk(dataset: Dataset) -> DatasetDisk:
    """What one data set takes."""
    cache = folder_bytes(settings().cache / dataset.content_hash)
    return DatasetDisk(dataset.name, artifacts.size(dataset.artifact), cache)


def checkpoint_folder(run_id: int) -> Path:
    """Where the attempts at a run keep checkpoints, spooled records and logs."""
    return settings().checkpoints / str(run_id)


def folder_bytes(folder: Path) -> int:
    """What is in a folder; 0 where there is none. What vanishes meanwhile does not count: workers tidy up."""
    total = 0
    for parent, _, names in os.walk(folder):  # goes on where a folder is gone, unlike Path.rglob
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _datasets(session: Session, project_id: int) -> Sequence[Dataset]:
    return session.scalars(select(Dataset).where(Dataset.project_id == project_id).order_by(Dataset.name)).all()


def _with_checkpoints(run_ids: set[int]) -> list[int]:
    if not settings().checkpoints.is_dir():
        return []
    names = [path.name for path in settings().checkpoints.iterdir() if path.name.isdecimal()]
    return [int(name) for name in names if int(name) in run_ids]


def _leaving(session: Session, project_id: int) -> int:
    query = select(func.unnest(Deletion.files)).where(Deletion.project_id == project_id, Deletion.tidied_at.is_(None))
    hashes = set(session.scalars(query))
    held = {use.sha256 for use in of_files(session, hashes)}
    return sum(artifacts.size(sha256) for sha256 in hashes - held)


def _largest(session: Session, project_id: int) -> list[RunTotal]:
    total = func.sum(Artifact.bytes)
    query = (
        select(Run.id, Run.name, Run.state, total)
        .join(Artifact, Artifact.run_id == Run.id)
        .where(Run.project_id == project_id)
        .group_by(Run.id)
        .order_by(total.desc(), Run.id)
        .limit(LARGEST)
    )
    return [RunTotal(run, name, state, int(size)) for run, name, state, size in session.execute(query)]


def _once(uses: Iterable[Use]) -> int:
    return sum({use.sha256: use.bytes for use in uses}.values())
