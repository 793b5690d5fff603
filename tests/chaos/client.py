"""A person at the front desk: submits, repeats, cancels, pauses, resumes and requeues, through either API."""

import threading
from collections.abc import Callable
from random import Random
from typing import Any

from api.client import ApiError, Client, Unreachable
from tests import factories
from tests.chaos.made_up import DEADLY, DIVERGES
from tests.chaos.promises import Json, Promises, Submission

MOST_WAITING = 20
"""No more is submitted while so many runs are queued: the stack is to be shaken, not buried."""
AWAY = (503,)
"""The only fault that an answer may tell of."""

MOVES = {"cancel": ("queued", "running", "paused"), "pause": ("queued", "running"), "resume": ("paused",)} | {
    "requeue": ("dead",)
}
"""What is asked of runs in which state; now and then it is asked of any."""


class Person(threading.Thread):
    """Goes on until ``stop``; what happens is a function of ``random`` and of the answers.

    Args:
        name: stands in the idempotency keys.
        random: of its own.
        urls: of the APIs.
        promises: what it has been promised.
    """

    def __init__(self, name: str, random: Random, urls: list[str], promises: Promises) -> None:
        super().__init__(name=name, daemon=True)
        self._random, self._promises = random, promises
        self._clients = [Client(url) for url in urls]
        self._over = threading.Event()
        self._sent = 0

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        deeds: dict[Callable[[], None], int] = {
            self.submit: 10,
            self.repeat: 3,
            self.misuse: 1,
            lambda: self.move("cancel"): 1,
            lambda: self.move("pause"): 2,
            lambda: self.move("resume"): 4,
            lambda: self.move("requeue"): 1,
        }
        while not self._over.is_set():
            (deed,) = self._random.choices(list(deeds), list(deeds.values()))
            try:
                deed()
            except Exception as error:  # the thread's edge: a client that dies silently would make the chaos tame
                self._promises.break_off(f"{self.name}: {type(error).__name__}: {error}")
            self._over.wait(self._random.uniform(0.1, 0.5))

    # ---- deeds -----------------------------------------------------------------------------------------------

    def submit(self) -> None:
        """Something new, or the same again under a new key, which may be reused."""
        waiting = self._ask(lambda client: client.runs(state="queued", limit=MOST_WAITING + 1))
        if waiting is not None and len(waiting) <= MOST_WAITING:
            self._sent += 1
            self.send(self._promises.sent(f"{self.name}-{self._sent}", self._body()))

    def repeat(self) -> None:
        """A request that was sent before, as a browser or a script that saw no answer does."""
        known = list(self._promises.submissions.values())
        if known:
            for _ in range(self._random.randint(1, 3)):
                self.send(self._random.choice(known[-20:]))

    def send(self, submission: Submission) -> None:
        """Hand it in; without an answer nobody knows whether it was stored."""
        answer = self._ask(lambda client: client.submit(submission.body, submission.key))
        if answer is None:
            return
        for other in submission.answered:
            if other[0] != answer["id"]:
                self._promises.break_off(f"key {submission.key} gave experiments {other[0]} and {answer['id']}")
        self._promises.answered(submission, answer)

    def misuse(self) -> None:
        """Another body under a key that was used."""
        known = self._promises.answered_ones()
        if not known:
            return
        key = self._random.choice(known).key
        try:
            self._choose().submit({"spec": factories.tiny_spec(name="another body")}, key)
        except ApiError as error:
            if error.status not in (422, *AWAY):
                self._promises.break_off(f"another body under key {key} was answered {error.status}: {error}")
            self._promises.count(f"another body under a used key: {error.status}")
        except Unreachable:
            self._promises.count("no answer")
        else:
            self._promises.break_off(f"another body under key {key} was taken")

    def move(self, move: str) -> None:
        """Ask it of a run that may be moved so, or now and then of any."""
        state = self._random.choice(MOVES[move]) if self._random.random() < 0.9 else None
        runs = self._ask(lambda client: client.runs(state=state, limit=200))
        if runs:
            self.ask(move, self._random.choice(runs)["id"])

    def ask(self, move: str, run: int) -> None:
        """Ask one move of one run, and note what was answered."""
        try:
            getattr(self._choose(), move)(run)
        except ApiError as error:
            if error.status not in (409, *AWAY):
                self._promises.break_off(f"{move} of run {run} was answered {error.status}: {error}")
            self._promises.asked(move, run, False if error.status == 409 else None)
        except Unreachable:
            self._promises.asked(move, run, None)
        else:
            self._promises.asked(move, run, True)

    # ---- sending ---------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[Client], Any]) -> Any:
        """An answer, or None where nobody is there to give one."""
        try:
            return question(self._choose())
        except ApiError as error:
            if error.status not in AWAY:
                self._promises.break_off(f"{self.name} was answered {error.status}: {error}")
            self._promises.count(f"answered {error.status}")
        except Unreachable:
            self._promises.count("no answer")
        return None

    def _choose(self) -> Client:
        return self._random.choice(self._clients)

    def _body(self) -> Json:
        if self._random.random() < 0.1:
            return body(1e-3, 6, [0])  # sent again and again: whose result is there already is shown and not trained
        rate = self._random.choices([1e-3, 1e-2, DIVERGES, DEADLY], [60, 30, 4, 2])[0]
        seed = self._random.randrange(1, 10**6)
        return body(rate, self._random.randint(6, 80), [seed, seed + 1][: self._random.randint(1, 2)])


def body(learning_rate: float, epochs: int, seeds: list[int]) -> Json:
    """A submission; each epoch takes a tenth of a second or two."""
    training = {"batch_size": 4, "learning_rate": learning_rate, "epochs": epochs}
    spec = factories.tiny_spec(training={**training, "early_stopping": {"patience": None}})
    return {"spec": spec, "seeds": seeds}
