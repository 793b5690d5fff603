"""One attempt: claim a run, supervise its trainer, store what it yields, return.

The supervisor renews the lease, relays the trainer's events, and obeys what the database wants. It goes on
while the database is away; when the run turns out to belong to somebody else, it kills the trainer and writes
nothing more.
"""

import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from liverseg_core.crash_points import crash_point
from liverseg_core.data.manifest import Manifest, select
from liverseg_core.errors import DISK_FULL
from liverseg_core.records import EpochRecord, LesionComponent, SliceScore
from liverseg_core.spec import ExperimentSpec
from store import artifacts, batches, endings, logs, queue, scores, waiting
from store.artifacts import Stored
from store.batches import Batch, Finished, Steps
from store.database import is_outage, transaction
from store.endings import Ending
from store.queue import Known, LeaseLost, Work
from store.settings import settings
from store.states import State
from worker import resumption, scoring
from worker.child import Child
from worker.load import attempts
from worker.patience import closing, draining, insist, persist
from worker.position import Position
from worker.reporting import INTERRUPTED
from worker.slots import Slot, Slots
from worker.spool import Spool
from worker.waiting import trainers
from worker.watch import Watch

log = logging.getLogger(__name__)

LOG_SHOWN, LOG_KEPT = 1500, 2**16
"""Bytes of a trainer's log that go with a heartbeat, for whoever watches its run, and that are kept of an attempt
without a result."""


ASKED_TO_END = (INTERRUPTED, -signal.SIGTERM)
"""How a process ends that somebody else has asked to: who ends a host or a container asks every process at once."""

LOOK_AGAIN_S = 1.0
"""How often a worker looks whether what it waits for is there again."""

PREPARE_S = 20.0
"""How long before the end of a training the next trainer is started, which then has loaded Keras in time."""


def attempt(pool: str, worker: str, threads: int, slots: Slots | None = None) -> int | None:
    """Carry the best queued run of ``pool`` through, in one of ``slots``; its id, or None when nothing waits.

    A run is claimed only where it can be trained and its result stored, so that other hosts can take it meanwhile.
    """
    try:
        while not (draining.is_set() or closing.is_set()):
            trouble = artifacts.trouble()
            slot = slots.take() if slots and not trouble else None
            if not trouble and slots and not slot:
                trouble = slots.taken()
            if not trouble:
                attempts.waits.pop(threading.get_ident(), None)
                with slot or contextlib.nullcontext():
                    return _claim_and_carry(pool, worker, threads, slot)
            if not _waits_for_us(pool):
                return None
            _wait(trouble)
        return None
    finally:
        attempts.waits.pop(threading.get_ident(), None)


def work_off(threads: int, slots: Slots) -> None:
    """Carry one run after another through, until nothing waits that this worker could take."""
    while attempt(settings().pool, worker_name(), threads, slots) is not None:
        pass


def hand_on() -> None:
    """Announce again that runs wait: this worker leaves, and nobody else hears of the message that it has taken."""
    try:
        with transaction() as session:
            waiting.announce_next(session, settings().pool)
    except SQLAlchemyError as error:
        if not is_outage(error):  # else upkeep does it, later
            raise


def _waits_for_us(pool: str) -> bool:
    with transaction() as session:
        return waiting.claimable(session, pool, older_than_s=0, offer=attempts.offer()) > 0


def _wait(trouble: str) -> None:
    if attempts.waits.get(threading.get_ident()) != trouble:
        log.warning("runs wait, and this worker takes none: %s", trouble)
    attempts.waits[threading.get_ident()] = trouble
    draining.wait(LOOK_AGAIN_S)


def _claim_and_carry(pool: str, worker: str, threads: int, slot: Slot | None) -> int | None:
    with contextlib.ExitStack() as carried:
        with attempts.claiming:
            work = None if closing.is_set() else _claim(pool, worker)
            if work is None:
                return None
            run, number = work.claim.run_id, work.claim.fence
            carried.enter_context(attempts.carries(run, work.memory_mb))
        crash_point("claimed")
        carried.enter_context(logs.about(worker=worker, run=run, attempt=number))
        log.info("run %s: attempt %s begins", run, number)
        try:
            _carry(work, threads, slot)
        except LeaseLost:
            log.warning("run %s: attempt %s lost its lease and wrote nothing more", run, number)
    return run


