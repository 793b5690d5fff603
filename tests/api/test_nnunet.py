"""nnU-Net's files over HTTP and by command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from store.database import transaction
from store.models import Run
from tests.api.conftest import Command
from tests.factories import tiny_spec


def test_a_summary_goes_out_and_comes_in_again(liverseg: Command, finished: Callable[..., int], tmp_path: Path):
    """One test scan of 8 slices, each with the counts of factories.slice_score: lesion TP 6, FP 1, FN 4."""
    told = liverseg("nnunet", "summary", finished()).output
    (tmp_path / "summary.json").write_text(told)
    (case,) = json.loads(told)["metric_per_case"]
    assert [case["metrics"]["2"][name] for name in ("TP", "FP", "FN")] == [48, 8, 32]
    assert case["metrics"]["2"]["Dice"] == pytest.approx(12 / 17)
    read = liverseg("nnunet", "read", tmp_path / "summary.json").output
    assert f"Dice_2        {12 / 17:.6g}  (n 1, not defined 0)" in read


def test_the_summary_of_a_fold_is_of_its_val_part(liverseg: Command, finished: Callable[..., int]):
    """As the comparison shows it: the test scan is the same in every fold."""

    def case(run: int) -> Any:
        (only,) = json.loads(liverseg("nnunet", "summary", run).output)["metric_per_case"]
        return Path(only["prediction_file"]).stem

    run = finished()
    assert case(run) == "liver_3"
    split = {"kind": "leave-one-subject-out", "fold": 1}
    with transaction() as session:
        changed = session.get_one(Run, run)
        changed.spec = {**changed.spec, "dataset": {**changed.spec["dataset"], "split": split}}
    assert case(run) == "liver_2"


def test_splits_go_out_and_become_runs(liverseg: Command, phantom: dict[str, Any], tmp_path: Path):
    told = liverseg("nnunet", "splits", "phantom").output
    folds = json.loads(told)  # three subjects train and validate, the fourth tests
    assert [fold["val"] for fold in folds] == [["liver_0"], ["liver_1"], ["liver_2"]]
    assert folds[0]["train"] == ["liver_1", "liver_2"]
    (tmp_path / "splits_final.json").write_text(told)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tiny_spec()))
    words = ("nnunet", "submit", tmp_path / "spec.yaml", tmp_path / "splits_final.json", "--dry-run", "--json")
    plan = json.loads(liverseg(*words).output)
    assert [run["settings"]["dataset.split.val"] for run in plan["runs"]] == [[0], [1], [2]]
    (tmp_path / "splits_final.json").write_text('[{"train": ["liver_0"], "val": ["liver_77"]}]')
    assert "77" in liverseg(*words, code=2).output


def test_folds_keep_the_written_override_and_no_other_split(
    liverseg: Command, phantom: dict[str, Any], tmp_path: Path
):
    (tmp_path / "splits_final.json").write_text('[{"train": ["liver_0", "liver_1"], "val": ["liver_2"]}]')
    words = ("nnunet", "submit", tmp_path / "spec.yaml", tmp_path / "splits_final.json", "--dry-run", "--json")

    def write(split: Any) -> None:
        spec = tiny_spec()
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**spec, "dataset": {**spec["dataset"], "split": split}}))

    write({"override": "as it was done"})
    (run,) = json.loads(liverseg(*words).output)["runs"]
    assert run["settings"]["dataset.split.override"] == "as it was done"
    write({"kind": "folds", "folds": 3})
    told = liverseg(*words, code=2).output
    assert "splits_final.json: makes the split itself; leave out splits_final.json, or dataset.split" in told


def test_what_has_no_scores_has_no_summary(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    assert web.get(f"/v1/runs/{run}/summary.json").status_code == 404
    assert web.get("/v1/datasets/phantom/splits_final.json?folds=9").status_code == 422
    assert web.get("/v1/datasets/phantom/splits_final.json?folds=1").status_code == 422
    assert web.get("/v1/datasets/nowhere/splits_final.json").status_code == 404
