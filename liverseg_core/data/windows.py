"""What a network sees of a scan: one slice, or a few neighbouring ones."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest

Windows = NDArray[np.int64]


def windows(manifest: Manifest, width: int, among: Sequence[int] | None = None) -> Windows:
    """The slices seen with each slice: neighbours by slice number in its own scan, clamped at the scan's ends.

    Args:
        manifest: names the slices.
        width: slices in a window, odd; the middle one is the slice itself.
        among: indices of the slices that may be seen; None: all. The rows of others mean nothing.

    Returns:
        ``[n, width]`` indices into ``manifest.slices``, by rising slice number.
    """
    scans: dict[int, list[int]] = defaultdict(list)
    for index in range(len(manifest.slices)) if among is None else among:
        scans[manifest.slices[index].scan].append(index)
    seen = np.zeros((len(manifest.slices), width), np.int64)
    reach = np.arange(width) - width // 2
    for indices in scans.values():
        ordered = np.array(sorted(indices, key=lambda index: manifest.slices[index].slice))
        places = np.arange(len(ordered))[:, None] + reach
        seen[ordered] = ordered[np.clip(places, 0, len(ordered) - 1)]
    return seen


def look(cache: SliceCache, seen: Windows) -> NDArray[np.float32]:
    """Images float32 ``[B, width, S, S]`` of windows ``[B, width]``, a copy."""
    pixels = cache.images[seen.ravel()]  # one axis: by two NumPy takes twice as long
    return pixels.reshape(*seen.shape, *pixels.shape[1:])


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows ``[B, width, S, S]`` as a network takes them: ``[B, S, S, width]``."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def read_images(cache: SliceCache, seen: Windows) -> NDArray[np.float32]:
    """Network inputs float32 ``[B, S, S, width]``, 0..1, of windows ``[B, width]``."""
    return channels_last(look(cache, seen))
