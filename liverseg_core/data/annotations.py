"""What is told of the scans of a data set beside their pixels: whom they show, and how they were taken.

Two small JSON files of untrusted origin. Nothing is read from them but what is named here.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from liverseg_core.errors import DataError

MAX_SUBJECT_LENGTH = 100
MAX_SPACING = 100.0
"""Millimetres; no two slices of a scan lie further apart."""
MAX_HU = 100_000.0

SUBJECTS_EXAMPLE = '{"subjects": {"0": "A", "1": "A"}}'
ACQUISITIONS_EXAMPLE = '{"acquisitions": {"0": {"spacing": [0.7, 0.7, 5.0], "window": [50, 400]}}}'


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How one scan lies in space, and what its grey values mean.

    Attributes:
        spacing: millimetres between the centres of neighbouring rows, columns and slices.
        window: level and width in Hounsfield units of what grey 0 to 255 shows; None where nobody told.
    """

    spacing: tuple[float, float, float]
    window: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; a window that nobody told is left out."""
        window = {} if self.window is None else {"window": list(self.window)}
        return {"spacing": list(self.spacing), **window}


def parse_subjects(data: bytes, name: str) -> dict[int, str]:
    """Scan -> subject from ``{"subjects": {"0": "A"}}`` or the bare mapping.

    Raises:
        DataError: no JSON, another shape, a scan that is no number or is named twice, an empty or overlong subject.
    """
    told = _by_scan(data, name, "subjects", f"scans to subjects, such as {SUBJECTS_EXAMPLE}")
    for scan, subject in told.items():
        if not isinstance(subject, str) or not 0 < len(subject.strip()) <= MAX_SUBJECT_LENGTH:
            raise DataError(
                name, f"scan {scan}: a subject is a text of 1 to {MAX_SUBJECT_LENGTH} characters", subject
            )
    return told


def parse_acquisitions(data: bytes, name: str) -> dict[int, Acquisition]:
    """Scan -> how it was taken, from ``{"acquisitions": {"0": {"spacing": [...], "window": [...]}}}``.

    Raises:
        DataError: no JSON, another shape, a field that is not known, a number out of range.
    """
    told = _by_scan(data, name, "acquisitions", f"scans to acquisitions, such as {ACQUISITIONS_EXAMPLE}")
    return {scan: acquisition(value, f"{name}: scan {scan}") for scan, value in told.items()}


def acquisition(value: Any, where: str) -> Acquisition:
    """One acquisition out of plain data.

    Raises:
        DataError: as :func:`parse_acquisitions`.
    """
    if not isinstance(value, dict) or not {"spacing"} <= value.keys() <= {"spacing", "window"}:
        raise DataError(where, "holds spacing, window (which may be left out) and nothing else")
    spacing = _numbers(value["spacing"], 3)
    if spacing is None or not all(0 < number <= MAX_SPACING for number in spacing):
        wanted = f"three numbers over 0 and up to {MAX_SPACING:g}"
        raise DataError(f"{where}: spacing", f"must be millimetres between rows, columns and slices, {wanted}")
    window = _window(value["window"], where) if "window" in value else None
    return Acquisition((spacing[0], spacing[1], spacing[2]), window)


def subjects_json(subjects: Mapping[int, str]) -> str:
    return json.dumps({"subjects": {str(scan): subjects[scan] for scan in sorted(subjects)}}, indent=1)


def acquisitions_json(acquisitions: Mapping[int, Acquisition]) -> str:
    told = {str(scan): acquisitions[scan].to_json() for scan in sorted(acquisitions)}
    return json.dumps({"acquisitions": told}, indent=1)


def in_words(acquisitions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What a page or a card says of acquisitions (as :meth:`Acquisition.to_json`); empty where there are none.

    Spacing is ``0.7 to 0.9 x 0.7 to 0.9 x 5 mm``: the extremes over the scans, where they differ.
    """
    told = list(acquisitions)
    if not told:
        return {}
    axes = zip(*(one["spacing"] for one in told), strict=True)
    words = {"Spacing": " x ".join(_range(axis) for axis in axes) + " mm (rows, columns, slices)"}
    windows = sorted({tuple(one["window"]) for one in told if one.get("window")})
    if windows:
        words["Window"] = ", ".join(f"level {level:g}, width {width:g}" for level, width in windows) + " HU"
    return words


def _range(numbers: Iterable[float]) -> str:
    found = sorted(numbers)
    least, most = f"{found[0]:.4g}", f"{found[-1]:.4g}"
    return least if least == most else f"{least} to {most}"


def _window(value: Any, where: str) -> tuple[float, float]:
    window = _numbers(value, 2)
    if window is None or abs(window[0]) > MAX_HU or not 0 < window[1] <= MAX_HU:
        wanted = f"within {MAX_HU:,.0f}, the width over 0"
        raise DataError(f"{where}: window", f"must be level and width in Hounsfield units, two numbers {wanted}")
    return window[0], window[1]


def _numbers(value: Any, count: int) -> list[float] | None:
    """So many finite numbers, or None where it is something else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        return None
    try:
        found = [float(one) for one in value]
    except OverflowError:
        return None
    return found if all(map(math.isfinite, found)) else None


def _by_scan(data: bytes, name: str, key: str, wanted: str) -> dict[int, Any]:
    """Scan -> value from ``{key: {"0": ...}}`` or the bare mapping, scans rising."""
    try:
        value = json.loads(data, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise DataError(name, f"is no valid JSON ({error})") from error
    if isinstance(value, dict) and isinstance(value.get(key), dict):
        value = value[key]
    if not isinstance(value, dict):
        raise DataError(name, f"must map {wanted}", value)
    for scan in value:
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", scan):
            raise DataError(name, "a scan is a number without leading zeros, in quotes", scan)
    return {int(scan): one for scan, one in sorted(value.items(), key=lambda item: int(item[0]))}


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found
