"""Runs side by side, as Table 6, under a profile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api import latex, tables
from api.bodies import answers, as_json
from api.callers import Project
from api.order import filtered, ordered
from api.parameters import LARGEST_ID, Runs, SomeExperiment, run_ids
from api.problems import Problem, error_at, gone, not_found, refused
from api.schemas import ProfileList, ProfileOut
from store import views
from store.comparison import OVERVIEW, compare
from store.database import snapshot
from store.deleted import deleted_of_experiment, deleted_runs, sentence
from store.models import Deletion
from store.rows import Comparison
from store.scorings import hold_results
from store.words import numbers

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
Sort = Annotated[
    str, Query(max_length=200, description="a column of the table: run, name, a setting's path, a score")
]
Filter = Annotated[
    str,
    Query(
        max_length=200, description="only rows with all these words: parts of a name, or setting=value (filters=8)"
    ),
]

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
    sort: str = ""
    descending: bool = False
    filter: str = ""

    def arranged(self, found: Comparison) -> Comparison:
        """What was found with the rows asked for, in the order asked for."""
        return ordered(filtered(found, self.filter), self.sort, self.descending)


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
    sort: Sort = "",
    descending: bool = False,
    filter: Filter = "",  # noqa: A002
    format: Format = "json",  # noqa: A002
) -> Response:
    """Compare the runs given, in that order or by a column, or every run of an experiment.

    Scores are fractions in JSON and percent in csv, md and latex.
    """
    asked = Asked(runs, experiment, profile, level, baseline, tuple(tables or ()), column, sort, descending, filter)
    with snapshot() as session:
        found = asked.arranged(choose(session, project, asked))
    return as_json(found) if format == "json" else as_text(found, format)


def as_text(found: Comparison, form: str) -> Response:
    """The comparison in one of ``TEXTS``."""
    media, name, write = TEXTS[form]
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
    return Response(write(found), media_type=f"{media}; charset=utf-8", headers=headers)


@router.get("/profiles")
def profiles() -> ProfileList:
    """Every profile: its columns with formulas and empty rules, and the levels it is made for."""
    from liverseg_core.profiles import PROFILES  # NumPy is loaded when somebody asks

    return ProfileList(profiles=[ProfileOut.model_validate(one) for one in PROFILES.values()])


def choose(session: Session, project: int, asked: Asked, *, hold: bool = False) -> Comparison:
    """Every row of the comparison asked for; runs that were deleted are left out, with a warning each.

    Args:
        session: an open session.
        project: whose runs.
        asked: what was asked for.
        hold: whether its runs shall not be deleted until the transaction ends.

    Raises:
        Problem: neither or both of runs and experiment are given (422), something is not there (404), or nothing
            is left (410).
        InputError: profile, level, baseline, column or a table cannot be (422).
    """
    ids, lost = compared(session, project, asked.runs, asked.experiment, hold=hold)
    found = compare(
        session,
        project,
        ids,
        asked.profile,
        asked.level or None,
        asked.baseline,
        asked.tables,
        asked.column or None,
    )
    return found.model_copy(update={"warnings": [*left_out(lost), *found.warnings]})


def left_out(lost: Sequence[Deletion]) -> list[str]:
    """The warnings of deleted runs, of which nothing is shown."""
    return [f"{sentence(one)}; its numbers are in frozen comparisons alone." for one in lost]


def compared(
    session: Session,
    project: int,
    runs: list[str] | None,
    experiment: int | None,
    *,
    hold: bool = False,
    most: int | None = None,
) -> tuple[list[int], list[Deletion]]:
    """The runs given, or every run of an experiment: the ids of those that are there, and those that were deleted.

    Args:
        session: an open session.
        project: whose runs.
        runs: ids as they came in.
        experiment: whose runs, where ``runs`` is None.
        hold: whether they shall not be deleted until the transaction ends.
        most: how many may be asked for.

    Raises:
        Problem: neither or both are given, a run has no scores to compare, or they are too many (422), something is
            not there (404), or nothing is left (410).
    """
    if (runs is None) == (experiment is None):
        raise refused("runs", "give either runs=1,2,3 or experiment=ID", ",".join(runs or []) or None)
    ids = run_ids(runs) if runs is not None else _of_experiment(session, project, experiment or 0)
    if most is not None and len(ids) > most:
        raise refused("runs", f"are more than {most:,} runs; ask for fewer", len(ids))
    if hold:
        hold_results(session, ids)
    known = views.known(session, project, ids)
    unknown = sorted(set(ids) - known.keys())
    lost = deleted_runs(session, project, unknown)
    if len(lost) < len(unknown):
        missing = [run for run in unknown if run not in lost]
        raise Problem(404, f"there are no such runs: {numbers(missing)}", [error_at("runs", "no such runs", missing)])
    if lost and not known:
        raise gone(*lost.values())
    ids = [run for run in ids if run in known]
    masks = sorted(run for run, kind in known.items() if kind == "predict")
    if masks:
        raise refused("runs", "made masks for unlabelled slices, so they have no scores; leave them out", masks)
    if experiment is not None:
        return ids, deleted_of_experiment(session, project, experiment)
    return ids, list(lost.values())


def _of_experiment(session: Session, project: int, experiment: int) -> list[int]:
    if views.experiment(session, project, experiment) is None:
        if lost := deleted_of_experiment(session, project, experiment):
            raise gone(*lost)
        raise not_found("experiment", experiment)
    return [run.id for run in views.experiment_runs(session, experiment)]
