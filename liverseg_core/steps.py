"""One step of the optimizer: over a batch at once, or over a batch too large for the memory, piece by piece."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np

from liverseg_core import checkpoints
from liverseg_core.backend import Sums, compile_model, keras, pieces_of
from liverseg_core.data.sampling import Batch
from liverseg_core.errors import Interrupted
from liverseg_core.losses import loss_for, study_dice
from liverseg_core.spec import ExperimentSpec, TrainingOptions

Measured = tuple[float, float]
"""The loss and the study's loss, 1 - its batch Dice, of one batch; before the step, where there was one."""


class Steps(Protocol):
    """Takes steps with a compiled model; ``pieces`` yields all pieces of a batch, ``passes`` times over."""

    passes: int

    def train(self, pieces: Iterator[Batch], count: int) -> Measured:
        """One step over a batch of ``count`` pieces."""

    def test(self, pieces: Iterator[Batch], count: int) -> Measured:
        """Measure a batch of ``count`` pieces, given once, without training."""


def steps_for(model: keras.Model, spec: ExperimentSpec) -> Steps:
    """Compile ``model`` and say how it is to be stepped."""
    loss = loss_for(spec.training, spec.model.head)
    # The study's loss itself: nothing need be measured beside it.
    is_dice = spec.training.loss == "dice" and spec.training.batch_dice
    compile_model(model, spec, loss, () if is_dice else (study_dice,))
    return WholeSteps(model) if spec.data.batch_by == "slices" else PieceSteps(model, spec)


class WholeSteps:
    """A batch is one piece."""

    passes = 1

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def train(self, pieces: Iterator[Batch], count: int) -> Measured:
        assert count == 1
        return _measured(self.model.train_on_batch(*next(pieces)))

    def test(self, pieces: Iterator[Batch], count: int) -> Measured:
        assert count == 1
        return _measured(self.model.test_on_batch(*next(pieces)))


class PieceSteps:
    """The step of a whole batch with the memory of a piece.

    The loss is a function of sums over all slices of the batch. The first pass over the pieces takes these sums, the
    second, with the same dropout draws, adds up the gradients of (slopes at the sums) . (sums of the piece): by the
    chain rule that is the gradient of the whole.
    """

    passes = 2

    def __init__(self, model: keras.Model, spec: ExperimentSpec) -> None:
        self.model = model
        self.loss = loss = loss_for(spec.training, spec.model.head)
        self.study = study = loss_for(TrainingOptions(), spec.model.head)
        self.pieces = pieces_of(model, lambda y, p: keras.ops.concatenate([loss.sums(y, p), study.sums(y, p)]))

    def train(self, pieces: Iterator[Batch], count: int) -> Measured:
        generators = checkpoints.random_states(self.model)
        before = checkpoints.values_of(generators)
        try:
            sums = self._sums(pieces, count, training=True)
            checkpoints.assign(generators, before)
            gradient = self._gradient(pieces, count, sums)
        except Interrupted:
            checkpoints.assign(generators, before)  # as it was between two steps
            raise
        self.pieces.apply(gradient)
        return self._value(sums)

    def _gradient(self, pieces: Iterator[Batch], count: int, sums: Sums) -> list[Any]:
        slopes = np.concatenate([self.loss.slopes(sums[: self.loss.size]), np.zeros(self.study.size)])
        slopes = np.asarray(self.model.optimizer.scale_loss(slopes))  # which the optimizer undoes
        gradient = self.pieces.gradient(*next(pieces), slopes)
        for piece in islice(pieces, count - 1):
            more = self.pieces.gradient(*piece, slopes)
            gradient = [one + other for one, other in zip(gradient, more, strict=True)]
        return gradient

    def test(self, pieces: Iterator[Batch], count: int) -> Measured:
        return self._value(self._sums(pieces, count, training=False))

    def _sums(self, pieces: Iterator[Batch], count: int, training: bool) -> Sums:
        found = [self.pieces.sums(*piece, training) for piece in islice(pieces, count)]
        sums: Sums = np.sum(found, axis=0)
        return sums

    def _value(self, sums: Sums) -> Measured:
        return float(self.loss.value(sums[: self.loss.size])), float(self.study.value(sums[self.loss.size :]))


def _measured(found: float | list[float]) -> Measured:
    """What Keras gives for a batch: the loss alone where it is the study's, else loss and Dice."""
    if isinstance(found, list):
        loss, dice = found
        return float(loss), 1 - float(dice)
    return float(found), float(found)
