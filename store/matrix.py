"""Images by runs: one score of every evaluated image under every run, beside a baseline's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import cautions
from store.models import Dataset, Run
from store.scores import RATIOS
from store.views import source

if TYPE_CHECKING:
    from liverseg_core.profiles import Column

By = Literal["image", "scan", "subject"]
Sort = Literal["place", "difference", "value"]

COLUMNS = {
    **{name: f"sum({above}) / nullif(sum({below}), 0)" for name, (above, below) in RATIOS.items()},
    "dice": "avg(dice)",
    "dice_liver": "avg(dice_liver)",
    "dice_tumor": "avg(dice_tumor)",
}
"""Column -> what it is over the images of a row: pooled counts at native size, or the mean of the study's own."""

_STUDYS = {key: key for key in ("dice", "dice_liver", "dice_tumor")}

SAME = {
    "overview": {**_STUDYS, "pooled_liver_dice": "liver_dice", "pooled_lesion_dice": "lesion_dice"},
    "modern": {key: key for key in RATIOS},
    "paper-2019": _STUDYS,
    "paper-2019-fig4": {"dice": "dice"},
    "nnunet": {"Dice_2": "lesion_dice"},
}
"""Profile -> its columns that can be seen image by image -> key of :data:`COLUMNS` with the same formula."""


def columns() -> "dict[str, Column]":
    """The columns with their names and formulas: of profile ``modern``, or of the study's."""
    from liverseg_core import profiles  # NumPy is loaded when somebody asks

    return {key: profiles.column("modern" if key in RATIOS else "paper-2019", key) for key in COLUMNS}


class Place(BaseModel):
    """What a row stands for: an image, or all evaluated images of a scan or of a subject."""

    part: str
    scan: int | None = None
    slice: int | None = None
    subject: str


class Line(BaseModel):
    """Values of one place by run, null where nothing can be said; ``difference``: mean of value - baseline's."""

    place: Place
    images: int
    values: list[float | None]
    difference: float | None


class Head(BaseModel):
    """A column: a run, how many places it is better and worse at than the baseline, and its mean difference."""

    run: int
    name: str
    better: int = 0
    worse: int = 0
    difference: float | None = None


class Matrix(BaseModel):
    """``lines`` from ``offset`` on, of ``total``; ``formula``: of an image, and of the pooled images of a row.

    ``overrides``: every written override of a split, with the runs that it touches; ``warnings``: of runs that were
    asked for and are deleted.
    """

    column: str
    label: str
    formula: str
    by: By
    baseline: int | None
    runs: list[Head]
    lines: list[Line]
    total: int
    overrides: list[str]
    warnings: list[str] = []


@dataclass(frozen=True)
class Asked:
    """Which runs, which score, and in which order.

    Attributes:
        runs: ids, in the order of the columns.
        column: key of :data:`COLUMNS`.
        by: what a row is.
        baseline: one of the runs; None: the first.
        sort: by place, by the mean difference to the baseline, or by the value of the run ``of``.
        of: a run whose difference or value is meant; None: all but the baseline, or the baseline itself.
        descending: largest first; what has no value comes last either way.
        scan: its images alone; None: of every scan.
        subject: images of this person alone; None: of everybody.
    """

    runs: Sequence[int]
    column: str = "lesion_dice"
    by: By = "image"
    baseline: int | None = None
    sort: Sort = "difference"
    of: int | None = None
    descending: bool = False
    scan: int | None = None
    subject: str | None = None


def matrix(session: Session, project_id: int, asked: Asked, limit: int | None = 100, offset: int = 0) -> Matrix:
    """The rows wanted of the matrix; ids that the project does not have are left out (the caller checks).

    Raises:
        InputError: an unknown column; a baseline or ``of`` that is not among the runs; runs of data sets whose
            images are not the same.
    """
    if asked.column not in COLUMNS:
        raise InputError("column", f"is none of {', '.join(COLUMNS)}", asked.column)
    runs = _runs(session, project_id, asked.runs)
    heads = [Head(run=run.id, name=run.name) for run in runs]
    baseline = _among(runs, "baseline", asked.baseline) if runs else None
    lines = _lines(session, runs, asked)
    reference = next((number for number, head in enumerate(heads) if head.run == baseline), 0)
    for line in lines:
        line.difference = _mean(_differences(line, reference))
    for number, head in enumerate(heads):
        _tell(head, [_less(line.values[number], line.values[reference]) for line in lines])
    of = _among(runs, "of", asked.of) if asked.of is not None else None
    ordered = _sorted(lines, asked, reference, next((n for n, head in enumerate(heads) if head.run == of), None))
    shown = ordered[offset : None if limit is None else offset + limit]
    told = columns()[asked.column]
    return Matrix(
        column=asked.column,
        label=told.label,
        formula=told.formula,
        by=asked.by,
        baseline=baseline,
        runs=heads,
        lines=shown,
        total=len(lines),
        overrides=cautions.overrides(runs),
    )


