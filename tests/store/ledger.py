"""Shared steps of the ledger's tests: a data set without pixels, runs in a wanted state, rows read plainly."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from liverseg_core.data.manifest import Manifest, SliceEntry, in_order
from liverseg_core.records import SliceScore
from store import artifacts, datasets, experiments, queue, scores
from store.artifacts import Stored
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT, Dataset, Run
from store.queue import Claim, Work
from tests import factories

LEASE_S = 30.0
CHECKPOINT = {"path": "/nowhere/1.npz", "sha256": "0" * 64, "epoch": 1}


def manifest(train: int = 8, val: int = 4, test: int = 4, mark: str = "a") -> Manifest:
    """A manifest without pixels: one scan a part."""
    entries = [
        SliceEntry(part, scan, number, _hash(f"{mark}i{scan}_{number}"), _hash(f"{mark}m{scan}_{number}"))
        for scan, (part, count) in enumerate({"train": train, "val": val, "test": test}.items())
        for number in range(count)
    ]
    scans = {entry.scan: str(entry.scan) for entry in entries}
    return Manifest(512, 512, in_order(entries), scans, subjects_assumed=True)


def people(*subjects: str, name: str = "people") -> Dataset:
    """A data set of one scan of four slices a subject given; the last one is val, all others are train."""
    last = len(subjects) - 1
    entries = [
        SliceEntry("val" if scan == last else "train", scan, number, _hash(f"{name}i{scan}_{number}"), _hash("m"))
        for scan in range(len(subjects))
        for number in range(4)
    ]
    made = Manifest(512, 512, in_order(entries), dict(enumerate(subjects)), subjects_assumed=False)
    with transaction() as session:
        return datasets.add(session, DEFAULT_PROJECT, name, made, _hash(name))


def dataset(name: str = "phantom", project: int = DEFAULT_PROJECT, **parts: Any) -> Dataset:
    with transaction() as session:
        return datasets.add(session, project, name, manifest(**parts), _hash(name))


def second_project() -> int:
    with transaction() as session:
        found = session.scalar(text("SELECT id FROM projects WHERE name = 'other'"))
        return found or session.scalar(text("INSERT INTO projects (name) VALUES ('other') RETURNING id"))


def submit(project: int = DEFAULT_PROJECT, *, reuse: bool = True, **fields: Any) -> list[int]:
    """Submit and return the ids of the runs."""
    with transaction() as session:
        made = experiments.submit(session, project, factories.submission(**fields), reuse=reuse)
        return [run.id for run in made.runs]


def claim(pool: str = "default", worker: str = "w", lease_s: float = LEASE_S) -> Work | None:
    with transaction() as session:
        return queue.claim(session, pool, worker, "host", lease_s)


def claimed(**fields: Any) -> Claim:
    """A new run, claimed."""
    submit(reuse=False, **fields)
    return claim().claim


def finish(
    held: Claim,
    rows: list[SliceScore] | None = None,
    best_epoch: int | None = 1,
    files: dict[str, Stored] | None = None,
) -> str:
    with transaction() as session:
        rows = [factories.slice_score()] if rows is None else rows
        return scores.finish(session, held, rows, files or {}, best_epoch, Ending(0))


def stored(folder: Path) -> dict[str, Stored]:
    """A file as the weights of a run, in the store."""
    (folder / "weights.npz").write_bytes(b"weights of a run")
    return {"weights": artifacts.put(folder / "weights.npz")}


def finished(rows: list[SliceScore] | None = None, **fields: Any) -> int:
    """A new run that has succeeded with these scores; its id."""
    held = claimed(**fields)
    assert finish(held, rows) == "succeeded"
    return held.run_id


def run(run_id: int) -> Run:
    with transaction() as session:
        return session.get_one(Run, run_id)


def rows(query: str, **values: Any) -> list[Any]:
    with transaction() as session:
        return [tuple(row) for row in session.execute(text(query), values)]


def execute(statement: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def everything() -> dict[str, list[Any]]:
    """Every row of every table that a worker may write, to show that nothing changed."""
    tables = ("runs", "attempts", "run_events", "epochs", "slice_scores", "artifacts", "outbox")
    return {table: rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables}


def random_counts(slices: int) -> list[tuple[int, ...]]:
    """Nine counts a slice, about half of them 0, so that every kind of empty mask occurs."""
    random = np.random.default_rng(slices)
    return [tuple((random.integers(0, 2048**2, 9) * (random.random(9) < 0.5)).tolist()) for _ in range(slices)]


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
