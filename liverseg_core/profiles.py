"""Profiles: named, frozen sets of definitions over the same stored facts.

A profile is data: columns, each with its formula in words and what it does where masks are empty. Nothing is stored
about it, so any profile can be computed of any run at any time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from liverseg_core import measures
from liverseg_core.errors import InputError
from liverseg_core.facts import Facts, Level, Reals, Sums, Units
from liverseg_core.measures import Measure
from liverseg_core.metrics import Target


@dataclass(frozen=True, slots=True)
class Value:
    """One cell of a table.

    Attributes:
        value: None where nothing can be said.
        n: of how many units (slices, scans, subjects) the value was made; of a pooled value all slices.
        empty: units of which nothing can be said, left out.
        failed: units whose facts are missing or broken, left out.
    """

    value: float | None
    n: int
    empty: int
    failed: int


@dataclass(frozen=True, slots=True)
class Column:
    """One definition.

    Attributes:
        key: its name in JSON.
        label: its name in a table.
        unit: ``fraction`` (0..1, shown in %), ``pixels`` or ``ratio``.
        better: whether more or less is better; None: neither.
        formula: what is computed, in words.
        empty_rule: what happens where masks are empty.
        measure: units -> values.
        level: the level that this column is always computed at, whatever is asked for.
        over: how the units' values become one: their mean, or the root of their mean square.
        judges_lesions: a high value claims that lesions are drawn well.
        judges_collapse: near the empty prediction's value hardly anything is found; no precision says that, which a
            single pixel can make 1.
    """

    key: str
    label: str
    unit: Literal["fraction", "pixels", "ratio"]
    better: Literal["higher", "lower"] | None
    formula: str
    empty_rule: str
    measure: Measure
    level: Level | None = None
    over: Literal["mean", "rms"] = "mean"
    judges_lesions: bool = False
    judges_collapse: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of columns; ``levels[0]`` is the level to show unless another is asked for."""

    key: str
    label: str
    about: str
    columns: tuple[Column, ...]
    levels: tuple[Level, ...]


DEFINITIONS = 2
"""Raised whenever a column, a level, a formula or what is kept of them changes: nothing older then passes for it."""

EPSILON = 1e-3
"""How near to the empty prediction a collapsed run scores, as a fraction."""

BOTH_EMPTY = "both empty: left out; one empty: 0"
STUDY_EMPTY = "no slice is ever empty: 1 is added above and below"


# --- modern -------------------------------------------------------------------------------------------------------


def _overlap(target: Target, name: str, formula: measures.Formula, words: str, empty_rule: str) -> Column:
    return Column(
        key=f"{target}_{name.lower()}",
        label=f"{target.capitalize()} {name}",
        unit="fraction",
        better="higher",
        formula=words,
        empty_rule=empty_rule,
        measure=measures.of_class(formula, target),
        judges_lesions=target == "lesion" and name in ("Dice", "IoU"),
        judges_collapse=name != "precision",
    )


def _overlaps(target: Target) -> tuple[Column, ...]:
    return (
        _overlap(target, "Dice", measures.dice, "2 TP / (2 TP + FP + FN)", BOTH_EMPTY),
        _overlap(target, "IoU", measures.iou, "TP / (TP + FP + FN)", BOTH_EMPTY),
        _overlap(target, "precision", measures.precision, "TP / (TP + FP)", "nothing predicted: left out"),
        _overlap(target, "recall", measures.recall, "TP / (TP + FN)", "nothing there: left out"),
    )


def _volume(target: Target) -> Column:
    return Column(
        key=f"{target}_volume_difference", label=f"{target.capitalize()} volume difference", unit="ratio",
        better=None,        formula="(predicted - true) / true pixels, signed", empty_rule="nothing there: left out",
        measure=measures.volume_difference(target),
    )  # fmt: skip


THRESHOLDS = (0.0, 0.1, 0.5)
"""A lesion is found where the IoU with its one-to-one partner is above this."""

STRATA: tuple[tuple[int, float], ...] = ((1, 10), (11, 100), (101, 1000), (1001, 10_000), (10_001, float("inf")))
"""Sizes of true lesions, pixels of a slice or voxels of a scan; fixed, so that tables can be compared."""

LESIONS = "lesions are 26-connected in a scan, 8-connected at level slice, matched one to one by highest IoU"


