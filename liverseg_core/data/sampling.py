"""How slices become batches: pure functions of (seed, epoch, sample), so that any step can be made again alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import train_samples
from liverseg_core.spec import ExperimentSpec

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]

MAX_BRIGHTNESS = 0.1
"""The study's code; its text says 0.05."""

_ORDER, _SAMPLE = 0, 1


def steps_per_epoch(n_train: int, spec: ExperimentSpec) -> int:
    """floor(samples / batch size): as in the study, the rest of an epoch is dropped.

    >>> # 1,092 slices in batches of 32: 34 steps
    """
    return train_samples(spec, n_train) // spec.training.batch_size


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """The order of ``n`` samples in one epoch (counted from 1): a permutation of 0..n-1, int64 ``[n]``."""
    if not shuffle:
        return np.arange(n)
    # Sorting random numbers, since NumPy may change how it shuffles.
    return np.argsort(_generator(seed, _ORDER, epoch).random(n), kind="stable")


def make_batch(cache: SliceCache, train_indices: Sequence[int], spec: ExperimentSpec, epoch: int, step: int) -> Batch:
    """The batch of one training step.

    Args:
        cache: the data set at the network's size.
        train_indices: the train part, as indices into the manifest's slices.
        spec: batch size, seed, shuffling and augmentation are used.
        epoch: from 1.
        step: from 0.

    Returns:
        Images and masks, each float32 ``[B, S, S, 1]``; 0..1, with brightness -0.1..1.1.
    """
    order = epoch_order(train_samples(spec, len(train_indices)), spec.training.seed, epoch, spec.data.shuffle)
    size = spec.training.batch_size
    return samples(cache, train_indices, order[step * size : (step + 1) * size], spec.training.seed, epoch)


def samples(
    cache: SliceCache, train_indices: Sequence[int], chosen: NDArray[np.int64], seed: int, epoch: int
) -> Batch:
    """Samples by number: with n slices 0..n-1 as they are, n..2n-1 rotated, 2n..3n-1 with another brightness.

    Returns:
        Images and masks, each float32 ``[len(chosen), S, S, 1]``.
    """
    kinds, places = np.divmod(chosen, len(train_indices))
    rows = np.asarray(train_indices)[places]
    images, masks = cache.images[rows], cache.masks[rows]
    for place in np.flatnonzero(kinds):
        change = _rotate if kinds[place] == 1 else _brighten
        random = _generator(seed, _SAMPLE, epoch, int(chosen[place]))
        # Two draws from one stream: as coded in the study, image and mask do not get the same change.
        images[place] = change(images[place], random.random())
        masks[place] = change(masks[place], random.random())
    return images[..., None], masks[..., None]


def _rotate(pixels: NDArray[np.float32], draw: float) -> NDArray[np.float32]:
    """Turn by 90, 180 or 270 degrees; ``draw`` in [0, 1)."""
    return np.rot90(pixels, 1 + int(3 * draw))


def _brighten(pixels: NDArray[np.float32], draw: float) -> NDArray[np.float32]:
    """Add a number from [-0.1, 0.1), unclipped, as tf.image.random_brightness does with floats."""
    return pixels + np.float32(MAX_BRIGHTNESS * (2 * draw - 1))


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
