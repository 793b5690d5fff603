"""How the whole installation does, for monitoring: the ledger's own numbers, of all projects, cheap to ask for.

Whoever asks any API process gets the same answers, so they must not be added up over processes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from sqlalchemy import Connection, text

from store import artifacts
from store.settings import settings

MOST_POOLS = 100
"""Pools that are told one by one: their names are chosen by whoever submits. All others are told together."""

OTHERS = "(others)"

HELD_S = 5.0
"""How old a move must be to be counted. Ids are drawn before their transactions commit, so a smaller one may be seen
after a larger one; after so long it has been seen."""


@dataclass(frozen=True)
class Pool:
    """A pool of workers: what waits for it, what runs in it, and who works there.

    ``queue_age_s``: seconds that the longest waiting run has waited, since its submission or since its last attempt
    ended. ``slots`` are those of workers that can take runs. ``images_per_second``: of all its trainers together.
    """

    queued: int = 0
    queue_age_s: float = 0.0
    running: int = 0
    images_per_second: float = 0.0
    slots: int = 0
    ready: int = 0
    troubled: int = 0
    draining: int = 0
    gone: int = 0


@dataclass(frozen=True)
class Vitals:
    """The ledger now; ``unsent``: announcements in the outbox, the oldest of them ``unsent_age_s`` old."""

    pools: Mapping[str, Pool]
    unsent: int
    unsent_age_s: float


WAITING = text("""
    SELECT pool, count(*) AS queued, extract(epoch FROM clock_timestamp() - min(
        CASE WHEN fence = 0 THEN created_at ELSE coalesce((
            SELECT ended_at FROM attempts WHERE run_id = runs.id AND number = runs.fence), created_at)
        END))::float AS queue_age_s
    FROM runs WHERE state = 'queued' GROUP BY pool""")

WORKING = text("""
    SELECT pool, count(*) AS running, coalesce(sum((progress->>'images_per_second')::float), 0) AS images_per_second
    FROM runs WHERE state IN ('running', 'stopping') GROUP BY pool""")

WORKERS = text("""
    SELECT pool, count(*) FILTER (WHERE NOT alive) AS gone, count(*) FILTER (WHERE alive AND draining) AS draining,
        count(*) FILTER (WHERE alive AND NOT draining AND trouble IS NOT NULL) AS troubled,
        count(*) FILTER (WHERE able) AS ready, coalesce(sum(slots) FILTER (WHERE able), 0)::int AS slots
    FROM (SELECT pool, slots, alive, trouble, draining, alive AND NOT draining AND trouble IS NULL AS able FROM (
        SELECT pool, slots, trouble, draining OR wish IS NOT NULL AS draining,
            seen_at > clock_timestamp() - make_interval(secs => :lease_s) AS alive FROM workers) w) w
    GROUP BY pool""")

UNSENT = text(
    "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float FROM outbox"
)


def vitals(connection: Connection) -> Vitals:
    """What waits, runs and works in each pool now."""
    pools: dict[str, Pool] = {}
    for query in (WAITING, WORKING, WORKERS):
        for row in connection.execute(query, {"lease_s": settings().lease_s} if query is WORKERS else {}).mappings():
            pool, values = row["pool"], {name: value for name, value in row.items() if name != "pool"}
            pools[pool] = replace(pools.get(pool, Pool()), **values)
    count, age_s = connection.execute(UNSENT).one()
    return Vitals(_bounded(pools), int(count), float(age_s))


def _bounded(pools: dict[str, Pool]) -> dict[str, Pool]:
    """At most ``MOST_POOLS``, those with workers and the longest queues first; the rest as one."""
    ordered = sorted(pools, key=lambda name: (-pools[name].slots, -pools[name].queued, name))
    shown = {name: pools[name] for name in sorted(ordered[:MOST_POOLS])}
    rest = [pools[name] for name in ordered[MOST_POOLS:]]
    return shown | {OTHERS: _together(rest)} if rest else shown


def _together(pools: list[Pool]) -> Pool:
    summed = {name: sum(getattr(one, name) for one in pools) for name in vars(pools[0])}
    return Pool(**{**summed, "queue_age_s": max(one.queue_age_s for one in pools)})


NEWS = text("""
    WITH news AS MATERIALIZED (
        SELECT id, move, state, run_id, attempt, actor FROM run_events
        WHERE id > :seen AND at < clock_timestamp() - make_interval(secs => :held_s)
    )
    SELECT move, news.state, CASE WHEN move IN ('succeed', 'fail', 'crash', 'poison', 'release', 'hold', 'cancelled',
            'paused') THEN CASE a.outcome WHEN 'running' THEN 'lost' ELSE a.outcome END END AS outcome,
        count(*) AS moves, max(id) AS newest
    FROM news LEFT JOIN attempts a ON a.run_id = news.run_id AND a.number = news.attempt
    GROUP BY 1, 2, 3""")
"""An attempt that is running after its end was told had been lost, and its worker came back."""


@dataclass
class Tally:
    """Counts of what has happened, all of it at first and then what is new; nothing is subtracted for deleted runs.

    ``outcomes``: attempts that ended, by :class:`store.states.Outcome`. ``ended``: runs, by their final state.
    """

    claims: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    _seen: int = 0
    _lock: Lock = field(default_factory=Lock)

    def follow(self, connection: Connection) -> None:
        """Count what has happened since it was last asked to, up to ``HELD_S`` ago."""
        with self._lock:
            for row in connection.execute(NEWS, {"seen": self._seen, "held_s": HELD_S}).all():
                self._count(row)

    def _count(self, row: Any) -> None:
        self._seen = max(self._seen, row.newest)
        if row.move == "claim":
            self.claims += row.moves
        if row.outcome is not None:
            self.outcomes[row.outcome] += row.moves
        if row.move in ENDS and row.state in ENDS[row.move]:
            self.ended[row.state] += row.moves


ENDS = {
    "succeed": ("succeeded",),
    "reuse": ("succeeded",),
    "fail": ("failed",),
    "poison": ("dead",),
    "cancel": ("cancelled",),
    "cancelled": ("cancelled",),
}
"""Moves that end a run, and the state that tells whether they did."""

STORED = text("SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT ON (sha256) bytes FROM artifacts) files")
ARCHIVES = text("SELECT DISTINCT artifact FROM datasets")


def stored_bytes(connection: Connection) -> int:
    """What results and data sets take in the store, each file once; grows with their number: not for every look."""
    archives = sum(artifacts.size(sha256) for sha256 in connection.scalars(ARCHIVES))
    return int(connection.scalar(STORED) or 0) + archives
