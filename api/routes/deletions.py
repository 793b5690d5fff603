"""What takes room on disk, and deleting runs, their large files or data sets; who deleted what stays in a list."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from api.callers import Asking, Caller, Project, lacks
from api.deletion_schemas import DatasetDeletionOut, DeletedList, DeletedOut, DeletionBody, DeletionOut, DiskOut
from api.parameters import Before, Limit, RunId
from api.problems import Problem, error_at, gone, not_found
from api.routes.runs import known_run
from api.routes.uploads import NameOrHash, known_dataset
from api.schemas import next_page
from store import deleted, deletion, usage, views
from store.database import transaction
from store.deletion import Plan, Selection
from store.tokens import Scope

router = APIRouter(prefix="/v1", tags=["disk and deletion"])

DryRun = Annotated[bool, Query(description="only say what would happen")]
What = Annotated[
    Literal["run", "files"],
    Query(description="run: all of it; files: its probability maps and checkpoints, its scores and weights stay"),
]


@router.get("/disk")
def disk(project: Project) -> DiskOut:
    """What the project takes on disk, and its largest runs."""
    with transaction() as session:
        return DiskOut.model_validate(usage.of_project(session, project))


@router.get("/deletions")
def listing(project: Project, limit: Limit = 50, before: Before = None) -> DeletedList:
    """What was deleted, by whom, newest first."""
    with transaction() as session:
        found = list(deleted.listing(session, project, limit, before))
    return DeletedList(deletions=[DeletedOut.model_validate(one) for one in found], next=next_page(found, limit))


@router.post("/deletions")
def delete_runs(request: Request, caller: Asking, body: DeletionBody, dry_run: DryRun = False) -> DeletionOut:
    """Delete runs, or their large files; what may not go stays and is named with the reason.

    Large files need a token that may write, runs an administrator's; a dry run any that may write.
    """
    if not dry_run:
        demand(caller, body.what)
    with transaction() as session:
        if body.runs:
            unknown = sorted(set(body.runs) - views.known(session, caller.project, body.runs).keys())
            if unknown:
                lost = deleted.deleted_runs(session, caller.project, unknown)
                if len(lost) == len(unknown):
                    raise gone(*lost.values())
                raise Problem(404, "there are no such runs", [error_at("runs", "no such runs", unknown)])
        if body.experiment and views.experiment(session, caller.project, body.experiment) is None:
            raise not_found("experiment", body.experiment)
        planned = deletion.plan(session, caller.project, body.what, body.selection(), hold=not dry_run)
        answer = _done(session, caller, planned, dry_run)
    if not dry_run:
        request.app.state.upkeep.tidy_now()
    return answer


@router.delete("/runs/{run}")
def delete_run(
    request: Request, caller: Asking, run: RunId, what: What = "run", dry_run: DryRun = False
) -> DeletionOut:
    """Delete one run, or its large files; 409 says what stands against it. A dry run says it in ``stays``."""
    with transaction() as session:
        known_run(session, caller.project, run)
        if not dry_run:
            demand(caller, what)
        planned = deletion.plan(session, caller.project, what, Selection((run,)), hold=not dry_run)
        if planned.stays and not dry_run:
            why = planned.stays[0].why
            raise Problem(409, f"run {run} cannot be deleted: {why}", [error_at("run", why, run)])
        answer = _done(session, caller, planned, dry_run)
    if not dry_run:
        request.app.state.upkeep.tidy_now()
    return answer


@router.delete("/datasets/{name}")
def delete_dataset(request: Request, caller: Asking, name: NameOrHash, dry_run: DryRun = False) -> DatasetDeletionOut:
    """Delete a data set that no run refers to any more; 409 names the runs that do. Needs an administrator."""
    with transaction() as session:
        dataset = known_dataset(session, caller.project, name)
        if not dry_run:
            demand(caller, "run")
        planned = deletion.plan_dataset(session, dataset, hold=not dry_run)
        if planned.stays:
            told = f"data set {dataset.name} cannot be deleted: {planned.stays}"
            raise Problem(409, told, [error_at("name", planned.stays, name)])
        answer = DatasetDeletionOut.of(planned, dry_run)
        if not dry_run:
            deletion.carry_out_dataset(session, planned, caller.actor)
    if not dry_run:
        request.app.state.upkeep.tidy_now()
    return answer


def _done(session: Session, caller: Caller, planned: Plan, dry_run: bool) -> DeletionOut:
    """What the plan says, carried out unless that is all that is wanted."""
    answer = DeletionOut.of(planned, dry_run)
    if not dry_run:
        deletion.carry_out(session, caller.project, planned, caller.actor)
    return answer


def needed(what: str) -> Scope:
    """What can be computed again may be deleted by whoever may compute; results and data sets by administrators."""
    return Scope.WRITE if what == "files" else Scope.ADMIN


def demand(caller: Caller, what: str) -> None:
    """Refuse who may not delete this."""
    if caller.scope < needed(what):
        raise lacks(needed(what))
