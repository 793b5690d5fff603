"""Who works: every worker process that is or was there."""

from fastapi import APIRouter

from api.schemas import WorkerList, WorkerOut
from store import presence
from store.database import transaction
from store.settings import settings

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("")
def listing() -> WorkerList:
    """Workers by pool; ``alive``: seen within a lease. They serve all projects."""
    with transaction() as session:
        found = presence.workers(session, settings().lease_s)
        return WorkerList(workers=[WorkerOut.of(*one) for one in found])
