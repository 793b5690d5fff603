"""The trainer process from outside: what it says, and how it is ended."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import processes
from worker.child import Child
from worker.trainer import EVENTS_FD


def job(folder: Path, **changes: object) -> dict:
    values = {"kind": "train", "spec": {}, "manifest": {}, "archive": "", "weights": None, "checkpoint": None}
    places = {"cache": str(folder), "work": str(folder), "position": str(folder / "position")}
    return values | places | {"threads": 1} | changes


def started(folder: Path) -> Child:
    """A trainer with a job."""
    child = Child()
    child.send(job(folder), folder / "log")
    return child


def test_a_bad_job_is_a_failure_with_words_not_a_crash(tmp_path: Path) -> None:
    child = started(tmp_path)
    event = child.next_event(timeout=240)  # Keras loads first
    assert event["event"] == "failed"
    assert event["reason"] == "bad-input"
    assert "dataset" in event["message"]
    processes.wait_for("the trainer to end", child.ended, timeout=30)
    assert child.kill() == 3


def test_a_trainer_without_a_job_ends_quietly() -> None:
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    ours.close()  # as when its supervisor is gone
    with theirs:
        done = subprocess.run(
            [sys.executable, "-m", "worker.trainer"],
            stdin=theirs,
            env={**os.environ, EVENTS_FD: str(writing)},
            pass_fds=(writing,),
            capture_output=True,
            timeout=240,
        )
    os.close(reading)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr  # where TensorFlow has remarks of its own


def test_the_trainer_module_loads_without_keras() -> None:
    """Others import it for its names; the process itself loads Keras when it starts."""
    code = "import sys, worker.trainer, worker.app; print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """A process in the trainer's place that ignores SIGTERM and has a child of its own."""
    package = tmp_path / "worker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "trainer.py").write_text(
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "pipe = os.fdopen(int(os.environ['LIVERSEG_EVENTS_FD']), 'w')\n"
        'pipe.write(\'{"event": "progress", "phase": "training"}\\n{"event": "torn\')\n'
        "pipe.flush()\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return started(tmp_path)


def test_a_stubborn_trainer_and_its_children_are_killed_as_a_group(stubborn: Child) -> None:
    assert stubborn.next_event(timeout=30) == {"event": "progress", "phase": "training"}
    group = [psutil.Process(stubborn.pid), *psutil.Process(stubborn.pid).children(recursive=True)]
    assert len(group) == 2
    stubborn.ask()
    time.sleep(0.5)
    assert all(_alive(process) for process in group)
    assert not stubborn.ended()
    stubborn.kill()
    processes.wait_for("the group to end", lambda: not any(_alive(process) for process in group), timeout=10)
    assert stubborn.ended()  # the torn last line was dropped


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
