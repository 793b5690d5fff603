"""The comparison as a page: its address is its whole state, and it works without scripts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from api import order, render
from api.callers import Asking, Project, caller_of
from api.parameters import LARGEST_ID, Runs, SomeExperiment, run_ids
from api.problems import Problem, error_at
from api.routes import frozen
from api.routes.comparisons import Asked, Filter, Level, Profile, Sort, Tables, TestedColumn, choose
from api.routes.matrices import MOST_RUNS
from api.tables import apart, named
from store import matrix, printed
from store.comparison import OVERVIEW
from store.database import snapshot, transaction
from store.measure import Measure
from store.rows import Column, Comparison, Row
from store.words import told_apart

router = APIRouter(include_in_schema=False)

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
    filter: Filter = "",  # noqa: A002
    settings: Literal["", "all"] = "",
) -> Response:
    """Table 6 as a page; ``settings``: show all in which rows differ, however many."""
    need_selection(runs, experiment)
    asked = _asked(runs, experiment, profile, level, baseline or None, tables, column, sort, descending, filter)
    with snapshot() as session:
        found = choose(session, project, asked)
        known = [table.name for table in printed.listed(session, project)]
        no_images = _no_images(session, asked, found)
    if sort not in order.sortable(found):
        asked = replace(asked, sort="")  # a link may be older than what it leads to
    found = asked.arranged(every := found)
    parameters = apart(found) if settings else _fewer(apart(found), asked.sort)
    return render.page(
        request,
        "comparison.html",
        comparison=found,
        rows=found.rows,
        parameters=parameters,
        folded=len(apart(found)) - len(parameters),
        settings=settings,
        baselines=_baselines(every),
        words=filter,
        best=_best(found),
        profiles=_profiles(),
        tables=known,
        tested=found.statistics.column if found.statistics else Measure.of(profile, level or None).column(None),
        asked=asked,
        link=_links(asked, settings),
        no_images=no_images,
        behind=_behind(asked, found) if not no_images else lambda *_: "",
        sort=asked.sort,
        descending=descending,
        frozen=None,
        may_freeze=caller_of(request).may_write,
    )


MOST_SETTINGS, FEW_SETTINGS = 9, 6
"""So many settings stand before the scores at most; where more differ, so many of them, and a link to the others."""


def _fewer(parameters: list[str], sort: str) -> list[str]:
    """Those to show where nobody asked for all, so that scores are in sight; never without what sorts the rows."""
    if len(parameters) <= MOST_SETTINGS:
        return parameters
    return [path for place, path in enumerate(parameters) if place < FEW_SETTINGS or path == sort]


def need_selection(runs: list[str] | None, experiment: int | None) -> None:
    """Refuse, in words for who pressed the button, where no run was selected."""
    if runs is None and experiment is None:
        told = (
            "No run is selected. Tick the boxes of the runs to compare in the table of runs, then press the button."
        )
        raise Problem(422, told, [error_at("runs", told)])


@router.post("/comparisons/freeze")
def freeze(
    caller: Asking,
    runs: Runs = None,
    experiment: SomeExperiment = None,
    profile: Profile = OVERVIEW,
    level: Level = "",
    baseline: SomeBaseline = None,
    tables: Tables = None,
    column: TestedColumn = "",
    sort: Sort = "",
    descending: bool = False,
    filter: Filter = "",  # noqa: A002
) -> Response:
    """The page's button; the guard has checked where the request comes from."""
    asked = _asked(runs, experiment, profile, level, baseline or None, tables, column, sort, descending, filter)
    with transaction() as session:
        made = frozen.freeze(session, caller, asked)
    return RedirectResponse(f"/c/{made.key}", status_code=303)


@router.get("/c/{key}")
def frozen_page(request: Request, project: Project, key: frozen.Key) -> Response:
    """A frozen comparison: as it was, with a mark on rows whose run is deleted since."""
    with transaction() as session:
        kept = frozen.known_frozen(session, project, key)
        about = frozen.FrozenAbout.of(session, kept)
    found, again = Comparison.model_validate_json(kept.result), _again(about.asked)
    return render.page(
        request,
        "comparison.html",
        comparison=found,
        rows=found.rows,
        parameters=apart(found),
        folded=0,
        settings="",
        best=_best(found),
        frozen=about,
        asked=about.asked,
        behind=lambda *_: "",
        today=_links(again)(),
        words=again.filter,
        sort=again.sort,
        descending=again.descending,
    )


