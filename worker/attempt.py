"""One attempt: claim a run, supervise its trainer, store what it yields, return.

The supervisor renews the lease, relays the trainer's events, and obeys what the database wants. It goes on
while the database is away; when the run turns out to belong to somebody else, it kills the trainer and writes
nothing more.
"""

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest, select
from liverseg_core.records import EpochRecord, LesionComponent, SliceScore
from liverseg_core.spec import ExperimentSpec
from store import artifacts, queue, scores
from store.database import is_outage, transaction
from store.queue import Ending, LeaseLost, Work
from store.settings import settings
from store.states import State
from worker import scoring
from worker.child import Child
from worker.inside import Inside
from worker.patience import persist

log = logging.getLogger(__name__)

draining = threading.Event()
"""Set when this worker is asked to end: every attempt gives its run back."""


def attempt(pool: str, worker: str, threads: int) -> int | None:
    """Carry the best queued run of ``pool`` through; its id, or None when nothing waits."""
    if draining.is_set():
        return None
    with transaction() as session:
        work = queue.claim(session, pool, worker, socket.gethostname(), settings().lease_s)
    if work is None:
        return None
    log.info("run %s: attempt %s begins", work.claim.run_id, work.claim.fence)
    try:
        _carry(work, threads)
    except LeaseLost:
        log.warning("run %s: attempt %s lost its lease and wrote nothing more", work.claim.run_id, work.claim.fence)
    return work.claim.run_id


