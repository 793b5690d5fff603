"""Submitting experiments and reading them back."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from api.callers import Project
from api.parameters import Before, ExperimentId, Limit
from api.plan_schemas import PlanOut
from api.problems import not_found
from api.schemas import (
    ExperimentDetail,
    ExperimentList,
    ExperimentOut,
    ExperimentRuns,
    RunOut,
    SubmitBody,
    next_page,
)
from liverseg_core.crash_points import crash_point
from liverseg_core.submission import check_storable
from store import views
from store.database import transaction
from store.experiments import plan, submit
from store.forecast import experiences
from store.scorings import add_references
from store.settings import settings

router = APIRouter(prefix="/v1/experiments", tags=["experiments"])

Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$"),
]
DryRun = Annotated[bool, Query(description="only say what would happen")]


@router.post("", status_code=201, responses={200: {"description": "the key was seen before, or a dry run"}})
def create(
    request: Request,
    response: Response,
    project: Project,
    body: SubmitBody,
    key: Key = None,
    dry_run: DryRun = False,
) -> ExperimentRuns | PlanOut:
    """Turn a submission into an experiment and its runs; the same key and body give the same experiment."""
    if dry_run:
        response.status_code = 200
        return planned(project, body)
    answer, new = enter(request, project, body, key)
    response.status_code = 201 if new else 200
    return answer


def enter(request: Request, project: int, body: SubmitBody, key: str | None) -> tuple[ExperimentRuns, bool]:
    """Submit it; the experiment, and whether it is new.

    Raises:
        SpecError: nothing can be run as asked, or the key was used with another body.
    """
    _check(body)
    with transaction() as session:
        done = submit(session, project, body, key=key, reuse=body.reuse, actor=request.state.actor)
        answer = ExperimentRuns.of(done.experiment, done.runs)
        if done.new and body.references:
            scored = [(one.spec, one.dataset) for one in done.planned]
            add_references(session, project, scored, request.state.actor, body.pool)
    crash_point("submitted")
    request.app.state.upkeep.wake()
    return answer, done.new


def planned(project: int, body: SubmitBody) -> PlanOut:
    """What submitting it would do.

    Raises:
        SpecError: nothing can be run as asked.
    """
    _check(body)
    with transaction() as session:
        known = experiences(session, body.pool or settings().pool)
        return PlanOut.of(plan(session, project, body, reuse=body.reuse), known)


def _check(body: SubmitBody) -> None:
    for name, value in body:
        check_storable(value, "" if name == "spec" else name)


@router.get("")
def listing(project: Project, limit: Limit = 50, before: Before = None) -> ExperimentList:
    """Experiments, newest first."""
    with transaction() as session:
        found = list(views.experiments(session, project, limit, before))
    return ExperimentList(
        experiments=[ExperimentOut.model_validate(one) for one in found], next=next_page(found, limit)
    )


@router.get("/{experiment}")
def detail(project: Project, experiment: ExperimentId) -> ExperimentDetail:
    """One experiment with its runs."""
    with transaction() as session:
        found = views.experiment(session, project, experiment)
        if found is None:
            raise not_found("experiment", experiment)
        runs = [RunOut.of(run) for run in views.experiment_runs(session, experiment)]
    return ExperimentDetail(**ExperimentOut.model_validate(found).model_dump(), runs=runs)
