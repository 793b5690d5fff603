"""What may happen next: claim, lease, release, reap. Every move is one guarded change plus one event row.

A claim carries a fencing number. Each write of a worker locks its run and checks that number in the same
transaction, so a worker that lost its run writes nothing. Only the database's clock decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.records import EpochRecord
from store.models import Announcement, Attempt, Dataset, Epoch, Run, RunEvent
from store.states import FINAL, OWNED, IllegalMove, Outcome, State, target


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


def _locking(query: Select[Run], *, skip_locked: bool = False) -> Select[Run]:
    """``query`` with its rows locked and read as they are now, also where the session has seen them before."""
    return query.with_for_update(skip_locked=skip_locked).execution_options(populate_existing=True)


def move(session: Session, run: Run, name: str, *, attempt: int | None = None, detail: str | None = None) -> None:
    """Follow the arrow ``name``; the caller holds the row's lock.

    Raises:
        IllegalMove: no such arrow from the run's state.
    """
    state = State(run.state)
    reached = target(name, state)
    if reached is None:
        raise IllegalMove(run.id, name, state)
    _enter(session, run, name, reached, attempt=attempt, detail=detail)


def enter_new(session: Session, run: Run, name: str, at: datetime | None = None) -> None:
    """Give a new run its first state, by ``submit`` or ``reuse``.

    ``at`` is the database's time, asked once where many runs enter: plain values are written in bulk.
    """
    reached = target(name, None)
    assert reached is not None
    _enter(session, run, name, reached, at=at)


def _enter(
    session: Session,
    run: Run,
    name: str,
    state: State,
    *,
    attempt: int | None = None,
    detail: str | None = None,
    at: datetime | None = None,
) -> None:
    run.state = state
    session.add(RunEvent(run_id=run.id, move=name, state=state, attempt=attempt, detail=detail))
    if state not in OWNED:
        run.lease_until = None
        run.progress = None
    if state == State.QUEUED:
        announce(session, run, at)
    elif state not in OWNED:
        run.finished_at = at or func.clock_timestamp()


def announce(session: Session, run: Run, at: datetime | None = None) -> None:
    """Put "there is work in this pool" into the outbox."""
    run.announcements = (run.announcements or 0) + 1
    run.announced_at = at or func.clock_timestamp()
    session.add(Announcement(run_id=run.id, pool=run.pool, number=run.announcements))


def claim(session: Session, pool: str, worker: str, host: str, lease_s: float) -> Work | None:
    """Take the best queued run of ``pool`` (priority, then age), or None when there is none."""
    query = select(Run).where(Run.pool == pool, Run.state == State.QUEUED)
    run = session.scalar(_locking(query.order_by(Run.priority.desc(), Run.id).limit(1), skip_locked=True))
    if run is None:
        return None
    run.fence += 1
    move(session, run, "claim", attempt=run.fence, detail=worker)
    run.lease_until = seconds_from_now(lease_s)
    run.started_at = func.coalesce(Run.started_at, func.clock_timestamp())
    resumed_from = run.checkpoint["epoch"] if run.checkpoint else 0
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


def heartbeat(session: Session, claim: Claim, lease_s: float, progress: dict[str, Any] | None = None) -> State:
    """Renew the lease and learn whether to go on (``running``) or to end (``stopping``).

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    values: dict[str, Any] = {"lease_until": seconds_from_now(lease_s)}
    if progress is not None:
        values["progress"] = progress
    state = session.scalar(
        update(Run)
        .where(Run.id == claim.run_id, Run.fence == claim.fence, Run.state.in_(OWNED))
        .values(values)
        .returning(Run.state)
    )
    if state is None:
        raise LeaseLost(claim)
    return State(state)


def owned(session: Session, claim: Claim) -> Run:
    """The run of ``claim``, locked; the fencing check of every write.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = session.get(Run, claim.run_id, with_for_update=True, populate_existing=True)
    if run is None or run.fence != claim.fence or run.state not in OWNED:
        raise LeaseLost(claim)
    return run


def record_epoch(session: Session, claim: Claim, record: EpochRecord, checkpoint: dict[str, Any]) -> None:
    """Store an epoch together with the checkpoint that follows it, so neither is ever ahead of the other.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    values = {name: getattr(record, name) for name in EpochRecord.__dataclass_fields__}
    # The same event may come twice when a commit's reply was lost.
    session.execute(insert(Epoch).values(run_id=run.id, attempt=claim.fence, **values).on_conflict_do_nothing())
    run.checkpoint = checkpoint


