"""Backup, loss of the machine, restore: by the documented commands, with real processes."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.commands.up import free_port
from liverseg_core.phantom import draw_phantom
from tests import factories
from tests.e2e.conftest import LIVERSEG, Up, environment
from tests.processes import processes_of, signal_all, wait_for

SPEC = factories.tiny_spec(training={"batch_size": 4, "epochs": 1})
ENDLESS = factories.tiny_spec(training={"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}})


@pytest.fixture
def new_home() -> Iterator[Path]:
    """Another machine's home."""
    folder = Path(tempfile.mkdtemp(prefix="lv-new-", dir="/tmp"))
    yield folder
    signal_all(processes_of(folder))
    shutil.rmtree(folder)


def liverseg(home: Path, url: str, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [LIVERSEG, *words],
        env=environment(home) | {"LIVERSEG_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def started(home: Path) -> tuple[Up, str]:
    port = free_port()
    up = Up(home, "up", "--port", str(port))
    up.told("liverseg is ready")
    return up, f"http://127.0.0.1:{port}"


def submit(url: str, spec: dict[str, Any], **fields: Any) -> list[int]:
    answer = httpx.post(f"{url}/v1/experiments", json={"spec": spec, "references": False, **fields}, timeout=60)
    assert answer.status_code == 201, answer.text
    return [run["id"] for run in answer.json()["runs"]]


def await_state(url: str, run: int, state: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        told = httpx.get(f"{url}/v1/runs/{run}", timeout=30).json()
        assert told["state"] == state or told["state"] not in ("failed", "dead"), told
        return told if told["state"] == state else None

    return wait_for(f"run {run} to be {state}", reached, 240)


def test_backup_loss_of_the_machine_restore(home: Path, new_home: Path, tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    draw_phantom(tmp_path / "slices", subjects=4, slices=4, size=32)
    up, url = started(home)
    liverseg(home, url, "dataset", "import", tmp_path / "slices", "--name", "phantom")
    first, second = submit(url, SPEC, seeds=[1, 2])
    await_state(url, first, "succeeded")
    liverseg(home, url, "backup", kept)  # while the second one is about to be trained
    await_state(url, second, "succeeded")
    (endless,) = submit(url, ENDLESS)
    (waiting,) = submit(url, SPEC, seeds=[3])
    await_state(url, endless, "running")

    told = liverseg(home, url, "backup", kept).stdout
    comparison = f"/v1/comparisons?runs={first},{second}&profile=modern"
    before = httpx.get(url + comparison, timeout=60).content
    weights = httpx.get(f"{url}/v1/runs/{second}/artifacts/weights", timeout=60).content
    assert "files" in told
    assert json.loads(before)["rows"]
    assert len(list(kept.glob("ledger-*.dump"))) == 1  # the second took the place of the first

    signal_all(processes_of(home))  # the machine is gone, without a word, and its disk with it
    wait_for("everything to be gone", lambda: not processes_of(home))
    up.process.wait(10)
    for place in home.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    told = liverseg(new_home, url, "restore", kept).stdout
    assert "liverseg up" in told
    up, url = started(new_home)
    assert httpx.get(url + comparison, timeout=60).content == before
    assert httpx.get(f"{url}/v1/runs/{second}/artifacts/weights", timeout=60).content == weights
    told = liverseg(new_home, url, "verify").stdout
    assert "BROKEN" not in told
    assert "holds   every artifact of a succeeded run is there and has its hash" in told

    # What was going on begins anew, without a crash counted; what waited is done.
    again = await_state(url, endless, "running")
    assert [one["outcome"] for one in again["attempts"]] == ["preempted", "running"]
    assert again["crashes"] == 0
    assert httpx.post(f"{url}/v1/runs/{endless}/cancel", timeout=60).status_code == 200
    await_state(url, waiting, "succeeded")
    liverseg(new_home, url, "verify")
    assert up.stop(2) == 0


def test_what_is_no_whole_backup_is_not_restored_and_nothing_is_made(new_home: Path, tmp_path: Path) -> None:
    home = new_home / "home"
    (tmp_path / "empty").mkdir()
    told = liverseg(home, "http://127.0.0.1:1", "restore", tmp_path / "empty", code=2).stderr
    assert "holds no backup.json" in told
    assert not home.exists()


def test_a_backup_needs_the_database(home: Path, tmp_path: Path) -> None:
    told = liverseg(home, "http://127.0.0.1:1", "backup", tmp_path / "kept", code=1).stderr
    assert "start it with `liverseg up`" in told
    assert "Traceback" not in told


def test_a_backup_within_the_home_is_refused(home: Path) -> None:
    told = liverseg(home, "http://127.0.0.1:1", "backup", home / "kept", code=2).stderr
    assert "would be lost with it" in told
    assert not (home / "kept").exists()
    assert list(home.iterdir()) == []
