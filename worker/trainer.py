"""The trainer: a process of its own that carries one job through and tells its supervisor by JSON lines.

It loads Keras, which takes seconds, and then waits for its job on standard input, a socket that it reads to its end:
when the supervisor dies, the socket closes and the trainer kills its own process group. It knows no database and
no queue. Keras is imported here and in no other process.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from liverseg_core.data.cache import SliceCache, open_built, open_cache
from liverseg_core.data.manifest import Manifest
from liverseg_core.origin import origin
from liverseg_core.records import EpochRecord, ExperimentResult, Step
from liverseg_core.spec import ExperimentSpec
from worker.fetching import fetched
from worker.position import Position
from worker.reporting import report

EVENTS_FD = "LIVERSEG_EVENTS_FD"
NOT_NEEDED = ("matplotlib", "pandas", "sklearn")
"""Keras imports these wherever they are installed, for what a trainer never does; it would start later."""

STEP_EVERY_S = 0.5  # a line a step would be thousands a second on small images


class Reporter:
    """Sends events up the pipe; also knows whether SIGTERM asked for an end."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._stop = threading.Event()
        self._told = 0.0
        self._losses: list[float] = []
        self._position: Position | None = None

    def keep_position(self, position: Position) -> None:
        self._position = position

    def tell(self, event: str, **fields: Any) -> None:
        self._pipe.write(json.dumps({"event": event, **fields}) + "\n")
        self._pipe.flush()

    def ask_to_stop(self, *_: object) -> None:
        self._stop.set()

    def say(self, words: str) -> None:
        """A line of the log, for people; that it cannot be written is no reason to stop."""
        with contextlib.suppress(OSError):
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            sys.stdout.write(f"{now} {words}\n")
            sys.stdout.flush()

    def phase(self, name: str) -> None:
        self.say(name)
        if self._position:
            self._position.phase(name)
        self.tell("progress", phase=name)

    def resumed_elsewhere(self, changed_from: dict[str, str]) -> None:
        before = ", ".join(f"{name} {value}" for name, value in changed_from.items())
        self.say(f"resumed on different hardware; the checkpoint is of {before}")
        self.tell("provenance", values={"changed_from": changed_from})

    def resumed_within(self, epoch: int, losses: Sequence[float]) -> None:
        self.say(f"goes on within epoch {epoch}, after step {len(losses)}")
        self.tell("steps", epoch=epoch, first=1, losses=list(losses))

    def step(self, step: Step) -> None:
        if self._position:
            self._position.step(step.epoch, step.number)
        self._losses.append(step.loss)
        now = time.monotonic()
        first = not self._told
        if first:
            self.say(f"first step done, of {step.steps} an epoch")
        if first or now - self._told >= STEP_EVERY_S or step.number == step.steps:
            self._told = now
            # Most of the first step's time went into building the graph: a pace taken from it would say hours.
            pace = {"images_per_second": step.images_per_second, "seconds_left": step.seconds_left}
            self._tell_step(step, {} if first else pace)

    def _tell_step(self, step: Step, pace: dict[str, float]) -> None:
        first, self._losses, losses = step.number - len(self._losses) + 1, [], self._losses
        self.tell("steps", epoch=step.epoch, first=first, losses=losses)
        self.tell(
            "progress",
            phase="training",
            epoch=step.epoch,
            step=step.number,
            steps=step.steps,
            **{name: round(value, 1) for name, value in pace.items()},
        )

    def epoch(self, record: EpochRecord, checkpoint: Path) -> None:
        kept = {"epoch": record.epoch, "path": str(checkpoint), "sha256": _sha256(checkpoint)}
        self.say(
            f"epoch {record.epoch}: loss {record.loss:.4f}, Dice {record.dice:.4f}, val loss {record.val_loss:.4f}, "
            f"val Dice {record.val_dice:.4f}; {record.seconds:.1f} s, {record.images_per_second:.1f} images/s"
        )
        self.tell("epoch", record=dataclasses.asdict(record), checkpoint=kept)

    def should_stop(self) -> bool:
        if self._position:
            self._position.alive()
        return self._stop.is_set()


def main() -> int:
    """Wait for one job, do it, report; the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the supervisor's to handle
    with os.fdopen(int(os.environ[EVENTS_FD]), "w", encoding="utf-8") as pipe:
        reporter = Reporter(pipe)
        load()
        job = receive(reporter)
        if job is None:
            return 0
        reporter.keep_position(Position(Path(job["position"])))
        return report(reporter.tell, lambda: _carry_out(job, reporter))


def load() -> None:
    """Load Keras and all that training needs."""
    sys.modules.update(dict.fromkeys(NOT_NEEDED))  # type: ignore[arg-type]  # None: as if it were not installed
    from liverseg_core import masks, training  # noqa: F401 - here, since others import this module for its names


def receive(reporter: Reporter) -> dict[str, Any] | None:
    """The job that comes in on standard input, as :meth:`worker.child.Child.send` sends it; None: none will come.

    From then on the output goes to the log that came with it, SIGTERM asks for an end at the next step (until then
    it ends this process at once), and the end of the supervisor is the end of this process.
    """
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as jobs:
        line, descriptors, _, _ = socket.recv_fds(jobs, 2**16, 16)
        while line and not line.endswith(b"\n"):
            more = jobs.recv(2**20)
            line = line + more if more else b""
    if not line:
        return None
    signal.signal(signal.SIGTERM, reporter.ask_to_stop)
    threading.Thread(target=_die_with_supervisor, daemon=True).start()
    job: dict[str, Any] = json.loads(line)
    if job["logs"]:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(descriptors[0], stream.fileno())
    return job  # the other descriptors stay open for as long as this process lives


def _carry_out(job: dict[str, Any], reporter: Reporter) -> ExperimentResult:
    spec = ExperimentSpec.parse(job["spec"])
    manifest = Manifest.from_json(job["manifest"])
    work = Path(job["work"])
    reporter.phase("loading")
    predicts = job["kind"] == "predict"  # on slices that come with it, not on those of a data set
    cache = None if predicts else _cache(job, manifest, spec, reporter)
    reporter.phase("building")
    from liverseg_core import backend, masks, training

    backend.prepare_backend(spec, threads=job["threads"])
    values = backend.provenance() | {"host": platform.node(), **origin()}
    reporter.say(", ".join(f"{name} {value}" for name, value in values.items()))
    reporter.tell("provenance", values=values)
    if cache is None:
        with fetched(job["images"], reporter) as images, fetched(job["weights"], reporter) as weights:
            return masks.predict_masks(spec, images, weights, work, reporter)
    if job["kind"] == "evaluate":
        with fetched(job["weights"], reporter) as weights:
            return training.evaluate_weights(spec, manifest, cache, weights, work, reporter)
    resume = Path(job["checkpoint"]) if job["checkpoint"] else None
    begun = [Path(path) for path in job["begun"]]
    return training.run_experiment(spec, manifest, cache, work, reporter, resume, begun, job["keep_s"])


def _cache(job: dict[str, Any], manifest: Manifest, spec: ExperimentSpec, reporter: Reporter) -> SliceCache:
    def going_on(*_: int) -> None:
        reporter.should_stop()  # told by the position; an asked-for end waits for the first step

    archive, size, root = Path(job["archive"]), spec.data.image_size, Path(job["cache"])
    if (built := open_built(manifest, size, root)) is not None:
        return built
    with fetched(archive, reporter) as place:
        return open_cache(place, manifest, size, root, going_on)


def _die_with_supervisor() -> None:
    # A raw read: the text layer's lock would make interpreter shutdown abort while this thread waits in it.
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
