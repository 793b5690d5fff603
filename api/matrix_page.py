"""Images by runs as a page: its address is its whole state; a window of rows at a time."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from api import overlay_page, render, tables
from api.callers import Project
from api.comparison_page import SomeBaseline, need_selection
from api.overlay_page import MOST_RUNS as MOST_BESIDE
from api.parameters import Runs, SomeExperiment
from api.routes.comparisons import compared, left_out
from api.routes.matrices import MOST_ROWS, MOST_RUNS, Column, Of, Offset, Order, Rows, SomePart, SomeScan, SomeSubject
from store.database import snapshot
from store.matrix import Asked, Line, Matrix, columns, matrix

router = APIRouter(include_in_schema=False)

WINDOWS = (10, 25, 50, 100, 500)
"""How many rows the page offers to show at a time: ten of the worst, say."""

USUAL_CELLS = 2500
"""The rows that it shows unasked hold no more; a browser takes a tenth of a second for a thousand cells."""

NOTHING = "\N{EN DASH}"

STRONG = 0.25
"""A difference from which on a cell has its full colour."""


@router.get("/comparisons/images")
def matrix_page(
    request: Request,
    project: Project,
    runs: Runs = None,
    experiment: SomeExperiment = None,
    column: Column = "lesion_dice",
    by: Rows = "image",
    baseline: SomeBaseline = None,
    sort: Order = "difference",
    of: Of = None,
    descending: bool = False,
    scan: SomeScan = None,
    subject: SomeSubject = None,
    part: SomePart = None,
    limit: Annotated[int | None, Query(ge=1, le=WINDOWS[-1])] = None,
    offset: Offset = 0,
) -> Response:
    """Where runs differ, worst first."""
    need_selection(runs, experiment)
    with snapshot() as session:
        ids, lost = compared(session, project, runs, experiment, most=MOST_RUNS)
        if len(ids) == 1 and sort == "difference":  # from nothing
            sort = "value"
        asked = Asked(ids, column, by, baseline or None, sort, of, descending, scan, subject, part)
        usual = _usual(len(ids))
        found = matrix(session, project, asked, limit or usual, offset)
    found.warnings = left_out(lost)

    state: dict[str, Any] = {
        "runs": ",".join(map(str, ids)) if runs else "",
        "experiment": experiment,
        "column": "" if column == "lesion_dice" else column,
        "by": "" if by == "image" else by,
        "baseline": baseline,
        "sort": "" if sort == "difference" else sort,
        "of": of,
        "descending": "true" if descending else "",
        "scan": "" if scan is None else str(scan),
        "subject": subject,
        "part": part,
        "limit": limit or "",
    }

    def link(**changes: Any) -> str:
        return urlencode({name: value for name, value in {**state, **changes}.items() if value}, safe=",")

    return render.page(
        request,
        "matrix.html",
        matrix=found,
        asked=asked,
        columns={key: one.label for key, one in columns().items()},
        link=link,
        first=offset,
        window=limit or usual,
        windows=WINDOWS,
        usual=usual,
        exported=MOST_ROWS,
        sorted_by=_sorted_by(asked, found),
        cells=_cells(found),
        state=state,
    )


def _usual(runs: int) -> int:
    """How many rows of so many runs are shown unasked: 10 to 100."""
    return max(many for many in WINDOWS if many <= 10 or (many <= 100 and many * runs <= USUAL_CELLS))


def _sorted_by(asked: Asked, found: Matrix) -> int | str | None:
    """Which column decides the order: a run's, that of the places or of the mean differences."""
    if asked.sort == "value":
        return asked.of or found.baseline
    return "place" if asked.sort == "place" else asked.of or "difference"


def _cells(found: Matrix) -> Callable[[Line], Markup]:
    """A function from a line to its cells; the value of an image leads to its pixels.

    The template would take three times as long over thousands of them. Nothing in them was written by a person.
    """
    ids = [head.run for head in found.runs]
    base = ids.index(found.baseline) if found.baseline else 0
    beside = [_beside(run, found.baseline or run, ids) for run in ids]

    def cells(line: Line) -> Markup:
        before = line.values[base]
        texts = [tables.percent(value) or NOTHING for value in line.values]
        if line.place.scan is not None and line.place.slice is not None:
            start = overlay_page.image_path(line.place.part, line.place.scan, line.place.slice)
            texts = [f'<a href="{start}?{query}">{text}</a>' for query, text in zip(beside, texts, strict=True)]
        tones = [tone(value, before) for value in line.values]
        every = zip(tones, texts, strict=True)
        return Markup("".join(f'<td class="number {tone}">{text}</td>' for tone, text in every))  # nosec B704  # noqa: S704 - numbers and words of ours

    return cells


def _beside(run: int, baseline: int, ids: Sequence[int]) -> str:
    """The query of the page that shows a run beside the baseline and as many others as fit."""
    chosen = set(list(dict.fromkeys([baseline, run, *ids]))[:MOST_BESIDE])
    return overlay_page.query([one for one in ids if one in chosen])


def tone(value: float | None, baseline: float | None) -> str:
    """Class of a cell: how much it is above (``up1`` to ``up4``) or below (``down1`` to ``down4``) the baseline."""
    if value is None or baseline is None or value == baseline:
        return ""
    step = min(4, 1 + int(4 * abs(value - baseline) / STRONG))
    return f"{'up' if value > baseline else 'down'}{step}"