def forget_checkpoint(session: Session, claim: Claim) -> None:
    """The checkpoint cannot be read: archive every epoch row and begin again.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    run.checkpoint = None
    session.execute(
        update(Epoch)
        .where(Epoch.run_id == run.id, Epoch.archived_at.is_(None))
        .values(archived_at=func.clock_timestamp())
    )
    session.execute(
        update(Attempt).where(Attempt.run_id == run.id, Attempt.number == claim.fence).values(resumed_from=0)
    )


@dataclass(frozen=True)
class Ending:
    """How a trainer process ended, as its supervisor saw it."""

    exit_code: int | None = None
    message: str | None = None
    peak_memory_mb: int | None = None
    provenance: dict[str, Any] | None = None


def end_attempt(session: Session, claim: Claim, outcome: Outcome, ending: Ending) -> None:
    """Close the attempt's row; the caller has made sure that the claim holds."""
    session.execute(
        update(Attempt)
        .where(Attempt.run_id == claim.run_id, Attempt.number == claim.fence)
        .values(
            outcome=outcome,
            ended_at=func.clock_timestamp(),
            exit_code=ending.exit_code,
            message=ending.message,
            peak_memory_mb=ending.peak_memory_mb,
            provenance=ending.provenance,
        )
    )


def fail(session: Session, claim: Claim, reason: str, ending: Ending) -> None:
    """The run itself is at fault. A cancel that came first wins.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if run.state == State.STOPPING:
        return _acknowledge_cancel(session, run, claim, ending)
    run.reason, run.message = reason, ending.message
    move(session, run, "fail", attempt=claim.fence, detail=reason)
    return end_attempt(session, claim, Outcome.FAILED, ending)


def release(session: Session, claim: Claim, ending: Ending) -> None:
    """Give the run back after an interruption; it burns nothing. A cancel that came first wins.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if run.state == State.STOPPING:
        return _acknowledge_cancel(session, run, claim, ending)
    move(session, run, "release", attempt=claim.fence)
    return end_attempt(session, claim, Outcome.PREEMPTED, ending)


def crash(session: Session, claim: Claim, ending: Ending, max_crashes: int) -> None:
    """The trainer died: queue the run again, or call it dead at the limit. A cancel that came first wins.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    _crashed(session, owned(session, claim), claim, Outcome.CRASHED, ending, max_crashes)


def reap(session: Session, lease_s: float, max_crashes: int) -> list[int]:
    """Take back the runs whose lease has run out; the ids of those taken.

    Nothing is taken while Postgres itself has been up for less than a lease: workers could not renew theirs.
    """
    up_long_enough = text("clock_timestamp() - pg_postmaster_start_time() > make_interval(secs => :lease)")
    query = select(Run).where(Run.state.in_(OWNED), Run.lease_until < func.clock_timestamp(), up_long_enough)
    lost = session.scalars(_locking(query, skip_locked=True), {"lease": lease_s}).all()
    for run in lost:
        ending = Ending(message="no heartbeat for a whole lease: the worker or its host is gone")
        _crashed(session, run, Claim(run.id, run.fence), Outcome.LOST, ending, max_crashes)
    return [run.id for run in lost]


def _crashed(session: Session, run: Run, claim: Claim, outcome: Outcome, ending: Ending, max_crashes: int) -> None:
    if run.state == State.STOPPING:
        return _acknowledge_cancel(session, run, claim, ending)
    run.crashes += 1
    if run.crashes >= max_crashes:
        run.reason = "crashed-too-often"
        run.message = f"{run.crashes} attempts ended without a result; the last: {ending.message}"
        move(session, run, "poison", attempt=claim.fence, detail=ending.message)
    else:
        move(session, run, "crash", attempt=claim.fence, detail=ending.message)
    return end_attempt(session, claim, outcome, ending)


def _acknowledge_cancel(session: Session, run: Run, claim: Claim, ending: Ending) -> None:
    move(session, run, "cancelled", attempt=claim.fence)
    end_attempt(session, claim, Outcome.CANCELLED, ending)


def cancel(session: Session, project_id: int, run_id: int) -> Run | None:
    """Ask a run to end; asking twice is once. None where the project has no such run.

    Raises:
        IllegalMove: it has ended in another way.
    """
    run = _locked(session, project_id, run_id)
    if run is not None and run.state not in (State.STOPPING, State.CANCELLED):
        move(session, run, "cancel")
        _settle(session, run)
    return run


def requeue(session: Session, project_id: int, run_id: int) -> Run | None:
    """Give a dead run a new set of attempts. None where the project has no such run.

    Raises:
        IllegalMove: it is not dead.
    """
    run = _locked(session, project_id, run_id)
    if run is not None:
        move(session, run, "requeue")
        run.crashes, run.reason, run.message, run.finished_at = 0, None, None, None
        _settle(session, run)
    return run


def _locked(session: Session, project_id: int, run_id: int) -> Run | None:
    return session.scalar(_locking(select(Run).where(Run.id == run_id, Run.project_id == project_id)))


def _settle(session: Session, run: Run) -> None:
    """Write and read back, so that times set by the database's clock can be shown."""
    session.flush()
    session.refresh(run)


def is_done(session: Session, run_id: int) -> bool:
    """Whether nothing will go on with the run; a dead one may be requeued and then needs its checkpoint."""
    return session.scalars(select(Run.state).where(Run.id == run_id)).one() in FINAL - {State.DEAD}


def queued(session: Session) -> dict[str, int]:
    """How many runs wait in each pool."""
    rows = session.execute(select(Run.pool, func.count()).where(Run.state == State.QUEUED).group_by(Run.pool))
    return dict(rows.all())


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
    return session.scalars(_locking(query, skip_locked=True)).all()
