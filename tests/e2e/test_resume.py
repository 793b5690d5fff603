"""Resume is exact: a run that is killed again and again ends as one that nobody touched, bit for bit.

Three kills in `make test`, one of each kind; ten in `make resume-kills` (``LIVERSEG_KILLS``). The seed is printed,
and ``LIVERSEG_KILL_SEED`` draws the same steps again.
"""
# ruff: noqa: T201 - what was killed and compared is worth reading

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from liverseg_core.spec import ModelOptions
from liverseg_core.weights import network_shapes, read_weights
from store import artifacts, experiments, scores, views
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories, processes
from worker.position import LAYOUT, Position

KILLS = int(os.environ.get("LIVERSEG_KILLS", "3"))
SEED = int(os.environ.get("LIVERSEG_KILL_SEED") or random.SystemRandom().randrange(10**6))
EPOCHS = 2 * KILLS + 2
STEPS = 12  # of an epoch: 48 train slices by fours
THREADS = 2  # sums in two threads must come in the same order too
TIMES = ("seconds", "images_per_second")
"""What may differ: how long it took."""

MODEL = {"filters": 4, "depth": 3, "normalization": "batch", "dropout": 0.5}
SPEC = factories.tiny_spec(
    data={
        "image_size": 64,
        "sampling": "lesion-scan-balanced",
        "augmentation": {"rotation": 15.0, "scale": 0.1, "shift": 0.1, "flip": True, "contrast": 0.1, "noise": 0.02},
    },
    model=MODEL,
    training={
        "batch_size": 4,
        "epochs": EPOCHS,
        "schedule": {"kind": "cosine", "warmup": 2},
        "early_stopping": {"patience": EPOCHS, "restore": "best"},
    },
)
"""With every kind of state: moments, moving means, dropout, order, augmentation, learning rate, best weights."""


class Kill(NamedTuple):
    """At which step of which epoch, and whom."""

    epoch: int
    step: int
    whom: str


