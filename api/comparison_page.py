"""The comparison as a page: its address is its whole state, and it works without scripts."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api import render, tables
from api.callers import Project
from api.parameters import LARGEST_ID, Runs, SomeExperiment
from api.routes.comparisons import Asked, Level, Profile, Tables, TestedColumn, choose
from store import printed
from store.comparison import OVERVIEW
from store.database import transaction
from store.measure import Measure
from store.rows import Column, Comparison, Row

router = APIRouter(include_in_schema=False)

SORTABLE_FACTS = ("run", "name", "slices", "epochs", "best_epoch")

SomeBaseline = Annotated[Annotated[int, Query(ge=1, le=LARGEST_ID)] | Literal[""] | None, Query()]
"""As of the API; a form sends an empty one for none."""


@router.get("/comparisons")
def comparison_page(
    request: Request,
    project: Project,
    runs: Runs = None,
    experiment: SomeExperiment = None,
    profile: Profile = OVERVIEW,
    level: Level = "",
    baseline: SomeBaseline = None,
    tables: Tables = None,
    column: TestedColumn = "",
    sort: Annotated[str, Query(max_length=200)] = "",
    descending: bool = False,
) -> Response:
    """Table 6 as a page."""
    asked = Asked(runs, experiment, profile, level, baseline or None, tuple(tables or ()), column)
    with transaction() as session:
        found = choose(session, project, asked)
        known = [table.name for table in printed.listed(session, project)]
    return render.page(
        request,
        "comparison.html",
        comparison=found,
        rows=_sorted(found, sort, descending),
        best=_best(found),
        profiles=_profiles(),
        tables=known,
        tested=found.statistics.column if found.statistics else Measure.of(profile, level or None).column(None),
        asked=asked,
        link=_links(asked, sort, descending),
        sort=sort,
        descending=descending,
    )


def _profiles() -> dict[str, Any]:
    from liverseg_core.profiles import PROFILES  # NumPy is loaded by the first comparison

    return dict(PROFILES)


def _links(asked: Asked, sort: str, descending: bool) -> Callable[..., str]:
    """A function from what changes to the query of the page that shows it; an empty value leaves a name out."""
    state: dict[str, Any] = {
        "runs": ",".join(asked.runs or []),
        "experiment": asked.experiment,
        "profile": "" if asked.profile == OVERVIEW else asked.profile,
        "level": asked.level,
        "baseline": asked.baseline,
        "column": asked.column if asked.baseline else "",
        "tables": asked.tables,
        "sort": sort,
        "descending": "true" if descending else "",
    }

    def link(**changes: Any) -> str:
        kept = {name: value for name, value in {**state, **changes}.items() if value}
        return urlencode(kept, doseq=True, safe=",")

    return link


def _sorted(found: Comparison, sort: str, descending: bool) -> list[Row]:
    """Rows by one column, groups with what is in them; what has no value there comes last."""

    def value(block: list[Row]) -> Any:
        row = block[0]
        if sort in SORTABLE_FACTS:
            return getattr(row, sort)
        scores = row.scores or {}
        return scores[sort] if sort in scores else row.settings.get(sort)

    blocks = _blocks(found.rows)
    have = [block for block in blocks if value(block) is not None]
    missing = [block for block in blocks if value(block) is None]
    ordered = sorted(have, key=lambda block: _key(value(block)), reverse=descending) + missing
    return [row for block in ordered for row in block]


def _blocks(rows: list[Row]) -> list[list[Row]]:
    """Each outermost row with the deeper ones that follow it."""
    blocks: list[list[Row]] = []
    for row in rows:
        if row.depth == 0:
            blocks.append([])
        blocks[-1].append(row)
    return blocks


def _key(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts."""
    if isinstance(value, int | float):
        return False, value, ""
    return True, 0.0, tables.setting(value)


def _best(found: Comparison) -> dict[str, float]:
    """The best value of each score that ranks runs, where the rows may be compared and are several.

    Rows inside groups have none: a best seed is no result.
    """
    scored = [row.scores for row in found.rows if row.scores and row.depth == 0]
    if len(scored) < 2 or not found.comparable:
        return {}
    best = {}
    for column in filter(_ranks, found.columns):
        values = [value for scores in scored if (value := scores[column.key]) is not None]
        if values:
            best[column.key] = min(values) if column.better == "lower" else max(values)
    return best


def _ranks(column: Column) -> bool:
    return column.better is not None and column.warning is None
