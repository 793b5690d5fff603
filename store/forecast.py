"""When runs will begin and end, and what memory they will take, from what runs like them took.

A run is like another one if they have the same settings but those that change neither time nor memory: learning rate
and schedule, seed, loss, thresholds. Nothing is guessed about a run that none was like; and since training may stop
early, every time is an upper bound.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session, load_only

from store import fitting, peaks
from store.models import Run
from store.peaks import cost_key
from store.states import OWNED, State

LOOKED_AT = 200
"""Finished runs of a pool, the newest, from which is learnt what runs take."""


@dataclass(frozen=True)
class Experience:
    """What finished runs of one cost took.

    Attributes:
        epoch_s: seconds of an epoch, the median over runs; 0 where nothing is trained.
        other_s: seconds of everything else (start, scoring, storing), the median over runs.
        memory_mb: the largest resident memory of a trainer, MiB; None where none was noted.
        runs: how many finished runs this is known from.
    """

    epoch_s: float
    other_s: float
    memory_mb: int | None
    runs: int

    def seconds(self, epochs: int) -> float:
        """How long a run of at most ``epochs`` more epochs takes at most."""
        return epochs * self.epoch_s + self.other_s


@dataclass(frozen=True)
class Place:
    """A waiting run in its pool's queue: its run, its position from 1, and seconds from now until it begins and ends.

    Times are None where nothing is known about it or about what comes before it; ``waits`` says why no worker that is
    there can take it.
    """

    run: Run
    position: int
    starts_s: float | None
    ends_s: float | None
    waits: str | None = None


@dataclass(frozen=True)
class Working:
    """A run that a worker owns, and seconds from now until it ends at the latest; None: nobody can say."""

    run: Run
    ends_s: float | None


@dataclass(frozen=True)
class PoolQueue:
    """A pool: what runs in it, and what waits in which order. ``slots`` are those of workers that can take runs."""

    pool: str
    slots: int
    running: Sequence[Working]
    waiting: Sequence[Place]


TOOK = text("""
    WITH newest AS (
        SELECT id, kind, spec, fence FROM runs
        WHERE pool = :pool AND state = 'succeeded' AND reused_from IS NULL ORDER BY id DESC LIMIT :most
    )
    SELECT n.kind, n.spec, extract(epoch FROM a.ended_at - a.started_at)::float AS took, a.peak_memory_mb,
        e.epochs, e.seconds
    FROM newest n JOIN attempts a ON a.run_id = n.id AND a.number = n.fence
    LEFT JOIN LATERAL (
        SELECT count(*) AS epochs, coalesce(sum(seconds), 0) AS seconds FROM epochs
        WHERE run_id = n.id AND attempt = n.fence
    ) e ON true""")


def experiences(session: Session, pool: str) -> dict[str, Experience]:
    """What the newest finished runs of ``pool`` took, by :func:`cost_key`."""
    alike = defaultdict(list)
    for row in session.execute(TOOK, {"pool": pool, "most": LOOKED_AT}):
        alike[cost_key(row.kind, row.spec)].append(row)
    return {key: _experience(rows) for key, rows in alike.items()}


def _experience(rows: Sequence[Any]) -> Experience:
    trained = [row.seconds / row.epochs for row in rows if row.epochs]
    peaks = [row.peak_memory_mb for row in rows if row.peak_memory_mb is not None]
    return Experience(
        median(trained) if trained else 0.0,
        median(max(0.0, row.took - row.seconds) for row in rows),
        max(peaks) if peaks else None,
        len(rows),
    )


WAITING = (
    select(Run)
    .where(Run.pool == bindparam("pool"), Run.state == State.QUEUED)
    .order_by(Run.priority.desc(), Run.id)
    .options(
        load_only(
            Run.project_id,
            Run.name,
            Run.kind,
            Run.spec,
            Run.state,
            Run.priority,
            Run.checkpoint,
            Run.created_at,
            Run.needs,
            Run.labels,
            Run.cost,
        )
    )
)


def queue_of(session: Session, pool: str, lease_s: float) -> PoolQueue:
    """What runs and waits in ``pool``, of every project, and when each is expected to begin and end at the latest."""
    running = session.scalars(select(Run).where(Run.pool == pool, Run.state.in_(OWNED)).order_by(Run.id)).all()
    waiting = session.scalars(WAITING, {"pool": pool}).all()
    crew = fitting.crew(session, pool, lease_s)
    slots = sum(worker.slots for worker in crew.workers if worker.trouble is None)
    known = experiences(session, pool) if waiting or running else {}
    working = [Working(run, left(run, known)) for run in running]
    memory = peaks.known(session, {run.cost for run in waiting})
    waits = [crew.why_none(run, memory.get(run.cost)) for run in waiting]
    begin = [run for run, why in zip(waiting, waits, strict=True) if why is None]
    times = iter(timetable(slots, [one.ends_s for one in working], [takes(run, known) for run in begin]))
    places = [
        Place(run, number, *(next(times) if why is None else (None, None)), why)
        for number, (run, why) in enumerate(zip(waiting, waits, strict=True), 1)
    ]
    return PoolQueue(pool, slots, working, places)


def takes(run: Run, known: Mapping[str, Experience]) -> float | None:
    """Seconds that a waiting run will take at most, from its checkpoint on; None: no run like it has finished."""
    like = known.get(cost_key(run.kind, run.spec))
    if like is None:
        return None
    done = (run.checkpoint or {}).get("epoch", 0)
    return like.seconds(max(0, run.spec["training"]["epochs"] - done))


def left(run: Run, known: Mapping[str, Experience]) -> float | None:
    """Seconds that a run which a worker owns will still take at most; None: nobody can say."""
    told = (run.progress or {}).get("seconds_left")
    like = known.get(cost_key(run.kind, run.spec))
    if told is not None:
        return float(told) + (like.other_s if like else 0.0)
    return takes(run, known)


def timetable(
    slots: int, busy: Sequence[float | None], waiting: Iterable[float | None]
) -> list[tuple[float | None, float | None]]:
    """Seconds until each waiting run begins and ends, if whatever waits first begins in the slot that is free first.

    A slot of which nobody knows when it will be free takes no part; once none is left that does, all that waits
    further back is unknown too.

    Args:
        slots: how many runs the pool carries at once.
        busy: seconds until each run that goes on now ends.
        waiting: seconds that each waiting run takes, in the queue's order.
    """
    free = [0.0] * max(0, slots - len(busy)) + [one for one in busy if one is not None]
    heapq.heapify(free)
    times: list[tuple[float | None, float | None]] = []
    for seconds in waiting:
        if not free:
            times.append((None, None))
            continue
        start = heapq.heappop(free)
        end = None if seconds is None else start + seconds
        if end is not None:
            heapq.heappush(free, end)
        times.append((start, end))
    return times


def pools(session: Session) -> list[str]:
    """Every pool that has a worker or a run that has not ended."""
    found = session.scalars(
        text("SELECT pool FROM workers UNION SELECT pool FROM runs WHERE state IN ('queued', 'running', 'stopping')")
    )
    return sorted(found)
