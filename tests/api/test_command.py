"""The command against a real API process, Postgres and Valkey; runs are ended by hand where a test needs that."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import httpx
import pytest
import yaml
from click.testing import CliRunner, Result

from api.commands.main import main
from liverseg_core.phantom import draw_phantom
from store import endings, scores
from store.database import transaction
from store.datasets import resolve
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.settings import settings
from tests import factories, processes

Run = Callable[..., Result]


@pytest.fixture
def phantom(liverseg: Run, tmp_path: Path) -> str:
    draw_phantom(tmp_path / "phantom", subjects=4, slices=8, size=32)
    liverseg("dataset", "import", tmp_path / "phantom")
    return "phantom"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"spec": factories.tiny_spec(), "references": False}))
    return path


def succeed(run_id: int) -> None:
    """Carry the first queued run to its end without training: every slice gets the same made-up score."""
    work = processes.claim("test", "test")
    assert work.claim.run_id == run_id
    with transaction() as session:
        manifest = resolve(session, DEFAULT_PROJECT, "phantom").manifest
        parts = factories.Manifest.from_json(manifest)
        scores.finish(session, work.claim, factories.scores_for(parts), {}, 1, Ending(0))


def fail(run_id: int) -> None:
    work = processes.claim("test", "test")
    assert work.claim.run_id == run_id
    with transaction() as session:
        endings.fail(session, work.claim, "loss-not-finite", Ending(3, "the loss is NaN; lower the learning rate"))


def test_a_data_set_is_drawn_imported_and_shown(liverseg: Run, tmp_path: Path) -> None:
    before = liverseg("dataset", "list")
    assert before.stdout.split() == ["Name", "Height", "x", "width", "Slices", "(scans)", "Subjects", "Content"]
    assert before.stderr == "no data set yet; `liverseg dataset import FOLDER --name NAME` makes one\n"
    folder = tmp_path / "ph"
    liverseg("dataset", "phantom", folder, "--subjects", 4, "--slices", 8, "--size", 32)
    told = liverseg("dataset", "import", folder, "--name", "mine").stdout
    # Of four subjects, two train, one validates, one tests.
    assert re.search(r"^Slices \(scans\)  train 16 \(2\), val 8 \(1\), test 8 \(1\)$", told, re.MULTILINE)
    assert re.search(r"^Subjects +4$", told, re.MULTILINE)
    assert liverseg("dataset", "show", "mine").stdout == told
    listed = liverseg("dataset", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["Name", "mine"]
    found = json.loads(liverseg("dataset", "show", "mine", "--json").stdout)
    assert (found["name"], found["height"], found["width"]) == ("mine", 32, 32)
    assert json.loads(liverseg("dataset", "list", "--json").stdout) == {"datasets": [found]}


def test_a_folder_that_is_no_data_set_is_refused(liverseg: Run, tmp_path: Path) -> None:
    assert "train: is missing in" in liverseg("dataset", "import", tmp_path, code=2).stderr
    assert "Received: 'nobody'" in liverseg("dataset", "show", "nobody", code=2).stderr
    assert "already holds something" in liverseg("dataset", "phantom", tmp_path.parent, code=2).stderr


def test_a_dry_run_submits_nothing(liverseg: Run, phantom: str, spec: Path) -> None:
    words = ["submit", spec, "--grid", "training.learning_rate=5e-4,0.001", "--seeds", "2", "--dry-run"]
    told = liverseg(*words).stdout
    assert "4 runs, 0 done already; nothing was submitted\n" in told
    assert told.endswith("how long that takes is not known: no run like them has finished here\n")
    assert "With 1 subject the smallest two-sided p that a paired comparison can reach is 1, so no" in told
    assert told.count("training.learning_rate=0.0005") == 2
    same = " ".join(told.split("\n\n")[1].split())
    assert same.startswith("All runs, where not the study's Table 1: dataset.id=phantom, data.image_size=32, ")
    assert "learning_rate" not in same
    assert told.count("data.image_size=32") == 1  # what all share is said once
    assert json.loads(liverseg(*words, "--json").stdout)["count"] == 4
    assert liverseg("runs").stdout.splitlines() == ["Run  Name  State  Standing  Data set  Submitted  Took"]


def test_submit_changes_the_spec(liverseg: Run, phantom: str, spec: Path, worker_there: None) -> None:
    words = ["--set", "training.learning_rate=5e-3", "--set", "data.shuffle=false", "--name", "first try"]
    assert liverseg("submit", spec, *words).stdout == "experiment 1: run 1\n"
    run = json.loads(liverseg("show", 1, "--json").stdout)
    assert (run["name"], run["spec"]["training"]["learning_rate"]) == ("first try", 0.005)
    assert run["spec"]["data"]["shuffle"] is False
    shown = liverseg("show", 1).stdout
    assert re.search(r"^State +next in pool default; waits for a free worker$", shown, re.MULTILINE)
    assert "training.learning_rate = 0.005\n" in shown
    again = json.loads(liverseg("submit", spec, "--seeds", "3,4", "--json").stdout)
    assert [run["spec"]["training"]["seed"] for run in again["runs"]] == [3, 4]
    listed = liverseg("runs", "--limit", 2).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["Run", "3", "2"]


def test_a_spec_that_cannot_be_run_says_where(liverseg: Run, phantom: str, spec: Path) -> None:
    told = liverseg("submit", spec, "--set", "training.learning_rate=fast", code=2).stderr
    assert "training.learning_rate: " in told
    assert "Received: 'fast'." in told
    assert "dataset.id: no such data set" in liverseg("submit", spec, "--set", "dataset.id=gone", code=2).stderr
    assert "trainning: no such field" in liverseg("submit", spec, "--set", "trainning.epochs=3", code=2).stderr
    assert liverseg("runs", "--json").stdout == '{\n "runs": []\n}\n'


def test_finished_runs_are_compared(liverseg: Run, phantom: str, spec: Path) -> None:
    liverseg("submit", spec, "--grid", "data.shuffle=true,false", "--name", "grid")
    succeed(1)
    succeed(2)
    lines = liverseg("compare", 1, 2).stdout.splitlines()
    # precision 35/37, recall 35/40, pooled liver 2*37/(2*37+5), pooled lesion 2*6/(2*6+5)
    assert lines[0].split()[:4] == ["Run", "Name", "Shuffle", "Loss"]
    expected = "10.000 90.000 94.595 87.500 80.000 5.000 93.671 70.588"
    assert " ".join(lines[1].split()) == f"1 grid yes {expected}"
    assert " ".join(lines[2].split()) == f"2 grid no {expected}"
    assert "Scores are on the test part." in lines
    assert lines[-1].partition("The same as a page: ")[2].endswith("/comparisons?runs=1,2")
    words = ["--profile", "modern", "--sort", "lesion_dice", "--descending", "--filter", "grid"]
    last = liverseg("compare", 1, 2, *words).stdout.splitlines()[-1]
    address = last.partition("The same as a page: ")[2]
    assert address.endswith("?runs=1,2&profile=modern&sort=lesion_dice&descending=true&filter=grid")
    assert 'aria-sort="descending"' in httpx.get(address, headers={"accept": "text/html"}, timeout=60).text
    found = json.loads(liverseg("compare", "--experiment", 1, "--format", "json").stdout)
    assert [row["run"] for row in found["rows"]] == [1, 2]
    assert json.loads(liverseg("compare", 1, 2, "--json").stdout) == found
    assert liverseg("compare", 1, 2, "--format", "csv").stdout.count("\n") == 3
    assert liverseg("compare", 1, "--format", "md").stdout.startswith("| run ")
    words = ["compare", 1, 2, "--baseline", 2, "--profile", "modern", "--level", "subject"]
    told = liverseg(*words).stdout
    assert "Lesion Dice against grid" in told
    assert "With 1 subject the smallest two-sided p" in " ".join(told.split())
    assert (
        "lesion_iou"
        in json.loads(liverseg(*words, "--column", "lesion_iou", "--json").stdout)["statistics"]["column"]
    )
    assert "\\toprule" in liverseg(*words, "--format", "latex").stdout
    assert "profile: is none of overview" in liverseg("compare", 1, "--profile", "best", code=2).stderr
    assert "no such printed table" in liverseg("compare", 1, "--table", "none", code=2).stderr


def test_an_equal_run_is_reused_unless_told_not_to(liverseg: Run, phantom: str, spec: Path) -> None:
    told = "run 1: no worker is there for pool default; start one with `liverseg-worker start`\n"
    assert liverseg("submit", spec).stderr == told
    succeed(1)
    assert "result of run 1" in liverseg("submit", spec, "--dry-run").stdout
    again = liverseg("submit", spec)
    assert again.stdout == "experiment 2: run 2\n"
    assert again.stderr == "run 2 shows the results of run 1, which has the same settings; --no-reuse trains anew\n"
    assert "1 run, 0 done already" in liverseg("submit", spec, "--no-reuse", "--dry-run").stdout


def test_compare_wants_runs_or_an_experiment(liverseg: Run, phantom: str) -> None:
    assert "Give RUN... or --experiment" in liverseg("compare", code=2).stderr
    assert "Give RUN... or --experiment" in liverseg("compare", 1, "--experiment", 1, code=2).stderr
    assert "77" in liverseg("compare", 77, code=2).stderr


def test_watching_a_failed_run_says_why(liverseg: Run, phantom: str, spec: Path) -> None:
    liverseg("submit", spec, "--seeds", "2")
    fail(1)
    succeed(2)
    told = liverseg("watch", 1, 2, code=1).stderr.splitlines()
    assert told == [
        "run 1 (no name): failed: loss-not-finite",
        "run 2 (no name): succeeded after 0:00, best epoch 1",
        "run 1 (no name) failed: loss-not-finite: the loss is NaN; lower the learning rate",
    ]
    assert liverseg("watch", 2).exit_code == 0
    ended = json.loads(liverseg("watch", 1, 2, "--json", code=1).stdout)
    assert [run["state"] for run in ended["runs"]] == ["failed", "succeeded"]
    assert "77" in liverseg("watch", 77, code=2).stderr


def test_cancel_and_requeue_tell_the_true_state(liverseg: Run, phantom: str, spec: Path) -> None:
    liverseg("submit", spec, "--seeds", "2")
    succeed(1)
    result = liverseg("cancel", 1, 2, code=1)
    assert result.stdout == "run 2 (no name): cancelled\n"
    assert "run 1 is succeeded" in result.stderr
    assert liverseg("cancel", 2).stdout == "run 2 (no name): cancelled\n"
    assert "run 1 is succeeded" in liverseg("requeue", 1, code=1).stderr
    assert "77" in liverseg("requeue", 77, code=2).stderr
    assert "only a failed or cancelled run can" in liverseg("retry", 1, code=1).stderr


def test_a_person_on_both_sides_is_told_and_folds_are_the_way_out(liverseg: Run, tmp_path: Path, spec: Path) -> None:
    draw_phantom(tmp_path / "people", subjects=4, slices=8, size=32)
    (tmp_path / "people" / "subjects.json").write_text('{"0": "A", "1": "B", "2": "A", "3": "C"}')
    leak = "subject A lies in train (scan 0) and in val (scan 2)"
    assert leak in liverseg("dataset", "import", tmp_path / "people").stdout
    assert leak in liverseg("dataset", "show", "people").stdout
    spec.write_text(yaml.safe_dump(factories.tiny_spec("people")))
    assert leak in liverseg("submit", spec, code=2).stderr
    written = liverseg("submit", spec, "--set", "dataset.split.override=a test", "--dry-run").stdout
    assert f"let pass by dataset.split.override: {leak}" in written
    folds = json.loads(liverseg("submit", spec, "--folds", "subject", "--dry-run", "--json").stdout)
    assert [run["settings"]["dataset.split.kind"] for run in folds["runs"]] == ["leave-one-subject-out"] * 2
    assert "2 subjects" in liverseg("submit", spec, "--folds", 3, code=2).stderr


def test_weights_become_a_run(liverseg: Run, phantom: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["something"] = [1.0]
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump(factories.tiny_spec()))
    told = liverseg("weights", "import", tmp_path / "none.h5", "--spec", alone, code=2).stderr
    assert "Error: none.h5: has no layer_names; give a Keras 2 weights file" in told
    assert json.loads(liverseg("runs", "--json").stdout) == {"runs": []}


def test_an_api_that_is_not_there_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERSEG_URL", "http://127.0.0.1:9")  # discard: nobody listens
    settings.cache_clear()
    result = CliRunner().invoke(main, ["runs"])
    settings.cache_clear()
    assert result.exit_code == 3
    assert "no answer from http://127.0.0.1:9" in result.stderr
    assert "liverseg up" in result.stderr


def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERSEG_LEASE_S", "soon")
    settings.cache_clear()
    result = CliRunner().invoke(main, ["runs"])
    monkeypatch.undo()
    settings.cache_clear()
    assert result.exit_code == 2
    assert "LIVERSEG_LEASE_S" in result.stderr
    assert "soon" in result.stderr


def test_help_lists_every_command_and_every_field() -> None:
    told = CliRunner().invoke(main, ["--help"]).output
    wanted = (
        "backup cancel compare dataset delete deletions demo disk edit export figure first frozen images logs nnunet"
        " pause predict project references requeue rescore restore resume retry runs show study submit sweep table"
        " token up verify watch webhook weights workers"
    )
    assert re.findall(r"^  (\w+) {2,}\S", told.partition("Commands:")[2], re.MULTILINE) == wanted.split()
    assert "3  the API cannot be reached" in told
    fields = CliRunner().invoke(main, ["submit", "--help"]).output
    assert "training.learning_rate = 0.001" in fields
    assert "dataset.id (required)" in fields


def test_the_command_loads_no_tensorflow_and_no_database_library() -> None:
    heavy = ("keras", "tensorflow", "sqlalchemy", "numpy")
    script = f"import sys, api.commands.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
