"""Scoring a trained network slice by slice, and keeping its probability maps."""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.metrics import Level, score_slice, to_fixed_point
from liverseg_core.records import SliceScore

PIXELS_AT_ONCE = 16 * 256 * 256
"""Bounds the memory of a prediction: 16 slices at 256 pixels, 4 at 512."""


def evaluate(
    model: keras.Model,
    manifest: Manifest,
    cache: SliceCache,
    parts: Mapping[str, Sequence[int]],
    out: Path,
    between: Callable[[], None] = lambda: None,
) -> tuple[SliceScore, ...]:
    """Score every slice of ``parts`` and write its probability map to ``out``.

    ``out`` is an npz with one uint16 [S, S] entry a slice, ``val/8_12``, so that one slice can be read alone
    (``numpy.load(out)["val/8_12"]``); it appears whole or not at all.

    Args:
        model: [B, S, S, 1] grey to [B, S, S, 1] sigmoid.
        manifest: names the slices.
        cache: holds their pixels in the same order.
        parts: ``val`` and ``test`` -> indices into ``manifest.slices``; an empty part gives no score.
        out: the file to write.
        between: called between batches; may raise to stop.

    Returns:
        One score a slice, part by part, in the order of the indices.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    scores = []
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as maps:
            for part, indices in parts.items():
                for index, p in _predictions(model, cache, indices, between):
                    entry, u = manifest.slices[index], to_fixed_point(p)
                    _write_map(maps, f"{part}/{entry.key}", u)
                    truth, y = cache.labels[index], cache.masks[index]
                    scores.append(score_slice(part, entry.scan, entry.slice, truth, u, y, p))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return tuple(scores)


def _predictions(
    model: keras.Model, cache: SliceCache, indices: Sequence[int], between: Callable[[], None]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index, p [S, S]) of every slice, predicted a few at a time."""
    at_once = max(1, PIXELS_AT_ONCE // cache.images[0].size)
    for start in range(0, len(indices), at_once):
        between()
        chosen = list(indices[start : start + at_once])
        yield from zip(chosen, model.predict_on_batch(cache.images[chosen][..., None])[..., 0], strict=True)


def _write_map(maps: zipfile.ZipFile, name: str, u: Level) -> None:
    # A ZipInfo without a date: the same maps give the same file.
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with maps.open(entry, "w") as file:
        npy.write_array(file, u, allow_pickle=False)
