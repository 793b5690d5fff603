"""What may happen next: every move is one guarded change plus one event row in the caller's transaction.

A claim carries a fencing number. Each write of a worker locks its run and checks that number in the same
transaction, so a worker that lost its run writes nothing. Only the database's clock decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from store.models import Announcement, Attempt, Dataset, Epoch, Run, RunEvent, StepLosses
from store.settings import settings
from store.states import FINAL, OWNED, IllegalMove, Outcome, State, target

WORK_VERSION = 1
"""Raised by hand when runs that are submitted from now on need what older workers cannot do."""


class LeaseLost(Exception):
    """The claim no longer owns its run; its worker must stop and write nothing more."""


@dataclass(frozen=True)
class Claim:
    """The right to write about a run until somebody else claims it."""

    run_id: int
    fence: int


@dataclass(frozen=True)
class Work:
    """What a worker needs to carry a claimed run through."""

    claim: Claim
    kind: str
    spec: dict[str, Any]
    manifest: dict[str, Any]
    content_hash: str
    dataset_artifact: str
    weights: str | None
    checkpoint: dict[str, Any] | None
    scored_from: int | None
    predictor: str | None
    images: str | None
    best_epoch: int


def seconds_from_now(seconds: float) -> Any:
    """The database's clock plus ``seconds``, as an SQL expression."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def locking(query: Select[Run], *, skip_locked: bool = False) -> Select[Run]:
    """``query`` with its rows locked and read as they are now, also where the session has seen them before."""
    return query.with_for_update(skip_locked=skip_locked).execution_options(populate_existing=True)


# --- moves ------------------------------------------------------------------------------------------------------


def move(
    session: Session,
    run: Run,
    name: str,
    *,
    attempt: int | None = None,
    actor: str | None = None,
    detail: str | None = None,
) -> None:
    """Follow the arrow ``name``; the caller holds the row's lock.

    Raises:
        IllegalMove: no such arrow from the run's state.
    """
    state = State(run.state)
    reached = target(name, state)
    if reached is None:
        raise IllegalMove(run.id, name, state)
    _enter(session, run, name, reached, attempt=attempt, actor=actor, detail=detail)


def enter_new(session: Session, run: Run, name: str, at: datetime | None = None, actor: str | None = None) -> None:
    """Give a new run its first state, by ``submit`` or ``reuse``.

    ``at`` is the database's time, asked once where many runs enter: plain values are written in bulk.
    """
    reached = target(name, None)
    assert reached is not None
    _enter(session, run, name, reached, at=at, actor=actor)


def _enter(
    session: Session,
    run: Run,
    name: str,
    state: State,
    *,
    attempt: int | None = None,
    actor: str | None = None,
    detail: str | None = None,
    at: datetime | None = None,
) -> None:
    run.state = state
    session.add(RunEvent(run_id=run.id, move=name, state=state, attempt=attempt, actor=actor, detail=detail))
    if state not in OWNED:
        run.lease_until, run.progress, run.wish = None, None, None
    if state == State.QUEUED:
        announce(session, run, at)
    elif state in FINAL:
        run.finished_at = at or func.clock_timestamp()


def announce(session: Session, run: Run, at: datetime | None = None) -> None:
    """Put "there is work in this pool" into the outbox."""
    run.announcements = (run.announcements or 0) + 1
    run.announced_at = at or func.clock_timestamp()
    session.add(Announcement(run_id=run.id, pool=run.pool, number=run.announcements))


# --- claim and lease --------------------------------------------------------------------------------------------


def claim(
    session: Session, pool: str, worker: str, host: str, lease_s: float, version: int = WORK_VERSION
) -> Work | None:
    """Take the best queued run of ``pool`` (priority, then age) that a worker of ``version`` can carry, or None."""
    query = select(Run).where(Run.pool == pool, Run.state == State.QUEUED, Run.needs <= version)
    run = session.scalar(locking(query.order_by(Run.priority.desc(), Run.id).limit(1), skip_locked=True))
    if run is None:
        return None
    run.fence += 1
    move(session, run, "claim", attempt=run.fence, actor=worker)
    run.lease_until = seconds_from_now(lease_s)
    run.started_at = func.coalesce(Run.started_at, func.clock_timestamp())
    resumed_from = run.checkpoint["epoch"] if run.checkpoint else 0
    if run.fence > 1:
        archive_after(session, run.id, resumed_from)
    session.add(
        Attempt(
            run_id=run.id, number=run.fence, worker=worker, host=host, outcome="running", resumed_from=resumed_from
        )
    )
    dataset = session.get_one(Dataset, run.dataset_id)
    return Work(
        Claim(run.id, run.fence),
        run.kind,
        run.spec,
        dataset.manifest,
        dataset.content_hash,
        dataset.artifact,
        run.weights,
        run.checkpoint,
        run.scored_from,
        run.predictor,
        run.images,
        run.best_epoch or 0,
    )


