"""From stored probability maps to counts and lesions, under any evaluation options; NumPy and SciPy only.

The one way in which counts are taken: :func:`liverseg_core.evaluation.evaluate` stores its maps and then reads them
back through :func:`rescore`, so re-scoring with unchanged options gives the same counts.
"""

import dataclasses
import functools
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from liverseg_core import components
from liverseg_core.components import Labelled
from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError
from liverseg_core.metrics import FULL, Labels, Level, SoftFacts, nearest_rows
from liverseg_core.records import LesionComponent, SliceScore
from liverseg_core.spec import EvaluationOptions

Key = tuple[str, int, int]
"""part, scan, slice"""

Counts = tuple[int, ...]
"""Nine pixel counts, see :func:`liverseg_core.metrics.count_3x3`."""

Scored = tuple[tuple[SliceScore, ...], tuple[LesionComponent, ...]]

PLAIN = EvaluationOptions()

BACKGROUND, PARENCHYMA, LESION = 0, 1, 2

READERS = 2
"""Threads that unpack maps, outside Python's lock; the rest holds it, so that more threads would gain nothing."""


def rescore(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    maps: Path,
    parts: Mapping[str, Sequence[int]],
    soft: Mapping[Key, SoftFacts],
    options: EvaluationOptions,
    between: Callable[[], None] = lambda: None,
    truths: "Truths | None" = None,
    known: Mapping[Key, Counts] = MappingProxyType({}),
) -> Scored:
    """Score every slice of ``parts`` from its stored probability map.

    Args:
        manifest: names the slices.
        labels: true labels at native size, uint8 ``[n, H, W]``, in the manifest's order.
        maps: npz as :func:`liverseg_core.evaluation.evaluate` writes it.
        parts: ``val`` and ``test`` -> indices into ``manifest.slices``; an empty part gives no score.
        soft: what the maps cannot give, as it was stored with the scores that these maps belong to.
        options: how probabilities become labels; ``flips`` is ignored, since it is already in the maps.
        between: called before each scan; may raise to stop.
        truths: remembers the true lesions from one call to the next with the same ``manifest`` and ``labels``.
        known: counts that are not taken anew, see :func:`unchanged`.

    Returns:
        One score a slice, part by part, in the order of the indices; and the lesions.

    Raises:
        DataError: ``maps`` is damaged or lacks a slice, or ``soft`` does.
    """
    with _opened(maps) as file, ThreadPoolExecutor(READERS) as readers:

        def predict(part: str, indices: Sequence[int]) -> Iterator[Patch]:
            names = [f"{part}/{manifest.slices[index].key}" for index in indices]
            for u in readers.map(functools.partial(read_map, file), names):
                yield _enlarged(_decoded(u, options), u.shape[-2:], (manifest.height, manifest.width))

        return _score(manifest, labels, parts, predict, soft, options, between, truths or Truths(), known)


def unchanged(counts: Mapping[Key, Counts], before: EvaluationOptions, after: EvaluationOptions) -> dict[Key, Counts]:
    """Those of ``counts``, taken under ``before``, that ``after`` cannot change: of slices without lesion.

    A larger ``min_lesion`` turns lesions into liver, so where neither truth nor prediction has any, nothing happens.
    Any other change may touch every slice.
    """
    if after.largest_component or before.model_copy(update={"min_lesion": after.min_lesion}) != after:
        return {}
    if after.min_lesion < before.min_lesion:
        return {}
    return {key: row for key, row in counts.items() if not any(row[place] for place in (2, 5, 6, 7, 8))}


def score_parts(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    parts: Mapping[str, Sequence[int]],
    predict: Callable[[str, int], Labels],
    soft: Mapping[Key, SoftFacts],
    options: EvaluationOptions,
    between: Callable[[], None] = lambda: None,
    truths: "Truths | None" = None,
) -> Scored:
    """Score what ``predict(part, index)`` says, labels ``[H, W]``, scan by scan; see :func:`rescore`."""

    def cropped(part: str, indices: Sequence[int]) -> Iterator[Patch]:
        return (crop(predict(part, index)) for index in indices)

    return _score(manifest, labels, parts, cropped, soft, options, between, truths or Truths(), {})


