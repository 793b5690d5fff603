"""nnU-Net v2's own files: ``summary.json`` and ``splits_final.json``, written and read.

A case is a scan, named by ``CASE`` + its number, with label 1 liver without lesions and 2 lesion. Metrics that are
not defined (both masks empty) are NaN, which nnU-Net writes as the bare word, as JSON does not know it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from liverseg_core.errors import InputError
from liverseg_core.facts import Facts, Units
from liverseg_core.measures import NNUNET, nnunet
from liverseg_core.profiles import NNUNET_LABELS, Value, named

CASE = "liver_"
ENDING = ".png"

Fold = dict[str, tuple[int, ...]]
"""``train`` and ``val`` -> scans"""

LABELS = tuple(str(label) for label in NNUNET_LABELS)

TOLERANCE = 1e-6
"""How far a mean in a file may be from the mean of its cases, relative; nnU-Net writes doubles in full."""


def write_summary(facts: Facts) -> str:
    """``summary.json`` of a run and part: metrics of every scan, their means, the mean of both labels' means."""
    units = Units(facts, "scan")
    columns = {(label, metric): nnunet(metric, int(label))(units) for label in LABELS for metric in NNUNET}
    cases = [
        {
            "metrics": {label: {m: _plain(m, columns[label, m][place]) for m in NNUNET} for label in LABELS},
            "prediction_file": f"prediction/{CASE}{scan}{ENDING}",
            "reference_file": f"reference/{CASE}{scan}{ENDING}",
        }
        for place, scan in enumerate(np.unique(facts.scan))
    ]
    mean = {label: {metric: _nanmean(columns[label, metric]) for metric in NNUNET} for label in LABELS}
    return json.dumps(
        {"foreground_mean": _foreground(mean), "mean": mean, "metric_per_case": cases}, indent=4, sort_keys=True
    )


def read_summary(text: str) -> dict[str, Value]:
    """What a ``summary.json`` says, as values of profile ``nnunet``, computed anew from its cases.

    Raises:
        InputError: no such file, other labels, or means that are not those of the cases.
    """
    content = _object(_json(text, "summary.json"), "summary.json")
    cases = content.get("metric_per_case")
    if not isinstance(cases, list) or not cases:
        raise InputError("metric_per_case", "must be a list of cases, as nnU-Net writes it", cases)
    values = {
        (label, metric): [_metric(case, label, metric, place) for place, case in enumerate(cases)]
        for label in LABELS
        for metric in NNUNET
    }
    for (label, metric), found in values.items():
        _check_mean(content, label, metric, _nanmean(np.array(found)))
    return {one.key: _value(np.array(values[_place(one.key)])) for one in named("nnunet").columns}


def write_splits(folds: Sequence[Mapping[str, Sequence[int]]]) -> str:
    """``splits_final.json`` of folds: ``train`` and ``val`` -> scans."""
    named_folds = [{part: [f"{CASE}{scan}" for scan in fold[part]] for part in ("train", "val")} for fold in folds]
    return json.dumps(named_folds, indent=4)


def read_splits(text: str, scans: Sequence[int]) -> list[Fold]:
    """The folds of a ``splits_final.json``.

    Args:
        text: the file; cases are scan numbers, with or without letters in front (``liver_8``, ``8``).
        scans: those of the data set.

    Raises:
        InputError: no such file, cases that are no scans of the data set, or a scan on both sides of a fold.
    """
    content = _json(text, "splits_final.json")
    if not isinstance(content, list) or not content:
        raise InputError("splits_final.json", "must be a list of folds", content)
    return [_fold(_object(fold, f"fold {place}"), place, set(scans)) for place, fold in enumerate(content)]


def _fold(fold: Mapping[str, Any], place: int, scans: set[int]) -> Fold:
    found: Fold = {}
    for part in ("train", "val"):
        cases = fold.get(part)
        if not isinstance(cases, list) or not cases:
            raise InputError(f"fold {place}.{part}", "must be a list of at least one case", cases)
        found[part] = tuple(_scan(case, f"fold {place}.{part}") for case in cases)
        unknown = sorted(set(found[part]) - scans)
        if unknown:
            raise InputError(f"fold {place}.{part}", f"not in the data set, which has scans {sorted(scans)}", unknown)
    both = sorted(set(found["train"]) & set(found["val"]))
    if both:
        raise InputError(f"fold {place}", "has scans in both train and val; keep each on one side", both)
    return found


def _scan(case: Any, where: str) -> int:
    match = re.fullmatch(r"[^0-9]*([0-9]{1,9})", case) if isinstance(case, str) else None
    if match is None:
        raise InputError(where, f"a case must be a scan number, with or without letters in front, like {CASE}8", case)
    return int(match[1])


def _plain(metric: str, value: float) -> float | int:
    return float(value) if metric in ("Dice", "IoU") else int(value)


def _nanmean(values: Any) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan


def _foreground(mean: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {metric: float(np.mean([mean[label][metric] for label in LABELS])) for metric in NNUNET}


def _place(key: str) -> tuple[str, str]:
    metric, label = key.rsplit("_", 1)
    return label, metric


def _value(values: Any) -> Value:
    empty = int(np.isnan(values).sum())
    mean = _nanmean(values)
    return Value(None if math.isnan(mean) else mean, len(values) - empty, empty, 0)


def _metric(case: Any, label: str, metric: str, place: int) -> float:
    where = f"metric_per_case[{place}].metrics.{label}.{metric}"
    value: Any = case
    for step in ("metrics", label, metric):
        if not isinstance(value, dict) or step not in value:
            raise InputError(
                where, f"is missing; labels must be {' and '.join(LABELS)} (liver without lesion, lesion)"
            )
        value = value[step]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(where, "must be a number or NaN", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise InputError(where, "must be a number or NaN", value)
    return number


def _check_mean(content: Mapping[str, Any], label: str, metric: str, expected: float) -> None:
    told = _metric({"metrics": content.get("mean")}, label, metric, 0)
    if not (math.isclose(told, expected, rel_tol=TOLERANCE) or (math.isnan(told) and math.isnan(expected))):
        raise InputError(f"mean.{label}.{metric}", f"is not the mean of the cases, {expected}", told)


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(name, f"is no JSON ({error})") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(where, "must be an object, as nnU-Net writes it", value)
    return value
