"""How far a trainer is, whether it gets on, and how it died."""

import signal
import threading

import pytest

from store.reasons import ADVICE
from store.settings import settings
from worker.position import Position
from worker.watch import Watch, out_of_memory_kills


class Killed(threading.Event):
    def kill(self):
        self.set()
        return -9


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("LIVERSEG_STALL_S", "0.05")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_another_process_reads_what_the_trainer_wrote(tmp_path):
    written, read = Position(tmp_path / "position"), Position(tmp_path / "position")
    assert read.place() == {"phase": "starting"}
    written.phase("training")
    written.step(3, 17)
    assert read.place() == {"phase": "training", "epoch": 3, "step": 17}
    before = read.read()
    written.alive()
    assert read.place() == {"phase": "training", "epoch": 3, "step": 17}
    assert read.read() != before
    written.phase("evaluating")
    assert read.place() == {"phase": "evaluating"}


def test_a_trainer_without_a_sign_of_life_is_killed_once(quick, tmp_path):
    position, killed = Position(tmp_path / "position"), Killed()
    watch, pause = Watch(position.read), threading.Event()
    for _ in range(5):  # longer than the deadline in all, but with a sign each time
        pause.wait(0.03)
        position.alive()
        watch.look(killed)
    assert not killed.is_set()
    pause.wait(0.1)
    watch.look(killed)
    assert killed.is_set()
    assert (watch.reason(-9), "no step and no slice for 0.05 s" in watch.told(-9)) == ("stalled", True)


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        (-signal.SIGKILL, "killed", "SIGKILL"),
        (-signal.SIGSEGV, "signal", "SIGSEGV"),
        (-signal.SIGBUS, "signal", "SIGBUS"),
        (1, "exception", "status 1"),
    ],
)
def test_every_death_has_a_class_with_advice(status, reason, told):
    watch = Watch(lambda: None)
    assert watch.reason(status) == reason
    assert told in watch.told(status)
    assert ADVICE[reason]


def test_the_kernels_own_kills_are_told_apart(monkeypatch):
    watch, before = Watch(lambda: None), out_of_memory_kills()
    monkeypatch.setattr("worker.watch.out_of_memory_kills", lambda: before + 1)
    assert watch.reason(-signal.SIGKILL) == "host-out-of-memory"
    assert "memory" in watch.told(-signal.SIGKILL)
