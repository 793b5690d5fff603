"""Masks for slices that nobody has labelled, by a trained network."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from liverseg_core.backend import keras, out_of_memory_named
from liverseg_core.data import zips
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest
from liverseg_core.data.png import MASK_VALUES, write_png
from liverseg_core.data.unlabelled import read_resized, read_slices
from liverseg_core.errors import Interrupted
from liverseg_core.evaluation import fixed_point_map
from liverseg_core.maps import decode
from liverseg_core.metrics import Labels, enlarge_nearest
from liverseg_core.networks import build_network
from liverseg_core.prediction import predictions
from liverseg_core.records import Events, ExperimentResult
from liverseg_core.scoring import cleaned
from liverseg_core.spec import ExperimentSpec
from liverseg_core.weights import read_weights


def predict_masks(
    spec: ExperimentSpec, images: Path, weights: Path, workdir: Path, events: Events
) -> ExperimentResult:
    """Write a mask for every slice: 0 background, 127 liver, 255 lesion, at the slice's own size.

    Labels are made of the network's output exactly as those that ``spec.evaluation`` has scored.

    Args:
        spec: how the network was made and how its output is read.
        images: zip of SCAN_SLICE.png.
        weights: npz as :func:`liverseg_core.weights.write_weights` wrote it.
        workdir: gets ``masks.zip``, each mask named as its slice.
        events: is told the phases, and asked whether to stop.

    Raises:
        DataError: the zip holds something else.
        WeightsError: the weights do not fit ``spec.model``.
        TrainingFailed: ``device-out-of-memory``.
        Interrupted: ``events`` asked to stop.
    """

    def between() -> None:
        if events.should_stop():
            raise Interrupted("asked to stop")

    arrays, manifest = read_weights(weights, spec.model), read_slices(images)
    resized = workdir / "images.npy"
    with out_of_memory_named():
        cache = read_resized(images, manifest, spec.data.image_size, resized, between)
        model = build_network(spec.data.image_size, spec.model, spec.training.seed, spec.training.precision)
        model.set_weights(arrays)
        events.phase("predicting")
        grey = np.array(MASK_VALUES, np.uint8)
        masks = _labels(model, spec, manifest, cache, between)
        zips.write(workdir / "masks.zip", ((f"{key}.png", write_png(grey[labels])) for key, labels in masks))
    resized.unlink()
    return ExperimentResult((), (), {"masks": workdir / "masks.zip"}, best_epoch=0, epochs=0)


def _labels(
    model: keras.Model, spec: ExperimentSpec, manifest: Manifest, cache: SliceCache, between: Callable[[], None]
) -> Iterator[tuple[str, Labels]]:
    """``8_12`` and its labels ``[H, W]``, scan by scan, slices rising."""
    entries = manifest.slices
    ordered = sorted(range(len(entries)), key=lambda index: (entries[index].scan, entries[index].slice))
    for _, group in groupby(ordered, key=lambda index: entries[index].scan):
        indices = list(group)
        found = predictions(model, spec, manifest, cache, indices, between)
        small = (decode(fixed_point_map(p), spec.evaluation) for _, p in found)
        stack = [enlarge_nearest(labels, (manifest.height, manifest.width)) for labels in small]
        yield from zip([entries[index].key for index in indices], cleaned(stack, spec.evaluation), strict=True)
