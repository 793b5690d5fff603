"""Losses on soft values, each a function of a few sums over pixels.

A :class:`Loss` first takes sums that add up over samples, then makes one number of them. So the loss of a
batch too large for the memory, and its gradient, can be had piece by piece: add the sums of the pieces, ask
:meth:`Loss.slopes` for d loss / d sums, then add up the gradients of ``slopes . sums(piece)``.

What a class is depends on the head. Softmax gives three channels (background, parenchyma, lesion). Grey-sigmoid
gives one grey value v with 0 background, about 1/2 parenchyma, 1 lesion; its classes are the triangular memberships
max(0, 1 - 2v), 1 - |2v - 1| and max(0, 2v - 1) of v, for truth and prediction alike. Below v = 1/2 the lesion
membership is flat, so a loss on lesion alone pulls no such pixel up: for those losses prefer softmax.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.spec import TrainingOptions

ops = keras.ops
Sums = NDArray[np.floating[Any]]
Axes = tuple[int, ...] | None

SAMPLE = (1, 2, 3)
"""Axes of one sample of a batch [B, S, S, C]."""

SMOOTHING = 1.0
"""Added above and below every ratio: an empty prediction of an empty truth is perfect."""

EPSILON = 1e-7
"""The smallest number a logarithm or a root is taken of; below it the gradient is 0."""

PARENCHYMA_GREY = 127 / 255
"""Grey value of parenchyma in the study's masks, divided by 255."""


# --- what a pixel's channels say --------------------------------------------------------------------------------


def grey(p: Any) -> Any:
    """Expected grey value, [B, S, S, 1] in 0..1: one channel as it is, of softmax 127/255 p1 + p2."""
    return p if p.shape[-1] == 1 else PARENCHYMA_GREY * p[..., 1:2] + p[..., 2:3]


def liver(p: Any) -> Any:
    """Membership of the liver, lesion included, [B, S, S, 1]: min(1, 2v) of a grey value v, of softmax p1 + p2."""
    return ops.minimum(2.0 * p, 1.0) if p.shape[-1] == 1 else p[..., 1:2] + p[..., 2:3]


def lesion(p: Any) -> Any:
    """Membership of lesion, [B, S, S, 1]: max(0, 2v - 1) of a grey value v, of softmax p2."""
    return ops.maximum(2.0 * p - 1.0, 0.0) if p.shape[-1] == 1 else p[..., 2:3]


# --- losses -------------------------------------------------------------------------------------------------------


class Loss(ABC):
    """A loss ``value(sums(y, p))``; ``size`` is the number K of its sums."""

    size: int

    @abstractmethod
    def sums(self, y: Any, p: Any) -> Any:
        """Tensor [K], additive over samples.

        Args:
            y: truth [B, S, S, C] in 0..1, C as the head has channels.
            p: prediction, the same shape, a floating-point tensor.
        """

    @abstractmethod
    def value(self, sums: Any) -> Any:
        """The loss, a scalar tensor, of sums [K]."""

    @abstractmethod
    def slopes(self, sums: Sums) -> Sums:
        """Derivatives d value / d sums, float64 [K], at sums [K], in closed form."""

    def __call__(self, y: Any, p: Any) -> Any:
        """The loss of a batch, a scalar tensor."""
        return self.value(self.sums(y, p))


