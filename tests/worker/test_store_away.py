"""The artifact folder is away: results wait for it, runs are not begun, and people see why."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import artifacts, bundled, presence, views, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.standing import Standing, standing
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories, processes
from tests.conftest import SERVERS
from worker import attempt as attempts
from worker.attempt import attempt

EPOCHS = 40
KINDS = ["gone", "not mounted", "a file in its place"]


class Folder:
    """The artifact folder, which can be taken away and brought back."""

    def __init__(self) -> None:
        self.place = settings().artifacts
        self.kept = self.place.with_name("artifacts-elsewhere")

    def take_away(self, kind: str = KINDS[0]) -> None:
        self.place.rename(self.kept)
        if kind == KINDS[1]:
            self.place.mkdir()
        elif kind == KINDS[2]:
            self.place.touch()

    def bring_back(self) -> None:
        if self.kept.exists():
            self.place.unlink() if self.place.is_file() else self.place.rmdir() if self.place.exists() else None
            self.kept.rename(self.place)


@pytest.fixture
def folder(database: Path, tmp_path: Path) -> Iterator[Folder]:
    factories.import_phantom(tmp_path)
    one = Folder()
    yield one
    one.bring_back()


def submit() -> int:
    from tests.worker.test_attempt import submit

    training = {"batch_size": 4, "epochs": EPOCHS, "early_stopping": {"patience": None}}
    return submit(factories.tiny_spec(training=training))


def told(run: int) -> Standing:
    with transaction() as session:
        return standing(session, views.run(session, DEFAULT_PROJECT, run))


def wait_until_it_waits(run: int) -> str:
    return processes.wait_for("the run to say why it waits", lambda: told(run).waits)


def history(run: int) -> list[tuple[str, int]]:
    with transaction() as session:
        return [(one.outcome, one.resumed_from) for one in views.attempts(session, run)]


def assert_whole(run: int) -> None:
    assert processes.get_run(run).state == "succeeded"
    assert processes.get_run(run).crashes == 0
    with transaction() as session:
        assert [one.epoch for one in views.epochs(session, run)] == list(range(1, EPOCHS + 1))
        assert [str(one) for one in verify(session) if not one.holds] == []
        assert all(artifacts.intact(one.sha256) for one in views.artifacts(session, run))


@contextlib.contextmanager
def carried() -> Iterator[threading.Thread]:
    """An attempt in a thread of this process, which has ended when the block has."""
    thread = threading.Thread(target=attempt, args=("default", "test-worker", 1))
    thread.start()
    yield thread
    thread.join(120)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_waits_for_the_folder(folder: Folder, upkeep: Upkeep, kind: str) -> None:
    """For longer than a lease, and through an outage of the database at the same time."""
    run = submit()
    with carried() as thread:
        processes.wait_for_epoch(run, 1)
        folder.take_away(kind)
        words = wait_until_it_waits(run)
        assert words.startswith("The result is there and waits to be stored: the artifact folder of LIVERSEG_HOME is")
        assert str(folder.place) not in words
        if kind == KINDS[0]:
            SERVERS["postgres"].stop()
            time.sleep(1)
            SERVERS["postgres"] = bundled.start_postgres(settings().home)
        time.sleep(settings().lease_s + 1)
        assert thread.is_alive()
        assert processes.get_run(run).state == "running"
        folder.bring_back()
    assert_whole(run)
    assert history(run) == [("succeeded", 0)]


def test_a_cancel_while_the_result_waits(folder: Folder) -> None:
    run = submit()
    with carried():
        processes.wait_for_epoch(run, 1)
        folder.take_away()
        wait_until_it_waits(run)
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run)
    assert processes.get_run(run).state == "cancelled"


def test_a_sigterm_while_the_result_waits_gives_the_run_back(folder: Folder, upkeep: Upkeep, tmp_path: Path) -> None:
    """Nothing is burned, and no epoch computed twice: the next attempt only scores, from the last checkpoint."""
    run, log = submit(), tmp_path / "worker.log"
    worker = processes.start_worker(log)
    processes.wait_for_epoch(run, 1)
    folder.take_away()
    wait_until_it_waits(run)
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    assert (processes.get_run(run).state, processes.get_run(run).crashes) == ("queued", 0)
    folder.bring_back()
    with processes.worker(log):
        processes.wait_for_end(run)
    assert_whole(run)
    assert history(run) == [("preempted", 0), ("succeeded", EPOCHS)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_begun_while_the_folder_is_away(folder: Folder, upkeep: Upkeep, tmp_path: Path, kind: str) -> None:
    """Else every run of the queue would fail for want of its data set."""
    folder.take_away(kind)
    run = submit()
    with processes.worker(tmp_path / "worker.log"):
        processes.wait_for("the worker to say so", lambda: "artifact folder" in (told(run).waits or ""))
        assert processes.get_run(run).fence == 0
        folder.bring_back()
        processes.wait_for_end(run)
        with transaction() as session:
            assert [one.trouble for one, _, _ in presence.workers(session, settings().lease_s)] == [None]
    assert_whole(run)
    assert history(run) == [("succeeded", 0)]


def test_a_data_set_that_vanished_with_its_folder_fails_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the folder and the trainer's: the run is given back, since its data are not at fault."""
    run = submit()
    claimed = attempts._carry

    def too_late(*arguments: object) -> None:
        folder.take_away()
        claimed(*arguments)

    monkeypatch.setattr(attempts, "_carry", too_late)
    for place in settings().cache.glob("*"):  # nobody has decoded it before
        place.rename(place.with_name(f"{place.name}-not"))
    with carried():
        pass
    assert (processes.get_run(run).state, history(run)) == ("queued", [("preempted", 0)])


def test_an_import_while_the_folder_is_away_is_told_to_come_again(folder: Folder) -> None:
    """(Over HTTP it is 503; see tests/api.)"""
    folder.take_away(KINDS[2])
    with pytest.raises(artifacts.Away, match="artifact folder"):
        artifacts.put(Path(__file__))
