"""Every column against numbers worked by hand or scikit-learn, at every level; the policy on empty masks."""

import hashlib
import json
import sys
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from liverseg_core import metrics, profiles
from liverseg_core.errors import InputError
from liverseg_core.facts import Components, Facts, Level
from liverseg_core.profiles import Value
from liverseg_core.records import LesionComponent, SliceScore


def score(scan=8, number=1, counts=(10, 1, 0, 0, 2, 1, 1, 0, 1), **changes):
    values = {"quantised": counts, "tp": 3, "fp": 1, "fn": 2, "dice": 0.5, "dice_liver": 0.25, "dice_tumor": 0.125}
    return SliceScore(part="val", scan=scan, slice=number, counts=counts, **(values | changes))


def lesion(pixels, iou=0.0, scan=8, number=None, predicted=False):
    return LesionComponent("val", scan, number, predicted, 1, pixels, iou)


def facts(scores, lesions=(), subjects=None):
    return Facts.of(scores, lesions, subjects or {one.scan: f"scan {one.scan}" for one in scores})


def read(profile, level, *arguments):
    return {key: value.value for key, value in profiles.scores(profile, level, facts(*arguments)).items()}


# --- pixels -------------------------------------------------------------------------------------------------------


def test_pooled_columns_are_scikit_learn_s():
    draw = np.random.default_rng(1)
    truth, prediction = draw.choice(3, (2, 4, 30, 40), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    scores = [score(8, n, metrics.count_3x3(*pair)) for n, pair in enumerate(zip(truth, prediction, strict=True))]
    found = read("modern", "pooled", scores)
    for target in ("liver", "lesion"):
        a, b = (np.isin(values, metrics.CLASSES[target]).ravel() for values in (truth, prediction))
        expected = {"dice": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}
        for name, function in expected.items():
            assert found[f"{target}_{name}"] == pytest.approx(function(a, b), rel=1e-12), name
    assert found["parenchyma_dice"] == pytest.approx(f1_score(truth.ravel() == 1, prediction.ravel() == 1))


EMPTY = {
    # truth and prediction of lesion: dice, iou, precision, recall; specificity and false area (of 20 pixels)
    "both empty": ((16, 0, 0, 0, 4, 0, 0, 0, 0), (None, None, None, None, 1, 0)),
    "only predicted": ((12, 0, 4, 0, 4, 0, 0, 0, 0), (0, 0, 0, None, 0.8, 4)),
    "only there": ((12, 0, 0, 0, 4, 0, 4, 0, 0), (0, 0, None, 0, None, None)),
    "both, apart": ((10, 0, 4, 0, 4, 0, 2, 0, 0), (0, 0, 0, 0, None, None)),
    "both, the same": ((12, 0, 0, 0, 4, 0, 0, 0, 4), (1, 1, 1, 1, None, None)),
}


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("level", get_args(Level))
def test_the_policy_on_empty_masks(case, level):
    counts, expected = EMPTY[case]
    found = read("modern", level, [score(counts=counts)])
    names = ("dice", "iou", "precision", "recall", "specificity", "false_area")
    assert tuple(found[f"lesion_{name}"] for name in names) == expected


def test_means_say_what_they_were_made_of():
    """Three slices: lesion Dice 1, 0 and nothing to say: the mean of two is a half, not a third."""
    cases = [EMPTY[name][0] for name in ("both, the same", "only there", "both empty")]
    found = profiles.scores("modern", "slice", facts([score(8, n, counts) for n, counts in enumerate(cases)]))
    assert found["lesion_dice"] == Value(0.5, n=2, empty=1, failed=0)
    assert found["lesion_precision"] == Value(1.0, n=1, empty=2, failed=0)
    assert found["lesion_specificity"] == Value(1.0, n=1, empty=2, failed=0)


LEVEL_SCORES = [
    score(1, 1, (0, 0, 0, 0, 10, 0, 0, 0, 10)),
    score(1, 2, (0, 0, 0, 0, 10, 0, 0, 30, 10)),
    score(2, 1, (0, 0, 0, 0, 10, 20, 0, 0, 20)),
    score(3, 1, (0, 0, 0, 0, 9, 1, 0, 0, 0)),
]
"""Lesion TP, FP, FN: 10 0 0, 10 0 30, 20 20 0, 0 1 0; scans 1 and 2 are one person."""


@pytest.mark.parametrize(
    ("level", "expected", "n"),
    [
        ("slice", (1 + 20 / 50 + 40 / 60 + 0) / 4, 4),
        ("scan", (40 / 70 + 40 / 60 + 0) / 3, 3),  # scan 1: 20 0 30
        ("subject", (80 / 130 + 0) / 2, 2),  # a: 40 20 30
        ("pooled", 80 / 131, 4),
    ],
)
def test_levels_are_not_the_same_thing(level, expected, n):
    people = {1: "a", 2: "a", 3: "b"}
    found = profiles.scores("modern", level, facts(LEVEL_SCORES, (), people))["lesion_dice"]
    assert (found.value, found.n) == (pytest.approx(expected), n)


def test_each_person_alone():
    found = profiles.per_subject("modern", facts(LEVEL_SCORES, (), {1: "a", 2: "a", 3: "b"}))
    assert found["a"]["lesion_dice"] == Value(pytest.approx(80 / 130), 3, 0, 0)
    assert found["b"]["lesion_dice"] == Value(0.0, 1, 0, 0)
    study = profiles.per_subject("paper-2019", facts(LEVEL_SCORES, (), {1: "a", 2: "a", 3: "b"}))
    assert study["a"]["dice"] == Value(0.5, 3, 0, 0)


def test_volume_and_burden_worked_by_hand():
    """True lesion 5 of liver 20, predicted 10 of 25: volume +1 and +.25; burden .4 - .25. Next: 0 of 10, 1 of 10."""
    scores = [score(1, 1, (0, 5, 0, 0, 10, 5, 0, 0, 5)), score(2, 1, (0, 0, 0, 0, 9, 1, 0, 0, 0))]
    found = profiles.scores("modern", "scan", facts(scores))
    assert found["lesion_volume_difference"] == Value(1.0, 1, 1, 0)  # scan 2 has no lesion to compare with
    assert found["liver_volume_difference"].value == pytest.approx((0.25 + 0) / 2)
    assert found["burden_rmse"].value == pytest.approx(np.sqrt((0.15**2 + 0.1**2) / 2))


# --- lesions ------------------------------------------------------------------------------------------------------


LESIONS = [
    lesion(50, 0.6), lesion(8, 0.05), lesion(2000),
    lesion(55, 0.6, predicted=True), lesion(9, 0.05, predicted=True),
    lesion(7, 0.3, number=1), lesion(5, 0.3, number=1, predicted=True), lesion(4, number=2, predicted=True),
]  # fmt: skip
"""Of the scan: true 50, 8, 2000, predicted 55, 9; of slice 1 one pair, of slice 2 one predicted alone."""


def test_lesions_of_a_scan_worked_by_hand():
    found = read("modern", "pooled", [score(8, 1), score(8, 2)], LESIONS)
    assert [found[f"lesions_recall_{t}"] for t in ("0", "0.1", "0.5")] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [found[f"lesions_precision_{t}"] for t in ("0", "0.1", "0.5")] == pytest.approx([1, 1 / 2, 1 / 2])
    assert [found[f"lesions_f1_{t}"] for t in ("0", "0.1", "0.5")] == pytest.approx([4 / 5, 2 / 5, 2 / 5])
    sizes = [found[f"lesions_recall_{size}"] for size in ("1-10", "11-100", "101-1000", "1001-10000", "10001+")]
    assert sizes == [1, 1, None, 0, None]


def test_lesions_of_slices_worked_by_hand():
    found = profiles.scores("modern", "slice", facts([score(8, 1), score(8, 2), score(8, 3)], LESIONS))
    assert found["lesions_recall_0"] == Value(1.0, 1, 2, 0)
    assert found["lesions_precision_0"] == Value(0.5, 2, 1, 0)
    assert found["lesions_f1_0.5"] == Value(0.0, 2, 1, 0)


def test_lesions_that_were_not_stored_are_failed_and_not_absent():
    scores = [score(8, 1), score(9, 1)]
    unknown = profiles.scores("modern", "scan", facts(scores, None))["lesions_recall_0"]
    assert unknown == Value(None, 0, 0, failed=2)
    assert profiles.scores("modern", "scan", facts(scores, []))["lesions_recall_0"] == Value(None, 0, 2, 0)


def test_lesions_find_their_scan_whatever_the_order():
    scores = [score(10, 2), score(10, 1), score(9, 7)]
    found = profiles.scores("modern", "scan", facts(scores, [lesion(5, 0.9, scan=9), lesion(5, scan=10)]))
    assert found["lesions_recall_0"] == Value(0.5, 2, 0, 0)
    alone = facts(scores, [lesion(5, 0.9, scan=9), lesion(5, scan=10)]).only("scan 9")
    assert isinstance(alone.components, Components)
    assert (alone.scan.tolist(), alone.components.iou.tolist()) == ([9], [0.9])


# --- the study's --------------------------------------------------------------------------------------------------


def test_paper_2019_is_the_reference_over_slices():
    draw = np.random.default_rng(0)
    scores = [
        score(8, n, tuple(draw.integers(0, 99, 9)), tp=int(draw.integers(99)), fp=int(draw.integers(99)),
              fn=int(draw.integers(99)), dice=draw.random(), dice_liver=draw.random(), dice_tumor=draw.random())
        for n in range(20)
    ]  # fmt: skip
    expected = metrics.aggregate(scores)
    assert read("paper-2019", "slice", scores) == pytest.approx({k: expected[k] for k in list(expected)[:6]})
    overview = read("overview", "slice", scores)
    assert overview["pooled_lesion_dice"] == pytest.approx(expected["pooled_lesion"])
    assert overview["pooled_liver_dice"] == pytest.approx(expected["pooled_liver"])


def test_the_study_has_zeros_where_nothing_can_be_said():
    found = read("paper-2019", "slice", [score(tp=0, fp=0, fn=0)])
    assert (found["precision"], found["recall"]) == (0, 0)


def test_a_broken_stored_score_is_failed():
    found = profiles.scores("paper-2019", "slice", facts([score(8, 1), score(8, 2, dice=float("nan"))]))
    assert found["dice"] == Value(0.5, 1, 0, failed=1)
    assert found["loss"] == Value(0.5, 1, 0, failed=1)


def test_figure_4_leaves_slices_without_the_label_blank():
    """Liver of slice 1: TP 2, FP 1, FN 1; tumor: TP 1, FP 1, FN 1. Slice 2: tumor only predicted; 3: only there."""
    scores = [
        score(8, 1),
        score(8, 2, (5, 0, 5, 0, 0, 0, 0, 0, 0), dice=0.2),
        score(8, 3, (5, 0, 0, 0, 0, 0, 5, 0, 0), dice=0.2),
    ]
    found = profiles.scores("paper-2019-fig4", "slice", facts(scores))
    assert found["dice"].value == pytest.approx(0.3)
    assert found["dice_liver"] == Value(pytest.approx(2 / 3), 1, 2, 0)
    assert found["dice_tumor"] == Value(pytest.approx((1 / 2 + 0) / 2), 2, 1, 0)
    assert found["precision_tumor"] == Value(pytest.approx((1 / 2 + 0) / 2), 2, 1, 0)


# --- tables -------------------------------------------------------------------------------------------------------


def test_every_profile_is_complete_and_says_what_it_means():
    assert list(profiles.PROFILES) == ["overview", "modern", "paper-2019", "paper-2019-fig4", "nnunet"]
    for profile in profiles.PROFILES.values():
        assert profile.levels
        assert set(profile.levels) <= set(get_args(Level))
        keys = [column.key for column in profile.columns]
        assert len(keys) == len(set(keys))
        assert all(column.label and column.formula and column.empty_rule for column in profile.columns)
        assert list(read(profile.key, profile.levels[0], [score()])) == keys


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: profiles.named("modem"), "profile: is none of overview, modern"),
        (lambda: profiles.scores("paper-2019", "subject", facts([score()])), "level: profile paper-2019 has slice"),
        (lambda: profiles.scores("modern", "voxel", facts([score()])), "level: profile modern has pooled"),
        (lambda: profiles.scores("nnunet", "pooled", facts([score()])), "level: profile nnunet has scan and slice"),
        (lambda: profiles.column("modern", "liver_wetness"), "column: is none of profile modern"),
        (lambda: profiles.column("modern", "HD95"), "no spacing"),
        (lambda: profiles.named("surface-distances"), "no spacing"),
    ],
)
def test_what_does_not_fit_is_refused(ask, told):
    with pytest.raises(InputError, match=told):
        ask()


