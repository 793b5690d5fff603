"""nnU-Net's files: by hand, from nnU-Net's own layout, there and back."""

import json
import math

import pytest

from liverseg_core import nnunet, profiles
from liverseg_core.errors import InputError
from liverseg_core.facts import Facts
from liverseg_core.records import SliceScore

COUNTS = {8: (10, 1, 0, 0, 2, 1, 1, 0, 1), 9: (12, 0, 0, 1, 3, 0, 0, 0, 0)}
"""Scan 8: label 1 TP 2 FP 1 FN 1 TN 12, label 2 TP 1 FP 1 FN 1 TN 13. Scan 9: label 1 3 0 1 12, no label 2."""


@pytest.fixture
def facts():
    scores = [SliceScore("val", scan, 1, counts, counts, 0, 0, 0, 0.5, 0.5, 0.5) for scan, counts in COUNTS.items()]
    return Facts.of(scores, None, {8: "a", 9: "b"})


def test_a_summary_worked_by_hand(facts):
    found = json.loads(nnunet.write_summary(facts))
    assert list(found) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(found["mean"]["1"]) == [
        "Dice",
        "FN",
        "FP",
        "IoU",
        "TN",
        "TP",
        "n_pred",
        "n_ref",
    ]  # sorted, as its own
    first, second = found["metric_per_case"]
    assert first["metrics"]["1"] == {
        "Dice": 4 / 6, "FN": 1, "FP": 1, "IoU": 2 / 4, "TN": 12, "TP": 2, "n_pred": 3, "n_ref": 3,
    }  # fmt: skip
    assert first["metrics"]["2"]["Dice"] == 0.5
    assert (first["prediction_file"], first["reference_file"]) == ("prediction/liver_8.png", "reference/liver_8.png")
    assert math.isnan(second["metrics"]["2"]["Dice"])
    assert (second["metrics"]["2"]["TN"], second["metrics"]["2"]["n_ref"]) == (16, 0)
    assert found["mean"]["1"]["Dice"] == pytest.approx((4 / 6 + 6 / 7) / 2)
    assert found["mean"]["2"]["Dice"] == 0.5  # the mean of what is not NaN
    assert found["mean"]["2"]["TP"] == 0.5
    assert found["foreground_mean"]["Dice"] == pytest.approx(((4 / 6 + 6 / 7) / 2 + 0.5) / 2)


def test_a_label_that_is_nowhere_has_no_mean(facts):
    found = json.loads(nnunet.write_summary(facts.only("b")))
    assert math.isnan(found["mean"]["2"]["Dice"])
    assert math.isnan(found["foreground_mean"]["Dice"])  # nnU-Net takes np.mean here, which keeps NaN


def test_a_summary_comes_back_as_the_profile_s_values(facts):
    expected = profiles.scores("nnunet", "scan", facts)
    assert nnunet.read_summary(nnunet.write_summary(facts)) == expected
    assert expected["Dice_2"] == profiles.Value(0.5, n=1, empty=1, failed=0)


def broken(facts, change):
    content = json.loads(nnunet.write_summary(facts))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("metric_per_case"), "metric_per_case: must be a list"),
        (lambda c: c.update(metric_per_case=[]), "metric_per_case: must be a list"),
        (lambda c: c["metric_per_case"][1]["metrics"].pop("2"), r"metric_per_case\[1\].metrics.2.Dice: is missing"),
        (lambda c: c["metric_per_case"][0]["metrics"]["1"].update(TP="two"), "must be a number"),
        (lambda c: c["metric_per_case"][0]["metrics"]["1"].update(TP=True), "must be a number"),
        (lambda c: c["mean"]["1"].update(Dice=0.9), "mean.1.Dice: is not the mean of the cases"),
        (lambda c: c.pop("mean"), "is missing"),
        (lambda c: c.update(metric_per_case=[3]), "is missing"),
    ],
)
def test_a_summary_that_does_not_hold_is_refused(facts, change, told):
    with pytest.raises(InputError, match=told):
        nnunet.read_summary(broken(facts, change))


@pytest.mark.parametrize(("text", "told"), [("{", "is no JSON"), ("[]", "must be an object"), ("", "is no JSON")])
def test_a_file_that_is_no_summary_is_refused(text, told):
    with pytest.raises(InputError, match=told):
        nnunet.read_summary(text)


FOLDS = [{"train": (0, 1, 2), "val": (8,)}, {"train": (8, 1, 2), "val": (0,)}]


def test_splits_there_and_back():
    text = nnunet.write_splits(FOLDS)
    assert json.loads(text)[0] == {"train": ["liver_0", "liver_1", "liver_2"], "val": ["liver_8"]}
    assert nnunet.read_splits(text, [0, 1, 2, 8]) == FOLDS


def test_other_names_of_cases_are_understood():
    text = json.dumps([{"train": ["0", "CT-001"], "val": ["case_0008"]}])
    assert nnunet.read_splits(text, [0, 1, 8]) == [{"train": (0, 1), "val": (8,)}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "must be a list of folds"),
        ({"train": []}, "must be a list of folds"),
        ([3], "fold 0: must be an object"),
        ([{"train": ["liver_0"]}], "fold 0.val: must be a list of at least one case"),
        ([{"train": ["liver_0"], "val": []}], "fold 0.val: must be a list of at least one case"),
        ([{"train": ["liver_0"], "val": ["liver_77"]}], "fold 0.val: not in the data set"),
        ([{"train": ["liver_0", "liver_1"], "val": ["liver_1"]}], "fold 0: has scans in both"),
        ([{"train": ["liver_0"], "val": ["8_12"]}], "a case must be a scan number"),
        ([{"train": ["liver_0"], "val": [8]}], "a case must be a scan number"),
    ],
)
def test_splits_that_do_not_fit_are_refused(content, told):
    with pytest.raises(InputError, match=told):
        nnunet.read_splits(json.dumps(content), [0, 1, 8])
