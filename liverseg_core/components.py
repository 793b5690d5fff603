"""Connected lesions: found slice by slice, linked to three-dimensional ones, matched one to one.

Components are found in each slice (8-connected) and then linked through neighbouring slices, which gives the
26-connected components of the scan without ever labelling the whole volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from liverseg_core.patches import box

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The 8-connected components of one slice, cropped to where they are.

    Attributes:
        labels: ``[h, w]``, 0 outside, k = 1, 2, ... inside component k.
        top, left: where the crop lies in the slice.
        sizes: ``[k]`` pixels of each component.
    """

    labels: NDArray[Any]
    top: int
    left: int
    sizes: Numbers


NOTHING = Labelled(np.zeros((0, 0), np.int32), 0, 0, np.zeros(0, np.int64))


def find(mask: Mask) -> Labelled:
    """The 8-connected components of ``mask`` [H, W], in raster order of their first pixel's row."""
    from scipy import ndimage

    top, left, chosen = box(mask)
    if not mask[chosen].size:
        return NOTHING
    labels, _ = ndimage.label(mask[chosen], np.ones((3, 3), np.int8))
    return Labelled(labels, top, left, np.bincount(labels.ravel())[1:])


def without_small(found: Labelled, pixels: int) -> Labelled:
    """``found`` without components of fewer than ``pixels`` pixels, numbered anew from 1."""
    kept = found.sizes >= pixels
    if kept.all():
        return found
    table = np.concatenate([[0], np.cumsum(kept) * kept])
    return Labelled(table[found.labels], found.top, found.left, found.sizes[kept])


def paint(found: Labelled, chosen: Mask, labels: NDArray[np.uint8], value: int) -> None:
    """Write ``value`` into ``labels`` [H, W] wherever a component of ``chosen`` [k] lies."""
    height, width = found.labels.shape
    window = labels[found.top : found.top + height, found.left : found.left + width]
    window[np.concatenate([[False], chosen])[found.labels]] = value


def overlaps(one: Labelled, other: Labelled) -> Numbers:
    """``[m, 3]``: a component of ``one``, a component of ``other``, the pixels that both have."""
    if not one.sizes.size or not other.sizes.size:
        return np.zeros((0, 3), np.int64)
    a, b = shared_window(one, other)
    both = (a > 0) & (b > 0)
    step = len(other.sizes) + 1
    codes, pixels = np.unique(a[both].astype(np.int64) * step + b[both], return_counts=True)
    return np.stack([*np.divmod(codes, step), pixels], axis=1)


def link(stack: Sequence[Labelled]) -> list[Numbers]:
    """26-connected components of a stack of slices.

    Args:
        stack: the components of each slice; neighbours in the list are neighbours along the body.

    Returns:
        For each slice ``[k]``: the number, from 1, of the three-dimensional component that each of its own
        belongs to.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.cumsum([0, *(len(found.sizes) for found in stack)])
    if not ends[-1]:
        return [np.zeros(0, np.int64) for _ in stack]
    nodes = zip(pairwise(stack), pairwise(ends), strict=False)
    edges = [_touching(*neighbours) - 1 + starts for neighbours, starts in nodes]
    lower, upper = np.concatenate([np.zeros((0, 2), np.int64), *edges]).T
    graph = coo_array((np.ones(len(lower)), (lower, upper)), shape=(ends[-1], ends[-1]))
    _, numbers = connected_components(graph, directed=False)
    return [one.astype(np.int64) + 1 for one in np.split(numbers, ends[1:-1])]


def volumes(stack: Sequence[Labelled], owners: Sequence[Numbers]) -> Numbers:
    """Voxels of each component that :func:`link` numbered, ``[k]``."""
    numbers, sizes = np.concatenate(owners), np.concatenate([found.sizes for found in stack])
    return np.bincount(numbers, sizes).astype(np.int64)[1:]


def summed(shared: Numbers) -> Numbers:
    """``shared`` [m, 3] with one row a pair: the pixels of equal pairs added up."""
    pairs, places = np.unique(shared[:, :2], axis=0, return_inverse=True)
    pixels = np.bincount(places, shared[:, 2], minlength=len(pairs)).astype(np.int64)
    return np.concatenate([pairs, pixels[:, None]], axis=1)


def match(shared: Numbers, sizes: Numbers, other_sizes: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One-to-one matching, the pair with the highest IoU first.

    Because the highest IoU goes first, the pairs with IoU > t are the same as if only such pairs had been offered.

    Args:
        shared: ``[m, 3]`` as :func:`overlaps` gives it, pairs that share at least one pixel.
        sizes: pixels of each component of the one side.
        other_sizes: the same of the other.

    Returns:
        For each component of either side the IoU with its partner, 0 where it has none.
    """
    iou, other_iou = np.zeros(len(sizes)), np.zeros(len(other_sizes))
    one, other, pixels = shared[:, 0] - 1, shared[:, 1] - 1, shared[:, 2]
    ratios = pixels / (sizes[one] + other_sizes[other] - pixels)
    for pair in np.lexsort((other, one, -ratios)):
        if not iou[one[pair]] and not other_iou[other[pair]]:
            iou[one[pair]] = other_iou[other[pair]] = ratios[pair]
    return iou, other_iou


class Crop(Protocol):
    """Labels ``[h, w]`` of a slice from row ``top`` and column ``left`` on; what lies outside is 0."""

    @property
    def labels(self) -> NDArray[Any]: ...
    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...


def shared_window(one: Crop, other: Crop) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both label arrays where the crops overlap."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom, right = (
        max(first, min(start + length, other_start + other_length))
        for first, start, length, other_start, other_length in zip(
            (top, left),
            (one.top, one.left),
            one.labels.shape,
            (other.top, other.left),
            other.labels.shape,
            strict=True,
        )
    )
    a, b = (
        found.labels[top - found.top : bottom - found.top, left - found.left : right - found.left]
        for found in (one, other)
    )
    return a, b


def _touching(lower: Labelled, upper: Labelled) -> Numbers:
    """``[m, 2]``: components of two neighbouring slices with pixels at most one row and one column apart."""
    if not lower.sizes.size or not upper.sizes.size:
        return np.zeros((0, 2), np.int64)
    own, above = _in_frame(lower, upper)
    # Where a pixel has one straight above, all its other neighbours there belong to the same component.
    alone = np.flatnonzero((own > 0) & (above == 0))
    around = [row * own.shape[1] + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    beside = above.ravel()[alone[:, None] + around]
    pairs = _pairs(own, above, len(upper.sizes)), _pairs(own.ravel()[alone][:, None], beside, len(upper.sizes))
    return np.concatenate(pairs)


def _in_frame(lower: Labelled, upper: Labelled) -> tuple[NDArray[Any], NDArray[Any]]:
    """Components of both where ``lower`` lies and a pixel around, so that no neighbour falls out of the frame."""
    own = np.pad(lower.labels, 1)
    above = np.zeros_like(own)
    frame = Labelled(above, lower.top - 1, lower.left - 1, upper.sizes)
    window, seen = shared_window(frame, upper)
    window[:] = seen
    return own, above


def _pairs(own: NDArray[Any], other: NDArray[Any], others: int) -> Numbers:
    """``[m, 2]``: each pair of numbers once, where both are above 0."""
    codes = (own.astype(np.int64) * (others + 1) + other).ravel()
    codes = np.concatenate([codes[:1], codes[1:][codes[1:] != codes[:-1]]])  # sorting long runs is slow
    pairs = np.stack(np.divmod(np.unique(codes), others + 1), axis=1)
    return pairs[pairs.all(axis=1)]
