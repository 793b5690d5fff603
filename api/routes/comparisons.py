"""Runs side by side, as Table 6, under a profile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api import latex, tables
from api.bodies import answers
from api.callers import Project
from api.parameters import LARGEST_ID, Runs, SomeExperiment, run_ids
from api.problems import Problem, error_at, not_found, refused
from api.schemas import ProfileList, ProfileOut
from store import views
from store.comparison import OVERVIEW, compare
from store.database import transaction
from store.rows import Comparison

router = APIRouter(prefix="/v1", tags=["comparisons"])

Format = Annotated[Literal["json", "csv", "md", "latex"], Query(description="all but json are answered as text")]
Profile = Annotated[str, Query(max_length=100, description="what the columns are, see /v1/profiles")]
Level = Annotated[str, Query(max_length=100, description="one of the profile's levels; empty: its first")]
Baseline = Annotated[
    Annotated[int, Query(ge=1, le=LARGEST_ID)] | None,
    Query(description="the run that every row is tested against, by subject"),
]
Tables = Annotated[list[str] | None, Query(max_length=20, description="names of printed tables to pin at the foot")]
TestedColumn = Annotated[str, Query(max_length=100, description="what the tests are about; empty: lesion Dice")]

TEXTS: dict[str, tuple[str, str, Callable[[Comparison], str]]] = {
    "csv": ("text/csv", "comparison.csv", tables.to_csv),
    "md": ("text/markdown", "", tables.to_markdown),
    "latex": ("application/x-latex", "comparison.tex", latex.to_latex),
}
"""Format -> media type, name of the file (none: shown in place), writer."""


@dataclass(frozen=True)
class Asked:
    """A comparison that somebody asks for."""

    runs: list[str] | None
    experiment: int | None
    profile: str = OVERVIEW
    level: str = ""
    baseline: int | None = None
    tables: tuple[str, ...] = ()
    column: str = ""


@router.get("/comparisons", response_model=Comparison, responses=answers(*(one[0] for one in TEXTS.values())))
def read(
    project: Project,
    runs: Runs = None,
    experiment: SomeExperiment = None,
    profile: Profile = OVERVIEW,
    level: Level = "",
    baseline: Baseline = None,
    tables: Tables = None,
    column: TestedColumn = "",
    format: Format = "json",  # noqa: A002
) -> Response:
    """Compare the runs given, in that order, or every run of an experiment.

    Scores are fractions in JSON and percent in csv, md and latex.
    """
    asked = Asked(runs, experiment, profile, level, baseline, tuple(tables or ()), column)
    with transaction() as session:
        found = choose(session, project, asked)
    if format == "json":
        return JSONResponse(found.model_dump(mode="json"))
    media, name, write = TEXTS[format]
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
    return Response(write(found), media_type=f"{media}; charset=utf-8", headers=headers)


@router.get("/profiles")
def profiles() -> ProfileList:
    """Every profile: its columns with formulas and empty rules, and the levels it is made for."""
    from liverseg_core.profiles import PROFILES  # NumPy is loaded when somebody asks

    return ProfileList(profiles=[ProfileOut.model_validate(one) for one in PROFILES.values()])


def choose(session: Session, project: int, asked: Asked) -> Comparison:
    """The comparison that was asked for.

    Raises:
        Problem: neither or both of runs and experiment are given (422), or something is not there (404).
        InputError: profile, level, baseline, column or a table cannot be (422).
    """
    runs, experiment = asked.runs, asked.experiment
    if (runs is None) == (experiment is None):
        raise refused("runs", "give either runs=1,2,3 or experiment=ID", ",".join(runs or []) or None)
    ids = run_ids(runs) if runs is not None else _of_experiment(session, project, experiment or 0)
    unknown = sorted(set(ids) - views.known(session, project, ids))
    if unknown:
        listed = ", ".join(map(str, unknown[:20]))
        raise Problem(404, f"there are no such runs: {listed}", [error_at("runs", "no such runs", unknown)])
    masks = sorted(views.of_kind(session, ids, "predict"))
    if masks:
        raise refused("runs", "made masks for unlabelled slices, so they have no scores; leave them out", masks)
    return compare(
        session,
        project,
        ids,
        asked.profile,
        asked.level or None,
        asked.baseline,
        asked.tables,
        asked.column or None,
    )


def _of_experiment(session: Session, project: int, experiment: int) -> list[int]:
    if views.experiment(session, project, experiment) is None:
        raise not_found("experiment", experiment)
    return [run.id for run in views.experiment_runs(session, experiment)]
