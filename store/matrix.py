"""Images by runs: one score of every evaluated image under every run, beside a baseline's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import arrays, cautions
from store.arrays import PART, PARTS
from store.database import among
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

COLUMNS = {**RATIOS, **{key: (key, "1") for key in _STUDYS}}
"""Column -> what is summed over the images of a row, and by which sum that is divided: pooled counts at native size,
or the mean of the study's own."""

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
        part: ``val`` or ``test`` alone; None: both.
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
    part: str | None = None


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
        lines=_lines(grid, shown),
        total=len(grid.places),
        overrides=cautions.overrides(runs),
    )


def _runs(session: Session, project_id: int, wanted: Sequence[int]) -> list[Run]:
    known = {
        run.id: run for run in session.scalars(select(Run).where(Run.project_id == project_id, among(Run.id, wanted)))
    }
    runs = [known[one] for one in dict.fromkeys(wanted) if one in known]
    if not of_same_images(session, [run.id for run in runs]):
        raise InputError("runs", "are of data sets with other images; compare those of one", [run.id for run in runs])
    return runs


def of_same_images(session: Session, run_ids: Sequence[int]) -> bool:
    """Whether the runs are of one data set or of several with the same slices, so that they have a matrix."""
    contents = select(Dataset.content_hash).join(Run, Run.dataset_id == Dataset.id).where(among(Run.id, run_ids))
    return len(session.scalars(contents.distinct()).all()) < 2


def _among(ids: Sequence[int], name: str, wanted: int | None) -> int:
    if wanted is not None and wanted not in ids:
        raise InputError(name, "must be one of the runs compared", wanted)
    return ids[0] if wanted is None else wanted


@dataclass(frozen=True)
class _Grid:
    """All of it: L places by R runs, NaN where nothing can be said.

    Attributes:
        places: the lines, in their order.
        values: [L, R].
        reference: column of the baseline.
    """

    places: Sequence["Where"]
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
    people = {
        scan: subject
        for scan, subject in _subjects(session, runs).items()
        if asked.scan in (None, scan) and asked.subject in (None, subject)
    }
    owners = {owner: number for number, owner in enumerate(dict.fromkeys(map(source, runs)))}
    places, found = _placed(_scored(session, list(owners), list(people), asked), people, owners, asked.by)
    return _Grid(places, found[:, [owners[source(run)] for run in runs]], reference)


def _scored(session: Session, runs: list[int], scans: list[int], asked: Asked) -> "NDArray[Any]":
    """Every image of these scans under every run, with what is summed of it."""
    above, below = COLUMNS[asked.column]
    parts = [asked.part] if asked.part else list(PARTS)
    query = (
        f"SELECT run_id, {PART}, scan, slice, ({above})::float8, ({below})::float8 FROM slice_scores "  # nosec B608  # noqa: S608 - from the lists above
        "WHERE run_id = ANY(%s) AND scan = ANY(%s) AND part = ANY(%s)"
    )
    kinds = dict.fromkeys(("run", "part", "scan", "slice"), "i8") | dict.fromkeys(("above", "below"), "f8")
    return arrays.read(session, query, [runs, scans, parts], kinds)


Where = tuple[str, str, int | None, int | None, int]
"""Part, subject, scan (None: all of the subject), slice (None: all of the scan), and how many images."""


def _placed(
    rows: "NDArray[Any]", people: Mapping[int, str], owners: Mapping[int, int], by: By
) -> "tuple[list[Where], NDArray[np.float64]]":
    """Every place by subject and along the body, and its value under each owner, NaN where there is none."""
    import numpy as np

    part, scan, slice_ = (rows[name].astype(np.int64) for name in ("part", "scan", "slice"))
    _, first, at = np.unique(_numbered(part, scan, slice_, people, by), return_index=True, return_inverse=True)
    runs = np.array([owners[run] for run in rows["run"].tolist()], np.int64)
    groups, of, sizes = np.unique(at * len(owners) + runs, return_inverse=True, return_counts=True)
    place, owner = np.divmod(groups, len(owners))
    with np.errstate(invalid="ignore"):
        values = np.bincount(of, rows["above"]) / np.bincount(of, rows["below"])
    lines, line = [(number, 1) for number in range(len(first))], place
    if by != "image":
        images = np.stack([scan, slice_], axis=1)[np.lexsort((slice_, scan, of))]
        lines, line = _apart(place.tolist(), [one.tobytes() for one in np.split(images, np.cumsum(sizes)[:-1])])
    found = np.full((len(lines), len(owners)), np.nan)
    found[line, owner] = values
    parts, scans, slices = (values[first].tolist() for values in (part, scan, slice_))
    return [
        (
            PARTS[parts[number]],
            people[scans[number]],
            None if by == "subject" else scans[number],
            slices[number] if by == "image" else None,
            size,
        )
        for number, size in lines
    ], found


def _numbered(
    part: "NDArray[np.int64]",
    scan: "NDArray[np.int64]",
    slice_: "NDArray[np.int64]",
    people: Mapping[int, str],
    by: By,
) -> "NDArray[np.int64]":
    """A number for the place of each image, which rises by part, subject, scan and slice."""
    import numpy as np

    names, scans = sorted(set(people.values())), np.array(sorted(people), np.int64)
    place = np.searchsorted(scans, scan)
    owners = np.array([names.index(people[one]) for one in scans.tolist()], np.int64)
    number = (1 - part) * len(names) + owners[place]  # test before val
    if by != "subject":
        number = number * len(scans) + place
    return number * (slice_.max(initial=0) + 1) + slice_ if by == "image" else number


def _apart(places: Sequence[int], images: Sequence[bytes]) -> tuple[list[tuple[int, int]], list[int]]:
    """The lines of groups of images: one for each place and set of images, since nothing compares different ones.

    Args:
        places: of each group, ascending; within a place in the order of the columns.
        images: of each group, those that its run scored there.

    Returns:
        Of each line its place and how many images it is over, largest sets first; of each group its line.
    """
    sets = dict.fromkeys(zip(places, images, strict=True))
    ordered = sorted(sets, key=lambda one: (one[0], -len(one[1])))
    number = {one: place for place, one in enumerate(ordered)}
    lines = [(place, len(some) // 16) for place, some in ordered]  # two numbers of eight bytes an image
    return lines, [number[one] for one in zip(places, images, strict=True)]


def _subjects(session: Session, runs: Sequence[Run]) -> Mapping[int, str]:
    """Scan -> person, of the first run's data set."""
    if not runs:
        return {}
    people = session.scalars(select(Dataset.manifest["subjects"]).where(Dataset.id == runs[0].dataset_id)).one()
    return {int(scan): subject for scan, subject in people.items()}


def _known(value: float) -> float | None:
    return None if isnan(value) else float(value)


def _lines(grid: _Grid, shown: Sequence[int]) -> list[Line]:
    import numpy as np

    values = grid.values[shown].astype(object)
    values[np.isnan(grid.values[shown])] = None
    lines = []
    for number, row in zip(shown, values.tolist(), strict=True):
        part, subject, scan, slice_, images = grid.places[number]
        place = Place(part=part, scan=scan, slice=slice_, subject=subject)
        lines.append(Line(place=place, images=images, values=row, difference=_known(grid.mean_differences[number])))
    return lines


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
