"""What a trainer yields on its way, stored in numbered batches: each once, however often it is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.records import EpochRecord
from store.models import Attempt, Base, StepLosses
from store.queue import Claim, archive_after, owned


@dataclass(frozen=True)
class Steps:
    """Losses of consecutive steps of one epoch; ``first`` is the number of the first step, from 1."""

    epoch: int
    first: int
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """An epoch that is done, and the checkpoint that follows it."""

    record: EpochRecord
    checkpoint: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Records of one attempt, in order; ``number`` counts from 1 within the attempt."""

    number: int
    steps: Sequence[Steps] = ()
    epochs: Sequence[Finished] = ()


def record(session: Session, claim: Claim, batch: Batch, of: int | None = None) -> bool:
    """Store a batch; False: it was stored before, which is what a lost reply to a commit looks like.

    Epochs and the checkpoint that follows them are stored together, so neither is ever ahead of the other.

    Args:
        session: an open session.
        claim: who writes.
        batch: what is written.
        of: number of the attempt that computed it, where that is an earlier one of the same host.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    attempt = of or claim.fence
    own = {"run_id": run.id, "attempt": attempt}
    if session.scalar(RECEIVE, {**own, "batch": batch.number}) is None:
        return False
    steps = [{**own, "epoch": one.epoch, "first": one.first, "losses": list(one.losses)} for one in batch.steps]
    epochs = [{**own, **_values(one.record)} for one in batch.epochs]
    if steps:
        session.execute(STEPS, steps)
    if epochs:
        session.execute(EPOCHS, epochs)
    if of is not None:
        _unarchive(session, run.id, of, [one.record.epoch for one in batch.epochs])
    for one in batch.epochs:
        run.checkpoint = {**one.checkpoint, "before": _without_before(run.checkpoint)}
    return True


# Built once, and on tables rather than classes: every heartbeat does it.
_TABLES = Base.metadata.tables
RECEIVE = insert(_TABLES["receipts"]).on_conflict_do_nothing().returning(_TABLES["receipts"].c.batch)
STEPS = insert(_TABLES["step_losses"])
EPOCHS = insert(_TABLES["epochs"])


def fall_back(session: Session, claim: Claim, unreadable: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint cannot be read: go back to the one before it, or to the start; the checkpoint to go on from.

    Said twice, since an answer got lost, it goes back once.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = owned(session, claim)
    if not run.checkpoint or run.checkpoint["epoch"] != unreadable["epoch"]:
        return run.checkpoint
    run.checkpoint = run.checkpoint.get("before")
    epoch = run.checkpoint["epoch"] if run.checkpoint else 0
    archive_after(session, run.id, epoch)
    attempt = update(Attempt).where(Attempt.run_id == run.id, Attempt.number == claim.fence)
    session.execute(attempt.values(resumed_from=epoch))
    return run.checkpoint


def _unarchive(session: Session, run_id: int, attempt: int, epochs: Sequence[int]) -> None:
    """The first steps of an epoch had been stored before the database went away, and put aside at the next claim."""
    kept = update(StepLosses).where(StepLosses.run_id == run_id, StepLosses.attempt == attempt)
    session.execute(kept.where(StepLosses.epoch.in_(epochs)).values(archived_at=None))


def _values(one: EpochRecord) -> dict[str, Any]:
    return {name: getattr(one, name) for name in EpochRecord.__dataclass_fields__}


def _without_before(checkpoint: dict[str, Any] | None) -> dict[str, Any] | None:
    return checkpoint and {key: value for key, value in checkpoint.items() if key != "before"}
