"""What may happen next: every move is one guarded change plus one event row in the caller's transaction.

A claim carries a fencing number. Each write of a worker locks its run and checks that number in the same
transaction, so a worker that lost its run writes nothing. Only the database's clock decides.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, select, text, update
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from store import datasets, hardware, peaks, views
from store.models import Announcement, Attempt, Base, Epoch, Experiment, Run, RunEvent, StepLosses
from store.settings import settings
from store.states import ELSEWHERE, FINAL, OWNED, REMARKS, IllegalMove, Outcome, State, target

WORK_VERSION = 6
"""Raised by hand when runs that are submitted from now on need what older workers cannot do, such as a new setting:
specs are stored with all of them, and a worker refuses what it does not know."""


class LeaseLost(Exception):
    """The claim no longer owns its run; its worker must stop and write nothing more."""


@dataclass(frozen=True)
class Claim:
    """The right to write about a run until somebody else claims it."""

    run_id: int
    fence: int


@dataclass(frozen=True)
class Known:
    """What a supervisor knows of its attempt long before it ends; None: not yet.

    Attributes:
        provenance: host, device, versions; ``changed_from``: what was other where its checkpoint was computed.
        peak_memory_mb: largest resident size so far, MiB.
    """

    provenance: dict[str, Any] | None = None
    peak_memory_mb: int | None = None


@dataclass(frozen=True)
class Offer:
    """What a worker has for a run.

    Attributes:
        labels: a run that asks for others is not for it.
        memory_mb: what one more trainer may take, MiB; None: it cannot tell, so that every run fits.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    memory_mb: int | None = None


ANYTHING = Offer()


@dataclass(frozen=True)
class Work:
    """What a worker needs to carry a claimed run through."""

    claim: Claim
    kind: str
    spec: dict[str, Any]
    manifest: Manifest
    content_hash: str
    dataset_artifact: str
    weights: str | None
    checkpoint: dict[str, Any] | None
    scored_from: int | None
    predictor: str | None
    images: str | None
    best_epoch: int
    memory_mb: int = 0
    """What runs like it took, MiB; 0: nobody knows."""


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


def enter_new(
    session: Session, experiment: Experiment, runs: Sequence[dict[str, Any]], actor: str | None = None
) -> Sequence[Run]:
    """Write the runs of a new experiment in their first state, with their first events and announcements.

    Three statements, however many runs there are. A run enters by ``submit``, or by ``reuse`` where it shows
    another's result.

    Args:
        session: an open session.
        experiment: whose runs; it has none yet.
        runs: the other columns of each, the same for all; ids rise in this order.
        actor: whom the events name.

    Returns the runs, in the same order.
    """
    session.execute(
        NEW_RUNS,
        [
            {"labels": {}, **run, **_first(run, experiment), "needs": WORK_VERSION, "cost": peaks.cost(run)}
            for run in runs
        ],
    )
    session.execute(TELL_OF_NEW, {"experiment": experiment.id, "actor": actor})
    return views.experiment_runs(session, experiment.id)


NEW_RUNS = insert(Base.metadata.tables["runs"])  # of the table: the class would do more than is needed

TELL_OF_NEW = text("""
    WITH told AS (
        INSERT INTO run_events (run_id, move, state, actor)
        SELECT id, CASE WHEN reused_from IS NULL THEN 'submit' ELSE 'reuse' END, state, :actor
        FROM runs WHERE experiment_id = :experiment ORDER BY id
    )
    INSERT INTO outbox (run_id, pool, number)
    SELECT id, pool, announcements FROM runs WHERE experiment_id = :experiment AND state = 'queued' ORDER BY id""")


