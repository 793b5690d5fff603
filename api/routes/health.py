"""Whether the process lives, and whether it can work."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.schemas import Readiness
from store import schema

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, bool]:
    """Answers while the process lives."""
    return {"alive": True}


@router.get("/readyz", responses={503: {"model": Readiness}})
def ready(request: Request, response: Response) -> Readiness:
    """Ready when the database answers with the newest schema; without the broker, degraded."""
    database, current = _database()
    # Not asked anew: who balances load by this answer must not wait for a broker that keeps everybody waiting.
    reachable = request.app.state.upkeep.hears_the_broker()
    is_ready = database and current
    response.status_code = 200 if is_ready else 503
    return Readiness(
        ready=is_ready,
        database=database,
        schema_current=current,
        broker=reachable,
        degraded=is_ready and not reachable,
    )


def _database() -> tuple[bool, bool]:
    """Whether it answers, and whether its schema is the newest."""
    try:
        return True, schema.is_current()
    except (DBAPIError, PoolTimeout):
        return False, False