def _asked(
    runs: list[str] | None,
    experiment: int | None,
    profile: str,
    level: str,
    baseline: int | None,
    tables: list[str] | None,
    column: str,
    sort: str,
    descending: bool,
    words: str,
) -> Asked:
    """What the page is asked for. Its form always sends the tested column, which says nothing without a baseline."""
    tested = "" if baseline is None else column
    return Asked(runs, experiment, profile, level, baseline, tuple(tables or ()), tested, sort, descending, words)


def _again(kept: dict[str, Any]) -> Asked:
    """What was asked for when a comparison was frozen."""
    runs = None if kept["runs"] is None else [str(run) for run in kept["runs"]]
    chosen = (kept["profile"], kept["level"], kept["baseline"], tuple(kept["tables"]), kept["column"] or "")
    # Comparisons frozen before these were kept were never sorted.
    shown = (kept.get("sort", ""), kept.get("descending", False), kept.get("filter", ""))
    return Asked(runs, kept["experiment"], *chosen, *shown)


def _profiles() -> dict[str, Any]:
    from liverseg_core.profiles import PROFILES  # NumPy is loaded by the first comparison

    return dict(PROFILES)


def _links(asked: Asked, settings: str = "") -> Callable[..., str]:
    """A function from what changes to the query of the page that shows it; an empty value leaves a name out."""
    state: dict[str, Any] = {
        "runs": ",".join(asked.runs or []),
        "experiment": asked.experiment,
        "profile": "" if asked.profile == OVERVIEW else asked.profile,
        "level": asked.level,
        "baseline": asked.baseline,
        "column": asked.column,
        "tables": asked.tables,
        "sort": asked.sort,
        "descending": "true" if asked.descending else "",
        "filter": asked.filter,
        "settings": settings,
    }

    def link(**changes: Any) -> str:
        kept = {name: value for name, value in {**state, **changes}.items() if value}
        return urlencode(kept, doseq=True, safe=",")

    return link


def _no_images(session: Session, asked: Asked, found: Comparison) -> str:
    """Why these runs have no page of images by runs; empty where they have one."""
    runs = [run for row in found.rows if row.what == "run" for run in row.runs]
    if len(run_ids(asked.runs) if asked.runs else runs) > MOST_RUNS:
        return f"for {MOST_RUNS} runs at most; compare fewer"
    if not matrix.of_same_images(session, runs):
        return "for runs of the same images; these are of several data sets"
    return ""


def _behind(asked: Asked, found: Comparison) -> Callable[..., str]:
    """A function to the address of the images by runs: behind a run's score, or behind all where none is given.

    A run's worst images come first: those most behind the baseline, or without one those with the lowest values.
    Empty where the page has no such score.
    """
    same = matrix.SAME.get(found.profile, {})
    tested = same.get(found.statistics.column, "") if found.statistics else ""
    left_out = dict.fromkeys(("profile", "level", "tables", "sort", "descending", "filter"), "")
    parts = sorted({row.part for row in found.rows if row.part})
    base = f"/comparisons/images?{_links(asked)(**left_out, column='')}"  # once: there may be thousands of scores

    def address(row: Row | None = None, column: str = "") -> str:
        if row is None:
            return f"{base}{f'&column={tested}' if tested else ''}{f'&part={parts[0]}' if len(parts) == 1 else ''}"
        if row.run is None or column not in same:
            return ""
        order = "" if asked.baseline not in (None, row.run) else "&sort=value"
        return f"{base}&column={same[column]}{order}&of={row.run}&part={row.part}"

    return address


def _baselines(found: Comparison) -> list[tuple[list[int], str]]:
    """Runs and name of every row that others can be compared with."""
    rows = [row for row in found.rows if row.depth == 0 and row.runs]
    runs = [row.runs for row in rows]
    return list(zip(runs, told_apart([named(row) for row in rows], runs), strict=True))


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
