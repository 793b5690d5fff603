"""The page that says what deleting a run would do, and its button that does it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api import render
from api.callers import Asking
from api.parameters import RunId
from api.routes import deletions
from api.routes.runs import known_run
from api.schemas import RunOut
from store.database import transaction

router = APIRouter(include_in_schema=False)

What = Annotated[Literal["run", "files"], Query()]


@router.get("/runs/{run}/deletion")
def deletion_page(request: Request, caller: Asking, run: RunId, what: What = "files") -> Response:
    """What would go, what would stay, and what it would free."""
    with transaction() as session:
        out = RunOut.of(known_run(session, caller.project, run))
    planned = deletions.delete_run(request, caller, run, what, dry_run=True)
    may = caller.scope >= deletions.needed(what)
    return render.page(request, "deletion.html", run=out, plan=planned, what=what, may=may)


@router.post("/runs/{run}/deletion")
def delete_run(request: Request, caller: Asking, run: RunId, what: What = "files") -> Response:
    """The page's button; the guard has checked where the request comes from."""
    deletions.delete_run(request, caller, run, what)
    return RedirectResponse(f"/runs/{run}" if what == "files" else "/", status_code=303)
