"""What waits in a pool, for whom, and whether anybody has been told of it."""

from collections.abc import Sequence

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from store import peaks
from store.models import Announcement, Run, RunEvent
from store.queue import ANYTHING, WORK_VERSION, Offer, announce, locking, room, seconds_from_now
from store.states import REMARKS, State


def queued(session: Session) -> dict[str, int]:
    """How many runs wait in each pool."""
    rows = session.execute(select(Run.pool, func.count()).where(Run.state == State.QUEUED).group_by(Run.pool))
    return dict(rows.all())


def claimable(
    session: Session,
    pool: str,
    older_than_s: float,
    version: int = WORK_VERSION,
    offer: Offer = ANYTHING,
    *,
    labelled: bool = False,
) -> int:
    """How many runs of ``pool`` that a worker of ``version`` could carry have waited for longer than that.

    With ``labelled`` only those that ask for labels.
    """
    waited = select(func.count()).where(
        Run.pool == pool,
        Run.state == State.QUEUED,
        Run.needs <= version,
        Run.labels.contained_by(literal(dict(offer.labels), JSONB)),
        func.coalesce(peaks.expected().scalar_subquery() <= room(offer), True),
    )
    if labelled:
        waited = waited.where(Run.labels != literal({}, JSONB))
    events = select(func.max(RunEvent.at)).where(RunEvent.run_id == Run.id, RunEvent.move.not_in(REMARKS))
    queued_at = events.where(RunEvent.state == State.QUEUED)
    return session.scalars(waited.where(queued_at.scalar_subquery() < seconds_from_now(-older_than_s))).one()


def unsent(session: Session, pool: str) -> int:
    """How many announcements for ``pool`` are still in the outbox."""
    return session.scalars(select(func.count()).where(Announcement.pool == pool)).one()


def stale_pools(session: Session, older_than_s: float) -> Sequence[str]:
    """Pools where a queued run's announcement is old."""
    old = Run.announced_at < seconds_from_now(-older_than_s)
    return session.scalars(select(Run.pool).where(Run.state == State.QUEUED, old).distinct()).all()


def stale_announcements(session: Session, pool: str, older_than_s: float, limit: int) -> Sequence[Run]:
    """Queued runs of ``pool`` whose announcement is old, oldest first, locked."""
    query = (
        select(Run)
        .where(Run.pool == pool, Run.state == State.QUEUED, Run.announced_at < seconds_from_now(-older_than_s))
        .order_by(Run.priority.desc(), Run.id)
        .limit(limit)
    )
    return session.scalars(locking(query, skip_locked=True)).all()


def announce_next(session: Session, pool: str) -> None:
    """Announce the first run that waits in ``pool``, though it has been; nothing where none does."""
    queued = select(Run).where(Run.pool == pool, Run.state == State.QUEUED).order_by(Run.priority.desc(), Run.id)
    for run in session.scalars(locking(queued.limit(1), skip_locked=True)):
        announce(session, run)
