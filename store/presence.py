"""Which workers are there: each says so itself, by the database's clock; it decides nothing but what is shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.models import Attempt, Run, Worker
from store.queue import WORK_VERSION, seconds_from_now
from store.states import OWNED

FORGOTTEN_S = 7 * 24 * 3600
"""How long a worker that is gone is still listed."""


@dataclass(frozen=True)
class Presence:
    """What a worker says of itself; ``name`` is host and process, ``trouble`` why it takes no run now."""

    name: str
    host: str
    pool: str
    slots: int
    threads: int
    version: str
    draining: bool = False
    trouble: str | None = None
    work_version: int = WORK_VERSION


def here(session: Session, one: Presence) -> None:
    """Say that a worker is there."""
    values = asdict(one)
    kept = {"draining": one.draining, "trouble": one.trouble, "seen_at": func.clock_timestamp()}
    session.execute(insert(Worker).values(values).on_conflict_do_update(index_elements=[Worker.name], set_=kept))
    session.execute(delete(Worker).where(Worker.seen_at < seconds_from_now(-FORGOTTEN_S)))


def gone(session: Session, name: str) -> None:
    """Say that a worker has ended as it should."""
    session.execute(delete(Worker).where(Worker.name == name))


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


def able(session: Session, run: Run, lease_s: float) -> Sequence[str | None]:
    """Of each worker that is there for ``run``, why it takes none now; None: it can."""
    query = select(Worker.trouble).where(*_there(run, lease_s), Worker.work_version >= run.needs)
    return session.scalars(query.order_by(Worker.name)).all()


def any_older(session: Session, run: Run, lease_s: float) -> bool:
    """Whether a worker is there that would take ``run``, were it not too old."""
    query = select(Worker).where(*_there(run, lease_s), Worker.work_version < run.needs)
    return bool(session.scalar(select(query.exists())))


def _there(run: Run, lease_s: float) -> tuple[ColumnElement[bool], ...]:
    return Worker.pool == run.pool, ~Worker.draining, Worker.seen_at > seconds_from_now(-lease_s)
