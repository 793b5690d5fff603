import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from liverseg_core import metrics
from liverseg_core.records import SliceScore

TRUTH = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 2, 2], [0, 0, 0, 0]], np.uint8)
PREDICTION = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]], np.uint8)
COUNTS = (10, 1, 0, 0, 2, 1, 1, 0, 1)
"""Truth 0: ten 0, one 1. Truth 1: two 1, one 2. Truth 2: one 0, one 2."""


def test_counts_worked_by_hand():
    assert metrics.count_3x3(TRUTH, PREDICTION) == COUNTS


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("liver", (4, 1, 1)),  # labels 1 and 2 together: 4 hit, (1,0) too many, (2,3) missed
        ("parenchyma", (2, 1, 1)),
        ("lesion", (1, 1, 1)),
    ],
)
def test_ratios_worked_by_hand(target, expected):
    tp, fp, fn = expected
    assert metrics.true_false(COUNTS, target) == expected
    assert metrics.dice(COUNTS, target) == 2 * tp / (2 * tp + fp + fn)
    assert metrics.iou(COUNTS, target) == tp / (tp + fp + fn)
    assert metrics.precision(COUNTS, target) == tp / (tp + fp)
    assert metrics.recall(COUNTS, target) == tp / (tp + fn)


def test_scikit_learn_agrees():
    draw = np.random.default_rng(1)
    truth, prediction = draw.choice(3, (2, 50, 70), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    counts = metrics.count_3x3(truth, prediction)
    assert np.array_equal(np.reshape(counts, (3, 3)), confusion_matrix(truth.ravel(), prediction.ravel()))
    for target, labels in metrics.CLASSES.items():
        a, b = (np.isin(values, labels).ravel() for values in (truth, prediction))
        assert metrics.dice(counts, target) == pytest.approx(f1_score(a, b))
        assert metrics.iou(counts, target) == pytest.approx(jaccard_score(a, b))
        assert metrics.precision(counts, target) == pytest.approx(precision_score(a, b))
        assert metrics.recall(counts, target) == pytest.approx(recall_score(a, b))


@pytest.mark.parametrize(
    ("counts", "dice", "precision", "recall"),
    [
        ((16, 0, 0, 0, 0, 0, 0, 0, 0), None, None, None),  # nothing there, nothing predicted
        ((12, 0, 4, 0, 0, 0, 0, 0, 0), 0, 0, None),  # predicted, not there
        ((12, 0, 0, 0, 0, 0, 4, 0, 0), 0, None, 0),  # there, not predicted
    ],
)
def test_empty_masks_are_neither_one_nor_silently_zero(counts, dice, precision, recall):
    assert metrics.dice(counts, "lesion") == dice
    assert metrics.iou(counts, "lesion") == dice
    assert metrics.precision(counts, "lesion") == precision
    assert metrics.recall(counts, "lesion") == recall


def test_counts_refuse_what_is_no_label():
    with pytest.raises(ValueError, match="shape"):
        metrics.count_3x3(TRUTH, PREDICTION[:2])
    with pytest.raises(ValueError, match="0, 1 or 2"):
        metrics.count_3x3(TRUTH, PREDICTION + np.uint8(1))


def test_fixed_point_is_off_by_half_a_step_at_most():
    p = np.random.default_rng(0).random(10_000, dtype=np.float32)
    assert np.abs(metrics.to_fixed_point(p) / 65_535 - p).max() < 0.51 / 65_535
    assert metrics.to_fixed_point(np.array([0, 1 / 3, 2 / 3, 1])).tolist() == [0, 21_845, 43_690, 65_535]


def test_enlarging_by_two_repeats_every_label():
    labels = np.array([[0, 1], [2, 0]], np.uint8)
    assert metrics.enlarge_nearest(labels, (4, 4)).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 0, 0]] * 2


@pytest.mark.parametrize("shape", [(512, 512), (192, 320), (448, 576), (64, 64)])
def test_enlarging_as_pillow_does(shape):
    """Sizes where no centre falls between two labels, since Pillow rounds there."""
    labels = np.random.default_rng(2).integers(0, 3, (64, 64), dtype=np.uint8)
    expected = Image.fromarray(labels).resize(shape[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(metrics.enlarge_nearest(labels, shape), np.asarray(expected))


def test_the_study_s_scores_worked_by_hand():
    """p .2, .4, .7, 1 -> floor(3p) = 0, 1, 2, 3 -> q = 0, .5, 1, 1.5.

    dice: sum yp = .2 + .7 + .5 = 1.4; y^2 = .25 + 1 + .25 = 1.5; p^2 = .04 + .16 + .49 + 1 = 1.69.
    liver: y without 1s = 0, .5, 0, .5; q without 1s = 0, .5, 0, 1.5: overlap .25 + .75 = 1, squares .5 + 2.5.
    tumor: y without .5s = 0, 0, 1, 0; q without .5s = 0, 0, 1, 1.5: overlap 1, squares 1 + 3.25.
    """
    y, p = np.array([[0, 0.5], [1, 0.5]], np.float32), np.array([[0.2, 0.4], [0.7, 1.0]], np.float32)
    dice, liver, tumor = metrics.paper_scores(y, p)
    assert dice == pytest.approx((2 * 1.4 + 1) / (1.5 + 1.69 + 1))
    assert liver == pytest.approx((2 * 1 + 1) / (0.5 + 2.5 + 1))
    assert tumor == pytest.approx((2 * 1 + 1) / (1 + 3.25 + 1))
    assert metrics.paper_counts(y, p) == (2, 0, 1)  # y > 0: three; p > 0.5: .7 and 1
    assert metrics.quantised_counts(y, p) == (1, 0, 0, 0, 1, 1, 0, 0, 1)


def test_liver_is_never_taken_out_of_the_tumor_truth():
    liver = np.full((4, 4), 127 / 255, np.float32)
    assert metrics.paper_scores(liver, np.zeros_like(liver))[2] == pytest.approx(1 / (16 * (127 / 255) ** 2 + 1))


def score(counts=COUNTS, tp=3, fp=1, fn=2, dice=0.5, liver=0.25, tumor=0.125) -> SliceScore:
    return SliceScore("val", 8, 1, counts, counts, tp, fp, fn, dice, liver, tumor)


def test_aggregation_means_soft_scores_and_pools_pixels():
    """Precision (3 + 7) / (4 + 10) and not the mean of 3/4 and 7/10."""
    found = metrics.aggregate([score(), score((0, 0, 0, 0, 5, 0, 0, 0, 10), 7, 3, 0, 1.0, 0.75, 0.375)])
    assert found["dice"] == 0.75
    assert found["loss"] == 0.25
    assert found["dice_liver"] == 0.5
    assert found["dice_tumor"] == 0.25
    assert found["precision"] == 10 / 14
    assert found["recall"] == 10 / 12
    assert found["pooled_lesion"] == 2 * 11 / (2 * 11 + 1 + 1)
    assert found["pooled_liver"] == 2 * 19 / (2 * 19 + 1 + 1)


def test_aggregation_of_an_empty_prediction_and_of_nothing():
    empty = metrics.aggregate([score((16, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0, 4)])
    assert (empty["precision"], empty["recall"], empty["pooled_lesion"]) == (0, 0, None)
    with pytest.raises(ValueError, match="nothing to aggregate"):
        metrics.aggregate([])


def test_metrics_load_without_keras():
    names = ", ".join(f"liverseg_core.{name}" for name in ("metrics", "references", "nnunet", "weights"))
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"keras", "tensorflow", "jax", "h5py", "scipy"} & set(loaded)