def drawn(seed: int) -> list[Kill]:
    """A step in every second epoch, so that no two crashes look like one step that kills its trainer each time."""
    steps = random.Random(seed)
    epochs = sorted(steps.sample(range(1, EPOCHS + 1, 2), KILLS))
    whom = ("trainer", "supervisor", "tree")
    return [Kill(epoch, steps.randrange(1, STEPS), whom[number % 3]) for number, epoch in enumerate(epochs)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However often it is killed, the run goes on; and no lease runs out because the machine is busy.

    The state within an epoch is kept so often that some attempts find it and others do not.
    """
    monkeypatch.setenv("LIVERSEG_KEEP_S", "0.2")
    monkeypatch.setenv("LIVERSEG_MAX_CRASHES", "100")
    monkeypatch.setenv("LIVERSEG_LEASE_S", "10")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def submit() -> int:
    """A run that is trained, whatever has been trained before."""
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(SPEC), reuse=False)
        return made.runs[0].id


def position(run_id: int, attempt: int) -> tuple[int, ...]:
    """Phase, epoch, step and signs of life of an attempt; zeros before its trainer is there."""
    path = settings().checkpoints / str(run_id) / f"attempt-{attempt}" / "position"
    ready = path.is_file() and path.stat().st_size == LAYOUT.size
    return Position(path).read() if ready else (0, 0, 0, 0)


def wait_for_step(run_id: int, after: int, kill: Kill, deadline_s: float = 300) -> tuple[int, int, int]:
    """Until an attempt later than ``after`` has done that step: its number, and the epoch and step it has done."""
    attempt, looked, deadline = 0, 0.0, time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if time.monotonic() - looked > 0.5:  # a busy machine may lose an attempt by itself
            attempt, looked = processes.get_run(run_id).fence, time.monotonic()
        _, epoch, step, _ = position(run_id, attempt)
        if attempt > after and (epoch, step) >= (kill.epoch, kill.step):
            return attempt, epoch, step
        time.sleep(0.002)
    raise AssertionError(
        f"attempt {attempt} of run {run_id} never came to {kill}, only to {position(run_id, attempt)}"
    )


def train_and_kill(kills: list[Kill], log: Path) -> int:
    """A new run, worked on until it has ended, with a new worker for each that is killed; its id."""
    run_id, attempt, worker = submit(), 0, processes.start_worker(log, THREADS)
    try:
        for kill in kills:
            attempt, *reached = wait_for_step(run_id, attempt, kill)
            AIMS[kill.whom](worker)
            print(f"attempt {attempt}: {kill.whom} killed at {reached}, aimed at {[kill.epoch, kill.step]}")
            if kill.whom != "trainer":
                worker.wait()
                worker = processes.start_worker(log, THREADS)
        processes.wait_for_end(run_id, timeout=300)
    finally:
        worker.terminate()
        worker.wait(60)
    return run_id


AIMS: dict[str, Callable[[processes.Worker], None]] = {
    "trainer": lambda worker: processes.trainers(worker)[0].kill(),
    "supervisor": lambda worker: os.kill(worker.pid, signal.SIGKILL),
    "tree": processes.kill_tree,
}


def weights_hash(run_id: int) -> str:
    """SHA-256 over the numbers of the weights, in order; not over the file that holds them."""
    with transaction() as session:
        path = artifacts.locate(scores.files(session, run_id)["weights"])
    digest = hashlib.sha256()
    for array in read_weights(path, ModelOptions(**MODEL)):
        digest.update(array.tobytes())
    return digest.hexdigest()


TABLES = {
    "epochs": "SELECT * FROM epochs WHERE run_id = :run AND archived_at IS NULL ORDER BY epoch",
    "steps": """SELECT s.epoch, s.first + l.place - 1 AS step, l.loss FROM step_losses s,
        unnest(s.losses) WITH ORDINALITY AS l (loss, place)
        WHERE run_id = :run AND archived_at IS NULL ORDER BY 1, 2""",
    "images": "SELECT * FROM slice_scores WHERE run_id = :run ORDER BY part, scan, slice",
    "lesions": "SELECT * FROM lesion_components WHERE run_id = :run ORDER BY part, scan, slice, predicted, number",
}


def recorded(run_id: int) -> dict[str, list[dict[str, Any]]]:
    """Every row about a run by table, numbers as hexadecimal floats, without whose it is and when."""
    found: dict[str, list[dict[str, Any]]] = {}
    with transaction() as session:
        for table, query in TABLES.items():
            rows = session.execute(text(query), {"run": run_id}).mappings()
            found[table] = [_exact(row) for row in rows]
    return found


def _exact(row: Any) -> dict[str, Any]:
    own = ("id", "run_id", "attempt", "at", "archived_at", *TIMES)
    return {key: value.hex() if isinstance(value, float) else value for key, value in row.items() if key not in own}


def assert_trained(run_id: int, kills: int, log: Path) -> None:
    """By an attempt more than it was killed, at least, and by no reuse of another run."""
    run = processes.get_run(run_id)
    assert (run.state, run.kind, run.reused_from) == ("succeeded", "train", None), (run.message, log.read_text())
    with transaction() as session:
        ended = [one.outcome for one in views.attempts(session, run_id)]
    assert len(ended) > kills
    assert ended.count("succeeded") == 1
    print(f"run {run_id}, {kills} kills: attempts {ended}")


@pytest.mark.timeout(300 * (KILLS + 3))
def test_a_run_killed_at_random_steps_ends_as_one_that_nobody_touched(
    database: Path, tmp_path: Path, upkeep: Upkeep, patient: None
) -> None:
    factories.import_phantom(tmp_path, subjects=6, slices=16, size=64)
    log, kills = tmp_path / "worker.log", drawn(SEED)
    print(f"\nseed {SEED}; {EPOCHS} epochs of {STEPS} steps, kills: {[tuple(kill) for kill in kills]}")
    killed = train_and_kill(kills, log)
    untouched = train_and_kill([], log)
    assert_trained(killed, len(kills), log)
    assert_trained(untouched, 0, log)

    hashes = [weights_hash(run_id) for run_id in (killed, untouched)]
    rows = [recorded(run_id) for run_id in (killed, untouched)]
    counts = {table: len(found) for table, found in rows[1].items()}
    print(f"weights: killed {hashes[0]}\n         untouched {hashes[1]}\nrows compared: {counts}")
    assert hashes[0] == hashes[1]
    for table, found in rows[1].items():
        assert rows[0][table] == found, table
    assert (counts["epochs"], counts["steps"]) == (EPOCHS, EPOCHS * STEPS)
    assert counts["images"] > 0
    assert counts["lesions"] > 0
    with transaction() as session:
        assert [str(one) for one in verify(session) if not one.holds] == []
        files = [scores.files(session, run_id) for run_id in (killed, untouched)]
    assert [files[0][kind] for kind in ("weights", "probabilities")] == [
        files[1][kind] for kind in ("weights", "probabilities")
    ]


def test_every_kind_of_state_is_in_the_network() -> None:
    """Else equal weights would show less than they seem to."""
    names = [name for name, _ in network_shapes(ModelOptions(**MODEL))]
    assert any(name.endswith("moving_variance") for name in names)