class DiceLoss(Loss):
    """1 - D with D = (2 sum |y p| + 1) / (sum y^2 + sum p^2 + 1), over the whole batch or, in parts, each sample.

    The study's loss as its code computes it, on what ``channel`` makes of truth and prediction.

    Args:
        channel: one of :func:`grey`, :func:`liver`, :func:`lesion`.
        axes: what the sums run over; None: everything. ``SAMPLE``: the sums are [3, B] and the value [B], for
            :class:`MeanOfSamples`.
    """

    size = 3

    def __init__(self, channel: Callable[[Any], Any], axes: Axes = None) -> None:
        self.channel, self.axes = channel, axes

    def sums(self, y: Any, p: Any) -> Any:
        y, p = self.channel(ops.cast(y, p.dtype)), self.channel(p)
        return ops.stack([ops.sum(pixels, self.axes) for pixels in (ops.abs(y * p), ops.square(y), ops.square(p))])

    def value(self, sums: Any) -> Any:
        return 1.0 - (2.0 * sums[0] + SMOOTHING) / (sums[1] + sums[2] + SMOOTHING)

    def slopes(self, sums: Sums) -> Sums:
        overlap, truth, prediction = np.asarray(sums, np.float64)
        whole = truth + prediction + SMOOTHING
        by_size = (2 * overlap + SMOOTHING) / whole**2
        return np.array([-2 / whole, by_size, by_size])


class Mean(Loss):
    """A mean: its two sums are a total and over how many it goes."""

    size = 2

    def value(self, sums: Any) -> Any:
        return sums[0] / sums[1]

    def slopes(self, sums: Sums) -> Sums:
        total, count = np.asarray(sums, np.float64)
        return np.array([1 / count, -total / count**2])


class CrossEntropy(Mean):
    """Cross-entropy - sum_c y_c log p_c over the channels, in nats, mean over pixels."""

    def sums(self, y: Any, p: Any) -> Any:
        lost = -ops.sum(ops.cast(y, p.dtype) * ops.log(ops.maximum(p, EPSILON)))
        return ops.stack([lost, ops.sum(ops.ones_like(p[..., 0]))])


class GreyCrossEntropy(CrossEntropy):
    """Cross-entropy - y log p - (1 - y) log(1 - p) of one grey value, in nats, mean over pixels; least at p = y.

    Not of the triangular memberships, which would leave every pixel on the wrong side of 1/2 without a gradient.
    """

    def sums(self, y: Any, p: Any) -> Any:
        y = ops.cast(y, p.dtype)
        return super().sums(ops.concatenate([1.0 - y, y], -1), ops.concatenate([1.0 - p, p], -1))


class TverskyLoss(Loss):
    """(1 - TI)^(1/gamma) of the lesion, over the whole batch or, in parts, each sample.

    TI = (TP + 1) / (TP + alpha FP + beta FN + 1) with TP = sum y p, FP = sum (1 - y) p, FN = sum y (1 - p) of the
    memberships of lesion (Salehi et al. 2017). gamma 1 is the Tversky loss, above 1 the focal one (Abraham and Khan
    2018, who write alpha for the weight of FN). 1 - TI is held at 1e-7 or more, where the root would be too steep.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: at least 1.
        axes: as of :class:`DiceLoss`.
    """

    size = 3

    def __init__(self, alpha: float, beta: float, gamma: float = 1.0, axes: Axes = None) -> None:
        self.alpha, self.beta, self.gamma, self.axes = alpha, beta, gamma, axes

    def sums(self, y: Any, p: Any) -> Any:
        y, p = lesion(ops.cast(y, p.dtype)), lesion(p)
        return ops.stack([ops.sum(pixels, self.axes) for pixels in (y * p, (1.0 - y) * p, y * (1.0 - p))])

    def value(self, sums: Any) -> Any:
        wrong = self.alpha * sums[1] + self.beta * sums[2]
        return ops.maximum(wrong / (sums[0] + wrong + SMOOTHING), EPSILON) ** (1.0 / self.gamma)

    def slopes(self, sums: Sums) -> Sums:
        hit, false_positive, false_negative = np.asarray(sums, np.float64)
        wrong = self.alpha * false_positive + self.beta * false_negative
        whole = hit + wrong + SMOOTHING
        if wrong / whole < EPSILON:
            return np.zeros(3)
        root = (wrong / whole) ** (1 / self.gamma - 1) / self.gamma
        by_mistake = (hit + SMOOTHING) / whole**2
        return np.array([-wrong / whole**2 * root, self.alpha * by_mistake * root, self.beta * by_mistake * root])