def _carry(work: Work, threads: int) -> None:
    """Supervise; an error of the worker itself (disk full, no permission) is told as what it is.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    try:
        Supervisor(work, threads).run()
    except LeaseLost:
        raise
    except Exception as error:  # the attempt's edge: else the run would look alive until its lease ends
        log.exception("run %s: the worker failed", work.claim.run_id)
        ending = Ending(message=f"the worker itself failed: {type(error).__name__}: {error}")
        persist(lambda session: queue.crash(session, work.claim, ending, settings().max_crashes))


class Supervisor:
    """Watches one trainer from its start to its last word."""

    def __init__(self, work: Work, threads: int) -> None:
        self.claim, self._kind, self._spec, self._manifest = work.claim, work.kind, work.spec, work.manifest
        self._folder = settings().checkpoints / str(work.claim.run_id)
        self._work = self._folder / f"attempt-{work.claim.fence}"
        self._work.mkdir(parents=True, exist_ok=True)
        self._progress: dict[str, Any] = {"phase": "starting"}
        self._provenance: dict[str, Any] | None = None
        self._last_word: dict[str, Any] | None = None
        self._beaten = 0.0
        self._stopping = False
        self._child = self._start(work, threads)

    def run(self) -> None:
        """Supervise until the trainer has ended, then store how.

        Raises:
            LeaseLost: the run is no longer ours; the trainer is dead.
        """
        try:
            while not self._child.ended():
                event = self._child.next_event(timeout=min(0.25, settings().heartbeat_s))
                if event:
                    self._hear(event)
                self._beat()
                self._obey()
        except BaseException:
            self._child.kill()
            raise
        self._conclude()

    def _start(self, work: Work, threads: int) -> Child | Inside:
        if work.kind in scoring.KINDS:
            return Inside(lambda between: scoring.carry_out(work, between))
        return Child(self._job(work, threads), self._work / "trainer.log")

    def _job(self, work: Work, threads: int) -> dict[str, Any]:
        return {
            "kind": work.kind,
            "spec": work.spec,
            "manifest": work.manifest,
            "archive": str(artifacts.locate(work.dataset_artifact)),
            "weights": str(artifacts.locate(work.weights)) if work.weights else None,
            "images": str(artifacts.locate(work.images)) if work.images else None,
            "checkpoint": self._checkpoint(work),
            "cache": str(settings().cache),
            "work": str(self._work),
            "threads": threads,
        }

    def _checkpoint(self, work: Work) -> str | None:
        """The checkpoint to go on from; one that does not verify is given up and training begins again."""
        if work.checkpoint is None:
            return None
        path = Path(work.checkpoint["path"])
        if path.is_file() and artifacts.sha256_of(path) == work.checkpoint["sha256"]:
            return str(path)
        log.warning("run %s: checkpoint %s is gone or damaged; training begins again", self.claim.run_id, path)
        persist(lambda session: queue.forget_checkpoint(session, self.claim))
        return None

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "progress":
            self._progress = event
        elif kind == "epoch":
            record = EpochRecord(**event["record"])
            persist(lambda session: queue.record_epoch(session, self.claim, record, event["checkpoint"]))
            self._prune(event["checkpoint"]["path"])
        elif kind == "provenance":
            self._provenance = event["values"]
        else:
            self._last_word = {"kind": kind, **event}

    def _prune(self, committed: str) -> None:
        """Delete every checkpoint older than the committed one, of this attempt and of earlier ones.

        The trainer may not do it: while the database is away it is epochs ahead of what is committed.
        """
        for path in self._folder.glob("*/checkpoints/epoch-*.npz"):
            if path.name < Path(committed).name:
                path.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Renew the lease if it is time; during an outage go on and try again at the next beat."""
        now = time.monotonic()
        if now - self._beaten < settings().heartbeat_s:
            return
        self._beaten = now
        self._child.note_memory()
        try:
            with transaction() as session:
                state = queue.heartbeat(session, self.claim, settings().lease_s, self._progress)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("run %s: the database is away; training goes on", self.claim.run_id)
        else:
            self._stopping = self._stopping or state == State.STOPPING

    def _obey(self) -> None:
        if (self._stopping or draining.is_set()) and not self._child.ended():
            self._stopping = True
            self._child.terminate(settings().grace_s)

    def _conclude(self) -> None:
        status = self._child.kill()
        word = self._last_word or {}
        if word.get("kind") == "result" and status == 0:
            return self._finish(word, self._ending(status, None))
        if word.get("kind") == "failed":
            return self._end(
                lambda s: queue.fail(s, self.claim, word["reason"], self._ending(status, word["message"]))
            )
        if self._stopping:
            return self._end(lambda s: queue.release(s, self.claim, self._ending(status, "asked to stop")))
        message = word.get("message") or f"{_died(status)}\n{self._child.tail()}".strip()
        log.warning("run %s: the trainer crashed: %s", self.claim.run_id, message)
        return self._end(lambda s: queue.crash(s, self.claim, self._ending(status, message), settings().max_crashes))

    def _finish(self, word: dict[str, Any], ending: Ending) -> None:
        rows = [SliceScore(*values) for values in word["scores"]]
        if self._kind != "predict":
            _demand_every_slice(self._spec, self._manifest, rows)
        lesions = [LesionComponent(*values) for values in word["components"]]
        files = {kind: Path(path) for kind, path in word["artifacts"].items()}
        if self._child.log is not None:
            files["log"] = self._child.log
        stored = {}
        for kind, path in files.items():
            stored[kind] = artifacts.put(path)
            self._beat()  # probability maps of thousands of slices take a slow disk longer than a lease
        self._end(lambda s: scores.finish(s, self.claim, rows, stored, word["best_epoch"], ending, lesions))

    def _end(self, write: Callable[[Session], object]) -> None:
        done = persist(lambda session: (write(session), queue.is_done(session, self.claim.run_id))[1])
        log.info("run %s: attempt %s ended", self.claim.run_id, self.claim.fence)
        if done:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ending(self, status: int, message: str | None) -> Ending:
        return Ending(status, message, self._child.peak_memory_mb, self._provenance)


def _demand_every_slice(spec: dict[str, Any], manifest: dict[str, Any], rows: Sequence[SliceScore]) -> None:
    """A run succeeds only with one score for each slice of val and test; anything else is an error of ours."""
    known = Manifest.from_json(manifest)
    chosen = select(known, ExperimentSpec.parse(spec).dataset)
    wanted = sorted(
        (part, known.slices[index].scan, known.slices[index].slice)
        for part in ("val", "test")
        for index in chosen[part]
    )
    if sorted((row.part, row.scan, row.slice) for row in rows) != wanted:
        raise RuntimeError(f"{len(rows)} scores came, not one for each of {len(wanted)} evaluated slices")


def _died(status: int) -> str:
    return f"the trainer was killed by signal {-status}" if status < 0 else f"the trainer ended with status {status}"


def worker_name() -> str:
    """Who claims: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
