"""Scoring a trained network slice by slice, and keeping its probability maps."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from numpy.lib import format as npy

from liverseg_core.backend import keras
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.metrics import Level, score_slice, to_fixed_point
from liverseg_core.prediction import predictions
from liverseg_core.records import SliceScore
from liverseg_core.spec import ExperimentSpec


def evaluate(
    model: keras.Model,
    spec: ExperimentSpec,
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
        spec: how the network was made and how its output is read.
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
                for index, p in predictions(model, spec, manifest, cache, indices, between):
                    entry, u = manifest.slices[index], to_fixed_point(p)
                    _write_map(maps, f"{part}/{entry.key}", u)
                    truth, y = cache.labels[index], cache.masks[index]
                    scores.append(score_slice(part, entry.scan, entry.slice, truth, u, y, p))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return tuple(scores)


def _write_map(maps: zipfile.ZipFile, name: str, u: Level) -> None:
    # A ZipInfo without a date: the same maps give the same file.
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with maps.open(entry, "w") as file:
        npy.write_array(file, u, allow_pickle=False)
