"""Images by runs: one score of every evaluated image under every run, beside a baseline's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import cautions
from store.models import Dataset, Run
from store.scores import RATIOS
from store.views import source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from liverseg_core.profiles import Column

By = Literal["image", "scan", "subject"]
Sort = Literal["place", "difference", "value"]

_STUDYS = {key: key for key in ("dice", "dice_liver", "dice_tumor")}

COLUMNS = {
    **{name: f"sum({above}) / nullif(sum({below}), 0)" for name, (above, below) in RATIOS.items()},
    "dice": "avg(dice)",
    "dice_liver": "avg(dice_liver)",
    "dice_tumor": "avg(dice_tumor)",
}
"""Column -> what it is over the images of a row: pooled counts at native size, or the mean of the study's own."""

ALONE = {**{name: f"{above} / nullif({below}, 0)" for name, (above, below) in RATIOS.items()}, **_STUDYS}
"""The same of one image, for which Postgres need not sort all of them by run."""

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
    ids = [run.id for run in runs]
    baseline = _among(ids, "baseline", asked.baseline) if runs else None
    of = _among(ids, "of", asked.of) if asked.of is not None else None
    grid = _grid(session, runs, asked, 0 if baseline is None else ids.index(baseline))
    shown = _order(grid, asked, None if of is None else ids.index(of))
    shown = shown[offset : None if limit is None else offset + limit]
    told = columns()[asked.column]
    return Matrix(
        column=asked.column,
        label=told.label,
        formula=told.formula,
        by=asked.by,
        baseline=baseline,
        runs=[_head(grid, number, run) for number, run in enumerate(runs)],
        lines=[_line(grid, place) for place in shown],
        total=len(grid.places),
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


def _among(ids: Sequence[int], name: str, wanted: int | None) -> int:
    if wanted is not None and wanted not in ids:
        raise InputError(name, "must be one of the runs compared", wanted)
    return ids[0] if wanted is None else wanted


@dataclass(frozen=True)
class _Grid:
    """All of it: L places by R runs, NaN where nothing can be said.

    Attributes:
        places: part, subject, scan (None: all of the subject) and slice (None: all of the scan), and how many images.
        values: [L, R].
        reference: column of the baseline.
    """

    places: Sequence[tuple[str, str, int | None, int | None, int]]
    values: "NDArray[np.float64]"
    reference: int

    @cached_property
    def differences(self) -> "NDArray[np.float64]":
        """Values less the baseline's, [L, R]."""
        return self.values - self.values[:, self.reference : self.reference + 1]

    @cached_property
    def mean_differences(self) -> "NDArray[np.float64]":
        """Of all runs but the baseline, [L]."""
        import numpy as np

        return _means(self.differences[:, np.arange(self.values.shape[1]) != self.reference])


def _means(rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Of the known values of each row; NaN where none is known."""
    import numpy as np

    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(known, rows, 0).sum(axis=1) / known.sum(axis=1)
    return means


def _grid(session: Session, runs: Sequence[Run], asked: Asked, reference: int) -> _Grid:
    """Every place by subject and along the body, with a value a run.

    A scan or subject of which the runs scored other slices is a row for each set of slices: nothing compares them.
    """
    import numpy as np

    subjects = {
        scan: subject
        for scan, subject in _subjects(session, runs).items()
        if asked.scan in (None, scan) and asked.subject in (None, subject)
    }
    owners = {owner: number for number, owner in enumerate(dict.fromkeys(map(source, runs)))}
    rows = session.execute(
        text(_query(asked)), {"runs": list(owners), "scans": list(subjects), "subjects": list(subjects.values())}
    ).all()
    found = np.full((len(rows), len(owners)), np.nan)
    counts = [len(row.runs) for row in rows]
    filled = [owners[run] for row in rows for run in row.runs]
    found[np.repeat(np.arange(len(rows)), counts), filled] = [value for row in rows for value in row.values_]
    places = [(row.part, row.subject, row.scan, row.slice, row.images) for row in rows]
    return _Grid(places, found[:, [owners[source(run)] for run in runs]], reference)


PLACES = {
    "image": "scan, slice",
    "scan": "scan, NULL::bigint AS slice",
    "subject": "NULL::bigint AS scan, NULL::bigint AS slice",
}
"""What a row is -> its scan and slice."""


SLICES = "bit_xor(hashint8extended(slice, scan))"
"""Tells one set of slices from another."""


def _query(asked: Asked) -> str:
    """A row a place, with the runs that have it and the value of each."""
    grouped = {"image": "subject, scan, slice", "scan": "subject, scan", "subject": "subject"}[asked.by]
    scored = (
        f"SELECT run_id, part, subject, {PLACES[asked.by]}, {{}}, ({{}})::float8 AS value "  # nosec B608  # noqa: S608 - from the lists above
        "FROM slice_scores JOIN unnest(CAST(:scans AS bigint[]), CAST(:subjects AS text[])) AS who (number, subject) "
        "ON number = scan WHERE run_id = ANY(:runs)"
    )
    if asked.by == "image":
        each = scored.format("1 AS images, 0 AS which", ALONE[asked.column])
    else:
        each = scored.format(f"count(*) AS images, {SLICES} AS which", COLUMNS[asked.column])
        each += f" GROUP BY run_id, part, {grouped}"
    return (
        "SELECT part, subject, scan, slice, images, array_agg(run_id) AS runs, array_agg(value) AS values_ "  # nosec B608  # noqa: S608 - from the lists above
        f"FROM ({each}) AS scored GROUP BY part, subject, scan, slice, images, which "
        "ORDER BY part, subject, scan, slice, images DESC, min(run_id)"
    )


def _subjects(session: Session, runs: Sequence[Run]) -> Mapping[int, str]:
    """Scan -> person, of the first run's data set."""
    if not runs:
        return {}
    people = session.scalars(select(Dataset.manifest["subjects"]).where(Dataset.id == runs[0].dataset_id)).one()
    return {int(scan): subject for scan, subject in people.items()}


def _known(value: float) -> float | None:
    return None if isnan(value) else float(value)


def _line(grid: _Grid, number: int) -> Line:
    part, subject, scan, slice_, images = grid.places[number]
    values = [None if isnan(value) else value for value in grid.values[number].tolist()]
    place = Place(part=part, scan=scan, slice=slice_, subject=subject)
    return Line(place=place, images=images, values=values, difference=_known(grid.mean_differences[number]))


def _head(grid: _Grid, number: int, run: Run) -> Head:
    own = grid.differences[:, number]
    better, worse = int((own > 0).sum()), int((own < 0).sum())
    return Head(run=run.id, name=run.name, better=better, worse=worse, difference=_known(_means(own[None])[0]))


def _order(grid: _Grid, asked: Asked, of: int | None) -> list[int]:
    """The places as they are asked for; those without a value come last."""
    import numpy as np

    if asked.sort == "place":
        every = list(range(len(grid.places)))
        return every[::-1] if asked.descending else every
    if asked.sort == "value":
        keys = grid.values[:, grid.reference if of is None else of]
    else:
        keys = grid.mean_differences if of is None else grid.differences[:, of]
    return list(np.argsort(-keys if asked.descending else keys, kind="stable").tolist())  # NaN last either way