def _first(run: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """How a new run stands, by the database's clock of its experiment."""
    state = target("submit" if run["reused_from"] is None else "reuse", None)
    queued, now = state == State.QUEUED, experiment.created_at
    return {
        "experiment_id": experiment.id,
        "state": state,
        "crashes": 0,
        "announcements": int(queued),
        "announced_at": now if queued else None,
        "finished_at": None if queued else now,
    }


def _enter(
    session: Session,
    run: Run,
    name: str,
    state: State,
    *,
    attempt: int | None = None,
    actor: str | None = None,
    detail: str | None = None,
) -> None:
    run.state = state
    session.add(RunEvent(run_id=run.id, move=name, state=state, attempt=attempt, actor=actor, detail=detail))
    if state not in OWNED:
        run.lease_until, run.progress, run.wish = None, None, None
    if state == State.QUEUED:
        announce(session, run)
    elif state in FINAL:
        run.finished_at = func.clock_timestamp()


def announce(session: Session, run: Run) -> None:
    """Put "there is work in this pool" into the outbox."""
    run.announcements = (run.announcements or 0) + 1
    run.announced_at = func.clock_timestamp()
    session.add(Announcement(run_id=run.id, pool=run.pool, number=run.announcements))


# --- claim and lease --------------------------------------------------------------------------------------------


CLAIM = text("""
    WITH best AS (
        SELECT id FROM runs WHERE pool = :pool AND state = 'queued' AND needs <= :version
            AND labels <@ CAST(:labels AS jsonb)
            AND coalesce((SELECT memory_mb FROM peaks WHERE peaks.cost = runs.cost) <= :memory_mb, true)
        ORDER BY priority DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE runs SET state = 'running', fence = fence + 1, started_at = coalesce(started_at, clock_timestamp()),
            lease_until = clock_timestamp() + make_interval(secs => :lease_s)
        FROM best WHERE runs.id = best.id RETURNING runs.*, coalesce((checkpoint->>'epoch')::int, 0) AS resumed_from
    ), told AS (
        INSERT INTO run_events (run_id, move, state, attempt, actor)
        SELECT id, 'claim', state, fence, :worker FROM taken
    ), begun AS (
        INSERT INTO attempts (run_id, number, worker, host, outcome, resumed_from, ticket)
        SELECT id, fence, :worker, :host, 'running', resumed_from, :ticket FROM taken
    )
    SELECT taken.id, fence, kind, spec, weights, checkpoint, scored_from, predictor, images, best_epoch, resumed_from,
        dataset_id, datasets.created_at, content_hash, artifact,
        coalesce((SELECT memory_mb FROM peaks WHERE peaks.cost = taken.cost), 0) AS memory_mb
    FROM taken JOIN datasets ON datasets.id = dataset_id""")
"""One statement, since every worker of a pool does it at the same time. The arrow is that of ``store.states``.

The state is no parameter: only so does a plan that is made once use the index of what is queued.
"""


def claim(
    session: Session,
    pool: str,
    worker: str,
    host: str,
    lease_s: float,
    version: int = WORK_VERSION,
    ticket: str | None = None,
    offer: Offer = ANYTHING,
) -> Work | None:
    """Take the best queued run of ``pool`` (priority, then age) that a worker of ``version`` can carry, or None.

    Args:
        session: an open session.
        pool: where from.
        worker: who claims: host and process.
        host: where it runs.
        lease_s: how long the claim holds without a heartbeat, seconds.
        version: what the worker can carry.
        ticket: a word that nobody else uses, with which :func:`store.endings.unclaim` finds the claim.
        offer: what the worker has for it.
    """
    who = {"pool": pool, "version": version, "worker": worker, "host": host, "lease_s": lease_s, "ticket": ticket}
    has = {"labels": json.dumps(dict(offer.labels)), "memory_mb": room(offer)}
    run = session.execute(CLAIM, who | has).one_or_none()
    if run is None:
        return None
    if run.fence > 1:
        archive_after(session, run.id, run.resumed_from)
    return Work(
        Claim(run.id, run.fence),
        run.kind,
        run.spec,
        datasets.manifest_at(session, run.dataset_id, run.created_at),
        run.content_hash,
        run.artifact,
        run.weights,
        run.checkpoint,
        run.scored_from,
        run.predictor,
        run.images,
        run.best_epoch or 0,
        run.memory_mb,
    )


def room(offer: Offer) -> int:
    """What a run may take at most, MiB."""
    return 2**62 if offer.memory_mb is None else offer.memory_mb


def archive_after(session: Session, run_id: int, epoch: int) -> None:
    """What was recorded past ``epoch`` will be computed again; the old rows stay, out of sight."""
    for table in (Epoch, StepLosses):
        session.execute(
            update(table)
            .where(table.run_id == run_id, table.epoch > epoch, table.archived_at.is_(None))
            .values(archived_at=func.clock_timestamp())
        )


def heartbeat(
    session: Session,
    claim: Claim,
    lease_s: float,
    progress: dict[str, Any] | None = None,
    news: Known | None = None,
) -> State:
    """Renew the lease and learn whether to go on (``running``) or to end (``stopping``).

    Args:
        session: an open session.
        claim: whose lease.
        lease_s: how long it holds from now, seconds.
        progress: what is shown of the run meanwhile; None leaves what was told last.
        news: what has become known of the attempt since the last heartbeat.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    values: dict[str, Any] = {"lease_until": seconds_from_now(lease_s)}
    if progress is not None:
        values["progress"] = progress
    renewal = update(Run).where(Run.id == claim.run_id, Run.fence == claim.fence, Run.state.in_(OWNED))
    state = session.scalar(renewal.values(values).returning(Run.state)) or owned(session, claim).state
    if news is not None:
        note(session, claim, news)
    return State(state)


def note(session: Session, claim: Claim, known: Known) -> Attempt:
    """Keep what is known of an attempt, so that it outlives a worker that is never heard of again; its row.

    The caller has made sure that the claim holds. What is not known leaves what was.
    """
    attempt = session.get_one(Attempt, (claim.run_id, claim.fence))
    if known.provenance is not None:
        if hardware.changes(known.provenance) and not hardware.changes(attempt.provenance):
            _tell_elsewhere(session, attempt, known.provenance)
        attempt.provenance = known.provenance
    if known.peak_memory_mb is not None:
        attempt.peak_memory_mb = known.peak_memory_mb
    return attempt


def _tell_elsewhere(session: Session, attempt: Attempt, provenance: dict[str, Any]) -> None:
    told = f"resumed on different hardware: {hardware.changes(provenance)}"
    state = session.get_one(Run, attempt.run_id).state
    session.add(
        RunEvent(
            run_id=attempt.run_id,
            move=ELSEWHERE,
            state=state,
            attempt=attempt.number,
            actor=attempt.worker,
            detail=told,
        )
    )


MINE = locking(select(Run).where(Run.id == bindparam("run")))


def owned(session: Session, claim: Claim) -> Run:
    """The run of ``claim``, locked; the fencing check of every write.

    A run that was taken back because its lease ran out, and that nobody has claimed, paused or requeued since, is
    taken up again.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    run = session.scalar(MINE, {"run": claim.run_id})
    if run is None or run.fence != claim.fence:
        raise LeaseLost(claim)
    if run.state not in OWNED:
        _reattach(session, run, claim)
    return run


def _reattach(session: Session, run: Run, claim: Claim) -> None:
    attempt = session.get_one(Attempt, (claim.run_id, claim.fence))
    if run.state != State.QUEUED or attempt.outcome != Outcome.LOST or _last_move(session, run) != "crash":
        raise LeaseLost(claim)
    move(session, run, "reattach", attempt=claim.fence, actor=attempt.worker)
    run.crashes -= 1
    run.lease_until = seconds_from_now(settings().lease_s)
    attempt.outcome = Outcome.RUNNING
    attempt.ended_at, attempt.message, attempt.reason, attempt.died_at = None, None, None, None


def _last_move(session: Session, run: Run) -> str:
    """Other than ``crash``: the loss of the attempt was not counted, or does not count any more."""
    moves = select(RunEvent.move).where(RunEvent.run_id == run.id, RunEvent.move.not_in(REMARKS))
    return session.scalars(moves.order_by(RunEvent.id.desc()).limit(1)).one()


def done(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Those runs that nothing will go on with; a dead one may be requeued and then needs its checkpoint."""
    over = Run.state.in_(FINAL - {State.DEAD})
    return list(session.scalars(select(Run.id).where(Run.id.in_(run_ids), over).order_by(Run.id)))
