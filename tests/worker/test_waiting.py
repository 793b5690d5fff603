"""Trainers that have loaded Keras and wait for a run."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from store import experiments, views
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.upkeep import Upkeep
from tests import factories, processes
from worker.waiting import Waiting

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting(SLEEPER)
    yield made
    made.end()


def below() -> set[int]:
    return {one.pid for one in psutil.Process().children() if "time.sleep(600)" in " ".join(processes.words_of(one))}


def test_the_one_that_waits_is_taken_and_no_more_wait_than_were_asked_for(waiting: Waiting) -> None:
    waiting.prepare()
    assert not below()
    waiting.keep(2)
    waiting.prepare()
    before = below()
    assert len(before) == 2
    first, second = waiting.take(), waiting.take()
    assert {first.pid, second.pid} == before
    third = waiting.take()
    assert third.pid not in before
    for process in (first, second, third):
        process.kill()


def test_one_that_waits_for_a_device_is_for_that_device(waiting: Waiting) -> None:
    first, second = {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}
    waiting.keep(1, [first, second])
    waiting.prepare(second)
    assert len(below()) == 2
    for around in (second, first):
        taken = waiting.take(around)
        assert psutil.Process(taken.pid).environ()["CUDA_VISIBLE_DEVICES"] == around["CUDA_VISIBLE_DEVICES"]
        taken.kill()
    assert not below()
    other = waiting.take()
    assert psutil.Process(other.pid).environ().get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    other.kill()


def test_what_one_that_waits_has_of_the_memory_is_known(waiting: Waiting) -> None:
    assert waiting.resident_mb() == 0
    waiting.keep(1)
    processes.wait_for("it to be loaded", waiting.resident_mb)
    waiting.end()
    assert waiting.resident_mb() == 0


def test_one_that_died_while_it_waited_is_not_taken(waiting: Waiting) -> None:
    waiting.keep(1)
    (process,) = below()
    os.kill(process, signal.SIGKILL)
    processes.wait_for("its end", lambda: waiting._idle[0].ended())
    taken = waiting.take()
    assert taken.pid != process
    taken.kill()


def test_after_the_end_none_is_started(waiting: Waiting) -> None:
    waiting.keep(1)
    waiting.end()
    waiting.prepare()
    assert not below()


def all_trainers(worker: int) -> list[psutil.Process]:
    """Those with a job and those that wait for one."""
    below = psutil.Process(worker).children(recursive=True)
    return [one for one in below if "worker.trainer" in processes.words_of(one)]


def test_a_run_gets_a_trainer_that_was_there_before_it_was_claimed(upkeep: Upkeep, tmp_path: Path) -> None:
    """That of the second run began to load when the first run was about to end."""
    factories.import_phantom(tmp_path)
    with processes.worker(tmp_path / "log") as worker:
        (first,) = processes.wait_for("a trainer that waits", lambda: all_trainers(worker.pid))
        runs = [submit(seed) for seed in (0, 1)]
        processes.wait_for("the first to train", lambda: processes.trains(first))
        second = processes.wait_for("another that waits", lambda: set(all_trainers(worker.pid)) - {first}).pop()
        started = second.create_time()
        processes.wait_for("the second to train", lambda: processes.trains(second))
        for run in runs:
            assert processes.wait_for_end(run).state == "succeeded"
    with transaction() as session:
        claimed = views.attempts(session, runs[1])[0].started_at
    assert started < claimed.timestamp()


def test_a_worker_that_is_to_hold_no_memory_starts_a_trainer_for_a_run_alone(upkeep: Upkeep, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    with processes.worker(tmp_path / "log", LIVERSEG_WARM="false") as worker:
        processes.wait_for("the worker", lambda: " ready." in (tmp_path / "log").read_text())
        assert not all_trainers(worker.pid)
        run = submit(0)
        processes.wait_for("a trainer", lambda: all_trainers(worker.pid))
        assert processes.wait_for_end(run).state == "succeeded"
        processes.wait_for("its end", lambda: not all_trainers(worker.pid))


def submit(seed: int) -> int:
    spec = factories.tiny_spec()
    spec["training"] = {**spec["training"], "seed": seed, "epochs": 20}  # long enough to tell what came first
    with transaction() as session:
        return experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec)).runs[0].id


def test_a_trainer_that_waits_ends_with_its_worker(database: Path, tmp_path: Path) -> None:
    process = processes.start_worker(tmp_path / "log")
    (trainer,) = processes.wait_for("a trainer that waits", lambda: all_trainers(process.pid))
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    processes.wait_for("it to be gone", lambda: not trainer.is_running())


def test_a_worker_that_is_asked_to_end_as_it_starts_leaves_no_trainer(database: Path, tmp_path: Path) -> None:
    process = processes.start_worker(tmp_path / "log")
    (trainer,) = processes.wait_for("a trainer that waits", lambda: all_trainers(process.pid))
    process.terminate()
    assert process.wait(60) == 0
    assert not trainer.is_running()
