"""The queue and its workers as a page, and what any page may ask of runs, one or several at once."""

from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from api import render
from api.callers import Project, admins_only, caller_of
from api.forms import Posted
from api.parameters import run_ids
from api.problems import Problem, error_at, refused
from api.routes.queues import read_queue
from api.routes.runs import change
from api.routes.workers import WorkerName, drain
from api.schemas import WorkerOut
from store import experiments, presence, views, wishes
from store.database import transaction
from store.models import Run
from store.settings import settings
from store.states import IllegalMove
from store.tokens import Scope

router = APIRouter(include_in_schema=False)

SHOWN = 100
MOST_AT_ONCE = 500

MOVES: dict[str, Callable[[Session, int, int, str | None], Run | None]] = {
    "first": wishes.first,
    "pause": wishes.pause,
    "resume": wishes.resume,
    "requeue": wishes.requeue,
    "retry": experiments.retry,
    "cancel": wishes.cancel,
}
Move = Annotated[Literal["first", "pause", "resume", "requeue", "retry", "cancel"], Path()]


@router.get("/queue")
def queue_page(request: Request, project: Project) -> Response:
    """What runs, what waits and when it begins; and who works."""
    return _queue(request, project, "queue.html")


@router.get("/fragments/queue")
def queue_fragment(request: Request, project: Project) -> Response:
    """What moves on :func:`queue_page`."""
    return _queue(request, project, "_queue.html")


def _queue(request: Request, project: int, template: str) -> Response:
    found = read_queue(project, SHOWN)
    with transaction() as session:
        workers = [WorkerOut.of(*one) for one in presence.workers(session, settings().lease_s)]
    caller = caller_of(request)
    return render.page(
        request,
        template,
        queue=found,
        workers=workers,
        may_write=caller.may_write,
        may_drain=caller.scope >= Scope.ADMIN,
        shown=SHOWN,
    )


@router.post("/workers/{worker}/drain", dependencies=[Depends(admins_only)])
def drain_worker(request: Request, worker: WorkerName) -> Response:
    """As the route of the same name, with what it runs finished first."""
    drain(worker)
    return RedirectResponse(_back(request, "/queue"), status_code=303)


@router.post("/runs/{move}")
def ask(request: Request, move: Move, form: Posted) -> Response:
    """Ask it of every selected run, each in a transaction of its own; what is refused is told."""
    ids = run_ids(form.all("runs")) if form.all("runs") else []
    if not ids:
        raise refused("runs", "none is selected; select some in the table", "")
    if len(ids) > MOST_AT_ONCE:
        raise refused("runs", f"are more than {MOST_AT_ONCE}; select fewer", len(ids))
    with transaction() as session:
        unknown = sorted(set(ids) - views.known(session, caller_of(request).project, ids).keys())
    if unknown:
        raise Problem(404, "there are no such runs", [error_at("runs", "no such runs", unknown)])
    refusals, moved = [], []
    # The last one put first stands first: so the order of the table is kept.
    for run in reversed(ids) if move == "first" else ids:
        try:
            moved.append(change(request, run, MOVES[move]).id)
        except IllegalMove as error:
            refusals.append(str(error))
    back = _back(request, f"/runs/{ids[0]}" if len(ids) == 1 else "/")
    if move == "retry" and len(moved) == len(ids) == 1:
        back = f"/runs/{moved[0]}"  # the new one
    if not refusals:
        return RedirectResponse(back, status_code=303)
    return render.page(
        request, "asked.html", 409, move=move, done=len(ids) - len(refusals), refusals=refusals, back=back
    )


def _back(request: Request, otherwise: str) -> str:
    """The page of this API that the form was on; ``otherwise``: where the browser does not say."""
    came = urlsplit(request.headers.get("referer", ""))
    if came.netloc != request.headers.get("host") or not came.path.startswith("/") or came.path.startswith("//"):
        return otherwise
    return came.path + (f"?{came.query}" if came.query else "")
