"""One trainer in a slot of a device, and the kernel frees it when trainer and supervisor are gone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.settings import settings
from worker.slots import Slots


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()


def test_a_slot_is_taken_once_and_says_by_whom() -> None:
    first, second = Slots(1, "host:1"), Slots(1, "host:2")
    held = first.take()
    assert held is not None
    assert second.take() is None
    assert "slot 0 of device default on this host in use by worker host:1;" in second.taken()
    held.close()
    again = second.take()
    assert again is not None
    again.close()


def test_as_many_as_the_worker_has() -> None:
    slots = Slots(2, "host:1")
    both = [slots.take(), slots.take()]
    assert None not in both
    assert slots.take() is None
    for one in both:
        one.close()


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "LIVERSEG_DEVICE"])
def test_another_device_has_slots_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    held = Slots(1, "host:1").take()
    monkeypatch.setenv(name, "GPU-5/1")
    settings.cache_clear()
    other = Slots(1, "host:2").take()
    assert other is not None
    for one in (held, other):
        one.close()


def test_a_process_that_was_handed_the_slot_keeps_it_until_it_is_dead() -> None:
    slots = Slots(1, "host:1")
    held = slots.take()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[held.fileno()])
    held.close()  # as if the supervisor had died
    assert slots.take() is None
    os.kill(child.pid, 9)
    child.wait()
    child.stdin.close()
    again = slots.take()
    assert again is not None
    again.close()
