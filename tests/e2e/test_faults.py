"""Things that freeze, hang, storm and lie: what the ledger says afterwards is true."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from store import broker, bundled, views
from store.database import transaction
from store.models import Dataset
from store.settings import settings
from tests import factories, processes
from tests.conftest import broker_client
from tests.e2e.test_kills import assert_succeeded_once, submit
from tests.proxy import Proxy

pytestmark = pytest.mark.usefixtures("upkeep")


@pytest.fixture
def dataset(database: Path, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers started now take 30 seconds without a sign of life for a hang; loading Keras takes up to ten."""
    monkeypatch.setenv("LIVERSEG_STALL_S", "30")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def tree(worker: processes.Worker) -> list[psutil.Process]:
    parent = psutil.Process(worker.pid)
    return [parent, *parent.children(recursive=True)]


def moves(run_id: int) -> list[str]:
    with transaction() as session:
        return [event.move for event in views.events(session, run_id)]


def attempts(run_id: int) -> list[tuple[str, str | None]]:
    with transaction() as session:
        return [(one.outcome, one.reason) for one in views.attempts(session, run_id)]


def test_sigstop_past_the_lease_and_another_worker_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    """The frozen worker wakes up when its run is somebody else's: it writes nothing and there is one curve."""
    run_id, frozen_log, log = submit(), tmp_path / "frozen.log", tmp_path / "worker.log"
    with processes.worker(frozen_log) as frozen:
        processes.wait_for_epoch(run_id, 3)
        everybody = tree(frozen)
        processes.signal_all(everybody, signal.SIGSTOP)
        with processes.worker(log, LIVERSEG_DEVICE="of-another-host"):
            processes.wait_for("a second attempt", lambda: processes.get_run(run_id).fence == 2)
            processes.signal_all(everybody, signal.SIGCONT)
            assert assert_succeeded_once(run_id, dataset, log) == ["lost", "succeeded"]
    assert "wrote nothing more" in frozen_log.read_text()


def test_sigstop_past_the_lease_with_nobody_else_there(dataset: Dataset, tmp_path: Path) -> None:
    """The run was taken back and nobody has claimed it: its worker takes it up again, and nothing is lost."""
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        processes.wait_for_epoch(run_id, 3)
        everybody = tree(worker)
        processes.signal_all(everybody, signal.SIGSTOP)
        processes.wait_for("the reaper", lambda: processes.get_run(run_id).state == "queued")
        processes.signal_all(everybody, signal.SIGCONT)
        assert assert_succeeded_once(run_id, dataset, log) == ["succeeded"]
    assert "reattach" in moves(run_id)
    assert processes.get_run(run_id).crashes == 0


def test_two_sigterms_and_a_storm_of_sigints_give_the_run_back(dataset: Dataset, tmp_path: Path) -> None:
    run_id, log = submit(), tmp_path / "worker.log"
    worker = processes.start_worker(log)
    processes.wait_for_epoch(run_id, 2)
    for what in (signal.SIGTERM, signal.SIGTERM, *[signal.SIGINT] * 10):
        worker.send_signal(what)
        time.sleep(0.02)
    worker.wait(30)
    assert (processes.get_run(run_id).state, processes.get_run(run_id).crashes) == ("queued", 0)
    with processes.worker(log):
        assert assert_succeeded_once(run_id, dataset, log) == ["preempted", "succeeded"]


def test_a_hung_step_is_told_from_a_dead_worker(dataset: Dataset, tmp_path: Path, impatient: None) -> None:
    """The heartbeat goes on, the trainer does not: after the deadline it is killed, and the run tried again."""
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        processes.wait_for_epoch(run_id, 3)
        processes.trainers(worker)[0].send_signal(signal.SIGSTOP)
        processes.wait_for("a second attempt", lambda: processes.get_run(run_id).fence == 2)
        assert assert_succeeded_once(run_id, dataset, log) == ["crashed", "succeeded"]
    assert attempts(run_id) == [("crashed", "stalled"), ("succeeded", None)]
    with transaction() as session:
        first, second = views.attempts(session, run_id)
    assert first.died_at["epoch"] >= 3
    assert "hung" in first.message
    assert second.resumed_from >= 3


