"""A disk that is full for real: the folder of checkpoints on a file system of its own that holds next to nothing."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import verify, views, wishes
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from tests import factories, processes
from tests.worker.test_attempt import once, outcomes, submit

EPOCHS = 6


def mount(folder: Path, *options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "none", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(database: Path) -> Iterator[Path]:
    """The folder of checkpoints, with room for one and a half of them."""
    folder = settings().checkpoints
    folder.mkdir(exist_ok=True)
    mount(folder, "-o", "size=300k")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_run_on_a_full_disk_pauses_with_its_last_checkpoint_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    factories.import_phantom(tmp_path)
    training = {"batch_size": 4, "epochs": EPOCHS, "early_stopping": {"patience": None}}
    run_id = submit(factories.tiny_spec(training=training, model={"filters": 4, "depth": 2}))
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.reason, run.crashes) == ("paused", "disk-full", 0)
    assert "no space left" in run.message.lower()
    assert outcomes(run_id) == ["preempted"]
    kept = (run.checkpoint or {"epoch": 0})["epoch"]
    assert kept < EPOCHS
    with transaction() as session:
        assert [one.epoch for one in views.epochs(session, run_id)] == list(range(1, kept + 1))
    mount(small_disk, "-o", "remount,size=50m")
    with transaction() as session:
        wishes.resume(session, DEFAULT_PROJECT, run_id)
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.reason) == ("succeeded", None)
    assert outcomes(run_id) == ["preempted", "succeeded"]
    with transaction() as session:
        attempts = views.attempts(session, run_id)
        assert attempts[1].resumed_from == kept
        assert [one.epoch for one in views.epochs(session, run_id)] == list(range(1, EPOCHS + 1))
        assert [str(one) for one in verify.verify(session) if not one.holds] == []
