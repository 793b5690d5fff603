"""From stored probability maps to counts and lesions, under any evaluation options; NumPy and SciPy only.

The one way in which counts are taken: :func:`liverseg_core.evaluation.evaluate` stores its maps and then reads them
back through :func:`rescore`, so re-scoring with unchanged options gives the same counts.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from liverseg_core import components
from liverseg_core.components import Labelled
from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError
from liverseg_core.maps import decode_patch, open_maps, read_map
from liverseg_core.metrics import BACKGROUND, LESION, PARENCHYMA, Labels, Level, SoftFacts, nine_counts
from liverseg_core.patches import NOTHING, Patch, crop, enlarged, whole
from liverseg_core.records import LesionComponent, SliceScore
from liverseg_core.spec import EvaluationOptions

Key = tuple[str, int, int]
"""part, scan, slice"""

Counts = tuple[int, ...]
"""Nine pixel counts, see :func:`liverseg_core.metrics.count_3x3`."""

Scored = tuple[tuple[SliceScore, ...], tuple[LesionComponent, ...]]

Kept = NDArray[np.bool_]
"""``[k]``: which components of a slice are kept."""


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
    with open_maps(maps) as file:

        def predict(part: str, index: int) -> Patch:
            u = read_map(file, f"{part}/{manifest.slices[index].key}")
            return _native(u, options, (manifest.height, manifest.width))

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

    def cropped(part: str, index: int) -> Patch:
        return crop(predict(part, index))

    return _score(manifest, labels, parts, cropped, soft, options, between, truths or Truths(), {})


def _score(
    manifest: Manifest,
    labels: NDArray[np.uint8],
    parts: Mapping[str, Sequence[int]],
    predict: Callable[[str, int], Patch],
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
        keys = [(part, scan, manifest.slices[index].slice) for index in indices]
        missing = [number for _, _, number in keys if (part, scan, number) not in soft]
        if missing:
            raise DataError(
                f"{part}/{scan}_{missing[0]}", "has no stored score to score anew; evaluate the run again"
            )
        truth = truths.of(labels, indices, options.min_lesion)
        prediction = [
            NOTHING if key in known else predict(part, index) for key, index in zip(keys, indices, strict=True)
        ]
        counts, lesions = _score_scan(keys, truth, prediction, options, manifest.height * manifest.width, known)
        for index, key, row in zip(indices, keys, counts, strict=True):
            scores[part, index] = slice_score(key, row, soft[key])
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
    keys = [(part, scan, number) for number in numbers]
    return _score_scan(keys, true, [crop(labels) for labels in prediction], options, truth[0].size, {})


def _score_scan(
    keys: Sequence[Key],
    truth: "Side",
    prediction: Sequence[Patch],
    options: EvaluationOptions,
    pixels: int,
    known: Mapping[Key, Counts],
) -> tuple[list[Counts], list[LesionComponent]]:
    if options.largest_component:
        prediction = _keep_largest(prediction)
    predicted = _side(prediction, options.min_lesion)
    both = zip(truth.slices, predicted.slices, strict=True)
    counts = [known.get(key) or _count(pixels, *sides) for key, sides in zip(keys, both, strict=True)]
    return counts, list(_matched(keys, truth, predicted))


def _scans(manifest: Manifest, parts: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int, list[int]]]:
    """Part, scan and its indices by rising slice number."""
    for part, indices in parts.items():
        scans: dict[int, list[int]] = {}
        for index in indices:
            scans.setdefault(manifest.slices[index].scan, []).append(index)
        for scan, own in scans.items():
            yield part, scan, sorted(own, key=lambda index: manifest.slices[index].slice)


# --- from labels to lesions ---------------------------------------------------------------------------------------


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


def cleaned(prediction: Sequence[Labels], options: EvaluationOptions) -> Sequence[Labels]:
    """The labels of a scan as :func:`score_scan` counts them: largest liver, small lesions as liver, where wanted."""
    if not (options.largest_component or options.min_lesion):
        return prediction
    patches: Sequence[Patch] = [crop(labels) for labels in prediction]
    if options.largest_component:
        patches = _keep_largest(patches)
    kept = _side(patches, options.min_lesion)
    return [whole(one.patch, labels.shape) for one, labels in zip(kept.slices, prediction, strict=True)]


def largest_liver(maps: Path, names: Sequence[str], shape: tuple[int, int], options: EvaluationOptions) -> list[Kept]:
    """Which predicted livers of each slice belong to the largest of the scan, for :func:`counted`.

    Args:
        maps: as :func:`rescore` takes them.
        names: maps of all slices of the scan that are evaluated, along the body, such as ``val/8_12``.
        shape: native size, ``[H, W]``.
        options: how probabilities become labels.

    Raises:
        DataError: ``maps`` is damaged or lacks a slice.
    """
    with open_maps(maps) as file:
        return _largest([_liver(_native(read_map(file, name), options, shape)) for name in names])


def counted(truth: Labels, u: Level, options: EvaluationOptions, kept: Kept | None = None) -> tuple[Labels, Labels]:
    """Truth and prediction of one slice, ``[H, W]`` each, just as :func:`rescore` counts them.

    Args:
        truth: true labels at native size, uint8 ``[H, W]``.
        u: the stored map of the slice.
        options: how probabilities become labels, and which lesions are too small.
        kept: of :func:`largest_liver`; needed where ``options.largest_component`` is set.
    """
    patch = _native(u, options, truth.shape)
    if options.largest_component:
        assert kept is not None
        patch = _repaint(patch, _liver(patch), ~kept, BACKGROUND)
    sides = (_lesions(one, options.min_lesion).patch for one in (crop(truth), patch))
    true, predicted = (whole(one, truth.shape) for one in sides)
    return true, predicted


def _native(u: Level, options: EvaluationOptions, shape: tuple[int, ...]) -> Patch:
    height, width = shape
    return enlarged(decode_patch(u, options), u.shape[-2:], (height, width))


def _keep_largest(prediction: Sequence[Patch]) -> list[Patch]:
    """The labels of a scan with only its largest 26-connected liver (1 and 2 together), the first of equals."""
    livers = [_liver(patch) for patch in prediction]
    return [
        _repaint(patch, found, ~kept, BACKGROUND)
        for patch, found, kept in zip(prediction, livers, _largest(livers), strict=True)
    ]


def _liver(patch: Patch) -> Labelled:
    return _found(patch, patch.labels > 0)


def _largest(livers: Sequence[Labelled]) -> list[Kept]:
    owners = components.link(livers)
    sizes = components.volumes(livers, owners)
    largest = int(sizes.argmax()) + 1 if sizes.size else 0
    return [owner == largest for owner in owners]


def _side(patches: Sequence[Patch], min_lesion: int) -> Side:
    slices = [_lesions(patch, min_lesion) for patch in patches]
    found = [one.found for one in slices]
    owners = components.link(found)
    return Side(slices, owners, components.volumes(found, owners))


def _lesions(patch: Patch, min_lesion: int) -> SliceSide:
    """Lesions and areas of one slice, in which lesions of fewer than ``min_lesion`` pixels are liver."""
    if not patch.labels.size:
        return SliceSide(NOTHING, components.NOTHING, (0, 0))
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
    labels = PARENCHYMA, LESION
    joint = [[int(np.count_nonzero((true == i) & (predicted == j))) for j in labels] for i in labels]
    return nine_counts(joint, truth.areas, prediction.areas, pixels)


def _matched(keys: Sequence[Key], truth: Side, prediction: Side) -> Iterator[LesionComponent]:
    """The lesions of each slice, then those of the scan."""
    linked = [np.zeros((0, 3), np.int64)]
    for key, true, predicted, owner, other_owner in zip(
        keys, truth.slices, prediction.slices, truth.owners, prediction.owners, strict=True
    ):
        one, other = true.found, predicted.found
        if one.sizes.size or other.sizes.size:
            shared = components.overlaps(one, other)
            yield from _records(*key, one.sizes, other.sizes, shared)
            linked.append(np.stack([owner[shared[:, 0] - 1], other_owner[shared[:, 1] - 1], shared[:, 2]], axis=1))
    part, scan, _ = keys[0]
    yield from _records(part, scan, None, truth.sizes, prediction.sizes, components.summed(np.concatenate(linked)))


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
