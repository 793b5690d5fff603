"""What the API has promised its clients: the plain model that the ledger is held against at the end."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Submission:
    """What was sent under one idempotency key.

    ``answered`` holds the experiment (its id and its runs' ids) of every answer; empty: not known yet.
    """

    key: str
    body: Json
    answered: set[tuple[int, tuple[int, ...]]] = field(default_factory=set)


class Promises:
    """Written by the clients' threads, read when they have ended.

    Attributes:
        submissions: by key.
        cancelled: runs whose cancelling was granted.
        perhaps: runs whose cancelling was asked for and not answered: it may have been done.
        broken: what an answer alone shows to be wrong.
        counts: answers by kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.submissions: dict[str, Submission] = {}
        self.cancelled: set[int] = set()
        self.perhaps: set[int] = set()
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()

    def sent(self, key: str, body: Json) -> Submission:
        with self._lock:
            return self.submissions.setdefault(key, Submission(key, body))

    def answered(self, submission: Submission, answer: Json) -> None:
        with self._lock:
            self.counts["submits answered"] += 1
            submission.answered.add((answer["id"], tuple(run["id"] for run in answer["runs"])))

    def asked(self, move: str, run: int, granted: bool | None) -> None:
        """``granted``: False: refused with 409; None: no answer, so nobody knows."""
        with self._lock:
            self.counts[f"{move}: {'no answer' if granted is None else 'granted' if granted else 'refused'}"] += 1
            if move == "cancel" and granted is not False:
                (self.cancelled if granted else self.perhaps).add(run)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def break_off(self, what: str) -> None:
        with self._lock:
            self.broken.append(what)

    def unanswered(self) -> list[Submission]:
        with self._lock:
            return [one for one in self.submissions.values() if not one.answered]

    def answered_ones(self) -> list[Submission]:
        with self._lock:
            return [one for one in self.submissions.values() if one.answered]

    def twice(self) -> list[str]:
        """Keys under which more than one experiment came back."""
        return [
            f"key {one.key} gave {sorted(one.answered)}" for one in self.submissions.values() if len(one.answered) > 1
        ]
