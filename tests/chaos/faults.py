"""What is done to the stack: each a card in a deck that is shuffled and dealt again and again."""

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

import psutil
import redis

from store import broker, bundled
from store.settings import settings
from tests.chaos.stack import Kept, Stack, is_trainer

Undo = tuple[float, Callable[[], object]]
"""Seconds from now, and what to do then."""

ORPHAN_S = 20
"""How long the trainer of a killed worker may live: it needs a moment of processor time to notice."""


class Faults:
    """Each method does one thing and returns what has to be done later, or None where there was nothing to do it to.

    Attributes:
        counts: how often each was done.
        broken: what was seen on the way and must not be.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack, self._random = stack, Random()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def deal(self, name: str, random: Random) -> list[Undo]:
        """Do what the card says; ``random`` chooses whom it hits and for how long."""
        self._random = random
        undo = getattr(self, name)()
        if undo is None:
            return []
        self.counts[name.replace("_", " ")] += 1
        return list(undo)

    # ---- trainers and workers --------------------------------------------------------------------------------

    def kill_of_a_trainer(self) -> Iterable[Undo] | None:
        trainers = self._stack.trainers()
        return _send([self._random.choice(trainers)], signal.SIGKILL) if trainers else None

    def kill_of_a_worker_alone(self) -> Iterable[Undo] | None:
        worker = self._worker()
        if worker is None:
            return None
        orphans = worker.trainers()
        _send(worker.tree()[:1], signal.SIGKILL)
        worker.leave_down(self._random.uniform(0, 3))
        return [(ORPHAN_S, lambda: self._no_orphan(orphans))]

    def kill_of_a_whole_tree(self) -> Iterable[Undo] | None:
        worker = self._worker()
        if worker is None:
            return None
        worker.leave_down(self._random.uniform(0, 3))
        return _send(worker.tree(), signal.SIGKILL)

    def stop_of_a_whole_tree_past_its_lease(self) -> Iterable[Undo] | None:
        worker = self._worker()
        return None if worker is None else self._freeze(worker.tree())

    def stop_of_a_worker_alone_past_its_lease(self) -> Iterable[Undo] | None:
        """Its trainers go on and nobody reads what they tell."""
        worker = self._worker()
        return None if worker is None else self._freeze(worker.tree()[:1])

    def stop_of_a_trainer(self) -> Iterable[Undo] | None:
        """Its worker goes on; past the progress deadline it kills the trainer."""
        trainers = self._stack.trainers()
        if not trainers:
            return None
        seconds = settings().stall_s * self._random.choice([0.1, 1.3])
        return self._freeze([self._random.choice(trainers)], seconds)

    def sigterm_of_a_worker(self) -> Iterable[Undo] | None:
        worker = self._worker()
        return None if worker is None else _send(worker.tree()[:1] * self._random.randint(1, 2), signal.SIGTERM)

    def storm_of_sigints(self) -> Iterable[Undo] | None:
        worker = self._worker()
        return None if worker is None else _send(worker.tree()[:1] * 10, signal.SIGINT)

    # ---- the front desk --------------------------------------------------------------------------------------

    def kill_of_an_api(self) -> Iterable[Undo] | None:
        api = self._random.choice(self._stack.apis)
        if not api.alive:
            return None
        api.leave_down(self._random.uniform(0, 2))
        return _send(api.tree(), signal.SIGKILL)

    # ---- Valkey ----------------------------------------------------------------------------------------------

    def flushall_of_valkey(self) -> Iterable[Undo] | None:
        with contextlib.suppress(redis.RedisError), _valkey(self._stack) as client:
            client.flushall()
            return []
        return None

    def kill_and_restart_of_valkey(self) -> Iterable[Undo] | None:
        return self._valkey_down(0)

    def valkey_away(self) -> Iterable[Undo] | None:
        return self._valkey_down(self._random.uniform(2, 8))

    def garbage_messages(self) -> Iterable[Undo] | None:
        garbage = [b"\x00garbage", b"{}", b"[]", b"null", json.dumps({"body": "bm8ganNvbg==", "headers": 1}).encode()]
        return self._push(self._random.sample(garbage, 3))

    def doubled_messages(self) -> Iterable[Undo] | None:
        try:
            for number in range(20):
                broker.send(settings().pool, self._random.randint(1, 10**6), number)
        except broker.Unreachable:
            return None
        return []

    # ---- Postgres --------------------------------------------------------------------------------------------

    def kill_and_restart_of_postgres(self) -> Iterable[Undo] | None:
        return self._postgres_down(signal.SIGKILL, 0)

    def fast_restart_of_postgres(self) -> Iterable[Undo] | None:
        return self._postgres_down(signal.SIGINT, 0)

    def postgres_away(self) -> Iterable[Undo] | None:
        return self._postgres_down(signal.SIGINT, self._random.uniform(2, 6))

    # ---- how -------------------------------------------------------------------------------------------------

    def _worker(self) -> Kept | None:
        """One that lives, by preference one that has something to lose and is not stopped already."""
        living = [worker for worker in self._stack.workers if worker.alive]
        awake = [worker for worker in living if not worker.stopped]
        busy = [worker for worker in awake if worker.trainers()]
        return self._random.choice(busy or awake or living) if living else None

    def _freeze(self, processes: list[psutil.Process], seconds: float | None = None) -> Iterable[Undo]:
        """For a while, by default somewhat longer than a lease."""
        _send(processes, signal.SIGSTOP)
        seconds = settings().lease_s * self._random.uniform(1.2, 4) if seconds is None else seconds
        return [(seconds, partial(_send, processes, signal.SIGCONT))]

    def _no_orphan(self, trainers: list[psutil.Process]) -> None:
        for one in trainers:
            with contextlib.suppress(psutil.NoSuchProcess):
                if is_trainer(one) and one.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    self.broken.append(f"trainer {one.pid} lives {ORPHAN_S} s after its worker was killed")

    def _valkey_down(self, seconds: float) -> Iterable[Undo] | None:
        service = self._stack.valkey
        if service is None:
            return None
        self._stack.valkey = None
        service.process.kill()
        service.process.wait()
        return [(seconds, self._stack.start_valkey)]

    def _postgres_down(self, how: signal.Signals, seconds: float) -> Iterable[Undo] | None:
        service = self._stack.postgres
        if service is None:
            return None
        self._stack.postgres = None
        service.process.send_signal(how)
        service.process.wait()
        return [(seconds, self._stack.start_postgres)]

    def _push(self, messages: list[bytes]) -> Iterable[Undo] | None:
        with contextlib.suppress(redis.RedisError), _valkey(self._stack) as client:
            for message in messages:
                client.lpush(broker.queue_name(settings().pool), message)
            return []
        return None


CARDS = {
    "kill_of_a_trainer": 4,
    "kill_of_a_worker_alone": 2,
    "kill_of_a_whole_tree": 2,
    "stop_of_a_whole_tree_past_its_lease": 4,
    "stop_of_a_worker_alone_past_its_lease": 2,
    "stop_of_a_trainer": 1,
    "sigterm_of_a_worker": 2,
    "storm_of_sigints": 1,
    "kill_of_an_api": 2,
    "flushall_of_valkey": 2,
    "kill_and_restart_of_valkey": 1,
    "valkey_away": 1,
    "garbage_messages": 1,
    "doubled_messages": 1,
    "kill_and_restart_of_postgres": 1,
    "fast_restart_of_postgres": 1,
    "postgres_away": 1,
}
"""How often each is in the deck."""

QUIET = ("flushall of valkey", "garbage messages", "doubled messages")
"""Those that kill and stop nothing."""

GAP_S = (0.5, 3.5)
"""Between two cards: a deck takes about a minute."""


def shuffled(random: Random) -> list[str]:
    """A new deck."""
    cards = [name for name, count in CARDS.items() for _ in range(count)]
    random.shuffle(cards)
    return cards


def _send(processes: list[psutil.Process], what: signal.Signals) -> list[Undo]:
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(what)
    return []


def _valkey(stack: Stack) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(bundled.socket_folder(stack.home) / "valkey.sock"), socket_timeout=5)
