"""Images by runs: the scores behind a comparison, image by image."""

import csv
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api import tables
from api.bodies import answers, as_json
from api.callers import Project
from api.parameters import LARGEST_ID, Runs, SomeExperiment
from api.routes.comparisons import Baseline, compared
from store.database import snapshot
from store.matrix import COLUMNS, Asked, By, Line, Matrix, Sort, matrix

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])

MOST_RUNS = 200

Column = Annotated[str, Query(max_length=100, description=f"one of {', '.join(COLUMNS)}")]
Rows = Annotated[By, Query(description="what a row is; scans and subjects pool their images")]
Order = Annotated[
    Sort, Query(description="by place, by the difference to the baseline, or by value; what has none comes last")
]
Of = Annotated[
    Annotated[int, Query(ge=1, le=LARGEST_ID)] | None,
    Query(description="the run whose difference or value decides; left out: the mean of all, or the baseline"),
]
Window = Annotated[int, Query(ge=1, le=5000, description="most rows to return")]
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
    limit: Window = 500,
    offset: Offset = 0,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002
) -> Response:
    """One score of every evaluated image under every run, beside the baseline's (the first run's unless given)."""
    with snapshot() as session:
        ids, _ = compared(session, project, runs, experiment, most=MOST_RUNS)
        found = matrix(session, project, Asked(ids, column, by, baseline, sort, of, descending), limit, offset)
    if format == "json":
        return as_json(found)
    headers = {"Content-Disposition": 'attachment; filename="images.csv"'}
    return Response(to_csv(found), media_type="text/csv; charset=utf-8", headers=headers)


def to_csv(found: Matrix) -> str:
    """One line an image, one column a run; text cells that a spreadsheet program would run are neutralised.

    Where a split has a written override, every line ends with all of them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    heads = [f"{head.run} {head.name}".strip() for head in found.runs]
    more = {"override": tables.neutral(" ".join(found.overrides))} if found.overrides else {}
    writer.writerow(["part", "scan", "slice", "subject", "images", *map(tables.neutral, heads), "difference", *more])
    writer.writerows([*_cells(line), *more.values()] for line in found.lines)
    return out.getvalue()


def _cells(line: Line) -> list[str]:
    place = line.place
    numbers = ["" if one is None else str(one) for one in (place.scan, place.slice)]
    values = ["" if one is None else repr(one) for one in (*line.values, line.difference)]
    return [place.part, *numbers, tables.neutral(place.subject), str(line.images), *values]
