"""Which workers are there: each says so itself, by the database's clock, and hears what is asked of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.models import Attempt, Run, Worker
from store.queue import WORK_VERSION, seconds_from_now
from store.states import OWNED

FORGOTTEN_S = 7 * 24 * 3600
"""How long a worker that is gone is still listed."""


class Leave(StrEnum):
    """How a worker is asked to end."""

    FINISH = "finish"
    """When it has finished what it runs; it takes nothing more."""
    NOW = "now"
    """At once; what it runs goes back to the queue."""


@dataclass(frozen=True)
class Presence:
    """What a worker says of itself.

    Attributes:
        name: host and process.
        slots: how many runs it carries at once, over all its devices.
        trouble: why it takes no run now.
        labels: what runs may ask for.
        devices: those it was started for; none: the one that its surroundings name.
        memory_mb: what its host has left for one more trainer, MiB; None: it cannot tell.
    """

    name: str
    host: str
    pool: str
    slots: int
    threads: int
    version: str
    draining: bool = False
    trouble: str | None = None
    work_version: int = WORK_VERSION
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[str] = ()
    memory_mb: int | None = None


def here(session: Session, one: Presence, *, begins: bool = False) -> Leave | None:
    """Say that a worker is there, and learn whether somebody has asked it to leave.

    With ``begins`` it has just started: in a container its name may be that of the one before it.
    """
    values = {**asdict(one), "devices": list(one.devices)}
    now = func.clock_timestamp()
    kept = {"draining": one.draining, "trouble": one.trouble, "memory_mb": one.memory_mb, "seen_at": now}
    if begins:
        kept = values | {"seen_at": now, "started_at": now, "wish": None}
    said = insert(Worker).values(values).on_conflict_do_update(index_elements=[Worker.name], set_=kept)
    wish = session.scalar(said.returning(Worker.wish))
    session.execute(delete(Worker).where(Worker.seen_at < seconds_from_now(-FORGOTTEN_S)))
    return Leave(wish) if wish else None


def gone(session: Session, name: str) -> None:
    """Say that a worker has ended as it should."""
    session.execute(delete(Worker).where(Worker.name == name))


def ask_to_leave(session: Session, name: str, how: Leave, lease_s: float) -> Worker | None:
    """Ask a worker to end; what is asked at once is not taken back by a later, milder wish.

    None: no such worker has been seen within a lease.
    """
    wish = case((Worker.wish == Leave.NOW, Leave.NOW), else_=how)
    there = update(Worker).where(Worker.name == name, Worker.seen_at > seconds_from_now(-lease_s))
    return session.scalar(there.values(wish=wish).returning(Worker))


def workers(session: Session, lease_s: float) -> Sequence[tuple[Worker, bool, int]]:
    """Every worker that is or was there, whether it has been seen within a lease, and how many runs it owns."""
    runs = (
        select(func.count())
        .where(
            Run.state.in_(OWNED), Attempt.run_id == Run.id, Attempt.number == Run.fence, Attempt.worker == Worker.name
        )
        .scalar_subquery()
    )
    alive = Worker.seen_at > seconds_from_now(-lease_s)
    rows = session.execute(select(Worker, alive, runs).order_by(Worker.pool, Worker.name))
    return [(worker, bool(is_alive), int(count)) for worker, is_alive, count in rows]


def carried(session: Session) -> dict[str, list[Run]]:
    """Name of a worker -> the runs that it owns, in order."""
    query = select(Attempt.worker, Run).join(Run, (Run.id == Attempt.run_id) & (Run.fence == Attempt.number))
    found: dict[str, list[Run]] = defaultdict(list)
    for worker, run in session.execute(query.where(Run.state.in_(OWNED)).order_by(Run.id)):
        found[worker].append(run)
    return found


def takers(session: Session, pool: str, lease_s: float) -> Sequence[Worker]:
    """The workers of ``pool`` that are there to stay."""
    query = select(Worker).where(Worker.pool == pool, ~Worker.draining, Worker.wish.is_(None))
    return session.scalars(query.where(Worker.seen_at > seconds_from_now(-lease_s)).order_by(Worker.name)).all()
