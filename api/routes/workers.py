"""Who works: every worker process that is or was there, and asking one to leave."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from api.callers import admins_only
from api.problems import Problem, error_at
from api.schemas import WorkerList, WorkerOut
from store import presence
from store.database import transaction
from store.presence import Leave
from store.settings import settings

router = APIRouter(prefix="/v1/workers", tags=["workers"])

WorkerName = Annotated[str, Path(max_length=300, description="name of a worker: host and process")]
Now = Annotated[bool, Query(description="do not finish what it runs: give it back to the queue")]


@router.get("")
def listing() -> WorkerList:
    """Workers by pool; ``alive``: seen within a lease. They serve all projects."""
    with transaction() as session:
        found = presence.workers(session, settings().lease_s)
        return WorkerList(workers=[WorkerOut.of(*one) for one in found])


@router.post("/{worker}/drain", dependencies=[Depends(admins_only)])
def drain(worker: WorkerName, now: Now = False) -> WorkerOut:
    """Ask a worker to finish what it runs, take nothing more and end; it hears of it with its next heartbeat.

    Workers serve all projects, so this needs an administrator.
    """
    with transaction() as session:
        asked = presence.ask_to_leave(session, worker, Leave.NOW if now else Leave.FINISH, settings().lease_s)
        if asked is None:
            told = "no worker of this name is there; GET /v1/workers lists them"
            raise Problem(404, told, [error_at("worker", told, worker)])
        session.flush()
        found = presence.workers(session, settings().lease_s)
        return next(WorkerOut.of(*one) for one in found if one[0].name == worker)
