"""What is restarted on purpose, in the middle of something."""

from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from store import broker, bundled, queue, views
from store.database import is_outage, transaction
from store.models import Dataset
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories, processes
from tests.conftest import SERVERS
from tests.e2e.test_kills import assert_succeeded_once, submit

EPOCHS = 4


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def restart_postgres(home: Path) -> None:
    SERVERS["postgres"].stop()
    SERVERS["postgres"] = bundled.start_postgres(home)


def history(run: int) -> list[str]:
    with transaction() as session:
        return [one.outcome for one in views.attempts(session, run)]


def test_a_rolling_restart_under_load(dataset: Dataset, tmp_path: Path, unhurried: None, upkeep: Upkeep) -> None:
    """Each worker is asked to end as soon as its successor has been started; nothing is burned or done twice."""
    runs, log = [submit(epochs=EPOCHS) for _ in range(4)], tmp_path / "worker.log"
    worker = processes.start_worker(log)
    for number in range(3):
        processes.wait_for("work to go on", lambda: sum(len(history(run)) for run in runs) > number)  # noqa: B023
        successor = processes.start_worker(log)
        worker.terminate()
        worker.wait(60)
        worker = successor
    outcomes = [assert_succeeded_once(run, dataset, log, epochs=EPOCHS) for run in runs]
    worker.terminate()
    worker.wait(60)
    assert {one for run in outcomes for one in run} <= {"preempted", "succeeded"}
    assert [processes.get_run(run).crashes for run in runs] == [0] * 4


def test_postgres_restarts_between_a_claim_and_its_commit(dataset: Dataset, database: Path) -> None:
    """Then nobody has claimed: the run waits as before, and the next claim is its first."""
    run = submit()
    with pytest.raises(SQLAlchemyError) as caught, transaction() as session:  # noqa: PT012
        assert queue.claim(session, "default", "host-1:1", "host-1", 60).claim.fence == 1
        session.flush()
        restart_postgres(database)
    assert is_outage(caught.value)
    assert (processes.get_run(run).state, processes.get_run(run).fence, history(run)) == ("queued", 0, [])
    with transaction() as session:
        assert queue.claim(session, "default", "host-2:1", "host-2", 60).claim.fence == 1
    with transaction() as session:
        assert [str(one) for one in verify(session) if not one.holds] == []


def test_postgres_is_away_when_a_worker_wants_to_claim(
    dataset: Dataset, database: Path, tmp_path: Path, upkeep: Upkeep
) -> None:
    """The announcement is spent, the worker lives, and the run is announced again."""
    run, log = submit(epochs=EPOCHS), tmp_path / "worker.log"
    processes.wait_for("its announcement", lambda: broker.waiting("default") == 1)
    SERVERS["postgres"].stop()
    with processes.worker(log) as worker:
        processes.wait_for("the announcement to be taken", lambda: broker.waiting("default") == 0)
        processes.wait_for("the claim to fail", lambda: "liverseg.attempt" in log.read_text())
        SERVERS["postgres"] = bundled.start_postgres(database)
        assert assert_succeeded_once(run, dataset, log, epochs=EPOCHS) == ["succeeded"]
        assert worker.poll() is None
