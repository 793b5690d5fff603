"""The whole way once: submit, outbox, Celery, trainer, Postgres, comparison."""

from pathlib import Path

import pytest

from store import artifacts, comparison, experiments, views
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.upkeep import Upkeep
from tests import factories, processes


def test_a_submitted_experiment_comes_back_as_a_comparison(database: Path, tmp_path: Path, upkeep: Upkeep) -> None:
    dataset = factories.import_phantom(tmp_path)
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission())
        run_id = made.runs[0].id
    with processes.worker(tmp_path / "worker.log"):
        assert processes.wait_for_end(run_id).state == "succeeded", (tmp_path / "worker.log").read_text()
    with transaction() as session:
        table = comparison.compare(session, DEFAULT_PROJECT, [run_id])
        epochs = views.epochs(session, run_id)
        files = {artifact.kind: artifact.sha256 for artifact in views.artifacts(session, run_id)}
        attempts = views.attempts(session, run_id)
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert table.rows[0].slices == sum(entry["part"] == "test" for entry in dataset.manifest["slices"])
    assert table.rows[0].scores["loss"] == pytest.approx(1 - table.rows[0].scores["dice"])
    assert set(files) == {"weights", "probabilities", "tensorboard", "log"}
    assert all(artifacts.intact(sha256) for sha256 in files.values())
    assert [attempt.outcome for attempt in attempts] == ["succeeded"]
    assert attempts[0].provenance["backend"] == "tensorflow"
    assert {"processor", "cores", "device", "liverseg"} <= attempts[0].provenance.keys()
    assert attempts[0].peak_memory_mb > 100
