"""The whole way once: submit, outbox, Celery, trainer, Postgres, comparison."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store import comparison, experiments, views
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.states import FINAL
from store.upkeep import Upkeep
from tests import factories


@contextmanager
def worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "worker.command", "start", "--threads", "1"]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def upkeep(database: Path) -> Iterator[Upkeep]:
    thread = Upkeep()
    thread.start()
    yield thread
    thread.stop()


def wait_for_end(run_ids: list[int], timeout: float = 120) -> dict[int, str]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with transaction() as session:
            found = {run_id: views.run(session, DEFAULT_PROJECT, run_id).state for run_id in run_ids}
        if all(state in FINAL for state in found.values()):
            return found
        time.sleep(0.2)
    raise AssertionError(found)


def test_a_submitted_experiment_comes_back_as_a_comparison(database: Path, tmp_path: Path, upkeep: Upkeep) -> None:
    dataset = factories.import_phantom(tmp_path)
    with transaction() as session:
        made, _ = experiments.submit(session, DEFAULT_PROJECT, factories.submission())
        runs = [run.id for run in views.experiment_runs(session, made.id)]
    with worker(tmp_path / "worker.log"):
        assert wait_for_end(runs) == {runs[0]: "succeeded"}, (tmp_path / "worker.log").read_text()
    with transaction() as session:
        table = comparison.compare(session, DEFAULT_PROJECT, runs)
        epochs = views.epochs(session, runs[0])
        kinds = {artifact.kind for artifact in views.artifacts(session, runs[0])}
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert table.rows[0].slices == sum(entry["part"] == "test" for entry in dataset.manifest["slices"])
    assert table.rows[0].scores.loss == pytest.approx(1 - table.rows[0].scores.dice)
    assert kinds == {"weights", "probabilities", "log"}
