"""What a prediction scores: counts first, ratios derived from them. NumPy only.

Two definitions live here. ``modern`` works on labels at the mask's native size and has no smoothing. ``paper-2019``
is what the study's code computes, kept as it is, oddities included: y = bilinear(mask) / 255, p = the sigmoid, both
at network size.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from liverseg_core.records import SliceScore

Labels = NDArray[np.uint8]
Level = NDArray[np.uint16]
Floats = NDArray[np.floating[Any]]
Target = Literal["liver", "parenchyma", "lesion"]


@dataclass(frozen=True, slots=True)
class SoftFacts:
    """What stored labels cannot give about a slice; the fields of :class:`liverseg_core.records.SliceScore`."""

    tp: int
    fp: int
    fn: int
    dice: float
    dice_liver: float
    dice_tumor: float
    quantised: tuple[int, ...]


CLASSES: dict[Target, tuple[int, ...]] = {"liver": (1, 2), "parenchyma": (1,), "lesion": (2,)}
"""Labels that make up each class; liver includes its lesions, as the LiTS challenge has it."""

BACKGROUND, PARENCHYMA, LESION = 0, 1, 2
"""Labels."""

FULL = 65_535
"""The fixed-point value of probability 1."""


# --- from probabilities to labels to counts --------------------------------------------------------------------


def to_fixed_point(p: Floats) -> Level:
    """Probabilities 0..1 as uint16, u = round(65535 p); off by at most 1/131070."""
    scaled: Floats = p.astype(np.float32) * np.float32(FULL)
    return np.rint(scaled).astype(np.uint16)


def enlarge_nearest(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Labels [h, w] at ``shape`` [H, W] by nearest neighbour with half-pixel centres.

    Row i of the result is row floor((i + 1/2) h / H) of the input, in whole numbers, so nothing is rounded.
    """
    rows, columns = (nearest_rows(small, large) for small, large in zip(labels.shape, shape, strict=True))
    enlarged: Labels = labels.take(columns, axis=1).take(rows, axis=0)  # many times faster than both at once
    return enlarged


@functools.lru_cache(maxsize=64)
def nearest_rows(small: int, large: int) -> NDArray[np.int64]:
    """Row of ``small`` that each of ``large`` rows is read from, ``[large]``; see :func:`enlarge_nearest`."""
    rows = ((2 * np.arange(large) + 1) * small) // (2 * large)
    rows.flags.writeable = False
    return rows


def count_3x3(truth: Labels, prediction: Labels) -> tuple[int, ...]:
    """3 x 3 confusion matrix row by row (row = truth, column = prediction): nine pixel counts.

    Args:
        truth: labels 0 background, 1 parenchyma, 2 lesion, any shape.
        prediction: the same, the same shape.

    Raises:
        ValueError: the shapes differ or a label is above 2.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction differ in shape. Received: {truth.shape} and {prediction.shape}")
    if max(truth.max(initial=0), prediction.max(initial=0)) > 2:
        raise ValueError("labels must be 0, 1 or 2")
    # Counting what is not zero is ten times faster than np.bincount; the background follows from the margins.
    true, predicted = ([labels == label for label in (PARENCHYMA, LESION)] for labels in (truth, prediction))
    joint = [[int(np.count_nonzero(one & other)) for other in predicted] for one in true]
    margins = [[int(np.count_nonzero(mask)) for mask in masks] for masks in (true, predicted)]
    return nine_counts(joint, margins[0], margins[1], truth.size)


def nine_counts(
    joint: Sequence[Sequence[int]], true: Sequence[int], predicted: Sequence[int], pixels: int
) -> tuple[int, ...]:
    """The confusion matrix of :func:`count_3x3` from what parenchyma and lesion have in common, and its margins.

    Args:
        joint: 2 x 2, pixels that are label 1 or 2 in the truth and 1 or 2 in the prediction.
        true: pixels of label 1 and 2 in the truth.
        predicted: the same in the prediction.
        pixels: of the whole slice.
    """
    (n11, n12), (n21, n22) = joint
    (t1, t2), (p1, p2) = true, predicted
    n01, n02, n10, n20 = p1 - n11 - n21, p2 - n12 - n22, t1 - n11 - n12, t2 - n21 - n22
    return pixels - t1 - t2 - n01 - n02, n01, n02, n10, n11, n12, n20, n21, n22


# --- from counts to ratios: profile modern ----------------------------------------------------------------------


def true_false(counts: Sequence[int], target: Target) -> tuple[int, int, int]:
    """TP, FP, FN of one class out of the nine counts."""
    matrix = np.asarray(counts, dtype=np.int64).reshape(3, 3)
    labels = list(CLASSES[target])
    hit = int(matrix[np.ix_(labels, labels)].sum())
    return hit, int(matrix[:, labels].sum()) - hit, int(matrix[labels].sum()) - hit


def dice(counts: Sequence[int], target: Target) -> float | None:
    """Dice = 2 TP / (2 TP + FP + FN); None where truth and prediction are both empty, 0 where one is."""
    tp, fp, fn = true_false(counts, target)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: Sequence[int], target: Target) -> float | None:
    """Intersection over union = TP / (TP + FP + FN); None where both are empty, 0 where one is."""
    tp, fp, fn = true_false(counts, target)
    return _ratio(tp, tp + fp + fn)


def precision(counts: Sequence[int], target: Target) -> float | None:
    """Precision = TP / (TP + FP); None where nothing was predicted."""
    tp, fp, _ = true_false(counts, target)
    return _ratio(tp, tp + fp)


def recall(counts: Sequence[int], target: Target) -> float | None:
    """Recall = TP / (TP + FN); None where nothing is there."""
    tp, _, fn = true_false(counts, target)
    return _ratio(tp, tp + fn)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- the study's own definitions: profile paper-2019 --------------------------------------------------------------


def soft_dice(a: Floats, b: Floats) -> float:
    """D(a, b) = (2 sum |a b| + 1) / (sum a^2 + sum b^2 + 1) over one slice, the study's ``dice_coef``."""
    overlap, squares_a, squares_b = (values.sum(dtype=np.float64) for values in (np.abs(a * b), a * a, b * b))
    return float((2 * overlap + 1) / (squares_a + squares_b + 1))


