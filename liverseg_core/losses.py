"""The study's loss: batch Dice on soft values."""

from typing import Any

from liverseg_core.backend import keras

ops = keras.ops

SMOOTHING = 1.0


def dice(y: Any, p: Any) -> Any:
    """Dice of the study over the whole batch, a scalar in (0, 1].

    D(y, p) = (2 sum |y p| + 1) / (sum y^2 + sum p^2 + 1), sums over every element of the batch
    (the study's metric as its code computes it).

    Args:
        y: truth, mask / 255, any shape.
        p: prediction, the same shape.
    """
    y = ops.cast(y, p.dtype)
    overlap = ops.sum(ops.abs(y * p))
    return (2.0 * overlap + SMOOTHING) / (ops.sum(ops.square(y)) + ops.sum(ops.square(p)) + SMOOTHING)


def dice_loss(y: Any, p: Any) -> Any:
    """1 - :func:`dice`."""
    return 1.0 - dice(y, p)
