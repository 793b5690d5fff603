"""From stored probability maps to counts and lesions, under any evaluation options; NumPy and SciPy only.

The one way in which counts are taken: :func:`liverseg_core.evaluation.evaluate` stores its maps and then reads them
back through :func:`rescore`, so re-scoring with unchanged options gives the same counts.
"""

import functools
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from liverseg_core import components
from liverseg_core.components import Labelled
from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError
from liverseg_core.metrics import FULL, Labels, Level, SoftFacts, count_3x3, enlarge_nearest
from liverseg_core.records import LesionComponent, SliceScore
from liverseg_core.spec import EvaluationOptions

Key = tuple[str, int, int]
"""part, scan, slice"""

Scored = tuple[tuple[SliceScore, ...], tuple[LesionComponent, ...]]

PLAIN = EvaluationOptions()

BACKGROUND, PARENCHYMA, LESION = 0, 1, 2

THREADS = min(4, os.cpu_count() or 1)

Result = TypeVar("Result")


def rescore(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    maps: Path,
    parts: Mapping[str, Sequence[int]],
    soft: Mapping[Key, SoftFacts],
    options: EvaluationOptions,
    between: Callable[[], None] = lambda: None,
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

    Returns:
        One score a slice, part by part, in the order of the indices; and the lesions.

    Raises:
        DataError: ``maps`` is damaged or lacks a slice, or ``soft`` does.
    """
    with _opened(maps) as file:

        def predict(part: str, index: int) -> Labels:
            small = decode(read_map(file, f"{part}/{manifest.slices[index].key}"), options)
            return enlarge_nearest(small, (manifest.height, manifest.width))

        return score_parts(manifest, labels, parts, predict, soft, options, between)


def score_parts(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    parts: Mapping[str, Sequence[int]],
    predict: Callable[[str, int], Labels],
    soft: Mapping[Key, SoftFacts],
    options: EvaluationOptions,
    between: Callable[[], None] = lambda: None,
) -> Scored:
    """Score what ``predict(part, index)`` says, labels ``[H, W]``, scan by scan; see :func:`rescore`."""
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
        truth = [labels[index] for index in indices]
        prediction = _each(functools.partial(predict, part), indices)
        counts, lesions = score_scan(part, scan, numbers, truth, prediction, options)
        for index, number, row in zip(indices, numbers, counts, strict=True):
            scores[part, index] = slice_score((part, scan, number), row, soft[part, scan, number])
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
    if options.largest_component:
        prediction = keep_largest(prediction)
    judged = _each(functools.partial(_judge, min_lesion=options.min_lesion), truth, prediction)
    lesions = _matched(part, scan, numbers, [one.true for one in judged], [one.predicted for one in judged])
    return [one.counts for one in judged], list(lesions)


def _each(work: Callable[..., Result], *columns: Sequence[Any]) -> list[Result]:
    """``work`` on each slice, in threads: unpacking and counting run outside Python's lock."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, *columns))


# --- from a stored map to labels ---------------------------------------------------------------------------------


def decode(u: Level, options: EvaluationOptions = PLAIN) -> Labels:
    """Labels 0 background, 1 parenchyma, 2 lesion at network size.

    grey-sigmoid, ``[S, S]``: lesion from two thirds (or ``options.threshold`` t) on, parenchyma from one third (or t,
    if that is lower) on. softmax, ``[2, S, S]`` parenchyma and lesion, background is the rest: the most likely class,
    the first of equals; with a threshold lesion where its probability is at least t, else the more likely of the
    other two. Compared in whole numbers: 65535 / 3 = 21845 and 2 * 65535 / 3 = 43690 are exact.
    """
    level = None if options.threshold is None else max(1, math.ceil(round(options.threshold * FULL, 6)))
    return _decode_grey(u, level) if u.ndim == 2 else _decode_softmax(u[0], u[1], level)


def _decode_grey(u: Level, level: int | None) -> Labels:
    lesion_from = 2 * FULL // 3 if level is None else level
    liver_from = min(FULL // 3, lesion_from)
    return (u >= liver_from).view(np.uint8) + (u >= lesion_from).view(np.uint8)


def _decode_softmax(parenchyma: Level, lesion: Level, level: int | None) -> Labels:
    one, two = parenchyma.astype(np.int32), lesion.astype(np.int32)
    rest = FULL - one - two
    labels = (one > rest).view(np.uint8)
    is_lesion = (two > rest) & (two > one) if level is None else lesion >= level
    return np.where(is_lesion, np.uint8(LESION), labels)


def read_map(maps: zipfile.ZipFile, name: str) -> Level:
    """The stored map ``name``, e.g. ``val/8_12``: uint16 ``[S, S]`` or ``[2, S, S]``.

    Raises:
        DataError: absent, damaged, or something else.
    """
    try:
        u = npy.read_array(io.BytesIO(maps.read(f"{name}.npy")), allow_pickle=False)
    except (KeyError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(name, f"has no readable probability map ({error}); evaluate the run again") from error
    if u.dtype != np.uint16 or u.ndim not in (2, 3) or (u.ndim == 3 and len(u) != 2):
        raise DataError(name, "is no probability map; evaluate the run again", f"{u.dtype} {u.shape}")
    return u


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


def keep_largest(prediction: Sequence[Labels]) -> list[Labels]:
    """The labels of a scan with only its largest 26-connected liver (1 and 2 together), the first of equals."""
    livers = _each(lambda labels: components.find(labels > 0), prediction)
    owners = components.link(livers)
    sizes = components.volumes(livers, owners)
    largest = int(sizes.argmax()) + 1 if sizes.size else 0
    return [
        _repaint(labels, found, owner != largest, BACKGROUND)
        for labels, found, owner in zip(prediction, livers, owners, strict=True)
    ]


def cleaned(prediction: Sequence[Labels], options: EvaluationOptions) -> Sequence[Labels]:
    """The labels of a scan as :func:`score_scan` counts them: largest liver, small lesions as liver, where wanted."""
    kept = keep_largest(prediction) if options.largest_component else prediction
    return [_lesions(labels, options.min_lesion)[1] for labels in kept] if options.min_lesion else kept


class _Judged(NamedTuple):
    true: Labelled
    predicted: Labelled
    counts: tuple[int, ...]


def _judge(truth: Labels, prediction: Labels, min_lesion: int) -> _Judged:
    """Lesions and counts of one slice, in which lesions of fewer than ``min_lesion`` pixels are liver."""
    (true, truth), (predicted, prediction) = (_lesions(labels, min_lesion) for labels in (truth, prediction))
    return _Judged(true, predicted, count_3x3(truth, prediction))


def _lesions(labels: Labels, min_lesion: int) -> tuple[Labelled, Labels]:
    found = components.find(labels == LESION)
    return components.without_small(found, min_lesion), _repaint(labels, found, found.sizes < min_lesion, PARENCHYMA)


def _repaint(labels: Labels, found: Labelled, chosen: NDArray[np.bool_], value: int) -> Labels:
    if not chosen.any():
        return labels
    painted = labels.copy()
    components.paint(found, chosen, painted, value)
    return painted


def _matched(
    part: str, scan: int, numbers: Sequence[int], true: Sequence[Labelled], predicted: Sequence[Labelled]
) -> Iterator[LesionComponent]:
    """The lesions of each slice, then those of the scan."""
    true_owners, predicted_owners = components.link(true), components.link(predicted)
    linked = []
    for number, one, other, owner, other_owner in zip(
        numbers, true, predicted, true_owners, predicted_owners, strict=True
    ):
        shared = components.overlaps(one, other)
        yield from _records(part, scan, number, one.sizes, other.sizes, shared)
        linked.append(np.stack([owner[shared[:, 0] - 1], other_owner[shared[:, 1] - 1], shared[:, 2]], axis=1))
    sizes, other_sizes = (components.volumes(*side) for side in ((true, true_owners), (predicted, predicted_owners)))
    yield from _records(part, scan, None, sizes, other_sizes, components.summed(np.concatenate(linked)))


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
