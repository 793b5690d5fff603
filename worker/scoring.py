"""What is scored without training, stored maps anew and reference predictors, as its supervisor sees it.

A scoring process (:mod:`worker.scorer`) does the work of a run, and then waits for that of another.
"""

import sys
from pathlib import Path
from typing import Any

from store import artifacts, scores
from store.models import Run
from store.queue import Work
from store.settings import settings
from worker.patience import persist
from worker.reporting import DONE, FAILED
from worker.waiting import Waiting

KINDS = ("rescore", "reference")

SCORER = (sys.executable, "-P", "-m", "worker.scorer")

scorers = Waiting(SCORER)


class Scorer:
    """One run's use of a scoring process, with the face of :class:`worker.child.Child`.

    Args:
        job: what is to be done, see :func:`job`.
    """

    log: Path | None = None
    peak_memory_mb: int | None = None

    def __init__(self, job: dict[str, Any]) -> None:
        self._process = scorers.take()
        self._status: int | None = None
        self._asked = self._over = False
        self._process.send(job)

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None after ``timeout`` seconds without one, and where it was the last."""
        event = self._process.next_event(timeout)
        if event is None or event["event"] != "over":
            return event
        self._over, self._status = True, event["status"]
        self._leave()
        return None

    def ended(self) -> bool:
        """Whether the work has ended, or its process, and all it said has been taken."""
        return self._over or self._process.ended()

    def note_memory(self) -> None:
        """The memory of a process that stays says nothing about one run."""

    def ask(self) -> None:
        """Ask it to end at its next step."""
        if not self._over:
            self._asked = True
            self._process.ask()

    def kill(self) -> int:
        """End the process where its work has not ended; how that, or it, ended."""
        if self._status is None:
            self._status = self._process.kill()
        return self._status

    def tail(self, most: int = 0) -> str:  # noqa: ARG002 - the face of Child
        """It has no log of its own."""
        return ""

    def _leave(self) -> None:
        """Its process waits for another run; not one that was asked to end or is not well."""
        if self._asked or self._status not in (DONE, FAILED):
            self._process.kill()
        else:
            scorers.put(self._process)


# --- what it is told -----------------------------------------------------------------------------------------------


def job(work: Work, position: Path) -> dict[str, Any]:
    """What :func:`worker.scorer.carry_out` needs of a claimed run of one of ``KINDS``, in JSON.

    Args:
        work: the claimed run.
        position: where it tells that it gets on.
    """
    said = {
        "kind": work.kind,
        "spec": work.spec,
        "manifest": work.manifest.to_json(),
        "content_hash": work.content_hash,
        "archive": str(artifacts.locate(work.dataset_artifact)),
        "cache": str(settings().cache),
        "position": str(position),
        "predictor": work.predictor,
        "scored_from": work.scored_from,
        "best_epoch": work.best_epoch,
    }
    return said if work.scored_from is None else said | _stored(work.scored_from)


def _stored(run_id: int) -> dict[str, Any]:
    """Of the run that is scored anew: its files, what its maps cannot give, and its counts with their spec."""
    kept, stored, before = persist(
        lambda session: (
            scores.files(session, run_id),
            scores.stored(session, run_id),
            session.get_one(Run, run_id).spec,
        )
    )
    places = {kind: str(artifacts.locate(kept[kind])) for kind in ("weights", "probabilities") if kind in kept}
    return {"files": places, "stored": stored, "before": before}
