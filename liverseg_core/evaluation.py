"""Scoring a trained network, and keeping its probability maps."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from liverseg_core.backend import keras
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.maps import decode
from liverseg_core.metrics import Floats, Level, SoftFacts, as_grey, soft_facts, to_fixed_point
from liverseg_core.prediction import predictions
from liverseg_core.scoring import Key, Scored, rescore
from liverseg_core.spec import ExperimentSpec


def evaluate(
    model: keras.Model,
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    parts: Mapping[str, Sequence[int]],
    out: Path,
    between: Callable[[], None] = lambda: None,
) -> Scored:
    """Score every slice of ``parts`` and write its probability map to ``out``.

    ``out`` is an npz with one uint16 entry a slice, ``val/8_12``, so that one slice can be read alone
    (``numpy.load(out)["val/8_12"]``): ``[S, S]`` of a grey-sigmoid head, ``[2, S, S]`` (parenchyma, lesion) of
    softmax. It appears whole or not at all. The counts are taken from what was written.

    Args:
        model: as :func:`liverseg_core.networks.build_network` makes it.
        spec: how the network was made and how its output is read.
        manifest: names the slices.
        cache: holds their pixels in the same order.
        parts: ``val`` and ``test`` -> indices into ``manifest.slices``; an empty part gives no score.
        out: the file to write.
        between: called between batches and scans; may raise to stop.

    Returns:
        One score a slice, part by part, in the order of the indices; and the lesions.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    soft: dict[Key, SoftFacts] = {}
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as maps:
            for part, indices in parts.items():
                for index, p in predictions(model, spec, manifest, cache, indices, between):
                    entry, u = manifest.slices[index], fixed_point_map(p)
                    _write_map(maps, f"{part}/{entry.key}", u)
                    soft[part, entry.scan, entry.slice] = soft_facts(cache.masks[index], _grey(p, u))
        scored = rescore(manifest, cache.labels, temporary, parts, soft, spec.evaluation, between)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return scored


def fixed_point_map(p: Floats) -> Level:
    """The stored map of one slice: ``[S, S]`` as it is, ``[S, S, 3]`` without its background as ``[2, S, S]``."""
    return to_fixed_point(p if p.ndim == 2 else np.moveaxis(p, -1, 0)[1:])


def _grey(p: Floats, u: Level) -> Floats:
    """What the study's definitions score: p itself, or the most likely class as a grey value."""
    return p if p.ndim == 2 else as_grey(decode(u))


def _write_map(maps: zipfile.ZipFile, name: str, u: Level) -> None:
    # A ZipInfo without a date: the same maps give the same file.
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with maps.open(entry, "w") as file:
        npy.write_array(file, u, allow_pickle=False)
