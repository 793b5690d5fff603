"""The trainer process of ``worker.trainer`` with a made-up training in place of Keras.

Pipes, signals, position, reports and exit status are the real ones.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import Interrupted
from liverseg_core.records import ExperimentResult, Step
from liverseg_core.spec import ExperimentSpec
from store.states import State
from tests.chaos.made_up import Training, fate
from worker import trainer
from worker.trainer import Reporter

STEP_S = 0.02


def carry_out(job: dict[str, Any], reporter: Reporter) -> ExperimentResult:
    """As ``worker.trainer`` does it for a job of kind ``train``."""
    spec, work = ExperimentSpec.parse(job["spec"]), Path(job["work"])
    reporter.phase("building")
    training = Training(spec, Manifest.from_json(job["manifest"]))
    reporter.tell("provenance", values={"backend": "made up"})
    if job["checkpoint"]:
        training.resume(Path(job["checkpoint"]))
    reporter.phase("training")
    while not training.done:
        record = training.finish(_steps(training, fate(spec) == State.DEAD, reporter))
        path = work / "checkpoints" / f"epoch-{record.epoch:05d}.npz"
        training.save(path)
        reporter.epoch(record, path)
    reporter.phase("evaluating")
    training.save(work / "weights.npz")
    return ExperimentResult(
        scores=training.scores(),
        components=training.components(),
        artifacts={"weights": work / "weights.npz"},
        best_epoch=training.best_epoch(),
        epochs=len(training.history),
    )


def _steps(training: Training, deadly: bool, reporter: Reporter) -> list[float]:
    losses: list[float] = []
    epoch = len(training.history) + 1
    for number, loss in enumerate(training.epoch(), 1):
        time.sleep(STEP_S)
        losses.append(loss)
        reporter.step(Step(epoch, number, training.steps, loss, 10.0, 0.0))
        if deadly and (epoch, number) == (3, 2):
            os.kill(os.getpid(), signal.SIGSEGV)
        if reporter.should_stop():
            raise Interrupted("asked to stop")
    return losses


if __name__ == "__main__":
    trainer._carry_out = carry_out
    trainer.load = lambda: None  # it needs no Keras
    sys.exit(trainer.main())
