"""Two workers that were started for the same slot of the same device of one host never train at once."""

import itertools
import os
import signal
from pathlib import Path

import psutil
import pytest

from store import presence, views
from store.database import transaction
from store.models import Dataset
from store.settings import settings
from store.standing import standing
from store.states import FINAL
from tests import factories, processes
from tests.e2e.test_kills import assert_succeeded_once, submit

pytestmark = pytest.mark.usefixtures("upkeep")


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def trouble_of(worker: processes.Worker) -> str | None:
    with transaction() as session:
        found = {one.name: one.trouble for one, _, _ in presence.workers(session, settings().lease_s)}
    return next((told for name, told in found.items() if name.endswith(f":{worker.pid}")), None)


def test_two_workers_for_one_slot_take_turns(dataset: Dataset, tmp_path: Path) -> None:
    """The second says that the first has the slot, and takes over when the kernel has freed it."""
    epochs, log = (60, 8, 8), tmp_path / "second.log"  # the first one must not end before it is killed
    runs = [submit(one) for one in epochs]
    first = processes.start_worker(tmp_path / "first.log")
    processes.wait_for_epoch(runs[0], 2)
    with processes.worker(log) as second:
        told = processes.wait_for("the second to say why it waits", lambda: trouble_of(second))
        assert f"in use by worker {os.uname().nodename}:{first.pid}; " in told
        with transaction() as session:  # the first is busy, not in trouble, so the run just waits its turn
            assert "pool default" in standing(session, processes.get_run(runs[2])).waits
        assert processes.trainers(second) == []
        (orphan,) = processes.trainers(first)
        first.send_signal(signal.SIGKILL)
        first.wait()

        def done() -> bool:
            both = [one for one in (orphan, *processes.trainers(second)) if lives(one)]
            assert len(both) <= 1, both
            return all(processes.get_run(run).state in FINAL for run in runs)

        processes.wait_for("all runs to end, one at a time", done, timeout=400)
        outcomes = [assert_succeeded_once(run, dataset, log, one) for run, one in zip(runs, epochs, strict=True)]
    assert outcomes[0] == ["lost", "succeeded"]
    with transaction() as session:
        ends = sorted((one.started_at, one.ended_at) for run in runs for one in views.attempts(session, run))
    assert all(start >= end for (_, end), (start, _) in itertools.pairwise(ends[1:]))
    assert "runs wait, and this worker takes none: slot 0 of device default" in log.read_text()
