"""Reference predictors: what a metric gives to predictions that nobody had to train. NumPy only.

They show the floor and the ceiling of every column. What each says of a slice:

================  ==================================  ===========================================================
predictor         labels at native size (counts)      p at network size (the study's soft scores), y = true mask
================  ==================================  ===========================================================
empty             background                          0
liver-as-lesion   every liver pixel is lesion         0.9 where y > 0
perfect           the true labels                     y, so that its Dice is 1 (the study's other columns are not)
shifted           the true labels 3 pixels lower and  y moved likewise, by 3 S / H and 3 S / W network pixels
                  3 to the right
================  ==================================  ===========================================================
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.cache import SliceCache, resize_bilinear
from liverseg_core.data.manifest import Manifest
from liverseg_core.data.png import MASK_VALUES
from liverseg_core.errors import InputError
from liverseg_core.metrics import LESION, Floats, Labels, SoftFacts, soft_facts
from liverseg_core.scoring import Key, Scored, Truths, score_parts
from liverseg_core.spec import EvaluationOptions

SHIFT = 3
"""Native pixels down and to the right."""

LIVER_P = 0.9


def score_reference(
    name: str,
    manifest: Manifest,
    cache: SliceCache,
    parts: Mapping[str, Sequence[int]],
    options: EvaluationOptions,
    between: Callable[[], None] = lambda: None,
    soft: dict[Key, SoftFacts] | None = None,
    truths: Truths | None = None,
) -> Scored:
    """Score the predictor ``name`` of :data:`PREDICTORS` as a run would be scored.

    Args:
        name: which predictor.
        manifest: names the slices.
        cache: holds their pixels in the same order, at the network size of the runs to be compared with.
        parts: ``val`` and ``test`` -> indices into ``manifest.slices``.
        options: ``min_lesion`` and ``largest_component`` are used; a label needs no threshold.
        between: called before each scan; may raise to stop.
        soft: remembers this predictor's soft scores from one call to the next with the same ``cache``.
        truths: as in :func:`liverseg_core.scoring.rescore`.

    Returns:
        As :func:`liverseg_core.scoring.rescore`.

    Raises:
        InputError: no such predictor.
    """
    if name not in _PREDICTORS:
        raise InputError("predictor", f"is none of {', '.join(PREDICTORS)}", name)
    labels_of, p_of = _PREDICTORS[name]
    soft = {} if soft is None else soft
    for part, indices in parts.items():
        for index in indices:
            entry, y = manifest.slices[index], cache.masks[index]
            if (part, entry.scan, entry.slice) not in soft:
                soft[part, entry.scan, entry.slice] = soft_facts(y, p_of(y, cache.labels[index]))

    def predict(_: str, index: int) -> Labels:
        return labels_of(cache.labels[index])

    return score_parts(manifest, cache.labels, parts, predict, soft, options, between, truths)


def moved(pixels: NDArray[Any]) -> NDArray[Any]:
    """``[H, W]`` moved by ``SHIFT`` down and to the right; zeros come in."""
    result = np.zeros_like(pixels)
    result[SHIFT:, SHIFT:] = pixels[:-SHIFT, :-SHIFT]
    return result


def _liver_as_lesion(labels: Labels) -> Labels:
    return (labels > 0).view(np.uint8) * np.uint8(LESION)


def _moved_y(y: Floats, labels: Labels) -> Floats:
    grey = np.array(MASK_VALUES, np.uint8)[moved(labels)]
    return resize_bilinear(grey, len(y)) / np.float32(MASK_VALUES[LESION])


_PREDICTORS: dict[str, tuple[Callable[[Labels], Labels], Callable[[Floats, Labels], Floats]]] = {
    "empty": (np.zeros_like, lambda y, _: np.zeros_like(y)),
    "liver-as-lesion": (_liver_as_lesion, lambda y, _: np.where(y > 0, np.float32(LIVER_P), np.float32(0))),
    "perfect": (np.asarray, lambda y, _: y),
    "shifted": (moved, _moved_y),
}

PREDICTORS: tuple[str, ...] = tuple(_PREDICTORS)