def test_a_run_as_empty_as_the_empty_prediction_is_collapsed():
    empty = profiles.scores("overview", "slice", facts([score(counts=(12, 0, 0, 4, 0, 0, 4, 0, 0), tp=0, fp=0)]))
    one_pixel = [score(counts=(12, 0, 0, 4, 0, 0, 4, 0, 0), tp=0, fp=0, dice=0.5005)]
    liver = [score(counts=(12, 0, 0, 0, 4, 0, 4, 0, 0))]
    assert profiles.collapsed("overview", profiles.scores("overview", "slice", facts(one_pixel)), empty)
    assert not profiles.collapsed("overview", profiles.scores("overview", "slice", facts(liver)), empty)
    assert not profiles.collapsed("overview", {}, empty)


TRUTH = np.zeros((32, 32), np.uint8)
TRUTH[10:20, 10:20] = 1
WITH_LESION = TRUTH.copy()
WITH_LESION[12:16, 12:17] = 2


def predicted(number, labels):
    """One of 500 slices of 5 scans, half of them with a lesion, under a prediction."""
    truth = WITH_LESION if number % 2 else TRUTH
    soft = metrics.soft_facts(np.array([0, 127, 255])[truth] / 255, metrics.as_grey(labels))
    counts = metrics.count_3x3(truth, labels)
    return score(number // 100, number, counts, **{name: getattr(soft, name) for name in soft.__slots__})


@pytest.mark.parametrize(("pixel", "label"), [((0, 0), 1), ((0, 0), 2), ((10, 10), 1), ((10, 10), 2)])
def test_one_pixel_more_than_nothing_is_collapsed_under_every_profile(pixel, label):
    """False and true pixels, of liver and of lesion, in one of 500 slices."""
    nothing = np.zeros_like(TRUTH)
    dot = nothing.copy()
    dot[pixel] = label
    empty = [predicted(number, nothing) for number in range(500)]
    half = [predicted(number, np.where(np.arange(32) < 14, TRUTH, nothing)) for number in range(500)]
    true = [lesion(20, 0, n // 100, n) for n in range(1, 500, 2)] + [lesion(1000, 0, scan) for scan in range(5)]
    drawn = [lesion(1, 0, 0, 0, predicted=True), lesion(1, 0, 0, predicted=True)] if label == 2 else []
    cases = {True: facts([predicted(0, dot), *empty[1:]], true + drawn), False: facts(half, true)}
    for profile in profiles.PROFILES.values():
        for level in profile.levels:
            of_empty = profiles.scores(profile.key, level, facts(empty, true))
            for expected, scored in cases.items():
                values = profiles.scores(profile.key, level, scored)
                assert profiles.collapsed(profile.key, values, of_empty) == expected, (profile.key, level)


def test_columns_are_computed_without_a_python_call_a_slice():
    draw = np.random.default_rng(0)
    scores = [score(8 + n // 167, n, tuple(draw.integers(0, 9999, 9))) for n in range(500)]
    lesions = [lesion(30, 0.5, one.scan, one.slice, bool(k)) for one in scores for k in (0, 1)]
    columns = facts(scores, [*lesions, *(lesion(300, 0.5, scan) for scan in (8, 9, 10))])
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        profiles.scores("modern", "slice", columns)
    finally:
        sys.setprofile(None)
    assert calls < 10 * len(scores)  # 31 columns in a loop over slices would be 30 times as many


def test_definitions_change_with_their_number():
    """A golden hash: where it changes on purpose, raise ``DEFINITIONS``, for stored summaries hold the old values."""
    lesions = [lesion(40, 0.5, 1), lesion(30, 0.5, 1, predicted=True), lesion(20, 0.0, 2, 1), lesion(5, 0.2, 2)]
    scored = facts(LEVEL_SCORES, lesions, {1: "a", 2: "a", 3: "b"})
    found = {
        f"{profile.key} {level} {key}": [
            None if one.value is None else f"{one.value:.9g}",
            one.n,
            one.empty,
            one.failed,
        ]
        for profile in profiles.PROFILES.values()
        for level in profile.levels
        for key, one in profiles.scores(profile.key, level, scored).items()
    }
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    assert {profiles.DEFINITIONS: digest[:16]} == {2: "416d622551843d2c"}


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("size", range(1, profiles.FEW))
def test_few_values_have_the_bits_of_numpy(size, rms):
    draw = np.random.default_rng(size)
    for _ in range(200):
        values = draw.normal(size=size) * 10.0 ** draw.integers(-12, 12, size)
        values[draw.random(size) < 0.2] = np.nan
        values[draw.random(size) < 0.1] = np.inf
        few, many = (way(values, rms, 3) for way in (profiles._of_few, profiles._of_many))
        assert few == many
        if few.value is not None:
            assert few.value.hex() == many.value.hex()
