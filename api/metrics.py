"""Numbers for Prometheus: what this process has done, and how the whole installation does by its ledger.

Every metric's help text begins with *This process* (add them up over API processes) or *Everywhere* (each API process
tells the same number: take the largest).
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, QueuePool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from store import vitals
from store.courier import Courier
from store.database import engine, is_outage, looking
from store.settings import settings
from store.states import FINAL, Outcome
from store.upkeep import Upkeep
from store.vitals import Pool, Tally, Vitals

T = TypeVar("T")

KEPT_S = 2.0
"""How long a look into the ledger is told again, seconds: several that ask do not ask it more often."""

MEASURED_EVERY_S = 60.0
"""How often the store's size is summed up."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def registry(upkeep: Upkeep, courier: Courier) -> tuple[CollectorRegistry, Histogram]:
    """What ``/metrics`` shows, and where requests are counted."""
    made = CollectorRegistry()
    requests = Histogram(
        "liverseg_http_request_seconds",
        "This process: seconds from a request to the head of its answer, by the template of its address.",
        ("method", "route", "status"),
        buckets=BUCKETS,
        registry=made,
    )
    ProcessCollector(registry=made)
    made.register(Here(upkeep, courier))
    made.register(Everywhere())
    return made, requests


class Here(Collector):
    """What this process did and holds."""

    def __init__(self, upkeep: Upkeep, courier: Courier) -> None:
        self._upkeep, self._courier = upkeep, courier

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, what in COUNTED.items():
            counter = CounterMetricFamily(f"liverseg_upkeep_{name}", f"This process: {what}.")
            counter.add_metric((), self._upkeep.counts[STEPS[name]])
            yield counter
        sent = CounterMetricFamily(
            "liverseg_webhook_attempts",
            "This process: messages sent to webhooks, by whether the receiver took them.",
            labels=("result",),
        )
        for result in ("taken", "error"):
            sent.add_metric((result,), self._courier.counts[result])
        yield sent
        yield _gauge(
            "broker_up",
            "This process: 1 where the broker answered last and keeps nobody waiting.",
            float(not self._upkeep.degraded),
        )
        pool = engine().pool
        assert isinstance(pool, QueuePool)
        connections = GaugeMetricFamily(
            "liverseg_database_connections",
            "This process: connections to the database, in use or idle; at most 30.",
            labels=("use",),
        )
        connections.add_metric(("busy",), pool.checkedout())
        connections.add_metric(("idle",), pool.checkedin())
        yield connections


COUNTED = {
    "announced": "announcements sent to the broker or found needless",
    "republished": "announcements of queued runs made again since they seemed lost",
    "taken_back": "runs taken back from workers whose lease ran out",
}
STEPS = {"announced": "relay", "republished": "reconcile", "taken_back": "reap"}
"""Which step of the upkeep counts it."""


class Everywhere(Collector):
    """What the ledger knows; while it is away, nothing but that."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._lock = Lock()
        self._look = _Kept(KEPT_S, self._ask)
        self._bytes = _Kept(MEASURED_EVERY_S, lambda: _asked(vitals.stored_bytes))

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            now, stored = self._look.get(), self._bytes.get()
        yield _gauge("ledger_up", "This process: 1 where the database answered.", float(now is not None))
        yield from _disk(stored)
        if now is not None:
            yield from _pools(now)
            yield from _announcements(now)
            yield from self._counts()

    def _ask(self) -> Vitals | None:
        def ask(connection: Connection) -> Vitals:
            self._tally.follow(connection)
            return vitals.vitals(connection)

        return _asked(ask)

    def _counts(self) -> Iterator[Metric]:
        claims = CounterMetricFamily("liverseg_claims", f"Everywhere: {CLAIMS}.")
        claims.add_metric((), self._tally.claims)
        yield claims
        outcomes = [outcome for outcome in Outcome if outcome != Outcome.RUNNING]
        yield _counter(
            "attempts_ended", ATTEMPTS, "outcome", {str(one): self._tally.outcomes[one] for one in outcomes}
        )
        yield _counter("runs_ended", RUNS, "state", {str(one): self._tally.ended[one] for one in sorted(FINAL)})


CLAIMS = "runs that workers have taken, since the ledger began"
ATTEMPTS = (
    "attempts that have ended, by how: a lost one's worker was not heard of for a lease, a crashed one's trainer \
died, a preempted one was given back"
)
RUNS = "runs that have ended, by their state"


@dataclass
class _Kept(Generic[T]):
    """An answer that is told again for ``seconds``; one that is None is asked for anew."""

    seconds: float
    ask: Callable[[], T | None]
    until: float = 0.0
    answer: T | None = None

    def get(self) -> T | None:
        if self.answer is None or time.monotonic() >= self.until:
            self.answer, self.until = self.ask(), time.monotonic() + self.seconds
        return self.answer


def _asked(ask: Callable[[Connection], T]) -> T | None:
    """What the ledger answers; None where it is away."""
    try:
        with looking() as connection:
            return ask(connection)
    except (DBAPIError, PoolTimeout) as error:
        if not is_outage(error):
            raise
        return None


POOLS: dict[str, tuple[str, Callable[[Pool], float]]] = {
    "queue_runs": ("runs that wait", lambda pool: pool.queued),
    "queue_age_seconds": (
        "how long the longest waiting run has waited, since its submission or since its last attempt ended",
        lambda pool: pool.queue_age_s,
    ),
    "running_runs": ("runs that a worker owns, each in a slot of a device", lambda pool: pool.running),
    "slots": ("places for runs on the devices of workers that can take runs", lambda pool: pool.slots),
    "training_images_per_second": (
        "images that its trainers take in a second, together",
        lambda pool: pool.images_per_second,
    ),
}
WORKERS = ("ready", "troubled", "draining", "gone")


def _pools(now: Vitals) -> Iterator[Metric]:
    for name, (what, value) in POOLS.items():
        family = GaugeMetricFamily(f"liverseg_{name}", f"Everywhere: {what}, by pool.", labels=("pool",))
        for pool, one in now.pools.items():
            family.add_metric((pool,), value(one))
        yield family
    told = "Everywhere: workers by pool; troubled ones take no run now, gone ones were not seen for a lease."
    workers = GaugeMetricFamily("liverseg_workers", told, labels=("pool", "status"))
    for pool, one in now.pools.items():
        for status in WORKERS:
            workers.add_metric((pool, status), getattr(one, status))
    yield workers


def _announcements(now: Vitals) -> Iterator[Metric]:
    yield _gauge("outbox_rows", "Everywhere: announcements that are committed and not sent.", now.unsent)
    yield _gauge("outbox_age_seconds", "Everywhere: age of the oldest of them.", now.unsent_age_s)


def _disk(stored: int | None) -> Iterator[Metric]:
    if stored is not None:
        what = f"files of results and data sets by the ledger, each once; summed up every {MEASURED_EVERY_S:g} s"
        yield _gauge("artifacts_bytes", f"Everywhere: {what}.", stored)
    try:
        disk = shutil.disk_usage(settings().artifacts)
    except OSError:  # not there yet, or not mounted
        return
    yield _gauge("disk_bytes", "This process: size of the disk with the artifact folder.", disk.total)
    yield _gauge("disk_free_bytes", "This process: what is free on it.", disk.free)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(f"liverseg_{name}", told, value=value)


def _counter(name: str, told: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"liverseg_{name}", f"Everywhere: {told}.", labels=(label,))
    for one, count in values.items():
        family.add_metric((one,), count)
    return family
