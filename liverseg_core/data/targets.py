"""What a network is trained towards: a grey mask or one-hot labels."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from liverseg_core import components
from liverseg_core.data.cache import SliceCache, resize_bilinear
from liverseg_core.data.png import MASK_VALUES
from liverseg_core.metrics import LESION, PARENCHYMA, enlarge_nearest

GREY = np.array(MASK_VALUES, np.uint8)
LEVELS = GREY.astype(np.float32) / np.float32(255)
ONE_HOT = np.eye(3, dtype=np.float32)

Planes = NDArray[np.float32] | NDArray[np.uint8]
"""``[B, S, S]``: the grey mask / 255 (float32) or labels (uint8)."""


class Targets:
    """Targets of any slices at network size, in two steps, so that an augmentation can move what lies between.

    Args:
        cache: the data set.
        head: ``grey-sigmoid`` or ``softmax``.
        moved: whether masks will be moved by other than right angles and flips. Then labels are moved, and the grey
            values made from them, since moving grey values would invent some between the classes.
        relabelled: index -> places in the flat native slice whose lesion counts as parenchyma.
    """

    def __init__(
        self,
        cache: SliceCache,
        head: str,
        moved: bool = False,
        relabelled: Mapping[int, NDArray[np.int64]] | None = None,
    ) -> None:
        self.cache, self.relabelled = cache, relabelled or {}
        self.one_hot = head == "softmax"
        self.from_labels = self.one_hot or moved
        self.size = cache.images.shape[-1]

    def planes(self, rows: NDArray[np.int64]) -> Planes:
        """Of slices ``[B]``: labels by nearest neighbour, or the grey mask bilinear, as the study has it."""
        if self.from_labels:
            return np.stack([enlarge_nearest(self.labels(row), (self.size, self.size)) for row in rows])
        planes = self.cache.masks[rows]
        for place, row in enumerate(rows):
            if int(row) in self.relabelled:
                planes[place] = resize_bilinear(GREY[self.labels(row)], self.size) / np.float32(255)
        return planes

    def encode(self, planes: Planes) -> NDArray[np.float32]:
        """``[B, S, S, 1]`` grey values 0..1, or ``[B, S, S, 3]`` one-hot for softmax."""
        if not self.from_labels:
            return planes[..., None].astype(np.float32, copy=False)
        return ONE_HOT[planes] if self.one_hot else LEVELS[planes][..., None]

    def labels(self, row: np.int64) -> NDArray[np.uint8]:
        """Native labels ``[H, W]`` of one slice, small lesions taken out."""
        labels: NDArray[np.uint8] = self.cache.labels[row]
        if int(row) in self.relabelled:
            labels = np.array(labels)
            labels.flat[self.relabelled[int(row)]] = PARENCHYMA
        return labels


def small_lesions(cache: SliceCache, rows: Iterable[int], fewest: int) -> dict[int, NDArray[np.int64]]:
    """Where lesions of fewer than ``fewest`` pixels lie (8-connected, native size): index -> flat places.

    Slices without any are left out, so this is small enough to keep for a whole run.
    """
    found = {}
    for row in rows if fewest > 1 else ():
        lesions = components.find(cache.labels[row] == LESION)
        small = np.zeros(cache.labels.shape[1:], np.uint8)
        components.paint(lesions, lesions.sizes < fewest, small, 1)
        if small.any():
            found[row] = np.flatnonzero(small)
    return found