def _lesion_wise(threshold: float) -> tuple[Column, ...]:
    names: tuple[tuple[str, measures.Formula, str, str], ...] = (
        ("recall", measures.recall, "found / true lesions", "no true lesion: left out"),
        ("precision", measures.precision, "matched / predicted lesions", "no predicted lesion: left out"),
        ("F1", measures.dice, "2 TP / (2 TP + FP + FN) of lesions", "no lesion in either: left out"),
    )
    return tuple(
        Column(
            key=f"lesions_{name.lower()}_{threshold:g}", label=f"Lesion-wise {name}, IoU > {threshold:g}",
            unit="fraction", better="higher", formula=f"{words} at IoU > {threshold:g}; {LESIONS}", empty_rule=empty,
            measure=measures.of_lesions(formula, threshold), judges_collapse=name != "precision",
        )
        for name, formula, words, empty in names
    )  # fmt: skip


def _of_size(low: int, high: float) -> Column:
    bounds = f"{low}-{high:g}" if np.isfinite(high) else f"{low}+"
    return Column(
        key=f"lesions_recall_{bounds}", label=f"Lesion-wise recall, {bounds} px", unit="fraction", better="higher",
        formula=f"found / true lesions of {bounds} pixels (voxels of a scan) at IoU > 0; {LESIONS}",
        empty_rule="no true lesion of this size: left out", measure=measures.recall_of_size(low, high),
    )  # fmt: skip


MODERN = (
    *_overlaps("liver"),
    *_overlaps("lesion"),
    _overlap("parenchyma", "Dice", measures.dice, "2 TP / (2 TP + FP + FN) of liver without lesion", BOTH_EMPTY),
    Column(
        "lesion_specificity", "Lesion specificity", "fraction", "higher",
        "TN / (TN + FP) of lesion on slices without a true lesion", "no such slice: left out", measures.specificity,
    ),
    Column(
        "lesion_false_area", "False lesion area", "pixels", "lower",
        "pixels predicted as lesion, a slice without a true lesion", "no such slice: left out", measures.false_area,
    ),
    _volume("liver"),
    _volume("lesion"),
    Column(
        "burden_rmse", "Tumour burden RMSE", "fraction", "lower",
        "root of the mean square of predicted minus true |lesion| / |liver|",
        "no liver in truth or prediction: left out", measures.burden_difference, over="rms",
    ),
    *(column for threshold in THRESHOLDS for column in _lesion_wise(threshold)),
    *(_of_size(low, high) for low, high in STRATA),
)  # fmt: skip


# --- the study's --------------------------------------------------------------------------------------------------

D = "D(a, b) = (2 sum |ab| + 1) / (sum a^2 + sum b^2 + 1) of a slice, then the mean over slices"
ODD = "; a perfect prediction scores low, an empty one the same, the whole liver as lesion high"
TOGETHER = "of liver and lesion together: truth y > 0, prediction p > 0.5, pooled over all pixels"

PAPER = (
    Column("loss", "Loss", "fraction", "lower", f"1 - D(y, p); {D}", STUDY_EMPTY, measures.loss, "slice"),
    Column("dice", "Dice Coef.", "fraction", "higher", f"D(y, p); {D}", STUDY_EMPTY, measures.soft("dice"), "slice"),
    Column(
        "precision", "Precision", "fraction", "higher", f"TP / (TP + FP) {TOGETHER}", "nothing predicted: 0",
        measures.study_ratio(measures.precision), "pooled", judges_collapse=False,
    ),
    Column(
        "recall", "Recall", "fraction", "higher", f"TP / (TP + FN) {TOGETHER}", "nothing there: 0",
        measures.study_ratio(measures.recall), "pooled",
    ),
    Column(
        "dice_liver", "Dice Coef. Liver", "fraction", "higher",
        f"D of y and quantised p, each without its 1s; {D}", STUDY_EMPTY, measures.soft("dice_liver"), "slice",
    ),
    Column(
        "dice_tumor", "Dice Coef. Tumor", "fraction", None,
        f"D of y and quantised p, each without its .5s, of which y has none{ODD}; {D}", STUDY_EMPTY,
        measures.soft("dice_tumor"), "slice", judges_lesions=True,
    ),
)  # fmt: skip


def _pooled(target: Target) -> Column:
    column = next(one for one in MODERN if one.key == f"{target}_dice")
    return replace(
        column,
        key=f"pooled_{target}_dice",
        label=f"{column.label}, pooled",
        formula=f"{column.formula} over all pixels of all slices at the masks' own size",
        level="pooled",
    )