def archive_after(session: Session, run_id: int, epoch: int) -> None:
    """What was recorded past ``epoch`` will be computed again; the old rows stay, out of sight."""
    for table in (Epoch, StepLosses):
        session.execute(
            update(table)
            .where(table.run_id == run_id, table.epoch > epoch, table.archived_at.is_(None))
            .values(archived_at=func.clock_timestamp())
        )


def heartbeat(session: Session, claim: Claim, lease_s: float, progress: dict[str, Any] | None = None) -> State:
    """Renew the lease and learn whether to go on (``running``) or to end (``stopping``).

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    values: dict[str, Any] = {"lease_until": seconds_from_now(lease_s)}
    if progress is not None:
        values["progress"] = progress
    renewal = update(Run).where(Run.id == claim.run_id, Run.fence == claim.fence, Run.state.in_(OWNED))
    state = session.scalar(renewal.values(values).returning(Run.state))
    return State(state) if state else State(owned(session, claim).state)


def owned(session: Session, claim: Claim) -> Run:
    """The run of ``claim``, locked; the fencing check of every write.

    A run that was taken back because its lease ran out, and that nobody has claimed since, is taken up again.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = session.get(Run, claim.run_id, with_for_update=True, populate_existing=True)
    if run is None or run.fence != claim.fence:
        raise LeaseLost(claim)
    if run.state not in OWNED:
        _reattach(session, run, claim)
    return run


def _reattach(session: Session, run: Run, claim: Claim) -> None:
    attempt = session.get_one(Attempt, (claim.run_id, claim.fence))
    if run.state != State.QUEUED or attempt.outcome != Outcome.LOST:
        raise LeaseLost(claim)
    move(session, run, "reattach", attempt=claim.fence, actor=attempt.worker)
    run.crashes -= 1
    run.lease_until = seconds_from_now(settings().lease_s)
    attempt.outcome = Outcome.RUNNING
    attempt.ended_at, attempt.message, attempt.reason, attempt.died_at = None, None, None, None


# --- what waits -------------------------------------------------------------------------------------------------


def is_done(session: Session, run_id: int) -> bool:
    """Whether nothing will go on with the run; a dead one may be requeued and then needs its checkpoint."""
    return session.scalars(select(Run.state).where(Run.id == run_id)).one() in FINAL - {State.DEAD}


def queued(session: Session) -> dict[str, int]:
    """How many runs wait in each pool."""
    rows = session.execute(select(Run.pool, func.count()).where(Run.state == State.QUEUED).group_by(Run.pool))
    return dict(rows.all())


def claimable(session: Session, pool: str, older_than_s: float, version: int = WORK_VERSION) -> int:
    """How many runs of ``pool`` that a worker of ``version`` could carry have waited for longer than that."""
    waited = select(func.count()).where(Run.pool == pool, Run.state == State.QUEUED, Run.needs <= version)
    queued_at = select(func.max(RunEvent.at)).where(RunEvent.run_id == Run.id, RunEvent.state == State.QUEUED)
    return session.scalars(waited.where(queued_at.scalar_subquery() < seconds_from_now(-older_than_s))).one()


def unsent(session: Session, pool: str) -> int:
    """How many announcements for ``pool`` are still in the outbox."""
    return session.scalars(select(func.count()).where(Announcement.pool == pool)).one()


def stale_announcements(session: Session, pool: str, older_than_s: float, limit: int) -> Sequence[Run]:
    """Queued runs of ``pool`` whose announcement is old, oldest first, locked."""
    query = (
        select(Run)
        .where(Run.pool == pool, Run.state == State.QUEUED, Run.announced_at < seconds_from_now(-older_than_s))
        .order_by(Run.priority.desc(), Run.id)
        .limit(limit)
    )
    return session.scalars(locking(query, skip_locked=True)).all()
