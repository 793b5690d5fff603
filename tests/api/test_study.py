"""``liverseg study`` against a real API: the rows submitted, finished runs exported, the page made."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from api.specs import read_spec
from liverseg_core.phantom import draw_phantom
from liverseg_core.spec import ExperimentSpec
from liverseg_core.study import read_folder
from store import scores
from store.database import transaction
from store.datasets import resolve
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories, processes

Run = Callable[..., Result]


@pytest.fixture
def phantom(liverseg: Run, tmp_path: Path) -> str:
    draw_phantom(tmp_path / "phantom", subjects=4, slices=8, size=32)
    liverseg("dataset", "import", tmp_path / "phantom")
    return "phantom"


def succeed() -> int:
    """Carry the first queued run to its end without training; its id."""
    factories.dismiss_references()
    work = processes.claim(host="secret-host")
    with transaction() as session:
        manifest = factories.Manifest.from_json(resolve(session, DEFAULT_PROJECT, "phantom").manifest)
        factories.store_epoch(session, work.claim, factories.epoch_record(1), {"epoch": 1})
        provenance = {"host": "secret-host", "liverseg": "0.1.0", "cores": "2"}
        ending = Ending(0, provenance=provenance)
        scores.finish(session, work.claim, factories.scores_for(manifest), {}, 1, ending)
        return work.claim.run_id


def test_the_study_is_one_submission(liverseg: Run, phantom: str) -> None:
    words = ["study", "paper-2019", "--dataset", phantom]
    plan = json.loads(liverseg(*words, "--rows", "Shuffle b4, Shuffled 512 b4", "--dry-run", "--json").stdout)
    # Rows of Table 5: batch 4, 256 and 512 pixels, 4 filters, learning rate 0.001; what is a default is left out.
    override = "as in the study: scans of one person may lie on both sides"
    usual = {"dataset.id": "phantom", "dataset.split.override": override, "training.batch_size": 4}
    assert [(run["name"], run["settings"]) for run in plan["runs"]] == [
        ("Shuffle b4", usual),
        ("Shuffled 512 b4", usual | {"data.image_size": 512}),
    ]
    told = liverseg(*words, "--rows", "Shuffle b4", "--epochs", 2, "--dry-run").stdout
    assert "training.epochs=2" in told
    refusal = liverseg(*words, "--rows", "Shuffle b5", code=2).stderr
    assert "--rows: no such row; there are Shuffled 1, Shuffled 2, " in refusal
    assert "Received: 'Shuffle b5'." in refusal
    # 16 train slices are less than the study's batch of 32.
    assert "training.batch_size" in liverseg(*words, code=2).stderr


def test_rows_are_trained_in_folds_of_subjects(liverseg: Run, phantom: str) -> None:
    words = ["study", "paper-2019", "--dataset", phantom, "--rows", "Shuffle b4", "--dry-run"]
    runs = json.loads(liverseg(*words, "--folds", "subject", "--seeds", "2", "--json").stdout)["runs"]
    splits = [(run["settings"]["dataset.split.kind"], run["settings"].get("dataset.split.fold", 0)) for run in runs]
    # Four subjects, of whom the third is val and the fourth test: folds are made of train and val.
    assert sorted(splits) == sorted([("leave-one-subject-out", fold) for fold in range(3)] * 2)
    assert {run["settings"].get("training.seed", 0) for run in runs} == {0, 1}
    assert "--folds: is how many folds" in liverseg(*words, "--folds", "scan", code=2).stderr


BATCH_4 = ("study", "paper-2019", "--dataset", "phantom", "--rows", "Shuffle b4, Shuffled 512 b4, Remove shuffle 5")


def test_gaps_run_and_done_rows_are_reused(liverseg: Run, phantom: str) -> None:
    words = BATCH_4[:-1]
    first = liverseg(*words, "Shuffle b4").stdout
    assert first == "done already: none\nto run: Shuffle b4 seed 0\nexperiment 1: run 1\n"
    assert succeed() == 1
    told = liverseg(*words, "Shuffle b4,Shuffled 512 b4").stdout
    assert told.splitlines()[:2] == ["done already: Shuffle b4 seed 0 (run 1)", "to run: Shuffled 512 b4 seed 0"]
    runs = json.loads(liverseg("runs", "--json").stdout)["runs"]
    assert [(run["name"], run["state"], run["reused_from"]) for run in reversed(runs)] == [
        ("Shuffle b4", "succeeded", None),
        ("Shuffle b4", "succeeded", 1),
        ("Shuffled 512 b4", "queued", None),
    ]


def test_seeds_repeat_every_row(liverseg: Run, phantom: str) -> None:
    plan = json.loads(liverseg(*BATCH_4[:-1], "Shuffle b4", "--seeds", "0,7", "--dry-run", "--json").stdout)
    assert [run["settings"].get("training.seed", 0) for run in plan["runs"]] == [0, 7]
    told = liverseg(*BATCH_4[:-1], "Shuffle b4", "--seeds", "2").stdout
    assert "to run: Shuffle b4 seed 0, Shuffle b4 seed 1\n" in told
    assert "--seeds: is how many repeats" in liverseg(*BATCH_4, "--seeds", "many", code=2).stderr


def test_with_seeds_a_row_that_only_repeats_another_is_left_out() -> None:
    from api.commands.study import _chosen

    rows, same = _chosen("all", repeated=True)
    assert (len(rows), same) == (14, ["Shuffled 2"])
    rows, same = _chosen("Shuffled 2", repeated=True)
    assert ([row.name for row in rows], same) == (["Shuffled 2"], [])
    rows, same = _chosen("all", repeated=False)
    assert (len(rows), same) == (15, [])


def test_finished_runs_are_exported_and_reported(liverseg: Run, phantom: str, tmp_path: Path) -> None:
    liverseg(*BATCH_4[:-1], "Shuffle b4", "--seeds", "2")
    runs = [succeed(), succeed()]
    folder, page = tmp_path / "study", tmp_path / "pages" / "study.md"
    told = liverseg("study", "export", *runs, "--out", folder).stdout
    assert told.splitlines() == [str(file) for file in sorted(folder.iterdir())]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert all(b"host" not in content for content in before.values())
    assert json.loads(liverseg("study", "export", *runs, "--out", folder, "--json").stdout) == {
        "files": told.splitlines()
    }
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    first, second = read_folder(folder)
    assert (first.spec["training"]["seed"], second.spec["training"]["seed"]) == (0, 1)
    # One of four subjects tests, with 8 slices; the counts are those of factories.slice_score.
    assert [score.part for score in first.scores] == ["test"] * 8
    assert first.scores[0].counts == (58, 2, 0, 3, 26, 1, 0, 4, 6)
    assert first.provenance == {"liverseg": "0.1.0", "cores": "2"}
    assert liverseg("study", "report", "--dir", folder, "--out", page).stdout == f"{page}: 2 runs\n"
    assert json.loads(liverseg("study", "report", "--dir", folder, "--out", page, "--json").stdout)["runs"] == 2
    text = page.read_text()
    assert "| Shuffle b4 | n = 2 | 10.000 ± 0.000 | 90.000 ± 0.000 |" in text


def test_a_reused_run_is_exported_as_its_original(liverseg: Run, phantom: str, tmp_path: Path) -> None:
    liverseg(*BATCH_4[:-1], "Shuffle b4")
    original = succeed()
    told = liverseg(*BATCH_4[:-1], "Shuffle b4").stdout
    reused = told.rpartition("run ")[2].strip()
    first = liverseg("study", "export", original, "--out", tmp_path / "a")
    second = liverseg("study", "export", reused, "--out", tmp_path / "b")
    assert Path(first.stdout.strip()).read_bytes() == Path(second.stdout.strip()).read_bytes()


def test_what_cannot_be_exported_or_reported(liverseg: Run, phantom: str, tmp_path: Path) -> None:
    liverseg(*BATCH_4[:-1], "Shuffle b4")
    assert "run 1: has not succeeded" in liverseg("study", "export", 1, "--out", tmp_path / "a", code=2).stderr
    assert "there is no such run" in liverseg("study", "export", 9, "--out", tmp_path / "a", code=2).stderr
    assert not (tmp_path / "a").exists()
    words = ["study", "report", "--dir", tmp_path, "--out", tmp_path / "page.md"]
    assert "holds no exported runs" in liverseg(*words, code=2).stderr
    (tmp_path / "a.json").write_text("{}")
    assert "is no exported run that can be read" in liverseg(*words, code=2).stderr
    assert not (tmp_path / "page.md").exists()


def test_the_recipe_in_the_docs_is_that_of_the_exported_runs():
    docs = Path(__file__).parents[2] / "docs"
    recipe = ExperimentSpec.parse(read_spec(docs / "recipe.yaml"))
    wanted = recipe.settings()
    runs = [run for run in read_folder(docs / "study") if run.name == recipe.name]
    for run in runs:
        differing = {path for path, value in run.settings.items() if value != wanted[path]}
        assert {path for path in differing if not path.startswith("dataset.")} <= {"training.seed", "training.epochs"}
    assert {run.settings["training.seed"] for run in runs if run.settings["dataset.split.kind"] == "given"} == {
        0,
        1,
        2,
    }
