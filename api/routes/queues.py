"""What runs and what waits, pool by pool, and when it is expected to begin and end."""

from fastapi import APIRouter

from api.callers import Project
from api.parameters import Limit
from api.queue_schemas import PoolOut, QueueOut
from store import forecast
from store.database import snapshot
from store.settings import settings

router = APIRouter(prefix="/v1/queue", tags=["queue"])


@router.get("")
def queue(project: Project, limit: Limit = 100) -> QueueOut:
    """Every pool; runs of other projects have no name. ``limit``: most that are shown of what waits in a pool."""
    return read_queue(project, limit)


def read_queue(project: int, limit: int) -> QueueOut:
    """The queue as one project may see it."""
    with snapshot() as session:
        found = [forecast.queue_of(session, pool, settings().lease_s) for pool in forecast.pools(session)]
        return QueueOut(pools=[PoolOut.of(one, project, limit) for one in found])