def _runs(session: Session, project_id: int, wanted: Sequence[int]) -> list[Run]:
    known = {
        run.id: run for run in session.scalars(select(Run).where(Run.project_id == project_id, Run.id.in_(wanted)))
    }
    runs = [known[one] for one in dict.fromkeys(wanted) if one in known]
    if not of_same_images(session, [run.id for run in runs]):
        raise InputError("runs", "are of data sets with other images; compare those of one", [run.id for run in runs])
    return runs


def of_same_images(session: Session, run_ids: Sequence[int]) -> bool:
    """Whether the runs are of one data set or of several with the same slices, so that they have a matrix."""
    contents = select(Dataset.content_hash).join(Run, Run.dataset_id == Dataset.id).where(Run.id.in_(run_ids))
    return len(session.scalars(contents.distinct()).all()) < 2


def _among(runs: Sequence[Run], name: str, wanted: int | None) -> int:
    ids = [run.id for run in runs]
    if wanted is not None and wanted not in ids:
        raise InputError(name, "must be one of the runs compared", wanted)
    return ids[0] if wanted is None else wanted


def _lines(session: Session, runs: Sequence[Run], asked: Asked) -> list[Line]:
    """Every place by subject and along the body, with a value a run.

    A scan or subject of which the runs scored other slices is a row for each set of slices: nothing compares them.
    """
    subjects = {
        scan: subject
        for scan, subject in _subjects(session, runs).items()
        if asked.scan in (None, scan) and asked.subject in (None, subject)
    }
    found: dict[tuple[Any, ...], Line] = {}
    columns = {owner: [n for n, run in enumerate(runs) if source(run) == owner] for owner in map(source, runs)}
    who = {"scans": list(subjects), "subjects": list(subjects.values())}
    rows = session.execute(text(_query(asked)), {"runs": list(columns), **who}).all()
    for owner, part, subject, scan, number, images, which, value in rows:
        key = part, subject, scan, number, which
        if key not in found:
            place = Place(part=part, scan=scan, slice=number, subject=subject)
            found[key] = Line(place=place, images=images, values=[None] * len(runs), difference=None)
        for column in columns[owner]:
            found[key].values[column] = value
    return list(found.values())


PLACES = {
    "image": "scan, slice",
    "scan": "scan, NULL::bigint",
    "subject": "NULL::bigint, NULL::bigint",
}
"""What a row is -> its scan and slice."""


SLICES = "bit_xor(hashint8extended(slice, scan))"
"""Tells one set of slices from another."""


def _query(asked: Asked) -> str:
    grouped = {"image": "subject, scan, slice", "scan": "subject, scan", "subject": "subject"}[asked.by]
    return (
        f"SELECT run_id, part, subject, {PLACES[asked.by]}, count(*), {SLICES}, ({COLUMNS[asked.column]})::float8 "  # nosec B608  # noqa: S608 - from the lists above
        "FROM slice_scores JOIN unnest(CAST(:scans AS bigint[]), CAST(:subjects AS text[])) AS who (number, subject) "
        f"ON number = scan WHERE run_id = ANY(:runs) GROUP BY run_id, part, {grouped} ORDER BY part, {grouped}"
    )


def _subjects(session: Session, runs: Sequence[Run]) -> Mapping[int, str]:
    """Scan -> person, of the first run's data set."""
    if not runs:
        return {}
    people = session.scalars(select(Dataset.manifest["subjects"]).where(Dataset.id == runs[0].dataset_id)).one()
    return {int(scan): subject for scan, subject in people.items()}


def _less(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _differences(line: Line, reference: int) -> list[float]:
    others = [value for number, value in enumerate(line.values) if number != reference]
    return [one for value in others if (one := _less(value, line.values[reference])) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _tell(head: Head, differences: Sequence[float | None]) -> None:
    known = [one for one in differences if one is not None]
    head.better, head.worse = sum(one > 0 for one in known), sum(one < 0 for one in known)
    head.difference = _mean(known)


def _sorted(lines: list[Line], asked: Asked, reference: int, of: int | None) -> list[Line]:
    if asked.sort == "place":
        return lines[::-1] if asked.descending else lines

    def key(line: Line) -> float | None:
        if asked.sort == "value":
            return line.values[reference if of is None else of]
        return line.difference if of is None else _less(line.values[of], line.values[reference])

    have = [(value, line) for line in lines if (value := key(line)) is not None]
    ordered = [line for _, line in sorted(have, key=lambda pair: pair[0], reverse=asked.descending)]
    return [*ordered, *(line for line in lines if key(line) is None)]