def test_a_segmentation_fault_is_called_that(dataset: Dataset, tmp_path: Path) -> None:
    run_id, log = submit(), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        processes.wait_for_epoch(run_id, 2)
        processes.trainers(worker)[0].send_signal(signal.SIGSEGV)
        assert assert_succeeded_once(run_id, dataset, log) == ["crashed", "succeeded"]
    assert attempts(run_id)[0] == ("crashed", "signal")
    with transaction() as session:
        assert views.attempts(session, run_id)[0].exit_code == -signal.SIGSEGV


def test_duplicate_stale_forged_and_garbage_messages(dataset: Dataset, tmp_path: Path) -> None:
    """A message only says that there is work: none of these can do harm, and the worker lives."""
    run_id, log = submit(epochs=3), tmp_path / "worker.log"
    client, name = broker_client(Path(os.environ["LIVERSEG_HOME"])), broker.queue_name("default")
    for _ in range(100):
        broker.send("default", run_id, 1)
    good = json.loads(client.lindex(name, 0))
    for forged in (
        b"\x00garbage",
        b"{}",
        b"[]",
        json.dumps({**good, "body": "bm8ganNvbg=="}).encode(),
        json.dumps({**good, "content-type": "application/x-python-serialize"}).encode(),
        json.dumps({**good, "headers": {**good["headers"], "task": "os.system"}}).encode(),
        json.dumps({**good, "headers": {**good["headers"], "argsrepr": "x" * 10_000}}).encode(),
    ):
        client.lpush(name, forged)
        client.rpush(name, forged)
    with processes.worker(log) as worker:
        assert assert_succeeded_once(run_id, dataset, log, epochs=3) == ["succeeded"]
        later = submit(epochs=2)
        assert assert_succeeded_once(later, dataset, log, epochs=2) == ["succeeded"]
        assert worker.poll() is None
    assert len(attempts(run_id)) == 1


def test_a_database_that_falls_silent_for_one_worker(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half open for longer than a lease: another worker goes on; what the first one had in hand is refused."""
    home, name = Path(os.environ["LIVERSEG_HOME"]), ".s.PGSQL.5432"
    run_id, cut_off_log, log = submit(), tmp_path / "cut-off.log", tmp_path / "worker.log"
    with Proxy(bundled.socket_folder(home) / name, name) as proxy:
        monkeypatch.setenv("LIVERSEG_DATABASE_URL", f"postgresql://app@/liverseg?host={proxy.folder}")
        cut_off = processes.start_worker(cut_off_log)
        monkeypatch.delenv("LIVERSEG_DATABASE_URL")
        processes.wait_for_epoch(run_id, 3)
        proxy.stall()
        with processes.worker(log, LIVERSEG_DEVICE="of-another-host"):
            processes.wait_for("a second attempt", lambda: processes.get_run(run_id).fence == 2)
            proxy.go_on()
            assert assert_succeeded_once(run_id, dataset, log) == ["lost", "succeeded"]
            cut_off.terminate()
            cut_off.wait(60)
    assert "wrote nothing more" in cut_off_log.read_text()


def test_a_broker_that_falls_silent_loses_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt that runs does not need it; what is submitted meanwhile is done when it speaks again."""
    home = Path(os.environ["LIVERSEG_HOME"])
    first, log = submit(), tmp_path / "worker.log"
    with Proxy(bundled.socket_folder(home) / "valkey.sock", "valkey.sock") as proxy:
        monkeypatch.setenv("LIVERSEG_BROKER_URL", f"redis+socket://{proxy.path}")
        worker = processes.start_worker(log)
        monkeypatch.delenv("LIVERSEG_BROKER_URL")
        processes.wait_for_epoch(first, 2)
        proxy.stall()
        second = submit(epochs=3)
        assert assert_succeeded_once(first, dataset, log) == ["succeeded"]
        proxy.go_on()
        assert assert_succeeded_once(second, dataset, log, epochs=3) == ["succeeded"]
        worker.terminate()
        worker.wait(60)
