"""The store is a bucket and its line breaks: runs wait for what they need, results to be stored; people see why."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.upkeep import Upkeep
from tests import factories, processes, s3
from tests.conftest import forget_caches
from tests.worker.test_store_away import assert_whole, carried, history, submit, told

WAITS = "It waits for a file that it needs: the artifact store is away"


@pytest.fixture
def wire(database: Path, tmp_path: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Wire]:
    """The bucket holds a data set of which this host has nothing."""
    s3_server.clear()
    with s3.Wire(s3_server.port) as wire:
        for name, value in s3_server.surroundings(wire.port).items():
            monkeypatch.setenv(name, value)
        forget_caches()
        factories.import_phantom(tmp_path)
        shutil.rmtree(settings().fetched, ignore_errors=True)
        for place in settings().cache.glob("*"):
            place.rename(tmp_path / f"not-{place.name}")
        yield wire
    monkeypatch.undo()
    forget_caches()


def nothing(piece: bytes) -> None:
    """What the line lets through when it is cut."""


def no_downloads(piece: bytes) -> bytes | None:
    """A line over which the store can be asked and written to, and on which every download breaks."""
    return None if b"GET /lab-files/liver/" in piece else piece


def why(run: int) -> str:
    """What the run says once it waits for the store, and no longer for a worker."""

    def said() -> str | None:
        words = told(run).waits
        return words if words and "artifact store" in words else None

    return processes.wait_for("the run to say that it waits for the store", said, 90)


def cut(wire: s3.Wire) -> None:
    wire.down = nothing
    wire.cut()


def mend(wire: s3.Wire) -> None:
    wire.down = wire.up = lambda piece: piece


def test_a_result_waits_for_the_bucket(wire: s3.Wire, upkeep: Upkeep) -> None:
    run = submit()
    with carried() as thread:
        processes.wait_for_epoch(run, 1)
        cut(wire)
        words = why(run)
        assert words.startswith("The result is there and waits to be stored: the artifact store is away")
        thread.join(settings().lease_s + 1)
        assert thread.is_alive()
        assert processes.get_run(run).state == "running"
        mend(wire)
    assert_whole(run)
    assert history(run) == [("succeeded", 0)]


def test_a_run_waits_for_its_data_set_longer_than_a_lease(wire: s3.Wire, upkeep: Upkeep) -> None:
    """It was claimed, since the store answers; it is as alive as if it trained."""
    wire.up = no_downloads
    run = submit()
    with carried() as thread:
        assert why(run).startswith(WAITS)
        thread.join(settings().lease_s + 1)
        assert thread.is_alive()
        mend(wire)
        processes.wait_for("it to go on", lambda: told(run).waits is None)
    assert_whole(run)
    assert history(run) == [("succeeded", 0)]


def test_a_cancel_while_a_run_waits_for_its_data_set(wire: s3.Wire) -> None:
    wire.up = no_downloads
    run = submit()
    with carried():
        why(run)
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run)
    assert processes.get_run(run).state == "cancelled"


def test_a_sigterm_while_a_run_waits_for_its_data_set(wire: s3.Wire, upkeep: Upkeep, tmp_path: Path) -> None:
    wire.up = no_downloads
    run, log = submit(), tmp_path / "worker.log"
    worker = processes.start_worker(log)
    why(run)
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    assert (processes.get_run(run).state, processes.get_run(run).crashes) == ("queued", 0)
    mend(wire)
    with processes.worker(log):
        processes.wait_for_end(run)
    assert_whole(run)
    assert history(run) == [("preempted", 0), ("succeeded", 0)]
    assert s3.SECRET not in log.read_text()
    assert s3.KEY not in log.read_text()


def test_nothing_is_begun_while_the_bucket_is_away(wire: s3.Wire, upkeep: Upkeep, tmp_path: Path) -> None:
    cut(wire)
    run = submit()
    with processes.worker(tmp_path / "worker.log"):
        processes.wait_for("the worker to say so", lambda: "the artifact store is away" in (told(run).waits or ""))
        assert processes.get_run(run).fence == 0
        mend(wire)
        processes.wait_for_end(run)
    assert_whole(run)


def test_a_store_that_goes_while_the_rows_are_written(
    wire: s3.Wire, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last file and the row that names it: nothing is counted as a crash."""
    from worker import attempt

    real = attempt._store

    def then_away(files):
        stored = real(files)
        cut(wire)
        monkeypatch.setattr(attempt, "_store", real)
        return stored

    monkeypatch.setattr(attempt, "_store", then_away)
    run = submit()
    with carried():
        why(run)
        mend(wire)
    assert_whole(run)
    assert history(run) == [("succeeded", 0)]
