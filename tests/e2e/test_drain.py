"""Asking workers to leave through the ledger, and the listing of who works."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store import experiments, presence, views
from store.database import transaction
from store.models import DEFAULT_PROJECT, Dataset, Run
from store.settings import settings
from tests import factories, processes
from tests.e2e.test_kills import submit

pytestmark = pytest.mark.usefixtures("upkeep")


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    call = [sys.executable, "-P", "-m", "worker.command", *words]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def start() -> Iterator[Callable[..., processes.Worker]]:
    """Starts a worker, which ends with the test at the latest."""
    made: list[processes.Worker] = []

    def begin(log: Path, *words: str, **around: str) -> processes.Worker:
        call = [sys.executable, "-m", "worker.command", "start", "--threads", "1", *words]
        with log.open("ab") as out:
            made.append(
                subprocess.Popen(call, stdout=out, stderr=out, start_new_session=True, env=os.environ | around)
            )
        return made[-1]

    yield begin
    for one in made:
        one.send_signal(signal.SIGTERM)
        one.wait(60)


def drains() -> bool:
    """Whether the one worker says of itself that it leaves."""
    with transaction() as session:
        ((worker, _, _),) = presence.workers(session, settings().lease_s)
        return worker.draining


def test_a_drained_worker_finishes_its_run_and_takes_no_other(
    dataset: Dataset, tmp_path: Path, start: Callable[..., processes.Worker]
) -> None:
    first, second, log = submit(epochs=80), submit(epochs=2), tmp_path / "worker.log"
    worker = start(log, "--label", "gpu=none", "--devices", "cpu")
    processes.wait_for_epoch(first, 2)
    (trainer,) = processes.trainers(worker)
    trainer.suspend()  # so that its run lasts until the worker has heard
    (told,) = json.loads(command("status", "--json").stdout)["workers"]
    assert (told["labels"], told["devices"], told["slots"], told["standing"]) == (
        {"gpu": "none"},
        ["cpu"],
        1,
        "there",
    )
    assert [run["id"] for run in told["runs"]] == [first]
    assert told["memory_mb"] > 0
    assert f"run {first} (training" in command("status").stdout
    assert command("drain", "somebody").returncode == 1
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(command, "drain", "--wait")
        processes.wait_for("the worker to heed it", drains)
        trainer.resume()
        done = asked.result()
    assert (done.returncode, "finishes what it runs and ends" in done.stdout) == (0, True), done.stderr
    assert worker.wait(30) == 0, log.read_text()
    assert processes.get_run(first).state == "succeeded"
    with transaction() as session:
        assert [one.outcome for one in views.attempts(session, first)] == ["succeeded"]
    assert processes.get_run(second).state == "queued"
    assert "No worker is there" in command("status").stdout
    start(tmp_path / "next.log")
    assert processes.wait_for_end(second, 120).state == "succeeded"
    processes.assert_ledger_holds()


def test_now_gives_the_run_back(dataset: Dataset, tmp_path: Path, start: Callable[..., processes.Worker]) -> None:
    run, log = submit(epochs=500), tmp_path / "worker.log"
    worker = start(log)
    processes.wait_for_epoch(run, 1)
    assert command("drain", f"{os.uname().nodename}:{worker.pid}", "--now").returncode == 0
    assert worker.wait(60) == 0, log.read_text()
    with transaction() as session:
        assert [one.outcome for one in views.attempts(session, run)] == ["preempted"]
    assert processes.get_run(run).crashes == 0
    processes.assert_ledger_holds()


def test_a_worker_that_is_to_leave_takes_no_announcement_from_others(
    dataset: Dataset,
    tmp_path: Path,
    start: Callable[..., processes.Worker],
    unhurried: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a slot to spare meanwhile; what is submitted once it has let go is not announced a second time."""
    monkeypatch.setenv("LIVERSEG_REANNOUNCE_S", "600")
    settings.cache_clear()
    long, log = submit(epochs=100_000), tmp_path / "leaving.log"
    leaving = start(log, "--slots", "2")
    processes.wait_for_epoch(long, 1)
    assert command("drain", f"{os.uname().nodename}:{leaving.pid}").returncode == 0
    # What was under way to it until then is announced again.
    processes.wait_for("it to let go", lambda: "what waits is announced to others" in log.read_text())
    with processes.worker(tmp_path / "other.log", LIVERSEG_DEVICE="other") as other:
        for seed in range(4):
            run = submit_short(seed)
            assert processes.wait_for_end(run, 200).state == "succeeded"
            with transaction() as session:
                (attempt,) = views.attempts(session, run)
                assert attempt.worker.endswith(f":{other.pid}")
                assert session.get_one(Run, run).announcements == 1
    assert leaving.poll() is None
    assert processes.get_run(long).state == "running"
    monkeypatch.undo()
    settings.cache_clear()


def submit_short(seed: int, **where: object) -> int:
    spec = factories.tiny_spec(data={"image_size": 64}, training={"batch_size": 4, "epochs": 2})
    with transaction() as session:
        asked = factories.submission(spec, seeds=[seed], **where)
        return experiments.submit(session, DEFAULT_PROJECT, asked).runs[0].id


def test_a_labelled_run_finds_its_worker_though_another_took_its_announcement(
    dataset: Dataset, tmp_path: Path, start: Callable[..., processes.Worker], unhurried: None
) -> None:
    """Both workers take from one queue, and the plain one is awake."""
    plain, fit = tmp_path / "plain.log", tmp_path / "fit.log"
    with processes.worker(plain, LIVERSEG_DEVICE="plain", LIVERSEG_REANNOUNCE_S="600"):
        worker = start(fit, "--label", "gpu=h200", LIVERSEG_DEVICE="other", LIVERSEG_REANNOUNCE_S="600")
        for seed in range(3):
            run = submit_short(seed, needs={"gpu": "h200"})
            assert processes.wait_for_end(run, 120).state == "succeeded"
            with transaction() as session:
                (attempt,) = views.attempts(session, run)
                assert attempt.worker.endswith(f":{worker.pid}")
