"""What a trained network says about slices, a few at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.spec import ExperimentSpec

PIXELS_AT_ONCE = 16 * 256 * 256
"""Bounds the memory of a prediction: 16 slices at 256 pixels, 4 at 512."""


def predictions(
    model: keras.Model,
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    indices: Sequence[int],
    between: Callable[[], None],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index, p [S, S]) of every slice, in the order of ``indices``; ``between`` is called between batches."""
    del spec, manifest  # a window needs them
    at_once = max(1, PIXELS_AT_ONCE // cache.images[0].size)
    for start in range(0, len(indices), at_once):
        between()
        chosen = list(indices[start : start + at_once])
        yield from zip(chosen, model.predict_on_batch(cache.images[chosen][..., None])[..., 0], strict=True)
