"""How an attempt ends: its own run at fault, given back, crashed, held for want of disk, or lost.

(A success is ``store.scores.finish``.) A cancel or pause that came first decides what becomes of the run.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store import peaks
from store.models import Attempt, Run
from store.queue import Claim, Known, LeaseLost, locking, move, note, owned
from store.states import OWNED, Outcome, State, Wish

REAPER = "reaper"


@dataclass(frozen=True)
class Ending:
    """How a trainer process ended, as its supervisor saw it.

    Attributes:
        exit_code: of the process; negative: minus the signal.
        message: for people.
        peak_memory_mb, provenance: as in :class:`store.queue.Known`; None: what heartbeats have told of them stays.
        reason: one of ``store.reasons.ADVICE``.
        died_at: phase, epoch and step of its last sign of life.
        log: the end of the trainer's log.
    """

    exit_code: int | None = None
    message: str | None = None
    peak_memory_mb: int | None = None
    provenance: dict[str, Any] | None = None
    reason: str | None = None
    died_at: dict[str, Any] | None = None
    log: str | None = None


def end_attempt(session: Session, claim: Claim, outcome: Outcome, ending: Ending) -> None:
    """Close the attempt's row; the caller has made sure that the claim holds."""
    attempt = note(session, claim, Known(ending.provenance, ending.peak_memory_mb))
    attempt.outcome, attempt.ended_at = outcome, func.clock_timestamp()
    attempt.exit_code, attempt.message = ending.exit_code, ending.message
    attempt.reason, attempt.died_at, attempt.log = ending.reason, ending.died_at, ending.log or None
    peaks.learn(session, claim.run_id, attempt.peak_memory_mb, whole=outcome == Outcome.SUCCEEDED)


def fail(session: Session, claim: Claim, reason: str, ending: Ending) -> None:
    """The run itself is at fault. A cancel that came first wins; a pause does not, since there is nothing to resume.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if run.state == State.STOPPING and run.wish != Wish.PAUSE:
        return _obey(session, run, claim, Outcome.CANCELLED, ending)
    run.reason, run.message = reason, ending.message
    move(session, run, "fail", attempt=claim.fence, detail=reason)
    return end_attempt(session, claim, Outcome.FAILED, ending)


def release(session: Session, claim: Claim, ending: Ending) -> None:
    """Give the run back after an interruption; it burns nothing.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if run.state == State.STOPPING:
        return _obey(session, run, claim, Outcome.PREEMPTED, ending)
    move(session, run, "release", attempt=claim.fence)
    return end_attempt(session, claim, Outcome.PREEMPTED, ending)


def unclaim(session: Session, ticket: str) -> None:
    """Give back what was claimed with ``ticket``, if anything was: its worker never learnt of it."""
    found = session.scalar(select(Attempt).where(Attempt.ticket == ticket, Attempt.outcome == Outcome.RUNNING))
    if found is not None:
        with contextlib.suppress(LeaseLost):  # the reaper came first
            release(session, Claim(found.run_id, found.number), Ending(message="the answer to its claim was lost"))


def hold(session: Session, claim: Claim, ending: Ending) -> None:
    """The worker cannot go on (its disk is full): pause the run, with the reason, at its last good checkpoint.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if run.state == State.STOPPING:
        return _obey(session, run, claim, Outcome.PREEMPTED, ending)
    run.reason, run.message = ending.reason, ending.message
    move(session, run, "hold", attempt=claim.fence, detail=ending.reason)
    return end_attempt(session, claim, Outcome.PREEMPTED, ending)


def crash(session: Session, claim: Claim, ending: Ending, max_crashes: int) -> None:
    """The trainer died: queue the run again, or call it dead at the limit.

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
    lost = session.scalars(locking(query, skip_locked=True), {"lease": lease_s}).all()
    for run in lost:
        told = dict(run.progress or {})
        ending = Ending(
            message="no heartbeat for a whole lease: the worker or its host is gone",
            reason="lost",
            log=told.pop("log", None),
            died_at=told or None,
        )
        _crashed(session, run, Claim(run.id, run.fence), Outcome.LOST, ending, max_crashes)
    return [run.id for run in lost]


def _crashed(session: Session, run: Run, claim: Claim, outcome: Outcome, ending: Ending, max_crashes: int) -> None:
    if run.state == State.STOPPING:
        return _obey(session, run, claim, outcome, ending)
    again = run.crashes > 0 and _died_there_before(session, claim, ending)
    run.crashes += 1
    actor = REAPER if outcome == Outcome.LOST else None
    if again or run.crashes >= max_crashes:
        run.reason = "crashes-at-the-same-step" if again else "crashed-too-often"
        run.message = f"{run.crashes} attempts ended without a result; the last: {ending.message}"
        move(session, run, "poison", attempt=claim.fence, actor=actor, detail=ending.message)
    else:
        move(session, run, "crash", attempt=claim.fence, actor=actor, detail=ending.message)
    return end_attempt(session, claim, outcome, ending)


def _died_there_before(session: Session, claim: Claim, ending: Ending) -> bool:
    """Whether the crash before this one was at the same step of the same epoch."""
    place = _step(ending.died_at)
    if place is None:
        return False
    query = select(Attempt.died_at).where(
        Attempt.run_id == claim.run_id,
        Attempt.number < claim.fence,
        Attempt.outcome.in_([Outcome.CRASHED, Outcome.LOST]),
    )
    return _step(session.scalars(query.order_by(Attempt.number.desc()).limit(1)).first()) == place


def _step(place: dict[str, Any] | None) -> tuple[int, int] | None:
    return (place["epoch"], place["step"]) if place and place.get("step") else None


def _obey(session: Session, run: Run, claim: Claim, outcome: Outcome, ending: Ending) -> None:
    """The attempt is over; do with the run what was asked."""
    if run.wish == Wish.PAUSE:
        move(session, run, "paused", attempt=claim.fence)
        return end_attempt(session, claim, outcome, ending)
    move(session, run, "cancelled", attempt=claim.fence)
    return end_attempt(session, claim, Outcome.CANCELLED, ending)
