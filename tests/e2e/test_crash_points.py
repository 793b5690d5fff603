"""A process dies at each named point of the code once, and is started again: nothing is lost, nothing is there twice.

Every point of ``POINTS`` is tried, so a new one is too; one that its day never comes to fails.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from liverseg_core.crash_points import API, POINTS
from store import experiments, scores, views, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories, processes
from tests.conftest import broker_client
from tests.e2e.test_resume import recorded
from tests.receiver import Receiver
from tests.store import ledger

SPEC = factories.tiny_spec()
LATER = factories.tiny_spec(training={"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}})
SLOW = factories.tiny_spec(
    data={"image_size": 256},
    model={"filters": 16, "depth": 4},
    training={"batch_size": 1, "epochs": 100_000, "early_stopping": {"patience": None}},
)
"""An epoch of it takes several heartbeats, so that its losses come to the worker before its end."""
Start = Callable[[], subprocess.Popen[bytes]]
UNTOUCHED: list[Any] = []
"""What the run leaves where nothing dies; found once."""


@pytest.fixture(autouse=True)
def _quick_to_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIVERSEG_GRACE_S", "1")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def untouched(database: Path, tmp_path: Path) -> Any:
    """The rows and weights of a run in whose way nothing died."""
    factories.import_phantom(tmp_path)
    if not UNTOUCHED:
        maintenance = Upkeep()
        maintenance.start()
        run_id = submit(SPEC)
        with processes.worker(tmp_path / "untouched.log"):
            assert processes.wait_for_end(run_id).state == "succeeded"
        maintenance.stop()
        UNTOUCHED.append(left(run_id))
    return UNTOUCHED[0]


def submit(spec: dict[str, Any]) -> int:
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec), reuse=False)
        return made.runs[0].id


def left(run_id: int) -> Any:
    """Rows by table, and the hash of the weights."""
    with transaction() as session:
        files = scores.files(session, run_id)
    return recorded(run_id), files["weights"], sorted(files)


@contextmanager
def kept(start: Start) -> Iterator[None]:
    """A process that is started again whenever it dies."""
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(start, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def _keep(start: Start, over: threading.Event) -> None:
    process = start()
    while not over.wait(0.1):
        if process.poll() is not None:
            process = start()
    process.terminate()
    process.wait(60)


def a_day_of_work(log: Path, died: Path) -> int:
    """A worker trains a run and, unless it has died by then, is asked to stop another one; the id of the first."""
    run_id = submit(SPEC)
    with kept(lambda: processes.start_worker(log)):
        processes.wait_for_end(run_id)
        if died.exists():
            return run_id
        later = submit(SLOW)
        losses = f"SELECT 1 FROM step_losses WHERE run_id = {later}"
        processes.wait_for("losses of the second run's first epoch", lambda: ledger.rows(losses))
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, later)
        assert processes.wait_for_end(later).state == "cancelled"
    return run_id


def call(port: int, path: str, key: str = "", body: Any = None) -> Any:
    """What the API answers; asked again, with the same key, until it does."""
    url, headers = f"http://127.0.0.1:{port}{path}", {"Idempotency-Key": key} if key else {}

    def answered() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(url, json=body, headers=headers, timeout=60)
        return None

    answer = processes.wait_for("an answer of the API", answered)
    assert answer.is_success, answer.text
    return answer.json()


def order(spec: dict[str, Any]) -> dict[str, Any]:
    return {"spec": spec, "reuse": False, "references": False}


def a_day_of_orders(home: Path, log: Path) -> int:
    """The API takes orders, loses its messages and a worker; the id of the first run, which another worker trains."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with Receiver() as receiver, kept(lambda: start_api(port, log)):
        call(port, "/v1/webhooks", "hook", {"url": receiver.url, "events": ["run.ended"]})
        run_id = call(port, "/v1/experiments", "first", order(SPEC))["runs"][0]["id"]
        processes.wait_for("its announcement", lambda: ledger.rows("SELECT 1 FROM outbox") == [])
        broker_client(home).flushall()
        processes.wait_for("another announcement", lambda: processes.get_run(run_id).announcements > 1)
        # By a worker that is never heard of again.
        assert processes.claim("lost", "lost", lease_s=1).claim.run_id == run_id
        processes.wait_for("the reaper", lambda: processes.get_run(run_id).state == "queued")
        second = call(port, "/v1/experiments", "second", order(LATER))["runs"][0]["id"]
        assert call(port, f"/v1/runs/{second}/cancel")["state"] == "cancelled"
        assert call(port, "/v1/experiments", "first", order(SPEC))["runs"][0]["id"] == run_id
        with kept(lambda: processes.start_worker(log)):
            processes.wait_for_end(run_id)
        taken = "SELECT count(*) FROM webhook_deliveries WHERE done_at IS NOT NULL"
        processes.wait_for("both ends to be told", lambda: ledger.rows(taken) == [(2,)])
        told = {one.id: (one.data["run"], one.data["state"]) for one in receiver.got}
        assert sorted(told.values()) == [(run_id, "succeeded"), (second, "cancelled")]
        assert len(receiver.got) >= (3 if os.environ["LIVERSEG_CRASH_AT"].startswith("message-sent") else 2)
    assert ledger.rows("SELECT count(idempotency_key) FROM experiments") == [(2,)]
    return run_id


def start_api(port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        command = [sys.executable, "-P", "-m", "api.serve", "--port", str(port)]
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_dies_there_does_no_harm(
    database: Path, tmp_path: Path, untouched: Any, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, died = tmp_path / "processes.log", tmp_path / "died"
    monkeypatch.setenv("LIVERSEG_CRASH_AT", f"{point}:{died}")
    if POINTS[point][0] == API:
        run_id = a_day_of_orders(database, log)
    else:
        maintenance = Upkeep()
        maintenance.start()
        run_id = a_day_of_work(log, died)
        maintenance.stop()
    assert died.exists(), f"nothing came to {point}"
    run = processes.get_run(run_id)
    assert run.state == "succeeded", (run.message, log.read_text())
    assert left(run_id) == untouched
    with transaction() as session:
        assert [one.outcome for one in views.attempts(session, run_id)].count("succeeded") == 1
        assert [str(one) for one in verify(session) if not one.holds] == []