def _figure_4(label: int, name: str) -> tuple[Column, ...]:
    formulas = {"Dice": measures.dice, "Precision": measures.precision, "Recall": measures.recall}
    return tuple(
        Column(
            key=f"{word.lower()}_{name.lower()}", label=f"{word} {name}", unit="fraction", better="higher",
            formula=f"{word.lower()} of quantised label {label} against the rest, mean over slices",
            empty_rule="truth of the slice lacks the label: left out; not predicted: 0",
            measure=measures.of_label(formula, label), level="slice", judges_lesions=label == 2 and word == "Dice",
            judges_collapse=word != "Precision",
        )
        for word, formula in formulas.items()
    )  # fmt: skip


FIGURE_4 = (replace(PAPER[1], label="Dice All"), *_figure_4(1, "Liver"), *_figure_4(2, "Tumor"))


# --- nnU-Net's ----------------------------------------------------------------------------------------------------

NNUNET_LABELS = {1: "liver", 2: "lesion"}
"""nnU-Net's labels of LiTS; liver is without its lesions."""


def _nnunet(label: int, name: str) -> tuple[Column, ...]:
    better: dict[str, Literal["higher", "lower"]] = {"Dice": "higher", "IoU": "higher", "FP": "lower", "FN": "lower"}
    return tuple(
        Column(
            key=f"{metric}_{label}", label=f"{metric} {label} ({name})",
            unit="fraction" if metric in ("Dice", "IoU") else "pixels", better=better.get(metric),
            formula=f"{metric} of label {label} in each case, mean over cases",
            empty_rule="both empty: NaN, left out (nanmean)" if metric in ("Dice", "IoU") else "never empty",
            measure=measures.nnunet(metric, label), judges_lesions=label == 2 and metric in ("Dice", "IoU"),
        )
        for metric in measures.NNUNET
    )  # fmt: skip


PROFILES: dict[str, Profile] = {
    profile.key: profile
    for profile in (
        Profile(
            "overview", "Overview", "The study's Table 6 and, beside it, Dice pooled over all pixels.",
            (*PAPER, _pooled("liver"), _pooled("lesion")), ("slice",),
        ),
        Profile(
            "modern", "Modern", "No smoothing, no silent zeros or ones: what cannot be said is left out and counted.",
            MODERN, ("pooled", "subject", "scan", "slice"),
        ),
        Profile(
            "paper-2019", "Study, Table 6", "As the study's code computes it, oddities included.", PAPER, ("slice",),
        ),
        Profile("paper-2019-fig4", "Study, Figure 4", "The study's table of images.", FIGURE_4, ("slice",)),
        Profile(
            "nnunet", "nnU-Net", "summary.json of nnU-Net v2; a case is a scan, or a slice at level slice.",
            tuple(column for label, name in NNUNET_LABELS.items() for column in _nnunet(label, name)),
            ("scan", "slice"),
        ),
    )
}  # fmt: skip
"""All profiles by key, the one to show first first."""

DISTANCES = ("nsd", "hd95", "assd", "surface-distances")


def named(key: str) -> Profile:
    """The profile ``key``.

    Raises:
        InputError: there is none; said with its reason for surface distances.
    """
    _refuse_distances("profile", key)
    if key not in PROFILES:
        raise InputError("profile", f"is none of {', '.join(PROFILES)}", key)
    return PROFILES[key]


def column(profile: str, key: str) -> Column:
    """A column of a profile.

    Raises:
        InputError: there is none; said with its reason for surface distances.
    """
    _refuse_distances("column", key)
    columns = {one.key: one for one in named(profile).columns}
    if key not in columns:
        raise InputError("column", f"is none of profile {profile}: {', '.join(columns)}", key)
    return columns[key]


def _refuse_distances(where: str, key: str) -> None:
    if key.lower() in DISTANCES:
        reason = (
            "surface distances are millimetres, which PNG slices with no spacing cannot give, and not computed yet "
            "where a data set tells its spacing; use Dice or lesion-wise scores"
        )
        raise InputError(where, reason, key)


