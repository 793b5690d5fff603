"""Worker processes for tests, and waiting for what they do."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from store import queue, views
from store.database import transaction
from store.models import DEFAULT_PROJECT, Announcement, Run
from store.queue import WORK_VERSION, Work
from store.states import FINAL, State
from store.verify import TIMED, Finding, verify

Worker = subprocess.Popen[bytes]

STARTED: list[Worker] = []
"""Every worker of the test that runs; see :func:`end_workers`."""


def start_worker(log: Path, threads: int = 1, **surroundings: str) -> Worker:
    """A worker; two at once stand for two hosts where ``LIVERSEG_DEVICE`` tells their devices apart."""
    command = [sys.executable, "-m", "worker.command", "start", "--threads", str(threads)]
    with log.open("ab") as out:
        STARTED.append(
            subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=os.environ | surroundings)
        )
    return STARTED[-1]


@contextmanager
def worker(log: Path, **surroundings: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start_worker(log, **surroundings)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def end_workers() -> None:
    """Kill what a test that failed has left, which would take the runs of those that follow."""
    while STARTED:
        if STARTED[-1].poll() is None:
            kill_tree(STARTED[-1])
        STARTED.pop()


def trainer() -> psutil.Process:
    """The only one below this process that lives and carries a job through."""
    (found,) = [child for child in psutil.Process().children(recursive=True) if trains(child)]
    return found


def trainers(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The trainer processes below a worker that live and carry a job through."""
    return [child for child in psutil.Process(worker.pid).children(recursive=True) if trains(child)]


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none where it has ended since, even if nobody has asked for its status yet."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a ZombieProcess is one too
        return []


def trains(process: psutil.Process, program: str = "worker.trainer") -> bool:
    """Whether it is a trainer that has a job, not one that waits for it: only then it has a log of its own."""
    with contextlib.suppress(FileNotFoundError):  # gone since, or a zombie
        log = Path(f"/proc/{process.pid}/fd/1").readlink()
        return program in words_of(process) and log.name == "trainer.log"
    return False


def all_announced() -> None:
    """Wait until the relay has sent all that waits: what it takes away is no trace of a request that follows."""

    def nothing_waits() -> bool:
        with transaction() as session:
            return not session.scalar(select(func.count()).select_from(Announcement))

    wait_for("an empty outbox", nothing_waits, 10)


def processes_of(home: Path) -> list[psutil.Process]:
    """Every live process that was started with this home, by its environment or command line."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join([*process.cmdline(), *process.environ().values()])
            if str(home) in told and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def signal_all(every: Iterable[psutil.Process], what: signal.Signals = signal.SIGKILL) -> None:
    """Send each a signal; one that ends when another one does may be gone by then."""
    for process in every:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(what)


def kill_tree(worker: subprocess.Popen[bytes]) -> None:
    """SIGKILL the worker and everything below it at once, as a power cut would."""
    parent = psutil.Process(worker.pid)
    signal_all([*parent.children(recursive=True), parent])
    worker.wait()


def get_run(run_id: int) -> Run:
    with transaction() as session:
        return views.run(session, DEFAULT_PROJECT, run_id)


def wait_for(what: str, ready: Callable[[], Any], timeout: float = 240) -> Any:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout} s in vain for: {what}")


def claim(worker: str = "host-1:1", host: str = "host-1", lease_s: float = 60, version: int = WORK_VERSION) -> Work:
    """Claim the best queued run, as a worker would."""

    def once() -> Work | None:
        with transaction() as session:
            # An API's upkeep may just be looking after the best one, and a claim passes over what somebody holds.
            session.execute(select(Run.id).where(Run.state == State.QUEUED).with_for_update())
            return queue.claim(session, "default", worker, host, lease_s, version=version)

    return wait_for("a run to claim", once, 60)


def assert_ledger_holds() -> None:
    """Every invariant holds; those of ``TIMED`` once nothing has been away for a while, so they are waited for."""
    assert [str(one) for one in broken() if one.name not in TIMED] == []
    with contextlib.suppress(AssertionError):
        wait_for("what holds in time", lambda: not broken(), 60)
    assert [str(one) for one in broken()] == []


def broken() -> list[Finding]:
    with transaction() as session:
        return [one for one in verify(session) if not one.holds]


def wait_for_end(run_id: int, timeout: float = 300) -> Run:
    wait_for(f"run {run_id} to end", lambda: get_run(run_id).state in FINAL, timeout)
    return get_run(run_id)


def wait_for_epoch(run_id: int, epoch: int) -> None:
    """Until an epoch and its checkpoint are in the database."""
    wait_for(
        f"run {run_id} to finish epoch {epoch}", lambda: (get_run(run_id).checkpoint or {}).get("epoch", 0) >= epoch
    )
