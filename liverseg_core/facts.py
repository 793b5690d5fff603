"""The stored facts of one run and part as NumPy columns, and their sums over slices, scans, subjects or all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from liverseg_core.records import LesionComponent, SliceScore

Numbers = NDArray[np.int64]
Reals = NDArray[np.float64]
Level = Literal["slice", "scan", "subject", "pooled"]
"""What a mean is taken over: slices; pooled scans; pooled persons; nothing, since all pixels are pooled."""
Matrix = Literal["counts", "quantised"]
Hits = tuple[Reals, Reals, Reals]
"""TP, FP, FN, each ``[g]``"""


@dataclass(frozen=True)
class Components:
    """The lesions of a run and part (``liverseg_core.records.LesionComponent``) as columns ``[m]``.

    Attributes:
        scan: scan number.
        slice: slice number; -1 for a lesion of the whole scan.
        predicted: whether it is the prediction's.
        pixels: pixels, or voxels of the scan.
        iou: with its partner, 0 without.
    """

    scan: Numbers
    slice: Numbers
    predicted: NDArray[np.bool_]
    pixels: Numbers
    iou: Reals

    @classmethod
    def of(cls, lesions: Sequence[LesionComponent]) -> "Components":
        """Columns of records."""
        return cls(
            scan=np.array([one.scan for one in lesions], np.int64),
            slice=np.array([-1 if one.slice is None else one.slice for one in lesions], np.int64),
            predicted=np.array([one.predicted for one in lesions], bool),
            pixels=np.array([one.pixels for one in lesions], np.int64),
            iou=np.array([one.iou for one in lesions], np.float64),
        )

    def __getitem__(self, chosen: NDArray[Any]) -> "Components":
        return Components(**_rows(self, chosen))


@dataclass(frozen=True)
class Facts:
    """The scores of one run and part (``liverseg_core.records.SliceScore``) as columns over its ``n`` slices.

    Attributes:
        scan: scan numbers.
        slice: slice numbers.
        subject: who each slice shows, strings.
        counts: ``[n, 9]`` at native size.
        quantised: ``[n, 9]``, of the study's quantised labels.
        tp, fp, fn: pixels at network size.
        dice, dice_liver, dice_tumor: the study's soft scores.
        components: the lesions; None where they were not stored, which is not the same as no lesion.
    """

    scan: Numbers
    slice: Numbers
    subject: NDArray[np.str_]
    counts: Numbers
    quantised: Numbers
    tp: Numbers
    fp: Numbers
    fn: Numbers
    dice: Reals
    dice_liver: Reals
    dice_tumor: Reals
    components: Components | None = None

    @classmethod
    def of(
        cls, scores: Sequence[SliceScore], lesions: Sequence[LesionComponent] | None, subjects: Mapping[int, str]
    ) -> "Facts":
        """Columns of the records of one part.

        Args:
            scores: at least one, all of one part.
            lesions: of the same part; None where they were not stored.
            subjects: scan -> person.
        """
        columns: dict[str, Any] = {
            name: np.array([getattr(one, name) for one in scores], np.float64 if "dice" in name else np.int64)
            for name in ("scan", "slice", "counts", "quantised", "tp", "fp", "fn", "dice", "dice_liver", "dice_tumor")
        }
        people = np.array([subjects[one.scan] for one in scores])
        return cls(subject=people, components=None if lesions is None else Components.of(lesions), **columns)

    def __len__(self) -> int:
        return len(self.scan)

    def only(self, subject: str) -> "Facts":
        """The slices and lesions of one person."""
        chosen = Facts(**_rows(self, self.subject == subject, "components"))
        lesions = self.components
        kept = None if lesions is None else lesions[np.isin(lesions.scan, chosen.scan)]
        return replace(chosen, components=kept)


def _rows(columns: Any, chosen: NDArray[Any], *left_out: str) -> dict[str, Any]:
    names = [one.name for one in fields(columns) if one.name not in left_out]
    return {name: getattr(columns, name)[chosen] for name in names}


class Units:
    """Facts summed over the slices of each unit of a level: ``g`` slices, scans, subjects, or 1.

    Attributes:
        facts: what is summed.
        level: what a unit is.
        index: ``[n]`` which unit each slice belongs to, 0..g-1.
        size: g.
    """

    def __init__(self, facts: Facts, level: Level) -> None:
        self.facts, self.level = facts, level
        names = {"scan": facts.scan, "subject": facts.subject, "pooled": np.zeros(len(facts), np.int64)}
        self.index = np.arange(len(facts)) if level == "slice" else np.unique(names[level], return_inverse=True)[1]
        self.size = int(self.index.max(initial=-1)) + 1
        self._hits: dict[tuple[Matrix, tuple[int, ...]], Hits] = {}

    def sum(self, values: NDArray[Any]) -> Reals:
        """``[n]`` or ``[n, k]`` added up in each unit: ``[g]`` or ``[g, k]``."""
        if self.level == "slice":
            return values.astype(np.float64)
        if values.ndim == 1:
            added: Reals = np.bincount(self.index, values, minlength=self.size).astype(np.float64)
            return added
        return np.stack([self.sum(column) for column in values.T], axis=1)

    @cached_property
    def counts(self) -> Reals:
        """``[g, 3, 3]`` truth x prediction at native size."""
        return self.sum(self.facts.counts).reshape(-1, 3, 3)

    @cached_property
    def quantised(self) -> Reals:
        """``[g, 3, 3]`` of the study's quantised labels."""
        return self.sum(self.facts.quantised).reshape(-1, 3, 3)

    @cached_property
    def pixels(self) -> Reals:
        """``[g]`` pixels at native size."""
        summed: Reals = self.counts.sum(axis=(1, 2))
        return summed

    def hits(self, matrix: Matrix, labels: tuple[int, ...]) -> Hits:
        """TP, FP, FN of the class made of ``labels``."""
        if (matrix, labels) not in self._hits:
            counts, chosen = getattr(self, matrix), list(labels)
            tp = counts[:, chosen][:, :, chosen].sum(axis=(1, 2))
            found = counts[:, :, chosen].sum(axis=(1, 2)) - tp
            self._hits[matrix, labels] = tp, found, counts[:, chosen].sum(axis=(1, 2)) - tp
        return self._hits[matrix, labels]

    @cached_property
    def lesion_free(self) -> Reals:
        """``[g, 3]`` over slices without a true lesion: how many, their pixels, those predicted as lesion."""
        counts = self.facts.counts.reshape(-1, 3, 3)
        free = counts[:, 2].sum(axis=1) == 0
        columns = (np.ones(len(free)), counts.sum(axis=(1, 2)), counts[:, :, 2].sum(axis=1))
        return self.sum(np.stack(columns, axis=1) * free[:, None])

    @cached_property
    def lesions(self) -> tuple[Components, Numbers] | None:
        """Lesions of slices (level slice) or else of scans, and the unit ``[m]`` of each; None: not stored."""
        if self.facts.components is None:
            return None
        own = self.facts.components
        own = own[(own.slice >= 0) == (self.level == "slice")]
        by_slice = self.level == "slice"
        here, there = (_codes(one.scan, one.slice if by_slice else 0) for one in (self.facts, own))
        order = np.argsort(here, kind="stable")
        return own, self.index[order[np.searchsorted(here, there, sorter=order)]]

    def lesion_counts(self, chosen: Any) -> Reals | None:
        """``[g]`` lesions that ``chosen(components) -> [m] bool`` holds for; None where none were stored."""
        if self.lesions is None:
            return None
        components, units = self.lesions
        return np.bincount(units[chosen(components)], minlength=self.size).astype(np.float64)


class Sums:
    """Facts and all their units, each summed up when first asked for: what several profiles share.

    Attributes:
        facts: what is summed.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._units: dict[Level, Units] = {}

    @classmethod
    def of(cls, facts: "Facts | Sums") -> "Sums":
        return facts if isinstance(facts, Sums) else cls(facts)

    def units(self, level: Level) -> Units:
        if level not in self._units:
            self._units[level] = Units(self.facts, level)
        return self._units[level]

    @cached_property
    def by_subject(self) -> dict[str, "Sums"]:
        """Person -> the sums of that person's slices and lesions alone, by rising name."""
        people = [str(one) for one in np.unique(self.facts.subject)]
        return {one: self if len(people) == 1 else Sums(self.facts.only(one)) for one in people}


def _codes(scan: Numbers, number: Numbers | int) -> Numbers:
    return scan * 2**32 + number