def scores(profile: str, level: str, facts: Facts | Sums, only: str | None = None) -> dict[str, Value]:
    """Column key -> value of a run and part.

    Args:
        profile: which columns.
        level: one of the profile's.
        facts: of the run and part.
        only: the one column to compute; None: all.

    Raises:
        InputError: an unknown profile, or a level that it does not have.
    """
    chosen = named(profile)
    if level not in chosen.levels:
        raise InputError("level", f"profile {profile} has {' and '.join(chosen.levels)}", level)
    columns = chosen.columns if only is None else (column(profile, only),)
    sums = Sums.of(facts)
    return {one.key: _value(one, sums.units(one.level or level)) for one in columns}


def per_subject(
    profile: str, facts: Facts | Sums, level: str | None = None, only: str | None = None
) -> dict[str, dict[str, Value]]:
    """Subject -> column key -> value over that person's slices alone.

    Args:
        profile: which columns.
        facts: of a run and part.
        level: as of :func:`scores`, within each person; by default the profile's first.
        only: as of :func:`scores`.
    """
    chosen = level or named(profile).levels[0]
    return {one: scores(profile, chosen, own, only) for one, own in Sums.of(facts).by_subject.items()}


def _value(column: Column, units: Units) -> Value:
    values = column.measure(units)
    slices = len(units.facts) if units.level == "pooled" else 1  # a pooled value is made of all slices
    return (_of_few if values.size < FEW else _of_many)(values, column.over == "rms", slices)


FEW = 8
"""Below it NumPy adds numbers up one after another, as Python does, and takes ten times as long to begin."""


def _of_few(values: Reals, rms: bool, slices: int) -> Value:
    """As :func:`_of_many`, to the same bits."""
    listed = values.tolist()
    used = [one * one if rms else one for one in listed if math.isfinite(one)]
    n, n_failed = len(used) * slices, sum(map(math.isinf, listed)) * slices
    n_empty = len(listed) * slices - n - n_failed
    if not used:
        return Value(None, n, n_empty, n_failed)
    total, *others = used
    for one in others:  # not sum(), which rounds better than NumPy from Python 3.12 on
        total += one
    mean = total / len(used)
    return Value(math.sqrt(mean) if rms else mean, n, n_empty, n_failed)


def _of_many(values: Reals, rms: bool, slices: int) -> Value:
    """Mean, or root of the mean square, of the finite ``values``, each made of ``slices`` slices."""
    failed, empty = np.isinf(values), np.isnan(values)
    used = values[~failed & ~empty]
    n, n_empty, n_failed = (int(count) * slices for count in (used.size, empty.sum(), failed.sum()))
    if not used.size:
        return Value(None, n, n_empty, n_failed)
    mean = np.sqrt(np.mean(used**2)) if rms else np.mean(used)
    return Value(float(mean), n, n_empty, n_failed)


# --- what reference predictors say about a table ------------------------------------------------------------------


def collapsed(profile: str, values: Mapping[str, Value], empty_values: Mapping[str, Value]) -> bool:
    """Whether a run scores as the empty prediction does: within ``EPSILON`` in every fraction that judges it.

    Columns in pixels or ratios do not judge, so that a profile that has some judges as those that have none do.

    Args:
        profile: whose columns.
        values: of the run, by column.
        empty_values: of the empty prediction; a column where either has no value does not judge.
    """
    judging = [one.key for one in named(profile).columns if one.unit == "fraction" and one.judges_collapse]
    pairs = [(values[key].value, empty_values[key].value) for key in judging if key in values and key in empty_values]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    return bool(both) and all(abs(one - other) <= EPSILON for one, other in both)


def warnings(profile: str, references: Mapping[str, Mapping[str, Value]]) -> dict[str, str]:
    """Column key -> why its values mislead, as the reference predictors show it.

    Args:
        profile: whose columns.
        references: predictor (``perfect``, ``liver-as-lesion``) -> its scores; what is absent is not judged.
    """
    found: dict[str, str] = {}
    for one in named(profile).columns:
        perfect, painted = (_score(references, name, one.key) for name in ("perfect", "liver-as-lesion"))
        told = []
        if one.unit == "fraction" and one.better != "lower" and perfect is not None and perfect < 0.9:
            told.append(f"a perfect prediction scores {100 * perfect:.1f} %")
        if one.judges_lesions and painted is not None and painted > 0.5:
            told.append(f"the whole liver painted as lesion scores {100 * painted:.1f} %")
        if told:
            found[one.key] = "; ".join(told)
    return found


def _score(references: Mapping[str, Mapping[str, Value]], predictor: str, key: str) -> float | None:
    values = references.get(predictor, {})
    return values[key].value if key in values else None
