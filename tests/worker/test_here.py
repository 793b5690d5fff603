"""A worker says that it is there for as long as it is, and ends itself when its consumer has fallen silent."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import broker, presence
from store.database import transaction
from store.settings import settings
from tests import processes
from tests.store import ledger
from worker import here
from worker.attempt import attempts
from worker.here import Here


@pytest.fixture
def hasty(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A beat every 50 ms; a consumer is silent after a fifth of a second."""
    for name, value in {"HEARTBEAT_S": "0.05", "REANNOUNCE_S": "0.1"}.items():
        monkeypatch.setenv(f"LIVERSEG_{name}", value)
    settings.cache_clear()
    ledger.dataset()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """Set when this process gets SIGTERM."""
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    yield told
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def worker(hasty: None, ended: threading.Event) -> Iterator[Here]:
    one = Here(slots=2, threads=1)
    one.start()
    yield one
    one.stop()


def seen() -> list[tuple[int, bool]]:
    with transaction() as session:
        return [(one.slots, alive) for one, alive, _ in presence.workers(session, settings().lease_s)]


def test_a_worker_is_listed_until_it_says_goodbye(hasty: None) -> None:
    one = Here(slots=2, threads=1)
    one.start()
    processes.wait_for("the worker's row", seen, timeout=10)
    assert seen() == [(2, True)]
    one.stop()
    assert seen() == []


def test_a_worker_whose_consumer_is_silent_ends_itself(worker: Here, ended: threading.Event) -> None:
    ledger.submit()  # and nobody takes it
    assert ended.wait(20)


def test_a_worker_stays_while_the_broker_itself_is_away(
    hasty: None, ended: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh process would be as deaf as this one, and where nobody starts it again there would be none."""
    monkeypatch.setenv("LIVERSEG_BROKER_URL", f"redis+socket://{tmp_path}/nothing.sock")
    for cached in (settings, broker.producer):
        cached.cache_clear()
    one = Here(slots=2, threads=1)
    one.start()
    ledger.submit()
    assert not ended.wait(2)
    assert one._idle_since is None  # nor in the moment of its return
    one.stop()
    monkeypatch.undo()
    for cached in (settings, broker.producer):
        cached.cache_clear()


def test_a_worker_that_works_or_has_nothing_to_do_stays(worker: Here, ended: threading.Event) -> None:
    assert not ended.wait(1)  # nothing waits
    with attempts:
        ledger.submit()
        assert not ended.wait(1)  # its slot is taken


def test_an_error_does_not_end_the_thread(
    worker: Here, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(here.presence, "here", lambda *_: 1 / 0)
        processes.wait_for("the error in the log", lambda: "could not say that it is here" in caplog.text, timeout=10)
    ledger.execute("DELETE FROM workers")
    processes.wait_for("the worker's row", seen, timeout=10)