def _claim(pool: str, worker: str) -> Work | None:
    """Claim; where the answer is lost, give back what may have been claimed, and claim again.

    Raises:
        SQLAlchemyError: the database is away, and this worker is asked to end.
    """
    host, lease_s = socket.gethostname(), settings().lease_s
    while True:
        ticket, offer = uuid.uuid4().hex, attempts.offer()
        try:
            with transaction() as session:
                return queue.claim(session, pool, worker, host, lease_s, ticket=ticket, offer=offer)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("the database is away; claims again when it is back")
        persist(functools.partial(endings.unclaim, ticket=ticket), give_up=draining.is_set)


def _carry(work: Work, threads: int, slot: Slot | None) -> None:
    """Supervise; an error of the worker itself (disk full, no permission) is told as what it is.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    try:
        Supervisor(work, threads, slot).run()
    except LeaseLost:
        raise
    except Exception as error:  # the attempt's edge: else the run would look alive until its lease ends
        if draining.in_vain() and is_outage(error):
            log.warning("run %s: the database is still away, and this worker ends without it", work.claim.run_id)
            return
        log.exception("run %s: the worker failed", work.claim.run_id)
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        told = f"the worker itself failed: {type(error).__name__}: {error}"
        ending = Ending(message=told, reason="disk-full" if full else "worker-error")
        if full:
            persist(lambda session: endings.hold(session, work.claim, ending))
        else:
            persist(lambda session: endings.crash(session, work.claim, ending, settings().max_crashes))


class Supervisor:
    """Watches one trainer from its start to its last word."""

    def __init__(self, work: Work, threads: int, slot: Slot | None = None) -> None:
        self.claim, self._kind, self._spec, self._manifest = work.claim, work.kind, work.spec, work.manifest
        self._folder = settings().checkpoints / str(work.claim.run_id)
        self._work = self._folder / f"attempt-{work.claim.fence}"
        self._work.mkdir(parents=True, exist_ok=True)
        self._spool = Spool(self._work / "spool")
        self._position = Position(self._work / "position")
        self._watch = Watch(self._position.read)
        self._steps: list[Steps] = []
        self._progress: dict[str, Any] = {"phase": "starting"}
        self._provenance: dict[str, Any] | None = None
        self._noted = Known()
        self._last_word: dict[str, Any] | None = None
        self._beaten = 0.0
        self._stored = 0.0
        self._stopping = False
        self._next_prepared = False
        self._patience_ends: float | None = None
        self._around = slot.surroundings if slot else {}
        self._child = self._start(work, threads, [slot.fileno()] if slot else [])

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
                self._store()
                self._obey()
                self._watch.look(self._child)
        except BaseException:
            self._child.kill()
            raise
        self._conclude()

    def _start(self, work: Work, threads: int, held: Sequence[int]) -> Child | scoring.Scorer:
        if work.kind in scoring.KINDS:
            return scoring.Scorer(scoring.job(work, self._work / "position"))
        job, trainer = self._job(work, threads), trainers.take(self._around)
        trainer.send(job, self._work / "trainer.log", held)
        return trainer

    def _job(self, work: Work, threads: int) -> dict[str, Any]:
        return {
            "kind": work.kind,
            "spec": work.spec,
            "manifest": work.manifest.to_json(),
            "archive": str(artifacts.locate(work.dataset_artifact)),
            "weights": str(artifacts.locate(work.weights)) if work.weights else None,
            "images": str(artifacts.locate(work.images)) if work.images else None,
            "checkpoint": resumption.checkpoint(self.claim, work.checkpoint, self._folder),
            "keep_s": settings().keep_s,
            "begun": [str(path) for path in self._folder.glob("*/checkpoints/begun.npz")],
            "cache": str(settings().cache),
            "work": str(self._work),
            "position": str(self._work / "position"),
            "threads": threads,
        }

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "progress":
            self._progress = event
            self._prepare_next(event)
        elif kind == "steps":
            self._steps.append(Steps(event["epoch"], event["first"], tuple(event["losses"])))
        elif kind == "epoch":
            crash_point("epoch-heard")
            steps, self._steps = self._steps, []
            self._spool.add(steps, [Finished(EpochRecord(**event["record"]), event["checkpoint"])])
            crash_point("epoch-spooled")
            self._stored = 0.0
        elif kind == "provenance":
            self._provenance = (self._provenance or {}) | event["values"]
            self._beaten = 0.0
        else:
            self._last_word = {"kind": kind, **event}

    def _prepare_next(self, progress: dict[str, Any]) -> None:
        """Have a trainer ready for the next run when this one is about to end; not all the time, for its memory."""
        ends_soon = progress["phase"] == "evaluating" or progress.get("seconds_left", PREPARE_S) < PREPARE_S
        if ends_soon and self._kind not in scoring.KINDS and not (self._next_prepared or closing.is_set()):
            self._next_prepared = True
            trainers.prepare(self._around)

    def _store(self) -> None:
        """Hand in what is spooled, if it is time; during an outage it waits and training goes on."""
        now = time.monotonic()
        if now - self._stored < settings().heartbeat_s:
            return
        self._stored = now
        if self._steps:
            steps, self._steps = self._steps, []
            self._spool.add(steps, [])
            crash_point("steps-spooled")
        try:
            self._spool.deliver(self._record)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("run %s: the database is away; what the trainer yields is spooled", self.claim.run_id)

    def _record(self, batch: Batch) -> None:
        with transaction() as session:
            batches.record(session, self.claim, batch)
        crash_point("batch-stored")
        if batch.epochs:
            self._prune(batch.epochs[-1].checkpoint["epoch"])

    def _prune(self, committed: int) -> None:
        """Delete every checkpoint older than the one before the committed one, of this attempt and of earlier ones.

        The trainer may not do it: while the database is away it is epochs ahead of what is committed.
        """
        for path in self._folder.glob("*/checkpoints/epoch-*.npz"):
            if path.name < f"epoch-{committed - 1:05d}.npz":
                path.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Renew the lease if it is time; during an outage go on and try again at the next beat."""
        now = time.monotonic()
        if now - self._beaten < settings().heartbeat_s:
            return
        self._beaten = now
        self._child.note_memory()
        known = Known(self._provenance, self._child.peak_memory_mb)
        attempts.grown(self.claim.run_id, known.peak_memory_mb or 0)
        news = known if known != self._noted else None
        try:
            with transaction() as session:
                state = queue.heartbeat(session, self.claim, settings().lease_s, self._told_so_far(), news)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("run %s: the database is away; training goes on", self.claim.run_id)
        else:
            self._noted = known
            self._stopping = self._stopping or state == State.STOPPING

    def _told_so_far(self) -> dict[str, Any]:
        log = self._child.tail(LOG_SHOWN)
        return {**self._progress, "log": log} if log else self._progress

    def _obey(self) -> None:
        """Ask the trainer to end, once; kill it when the grace is over. Heartbeats go on meanwhile."""
        if not (self._stopping or draining.is_set()) or self._child.ended():
            return
        now = time.monotonic()
        if self._patience_ends is None:
            self._stopping, self._patience_ends = True, now + settings().grace_s
            self._child.ask()
        elif now > self._patience_ends:
            self._child.kill()

    def _conclude(self) -> None:
        status = self._child.kill()
        insist(lambda: self._spool.deliver(self._record))
        word = self._last_word or {}
        kind, told = word.get("kind"), str(word.get("message", ""))
        if kind == "result" and status == 0:
            return self._finish(word, self._ending(status, None))
        if kind == "failed" and word["reason"] == "bad-input" and (away := artifacts.trouble()):
            return self._end(lambda s: endings.release(s, self.claim, self._ending(status, away)))
        if kind == "failed":
            return self._end(lambda s: endings.fail(s, self.claim, word["reason"], self._ending(status, told)))
        if self._stopping or status in ASKED_TO_END:
            crash_point("stopped")
            return self._end(lambda s: endings.release(s, self.claim, self._ending(status, "asked to stop")))
        if kind == "disk-full":
            return self._end(lambda s: endings.hold(s, self.claim, self._ending(status, told, kind)))
        reason = self._watch.reason(status)
        message = self._watch.told(status) if self._watch.stalled else told or self._watch.told(status)
        message = f"{message}\n{self._child.tail()}".strip() if not told else message
        log.warning("run %s: the trainer crashed (%s): %s", self.claim.run_id, reason, message)
        ending = replace(self._ending(status, message, reason), died_at=self._position.place())
        return self._end(lambda s: endings.crash(s, self.claim, ending, settings().max_crashes))

    def _finish(self, word: dict[str, Any], ending: Ending) -> None:
        rows = [SliceScore(*values) for values in word["scores"]]
        if self._kind != "predict":
            _demand_every_slice(self._spec, self._manifest, rows)
        lesions = [LesionComponent(*values) for values in word["components"]]
        files = {kind: Path(path) for kind, path in word["artifacts"].items()}
        if self._child.log is not None:
            files["log"] = self._child.log
        whole = replace(ending, log=None)  # the whole of it is among the files
        while (stored := self._keep(files)) is not None:
            crash_point("artifacts-stored")
            result = {"scores": rows, "components": lesions, "artifacts": stored, "best_epoch": word["best_epoch"]}
            with contextlib.suppress(artifacts.Away):  # it went while the rows were written
                return self._end(functools.partial(scores.finish, claim=self.claim, ending=whole, **result))
        told = "the result could not be stored yet"
        return self._end(lambda s: endings.release(s, self.claim, replace(ending, message=told)))

    def _keep(self, files: dict[str, Path]) -> dict[str, Stored] | None:
        """The files in the store, however long that is away; None: asked to stop before it came back."""
        while True:
            try:
                return self._put(files)
            except artifacts.Away as error:
                waits = f"The result is there and waits to be stored: {error}"
            if self._progress.get("waits") != waits:
                log.warning("run %s: %s", self.claim.run_id, waits)
            self._progress = {"phase": "waiting for the artifact store", "waits": waits}
            self._beat()
            if self._stopping or draining.wait(min(LOOK_AGAIN_S, settings().heartbeat_s)):
                return None

    def _put(self, files: dict[str, Path]) -> dict[str, Stored]:
        """In a thread of its own: maps of thousands of slices take a slow disk or store longer than a lease."""
        with ThreadPoolExecutor(1) as thread:
            storing = thread.submit(_store, files)
            while not futures.wait([storing], timeout=settings().heartbeat_s).done:
                self._beat()
        return storing.result()

    def _end(self, write: Callable[[Session], object]) -> None:
        done = persist(lambda session: (write(session), queue.done(session, [self.claim.run_id]))[1])
        crash_point("ended")
        log.info("run %s: attempt %s ended", self.claim.run_id, self.claim.fence)
        if done:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ending(self, status: int, message: str | None, reason: str | None = None) -> Ending:
        return Ending(
            status, message, self._child.peak_memory_mb, self._provenance, reason, log=self._child.tail(LOG_KEPT)
        )


def _store(files: dict[str, Path]) -> dict[str, Stored]:
    if trouble := artifacts.trouble():
        raise artifacts.Away(trouble)
    return {kind: artifacts.put(path) for kind, path in files.items()}


def _demand_every_slice(spec: dict[str, Any], manifest: Manifest, rows: Sequence[SliceScore]) -> None:
    """A run succeeds only with one score for each slice of val and test; anything else is an error of ours."""
    chosen = select(manifest, ExperimentSpec.parse(spec).dataset)
    wanted = sorted(
        (part, manifest.slices[index].scan, manifest.slices[index].slice)
        for part in ("val", "test")
        for index in chosen[part]
    )
    if sorted((row.part, row.scan, row.slice) for row in rows) != wanted:
        raise RuntimeError(f"{len(rows)} scores came, not one for each of {len(wanted)} evaluated slices")


def worker_name() -> str:
    """Who claims: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