def paper_scores(y: Floats, p: Floats) -> tuple[float, float, float]:
    """``dice, dice_liver, dice_tumor`` of one slice as the study's code has them, 0..1.

    With q = floor(255 p / 85) * 85 / 170, so q in {0, .5, 1, 1.5}: dice = D(y, p);
    dice_liver = D(y where y != 1, q where q != 1); dice_tumor = D(y where y != .5, q where q != .5), else 0.
    Liver is .498 in y and so is never taken out of dice_tumor's truth: that is the study's, and stays.

    Args:
        y: mask resized by bilinear / 255, [S, S].
        p: sigmoid output, [S, S].
    """
    q = _thirds(p) * (85 / 170)
    liver = soft_dice(np.where(y != 1, y, 0), np.where(q != 1, q, 0))
    tumor = soft_dice(np.where(y != 0.5, y, 0), np.where(q != 0.5, q, 0))
    return soft_dice(y, p), liver, tumor


def paper_counts(y: Floats, p: Floats) -> tuple[int, int, int]:
    """TP, FP, FN of the study's precision and recall: truth y > 0, prediction p > 0.5."""
    truth, prediction = y > 0, p > 0.5
    hit = int(np.count_nonzero(truth & prediction))
    return hit, int(np.count_nonzero(prediction)) - hit, int(np.count_nonzero(truth)) - hit


def quantised_counts(y: Floats, p: Floats) -> tuple[int, ...]:
    """3 x 3 counts of the study's quantised labels, min(floor(255 v / 85), 2) of both (``paper-2019-fig4``)."""
    truth, prediction = (np.minimum(_thirds(values), 2).astype(np.uint8) for values in (y, p))
    return count_3x3(truth, prediction)


def _thirds(values: Floats) -> Floats:
    """floor(255 v / 85): 0, 1, 2 or 3."""
    return np.floor(255 * values / 85)


def soft_facts(y: Floats, p: Floats) -> SoftFacts:
    """What the study's own definitions need beyond labels.

    Args:
        y: mask resized / 255, [S, S].
        p: sigmoid output as floats, [S, S]; of a softmax network its labels as :func:`as_grey`.
    """
    return SoftFacts(*paper_counts(y, p), *paper_scores(y, p), quantised_counts(y, p))


def as_grey(labels: Labels) -> Floats:
    """Labels as the study's sigmoid would say them, p = 0, .5, .999, so that its thirds give them back."""
    return np.array([0, 0.5, 0.999], np.float32)[labels]


# --- over many slices: the reference for the ledger's queries ------------------------------------------------------


def pool(scores: Iterable[SliceScore]) -> tuple[int, ...]:
    """The nine counts summed over slices."""
    return tuple(np.sum([score.counts for score in scores], axis=0).tolist())


def aggregate(scores: Sequence[SliceScore]) -> dict[str, float | None]:
    """Table 6's columns and the pooled honest Dice of ``scores``, all as fractions 0..1.

    ``loss, dice, dice_liver, dice_tumor``: means over slices; ``precision, recall``: pooled over all pixels,
    0 where their denominator is empty, as the study has it. ``pooled_lesion, pooled_liver``: ``modern`` Dice of the
    summed counts. Every slice counts, whatever its part: give one part.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("no slice was scored, so there is nothing to aggregate")
    mean = {
        name: float(np.mean([getattr(score, name) for score in scores]))
        for name in ("dice", "dice_liver", "dice_tumor")
    }
    tp, fp, fn = (sum(getattr(score, name) for score in scores) for name in ("tp", "fp", "fn"))
    counts = pool(scores)
    return {
        "loss": 1 - mean["dice"],
        "dice": mean["dice"],
        "precision": _ratio(tp, tp + fp) or 0.0,
        "recall": _ratio(tp, tp + fn) or 0.0,
        "dice_liver": mean["dice_liver"],
        "dice_tumor": mean["dice_tumor"],
        "pooled_lesion": dice(counts, "lesion"),
        "pooled_liver": dice(counts, "liver"),
    }
