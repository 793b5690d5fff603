"""Worker processes for tests, and waiting for what they do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from store import views
from store.database import transaction
from store.models import DEFAULT_PROJECT, Run
from store.states import FINAL

Worker = subprocess.Popen[bytes]


def start_worker(log: Path) -> Worker:
    command = [sys.executable, "-m", "worker.command", "start", "--threads", "1"]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


@contextmanager
def worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start_worker(log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def trainers(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The trainer processes below a worker."""
    children = psutil.Process(worker.pid).children(recursive=True)
    return [child for child in children if "worker.trainer" in " ".join(child.cmdline())]


def kill_tree(worker: subprocess.Popen[bytes]) -> None:
    """SIGKILL the worker and everything below it at once, as a power cut would."""
    for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
        os.kill(process.pid, signal.SIGKILL)
    worker.wait()


def get_run(run_id: int) -> Run:
    with transaction() as session:
        return views.run(session, DEFAULT_PROJECT, run_id)


def wait_for(what: str, ready: Callable[[], Any], timeout: float = 120) -> Any:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout} s in vain for: {what}")


def wait_for_end(run_id: int, timeout: float = 180) -> Run:
    wait_for(f"run {run_id} to end", lambda: get_run(run_id).state in FINAL, timeout)
    return get_run(run_id)


def wait_for_epoch(run_id: int, epoch: int) -> None:
    """Until an epoch and its checkpoint are in the database."""
    wait_for(
        f"run {run_id} to finish epoch {epoch}", lambda: (get_run(run_id).checkpoint or {}).get("epoch", 0) >= epoch
    )
