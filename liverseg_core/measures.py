"""What a column of a profile computes: functions of summed facts, one value a unit.

Each takes :class:`liverseg_core.facts.Units` and returns ``[g]``: NaN where nothing can be said (empty),
infinity where a fact is missing or broken (failed).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from liverseg_core.facts import Components, Reals, Units
from liverseg_core.metrics import CLASSES, LESION, Target

Measure = Callable[[Units], Reals]


def ratio(part: Reals, whole: Reals) -> Reals:
    """What ``part`` is of ``whole``, NaN where that is 0."""
    quotient = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient


# --- formulas of TP, FP, FN ---------------------------------------------------------------------------------------


def dice(tp: Reals, fp: Reals, fn: Reals) -> Reals:
    return ratio(2 * tp, 2 * tp + fp + fn)


def iou(tp: Reals, fp: Reals, fn: Reals) -> Reals:
    return ratio(tp, tp + fp + fn)


def precision(tp: Reals, fp: Reals, fn: Reals) -> Reals:  # noqa: ARG001 - all four are called alike
    return ratio(tp, tp + fp)


def recall(tp: Reals, fp: Reals, fn: Reals) -> Reals:  # noqa: ARG001
    return ratio(tp, tp + fn)


Formula = Callable[[Reals, Reals, Reals], Reals]


# --- on pixels ----------------------------------------------------------------------------------------------------


def of_class(formula: Formula, target: Target) -> Measure:
    """A formula of a class's pixels at native size."""
    return lambda units: formula(*units.hits("counts", CLASSES[target]))


def specificity(units: Units) -> Reals:
    """TN / (TN + FP) of lesion on slices without a true lesion."""
    _, pixels, painted = units.lesion_free.T
    return ratio(pixels - painted, pixels)


def false_area(units: Units) -> Reals:
    """Pixels predicted as lesion, a slice without a true lesion."""
    slices, _, painted = units.lesion_free.T
    return ratio(painted, slices)


def volume_difference(target: Target) -> Measure:
    """(predicted - true) / true pixels."""

    def measure(units: Units) -> Reals:
        tp, fp, fn = units.hits("counts", CLASSES[target])
        return ratio(fp - fn, tp + fn)

    return measure


def burden_difference(units: Units) -> Reals:
    """|lesion| / |liver| of the prediction minus that of the truth."""
    true, predicted = units.counts.sum(axis=2), units.counts.sum(axis=1)
    found, there = (ratio(pixels[:, LESION], pixels[:, 1] + pixels[:, LESION]) for pixels in (predicted, true))
    return found - there


# --- on lesions ---------------------------------------------------------------------------------------------------


def of_lesions(formula: Formula, threshold: float) -> Measure:
    """A formula of lesions; one is found where the IoU with its partner is above ``threshold``."""

    def measure(units: Units) -> Reals:
        tp = units.lesion_counts(lambda own: ~own.predicted & (own.iou > threshold))
        fp = units.lesion_counts(lambda own: own.predicted & (own.iou <= threshold))
        fn = units.lesion_counts(lambda own: ~own.predicted & (own.iou <= threshold))
        return _missing(units) if tp is None or fp is None or fn is None else formula(tp, fp, fn)

    return measure


def recall_of_size(low: int, high: float) -> Measure:
    """Found among the true lesions of ``low`` to ``high`` pixels (voxels), both included, at IoU > 0."""

    def there(own: Components) -> np.typing.NDArray[np.bool_]:
        return ~own.predicted & (own.pixels >= low) & (own.pixels <= high)

    def measure(units: Units) -> Reals:
        found, all_ = units.lesion_counts(lambda own: there(own) & (own.iou > 0)), units.lesion_counts(there)
        return _missing(units) if found is None or all_ is None else ratio(found, all_)

    return measure


def _missing(units: Units) -> Reals:
    return np.full(units.size, np.inf)


# --- the study's --------------------------------------------------------------------------------------------------


def soft(name: Literal["dice", "dice_liver", "dice_tumor"]) -> Measure:
    """A stored soft score, mean of each unit's slices; failed where it is not finite."""

    def measure(units: Units) -> Reals:
        means = ratio(units.sum(getattr(units.facts, name)), units.sum(np.ones(len(units.facts))))
        return np.where(np.isfinite(means), means, np.inf)

    return measure


def loss(units: Units) -> Reals:
    """1 - dice; failed where that is."""
    dice_ = soft("dice")(units)
    return np.where(np.isfinite(dice_), 1 - dice_, np.inf)


def study_ratio(formula: Formula) -> Measure:
    """Precision or recall of liver and lesion together; 0 where nothing can be said, as the study has it."""

    def measure(units: Units) -> Reals:
        values = formula(*(units.sum(getattr(units.facts, name)) for name in ("tp", "fp", "fn")))
        return np.where(np.isnan(values), 0.0, values)

    return measure


def of_label(formula: Formula, label: int) -> Measure:
    """One quantised label against the rest; NaN where the truth lacks it, else 0 where nothing was predicted."""

    def measure(units: Units) -> Reals:
        tp, fp, fn = units.hits("quantised", (label,))
        values = formula(tp, fp, fn)
        return np.where(tp + fn == 0, np.nan, np.where(np.isnan(values), 0.0, values))

    return measure


# --- nnU-Net's ----------------------------------------------------------------------------------------------------


NNUNET: dict[str, Callable[[Reals, Reals, Reals, Reals], Reals]] = {
    "Dice": lambda tp, fp, fn, tn: dice(tp, fp, fn),  # noqa: ARG005
    "IoU": lambda tp, fp, fn, tn: iou(tp, fp, fn),  # noqa: ARG005
    "FP": lambda tp, fp, fn, tn: fp,  # noqa: ARG005
    "TP": lambda tp, fp, fn, tn: tp,  # noqa: ARG005
    "FN": lambda tp, fp, fn, tn: fn,  # noqa: ARG005
    "TN": lambda tp, fp, fn, tn: tn,  # noqa: ARG005
    "n_pred": lambda tp, fp, fn, tn: tp + fp,  # noqa: ARG005
    "n_ref": lambda tp, fp, fn, tn: tp + fn,  # noqa: ARG005
}
"""The metrics of its summary.json, in its order."""


def nnunet(metric: str, label: int) -> Measure:
    """A metric of one label (1 parenchyma, 2 lesion), as nnU-Net v2's evaluation computes it for a case."""

    def measure(units: Units) -> Reals:
        tp, fp, fn = units.hits("counts", (label,))
        return NNUNET[metric](tp, fp, fn, units.pixels - tp - fp - fn)

    return measure