class MeanOfSamples(Mean):
    """Mean over the samples of a loss of each alone: a slice with little lesion counts as much as one with much.

    One without lesion counts as well, with 1 - 1 / (sum p^2 + 1) for Dice: near 1 for a few pixels already.

    Args:
        loss: one whose sums run over ``SAMPLE``.
    """

    def __init__(self, loss: DiceLoss | TverskyLoss) -> None:
        self.loss = loss

    def sums(self, y: Any, p: Any) -> Any:
        each = self.loss.value(self.loss.sums(y, p))
        return ops.stack([ops.sum(each), ops.sum(ops.ones_like(each))])


class WeightedSum(Loss):
    """Sum of losses, each with its weight.

    Args:
        parts: (weight, loss) of each.
    """

    def __init__(self, *parts: tuple[float, Loss]) -> None:
        self.parts = parts
        self.size = sum(loss.size for _, loss in parts)
        self.places = np.split(np.arange(self.size), np.cumsum([loss.size for _, loss in parts])[:-1])

    def sums(self, y: Any, p: Any) -> Any:
        return ops.concatenate([loss.sums(y, p) for _, loss in self.parts])

    def value(self, sums: Any) -> Any:
        return sum(
            weight * loss.value(sums[place[0] : place[-1] + 1])
            for (weight, loss), place in zip(self.parts, self.places, strict=True)
        )

    def slopes(self, sums: Sums) -> Sums:
        return np.concatenate(
            [weight * loss.slopes(sums[place]) for (weight, loss), place in zip(self.parts, self.places, strict=True)]
        )


def loss_for(training: TrainingOptions, head: str) -> Loss:
    """The loss that ``training.loss`` names.

    - ``dice``: the study's, on grey values (:func:`grey`).
    - ``lesion-dice``: the same formula on the lesion.
    - ``dice-cross-entropy``: cross-entropy + 1 - mean of the Dice of liver (lesion included) and lesion.
    - ``lesion-dice-cross-entropy``: cross-entropy + 1 - Dice of the lesion.
    - ``tversky``, ``focal-tversky``: of the lesion, with ``tversky_alpha``, ``tversky_beta``, ``focal_gamma``.

    Every one is smoothed by 1, as the study's is, and works with either head. Without ``training.batch_dice`` Dice
    and Tversky are taken of each sample, then their mean.
    """
    alpha, beta = training.tversky_alpha, training.tversky_beta
    cross_entropy = CrossEntropy() if head == "softmax" else GreyCrossEntropy()

    def dice(channel: Callable[[Any], Any]) -> Loss:
        return DiceLoss(channel) if training.batch_dice else MeanOfSamples(DiceLoss(channel, SAMPLE))

    def tversky(gamma: float = 1.0) -> Loss:
        if training.batch_dice:
            return TverskyLoss(alpha, beta, gamma)
        return MeanOfSamples(TverskyLoss(alpha, beta, gamma, SAMPLE))

    return {
        "dice": dice(grey),
        "lesion-dice": dice(lesion),
        "dice-cross-entropy": WeightedSum((1, cross_entropy), (0.5, dice(liver)), (0.5, dice(lesion))),
        "lesion-dice-cross-entropy": WeightedSum((1, cross_entropy), (1, dice(lesion))),
        "tversky": tversky(),
        "focal-tversky": tversky(training.focal_gamma),
    }[training.loss]


def study_dice(y: Any, p: Any) -> Any:
    """The study's batch Dice on grey values, a scalar in (0, 1], for either head: what every run's curves show.

    D(y, p) = (2 sum |y p| + 1) / (sum y^2 + sum p^2 + 1), sums over every element of the batch.

    Args:
        y: truth [B, S, S, C], grey mask / 255 for C = 1, one-hot labels for C = 3.
        p: prediction, the same shape.
    """
    return 1.0 - DiceLoss(grey)(y, p)
