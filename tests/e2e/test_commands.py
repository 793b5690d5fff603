"""A new user's way, by commands alone: start, draw, import, submit, compare, import weights."""

import csv
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.commands.up import free_port
from liverseg_core.data.png import read_labels
from tests import factories
from tests.e2e.conftest import LIVERSEG, Up, environment

SPEC = """
name: small
dataset: {id: drawn}
data: {image_size: 32}
model: {filters: 2, depth: 2}
training: {batch_size: 4, epochs: 1, learning_rate: 5e-4}
"""


@pytest.fixture
def liverseg(home: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command against a running `liverseg up`; its standard output."""
    port = free_port()
    up = Up(home, "up", "--port", str(port))
    up.told("is ready")

    def run(*words: str, code: int = 0) -> str:
        own = environment(home) | {"LIVERSEG_URL": f"http://127.0.0.1:{port}"}
        done = subprocess.run([LIVERSEG, *words], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr + (home / "logs" / "worker.log").read_text()
        return done.stdout

    yield run
    up.stop(15)


def test_from_an_empty_folder_to_a_table(liverseg: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    (tmp_path / "weights.h5").write_bytes(factories.keras_file(2, 2))
    liverseg("dataset", "phantom", "drawing", "--subjects", "3", "--slices", "6", "--size", "32")
    liverseg("dataset", "import", "drawing", "--name", "drawn")

    shown = json.loads(liverseg("submit", "small.yaml", "--grid", "data.shuffle=true,false", "--wait", "--json"))
    assert [run["state"] for run in shown["runs"]] == ["succeeded", "succeeded"]
    again = json.loads(liverseg("submit", "small.yaml", "--json"))
    assert [(run["state"], run["reused_from"]) for run in again["runs"]] == [("succeeded", shown["runs"][0]["id"])]

    imported = json.loads(liverseg("weights", "import", "weights.h5", "--spec", "small.yaml", "--wait", "--json"))
    assert [(run["kind"], run["state"]) for run in imported["runs"]] == [("evaluate", "succeeded")]

    ids = [str(run["id"]) for run in shown["runs"] + again["runs"] + imported["runs"]]
    lines = liverseg("compare", *ids, "--format", "csv").splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["row"] for row in rows] == ["run"] * 4 + ["reference"] * 4  # these come with a submission
    assert sorted(row["data.shuffle"] for row in rows[:4]) == ["no", "yes", "yes", "yes"]
    liverseg("predict", ids[0], "drawing/val/images", "--out", "masks")
    drawn = {path.name for path in (tmp_path / "drawing" / "val" / "images").iterdir()}
    assert {path.name for path in (tmp_path / "masks").iterdir()} == drawn
    for path in (tmp_path / "masks").iterdir():
        assert read_labels(path.read_bytes(), path.name).shape == (32, 32)
    liverseg("cancel", "999", code=2)
