"""Labels of a slice without the background around them: most of a slice is background."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from liverseg_core.metrics import Labels, nearest_rows


class Patch(NamedTuple):
    """Labels ``[h, w]`` of one slice, cropped to where they are not background; ``top``, ``left``: where that is."""

    labels: Labels
    top: int
    left: int


NOTHING = Patch(np.zeros((0, 0), np.uint8), 0, 0)


def crop(labels: Labels) -> Patch:
    """The part of ``labels`` [H, W] that is not background."""
    top, left, chosen = box(labels > 0)
    return Patch(labels[chosen], top, left)


def box(mask: NDArray[np.bool_]) -> tuple[int, int, tuple[slice, slice]]:
    """Top, left and slices of the smallest box around ``mask`` [H, W]."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return 0, 0, (slice(0, 0), slice(0, 0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return top, left, (slice(top, bottom), slice(left, right))


def enlarged(patch: Patch, small: tuple[int, ...], shape: tuple[int, int]) -> Patch:
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


def whole(patch: Patch, shape: tuple[int, ...]) -> Labels:
    labels = np.zeros(shape, np.uint8)
    height, width = patch.labels.shape
    labels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.labels
    return labels
