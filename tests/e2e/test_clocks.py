"""A worker whose clock is off by hours: only the database's clock decides, so nothing changes."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from store import presence, views
from store.database import transaction
from store.models import Dataset
from store.settings import settings
from tests import factories, processes
from tests.e2e.test_kills import assert_succeeded_once, submit

pytestmark = pytest.mark.usefixtures("upkeep")

SHIFTED = Path(__file__).parent / "shifted"


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def off_by(hours: int) -> dict[str, str]:
    """What a process needs in its environment to have such a clock, and its trainer too."""
    paths = os.pathsep.join(filter(None, [str(SHIFTED), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": paths, "LIVERSEG_TEST_CLOCK_H": str(hours), "LIVERSEG_DEVICE": f"off-by-{hours}"}


def now() -> object:
    with transaction() as session:
        return session.scalar(text("SELECT clock_timestamp()"))


@pytest.mark.parametrize("hours", [5, -5])
def test_the_clock_of_such_a_process_is_off(hours: int) -> None:
    """Else the tests below would show nothing."""
    code = "import time, datetime; print(time.time(), datetime.datetime.now(datetime.UTC).timestamp())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | off_by(hours), capture_output=True, check=True
    )
    for seconds in map(float, done.stdout.split()):
        assert abs(seconds - time.time() - 3600 * hours) < 600


def test_two_workers_off_by_ten_hours_lose_nothing_to_each_other(
    dataset: Dataset, tmp_path: Path, unhurried: None
) -> None:
    """Both are there, no run is taken from either, and every time is the database's."""
    start, runs, log = now(), [submit() for _ in range(3)], tmp_path / "ahead.log"
    with processes.worker(log, **off_by(5)), processes.worker(tmp_path / "behind.log", **off_by(-5)):
        processes.wait_for("both to work", lambda: len(busy()) == 2)
        for run in runs:
            assert assert_succeeded_once(run, dataset, log) == ["succeeded"]
        with transaction() as session:
            moves = [[one.move for one in views.events(session, run)] for run in runs]
            assert moves == [["submit", "claim", "succeed"]] * 3
            assert [alive for _, alive, _ in presence.workers(session, settings().lease_s)] == [True, True]
            times = [one.at for run in runs for one in views.events(session, run)]
            times += [
                at for run in runs for one in views.attempts(session, run) for at in (one.started_at, one.ended_at)
            ]
            times += [at for one, _, _ in presence.workers(session, 1) for at in (one.started_at, one.seen_at)]
    assert min(times) >= start
    assert max(times) <= now()


def busy() -> list[str]:
    with transaction() as session:
        return [one.name for one, _, runs in presence.workers(session, settings().lease_s) if runs]


@pytest.mark.parametrize("hours", [5, -5])
def test_the_death_of_such_a_worker_is_seen_after_a_lease(dataset: Dataset, tmp_path: Path, hours: int) -> None:
    """Not hours later, and not at once."""
    run, log = submit(), tmp_path / "worker.log"
    doomed = processes.start_worker(tmp_path / "doomed.log", **off_by(hours))
    processes.wait_for_epoch(run, 2)
    processes.kill_tree(doomed)
    dead_at = now()
    with processes.worker(log):
        assert assert_succeeded_once(run, dataset, log) == ["lost", "succeeded"]
    with transaction() as session:
        (lost,) = [one.at for one in views.events(session, run) if one.move == "crash"]
    assert lost >= dead_at + timedelta(seconds=settings().lease_s - 2 * settings().heartbeat_s - 1)