def _score(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    parts: Mapping[str, Sequence[int]],
    predict: "Callable[[str, Sequence[int]], Iterator[Patch]]",
    soft: Mapping[Key, SoftFacts],
    options: EvaluationOptions,
    between: Callable[[], None],
    truths: "Truths",
    known: Mapping[Key, Counts],
) -> Scored:
    scores: dict[tuple[str, int], SliceScore] = {}
    found: list[LesionComponent] = []
    for part, scan, indices in _scans(manifest, parts):
        between()
        numbers = [manifest.slices[index].slice for index in indices]
        missing = [number for number in numbers if (part, scan, number) not in soft]
        if missing:
            raise DataError(
                f"{part}/{scan}_{missing[0]}", "has no stored score to score anew; evaluate the run again"
            )
        truth = truths.of(labels, indices, options.min_lesion)
        kept = [known.get((part, scan, number)) for number in numbers]
        patches = predict(part, [index for index, row in zip(indices, kept, strict=True) if row is None])
        prediction = [next(patches) if row is None else NOTHING for row in kept]
        pixels = manifest.height * manifest.width
        counts, lesions = _score_scan(part, scan, numbers, truth, prediction, options, pixels)
        for index, number, row, old in zip(indices, numbers, counts, kept, strict=True):
            scores[part, index] = slice_score((part, scan, number), old or row, soft[part, scan, number])
        found.extend(lesions)
    return tuple(scores[part, index] for part, indices in parts.items() for index in indices), tuple(found)


def slice_score(key: Key, counts: tuple[int, ...], soft: SoftFacts) -> SliceScore:
    """The row that is stored about one slice."""
    part, scan, number = key
    return SliceScore(
        part=part, scan=scan, slice=number, counts=counts, quantised=soft.quantised,
        tp=soft.tp, fp=soft.fp, fn=soft.fn, dice=soft.dice, dice_liver=soft.dice_liver, dice_tumor=soft.dice_tumor,
    )  # fmt: skip


def score_scan(
    part: str,
    scan: int,
    numbers: Sequence[int],
    truth: Sequence[Labels],
    prediction: Sequence[Labels],
    options: EvaluationOptions,
) -> tuple[list[tuple[int, ...]], list[LesionComponent]]:
    """Counts of every slice and the lesions of one scan.

    Args:
        part: ``val`` or ``test``.
        scan: scan number.
        numbers: slice numbers, rising; neighbours in this order are neighbours along the body.
        truth: labels ``[H, W]`` of each slice at native size.
        prediction: the same.
        options: ``largest_component`` and ``min_lesion`` are used.

    Returns:
        Nine counts a slice (:func:`liverseg_core.metrics.count_3x3`); the 8-connected lesions of every slice and the
        26-connected lesions of the scan, of truth and prediction, matched one to one.
    """
    true = _side([crop(labels) for labels in truth], options.min_lesion)
    return _score_scan(part, scan, numbers, true, [crop(labels) for labels in prediction], options, truth[0].size)


def _score_scan(
    part: str,
    scan: int,
    numbers: Sequence[int],
    truth: "Side",
    prediction: "Sequence[Patch]",
    options: EvaluationOptions,
    pixels: int,
) -> tuple[list[tuple[int, ...]], list[LesionComponent]]:
    if options.largest_component:
        prediction = _keep_largest(prediction)
    predicted = _side(prediction, options.min_lesion)
    counts = [_count(pixels, *both) for both in zip(truth.slices, predicted.slices, strict=True)]
    return counts, list(_matched(part, scan, numbers, truth, predicted))


# --- from a stored map to labels ---------------------------------------------------------------------------------


def decode(u: Level, options: EvaluationOptions = PLAIN) -> Labels:
    """Labels 0 background, 1 parenchyma, 2 lesion at network size.

    grey-sigmoid, ``[S, S]``: lesion from two thirds (or ``options.threshold`` t) on, parenchyma from one third (or t,
    if that is lower) on. softmax, ``[2, S, S]`` parenchyma and lesion, background is the rest: the most likely class,
    the first of equals; with a threshold lesion where its probability is at least t, else the more likely of the
    other two. Compared in whole numbers: 65535 / 3 = 21845 and 2 * 65535 / 3 = 43690 are exact.
    """
    level = _level(options)
    return _decode_grey(u, level) if u.ndim == 2 else _decode_softmax(u[0], u[1], level)


def _level(options: EvaluationOptions) -> int | None:
    return None if options.threshold is None else max(1, math.ceil(round(options.threshold * FULL, 6)))


def _decode_grey(u: Level, level: int | None) -> Labels:
    liver_from, lesion_from = _grey_levels(level)
    return (u >= liver_from).view(np.uint8) + (u >= lesion_from).view(np.uint8)


