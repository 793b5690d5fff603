"""Images by runs: the scores behind a comparison, image by image."""

import csv
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api import tables
from api.bodies import answers, as_json
from api.callers import Project
from api.parameters import LARGEST_ID, Runs, SomeExperiment
from api.routes.comparisons import Baseline, compared, left_out
from store.database import snapshot
from store.matrix import COLUMNS, Asked, By, Line, Matrix, Sort, matrix

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])

MOST_RUNS, MOST_ROWS = 200, 5000

Column = Annotated[str, Query(max_length=100, description=f"one of {', '.join(COLUMNS)}")]
Rows = Annotated[By, Query(description="what a row is; scans and subjects pool their images")]
Order = Annotated[
    Sort, Query(description="by place, by the difference to the baseline, or by value; what has none comes last")
]
Of = Annotated[
    Annotated[int, Query(ge=1, le=LARGEST_ID)] | None,
    Query(description="the run whose difference or value decides; left out: the mean of all, or the baseline"),
]
SomeScan = Annotated[int | None, Query(ge=0, le=10**9, description="images of this scan alone")]
SomeSubject = Annotated[
    str | None, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="images of this person alone")
]
SomePart = Annotated[Literal["val", "test"] | None, Query(description="images of this part alone")]
Window = Annotated[int, Query(ge=1, le=MOST_ROWS, description="most rows to return")]
Offset = Annotated[int, Query(ge=0, le=10**9)]


@router.get("/images", response_model=Matrix, responses=answers("text/csv"))
def read(
    project: Project,
    runs: Runs = None,
    experiment: SomeExperiment = None,
    column: Column = "lesion_dice",
    by: Rows = "image",
    baseline: Baseline = None,
    sort: Order = "difference",
    of: Of = None,
    descending: bool = False,
    scan: SomeScan = None,
    subject: SomeSubject = None,
    part: SomePart = None,
    limit: Window = 500,
    offset: Offset = 0,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002
) -> Response:
    """One score of every evaluated image under every run, beside the baseline's (the first run's unless given)."""
    with snapshot() as session:
        ids, lost = compared(session, project, runs, experiment, most=MOST_RUNS)
        asked = Asked(ids, column, by, baseline, sort, of, descending, scan, subject, part)
        found = matrix(session, project, asked, limit, offset)
    found.warnings = left_out(lost)
    if format == "json":
        return as_json(found)
    which = rows_of(found, offset)
    name = f"images-{which.replace(' ', '-')}.csv" if which else "images.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(to_csv(found, which), media_type="text/csv; charset=utf-8", headers=headers)


def rows_of(found: Matrix, offset: int) -> str:
    """``1 to 500 of 6400``: which rows these are; empty where they are all."""
    if len(found.lines) == found.total:
        return ""
    shown = f"{offset + 1} to {offset + len(found.lines)}" if found.lines else "none"
    return f"{shown} of {found.total}"


def to_csv(found: Matrix, part: str) -> str:
    """One line an image, one column a run; text cells that a spreadsheet program would run are neutralised.

    Every line ends with the score and the baseline's run, then with what else must be known, where there is
    something: which rows these are, all written overrides of splits, and which runs are left out.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    heads = [f"{head.run} {head.name}".strip() for head in found.runs]
    told = {"rows": part, "override": " ".join(found.overrides), "warnings": " ".join(found.warnings)}
    more = {"score": found.column, "baseline": str(found.baseline or "")}
    more |= {name: tables.neutral(text) for name, text in told.items() if text}
    writer.writerow(["part", "scan", "slice", "subject", "images", *map(tables.neutral, heads), "difference", *more])
    writer.writerows([*_cells(line), *more.values()] for line in found.lines)
    return out.getvalue()


def _cells(line: Line) -> list[str]:
    place = line.place
    numbers = ["" if one is None else str(one) for one in (place.scan, place.slice)]
    values = ["" if one is None else repr(one) for one in (*line.values, line.difference)]
    return [place.part, *numbers, tables.neutral(place.subject), str(line.images), *values]
