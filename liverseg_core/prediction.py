"""What a trained network says about slices, a few at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.data.windows import read_images, windows
from liverseg_core.spec import ExperimentSpec

PIXELS_AT_ONCE = 16 * 256 * 256
"""Bounds the memory of a prediction: 16 slices at 256 pixels, 4 at 512; a window counts with all its slices."""


def predictions(
    model: keras.Model,
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    indices: Sequence[int],
    between: Callable[[], None],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index, p) of every slice, in the order of ``indices``; ``between`` is called between batches.

    p is float32 in 0..1: [S, S] grey for the head grey-sigmoid, [S, S, 3] background, parenchyma and lesion for
    softmax. With ``evaluation.flips`` it is the mean of the prediction and the flipped prediction of the window
    flipped left to right.
    """
    seen = windows(manifest, spec.model.window)
    at_once = max(1, PIXELS_AT_ONCE // (cache.images[0].size * spec.model.window))
    for start in range(0, len(indices), at_once):
        between()
        chosen = list(indices[start : start + at_once])
        images = read_images(cache, seen[chosen])
        p = model.predict_on_batch(images)
        if spec.evaluation.flips:
            flipped = model.predict_on_batch(np.ascontiguousarray(images[:, :, ::-1]))
            p = (p + flipped[:, :, ::-1]) / 2
        yield from zip(chosen, p[..., 0] if p.shape[-1] == 1 else p, strict=True)
