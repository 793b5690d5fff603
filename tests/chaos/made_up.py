"""A made-up training: no Keras, but weights that every step changes, so that a wrong resume shows for ever after.

What comes out depends on spec and data alone. Two learning rates make what no real network can promise: a run that
is at fault itself, and one that kills its trainer at the same step each time.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from liverseg_core.data.manifest import Manifest, select
from liverseg_core.errors import TrainingFailed
from liverseg_core.records import EpochRecord, LesionComponent, SliceScore
from liverseg_core.spec import ExperimentSpec
from liverseg_core.weights import read_npz, write_npz
from store.states import State

DIVERGES = 5.0
"""The learning rate with which a run fails in epoch 3."""
DEADLY = 9.0
"""The learning rate with which the trainer dies at epoch 3, step 2."""
WIDTH = 64


def fate(spec: ExperimentSpec) -> State:
    """Where a run of ``spec`` ends when nobody cancels it."""
    special = {DIVERGES: State.FAILED, DEADLY: State.DEAD}
    return special.get(spec.training.learning_rate, State.SUCCEEDED)


class Training:
    """``weights`` and ``history`` are all its state; both are in a checkpoint."""

    def __init__(self, spec: ExperimentSpec, manifest: Manifest) -> None:
        self._spec, self._manifest = spec, manifest
        self._chosen = select(manifest, spec.dataset)
        self.steps = math.ceil(len(self._chosen["train"]) / spec.training.batch_size)
        self.weights = self._draw(0, 0)
        self.history: list[EpochRecord] = []

    @property
    def done(self) -> bool:
        return len(self.history) >= self._spec.training.epochs

    def epoch(self) -> Iterator[float]:
        """The loss of each step of the next epoch."""
        epoch = len(self.history) + 1
        if fate(self._spec) == State.FAILED and epoch == 3:
            raise TrainingFailed("loss-not-finite", "the loss became nan at epoch 3, step 1")
        for step in range(1, self.steps + 1):
            self.weights = 0.9 * self.weights + self._spec.training.learning_rate * self._draw(epoch, step)
            yield float(np.mean(self.weights**2))

    def finish(self, losses: Sequence[float]) -> EpochRecord:
        """Book the epoch whose steps had these losses."""
        loss, val_loss = float(np.mean(losses)), float(np.mean(np.abs(self.weights)))
        record = EpochRecord(
            epoch=len(self.history) + 1,
            loss=loss,
            dice=1 / (1 + loss),
            val_loss=val_loss,
            val_dice=1 / (1 + val_loss),
            learning_rate=self._spec.training.learning_rate,
            seconds=1.0,
            images_per_second=10.0,
        )
        self.history.append(record)
        return record

    def save(self, path: Path) -> None:
        about = json.dumps({"history": [asdict(record) for record in self.history]})
        write_npz(path, {"about": np.frombuffer(about.encode(), np.uint8), "weights.0000": self.weights})

    def resume(self, path: Path) -> None:
        arrays = read_npz(path)
        self.weights = arrays["weights.0000"]
        self.history = [EpochRecord(**one) for one in json.loads(arrays["about"].tobytes())["history"]]

    def best_epoch(self) -> int:
        return min(self.history, key=lambda record: record.val_loss).epoch

    def scores(self) -> tuple[SliceScore, ...]:
        """One for each evaluated slice."""
        return tuple(self._score(part, index) for part in ("val", "test") for index in self._chosen[part])

    def components(self) -> tuple[LesionComponent, ...]:
        """One lesion for each evaluated slice, so that rows of the second table could get lost too."""
        return tuple(
            LesionComponent(one.part, one.scan, one.slice, True, 1, one.counts[8], one.dice) for one in self.scores()
        )

    def _score(self, part: str, index: int) -> SliceScore:
        place = self._manifest.slices[index]
        counts = tuple(int(abs(value) * 1e4) for value in np.roll(self.weights, index)[:9])
        soft = [float(value) for value in np.tanh(np.abs(np.roll(self.weights, -index)[:3]))]
        return SliceScore(part, place.scan, place.slice, counts, counts, counts[0], counts[1], counts[2], *soft)

    def _draw(self, epoch: int, step: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng([self._spec.training.seed, epoch, step]).normal(size=WIDTH)