def _grey_levels(level: int | None) -> tuple[int, int]:
    lesion_from = 2 * FULL // 3 if level is None else level
    return min(FULL // 3, lesion_from), lesion_from


def _decode_softmax(parenchyma: Level, lesion: Level, level: int | None) -> Labels:
    one, two = parenchyma.astype(np.int32), lesion.astype(np.int32)
    rest = FULL - one - two
    labels = (one > rest).view(np.uint8)
    is_lesion = (two > rest) & (two > one) if level is None else lesion >= level
    return np.where(is_lesion, np.uint8(LESION), labels)


def _decoded(u: Level, options: EvaluationOptions) -> "Patch":
    """:func:`decode`, cropped before it is computed: most of a slice is background."""
    level = _level(options)
    if u.ndim == 2:
        top, left, chosen = _box(u >= _grey_levels(level)[0])
        return Patch(_decode_grey(u[chosen], level), top, left)
    # A class needs a third to be the most likely one, and less than that only where the threshold of lesion is lower.
    least = FULL // 3 if level is None else min(FULL // 3, level)
    top, left, chosen = _box(np.maximum(*u) >= least)
    return Patch(_decode_softmax(u[0][chosen], u[1][chosen], level), top, left)


def read_map(maps: zipfile.ZipFile, name: str) -> Level:
    """The stored map ``name``, e.g. ``val/8_12``: uint16 ``[S, S]`` or ``[2, S, S]``.

    Raises:
        DataError: absent, damaged, or something else.
    """
    try:
        data = maps.read(f"{name}.npy")
        start = len(npy.magic(1, 0)) + 2 + int.from_bytes(data[8:10], "little")
        shape, dtype = _parsed(data[:start])
        u = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except (KeyError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(name, f"has no readable probability map ({error}); evaluate the run again") from error
    if u.dtype != np.uint16 or u.ndim not in (2, 3) or (u.ndim == 3 and len(u) != 2):
        raise DataError(name, "is no probability map; evaluate the run again", f"{u.dtype} {u.shape}")
    return u


@functools.lru_cache(maxsize=16)
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that a .npy header of version 1.0 tells; the maps of a run share one."""
    stream = io.BytesIO(header)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if fortran or dtype.hasobject:
        raise ValueError("not an array of numbers in C order")
    return shape, dtype


def _opened(maps: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(maps)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(maps.name, f"cannot be opened ({error}); evaluate the run again") from error


def _scans(manifest: Manifest, parts: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int, list[int]]]:
    """Part, scan and its indices by rising slice number."""
    for part, indices in parts.items():
        scans: dict[int, list[int]] = {}
        for index in indices:
            scans.setdefault(manifest.slices[index].scan, []).append(index)
        for scan, own in scans.items():
            yield part, scan, sorted(own, key=lambda index: manifest.slices[index].slice)


# --- from labels to lesions ---------------------------------------------------------------------------------------


class Patch(NamedTuple):
    """Labels ``[h, w]`` of one slice, cropped to where they are not background; ``top``, ``left``: where that is."""

    labels: Labels
    top: int
    left: int


NOTHING = Patch(np.zeros((0, 0), np.uint8), 0, 0)


class SliceSide(NamedTuple):
    """What is known of one slice, of truth or prediction: labels, lesions, pixels of parenchyma and of lesion."""

    patch: Patch
    found: Labelled
    areas: tuple[int, int]


class Side(NamedTuple):
    """Truth or prediction of one scan: its slices, and which 3-D lesion owns each lesion of a slice."""

    slices: list[SliceSide]
    owners: list[NDArray[np.int64]]
    sizes: NDArray[np.int64]


class Truths:
    """True lesions of scans by their slices and ``min_lesion``, so that many runs on one data set find them once."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._known: dict[tuple[int, tuple[int, ...]], Side] = {}

    def of(self, labels: NDArray[np.uint8], indices: Sequence[int], min_lesion: int) -> Side:
        key = (min_lesion, tuple(indices))
        side = self._known.get(key)
        if side is None:
            side = _side([crop(labels[index]) for index in indices], min_lesion)
            while len(self._known) >= self._limit:
                self._known.pop(next(iter(self._known)), None)
            self._known[key] = side
        return side


def crop(labels: Labels) -> Patch:
    """The part of ``labels`` [H, W] that is not background."""
    top, left, chosen = _box(labels > 0)
    return Patch(labels[chosen], top, left)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, tuple[slice, slice]]:
    """Top, left and slices of the smallest box around ``mask`` [H, W]."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return 0, 0, (slice(0, 0), slice(0, 0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return top, left, (slice(top, bottom), slice(left, right))


def _enlarged(patch: Patch, small: tuple[int, ...], shape: tuple[int, int]) -> Patch:
    """What :func:`liverseg_core.metrics.enlarge_nearest` makes of the whole slice, for its patch alone."""
    if not patch.labels.size:
        return patch
    places, starts = [], []
    for start, length, little, large in zip(patch[1:], patch.labels.shape, small, shape, strict=True):
        rows = nearest_rows(little, large)
        first, last = np.searchsorted(rows, [start, start + length])
        places.append(rows[first:last] - start)
        starts.append(int(first))
    return Patch(patch.labels.take(places[1], axis=1).take(places[0], axis=0), *starts)


def cleaned(prediction: Sequence[Labels], options: EvaluationOptions) -> Sequence[Labels]:
    """The labels of a scan as :func:`score_scan` counts them: largest liver, small lesions as liver, where wanted."""
    if not (options.largest_component or options.min_lesion):
        return prediction
    patches: Sequence[Patch] = [crop(labels) for labels in prediction]
    if options.largest_component:
        patches = _keep_largest(patches)
    kept = _side(patches, options.min_lesion)
    return [_whole(one.patch, labels.shape) for one, labels in zip(kept.slices, prediction, strict=True)]


def _whole(patch: Patch, shape: tuple[int, ...]) -> Labels:
    labels = np.zeros(shape, np.uint8)
    height, width = patch.labels.shape
    labels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.labels
    return labels


def _keep_largest(prediction: Sequence[Patch]) -> list[Patch]:
    """The labels of a scan with only its largest 26-connected liver (1 and 2 together), the first of equals."""
    livers = [_found(patch, patch.labels > 0) for patch in prediction]
    owners = components.link(livers)
    sizes = components.volumes(livers, owners)
    largest = int(sizes.argmax()) + 1 if sizes.size else 0
    return [
        _repaint(patch, found, owner != largest, BACKGROUND)
        for patch, found, owner in zip(prediction, livers, owners, strict=True)
    ]


def _side(patches: Sequence[Patch], min_lesion: int) -> Side:
    slices = [_lesions(patch, min_lesion) for patch in patches]
    found = [one.found for one in slices]
    owners = components.link(found)
    return Side(slices, owners, components.volumes(found, owners))


def _lesions(patch: Patch, min_lesion: int) -> SliceSide:
    """Lesions and areas of one slice, in which lesions of fewer than ``min_lesion`` pixels are liver."""
    found = _found(patch, patch.labels == LESION)
    patch = _repaint(patch, found, found.sizes < min_lesion, PARENCHYMA)
    kept = components.without_small(found, min_lesion)
    lesion = int(kept.sizes.sum())
    return SliceSide(patch, kept, (int(np.count_nonzero(patch.labels)) - lesion, lesion))


def _found(patch: Patch, mask: NDArray[np.bool_]) -> Labelled:
    found = components.find(mask)
    return dataclasses.replace(found, top=found.top + patch.top, left=found.left + patch.left)


def _repaint(patch: Patch, found: Labelled, chosen: NDArray[np.bool_], value: int) -> Patch:
    if not chosen.any():
        return patch
    painted = patch.labels.copy()
    inside = dataclasses.replace(found, top=found.top - patch.top, left=found.left - patch.left)
    components.paint(inside, chosen, painted, value)
    return patch._replace(labels=painted)


def _count(pixels: int, truth: SliceSide, prediction: SliceSide) -> tuple[int, ...]:
    """What :func:`liverseg_core.metrics.count_3x3` gives for whole slices of ``pixels`` pixels."""
    true, predicted = components.shared_window(truth.patch, prediction.patch)
    ones, twos = (predicted == label for label in (PARENCHYMA, LESION))
    (n11, n12), (n21, n22) = (
        [int(np.count_nonzero(mask & other)) for other in (ones, twos)]
        for mask in (true == PARENCHYMA, true == LESION)
    )
    (t1, t2), (p1, p2) = truth.areas, prediction.areas
    n01, n02, n10, n20 = p1 - n11 - n21, p2 - n12 - n22, t1 - n11 - n12, t2 - n21 - n22
    return pixels - t1 - t2 - n01 - n02, n01, n02, n10, n11, n12, n20, n21, n22


def _matched(
    part: str, scan: int, numbers: Sequence[int], truth: Side, prediction: Side
) -> Iterator[LesionComponent]:
    """The lesions of each slice, then those of the scan."""
    linked = []
    for number, true, predicted, owner, other_owner in zip(
        numbers, truth.slices, prediction.slices, truth.owners, prediction.owners, strict=True
    ):
        one, other = true.found, predicted.found
        shared = components.overlaps(one, other)
        yield from _records(part, scan, number, one.sizes, other.sizes, shared)
        linked.append(np.stack([owner[shared[:, 0] - 1], other_owner[shared[:, 1] - 1], shared[:, 2]], axis=1))
    shared = components.summed(np.concatenate(linked))
    yield from _records(part, scan, None, truth.sizes, prediction.sizes, shared)


def _records(
    part: str,
    scan: int,
    number: int | None,
    sizes: NDArray[np.int64],
    other_sizes: NDArray[np.int64],
    shared: NDArray[np.int64],
) -> Iterator[LesionComponent]:
    ious = components.match(shared, sizes, other_sizes)
    for predicted, pixels, iou in ((False, sizes, ious[0]), (True, other_sizes, ious[1])):
        for place in range(len(pixels)):
            yield LesionComponent(part, scan, number, predicted, place + 1, int(pixels[place]), float(iou[place]))
