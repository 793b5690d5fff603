"""Changes of a training sample. Nothing here reads a slice; every draw comes from the generator that is given."""

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from liverseg_core.metrics import LESION
from liverseg_core.spec import Augmentation

Images = NDArray[np.float32]

Placement = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Matrix and offset: where an output pixel reads."""

MAX_BRIGHTNESS = 0.1
"""The study's code; its text says 0.05."""

SMALL_ROTATIONS = Augmentation(rotation=15, scale=0.1, shift=0.1, brightness=0.05, contrast=0.05)
"""What another placement of the same patient could look like. Without flips, since the liver lies on one side."""


class Cut(NamedTuple):
    """A square cut-out of a sample: its side in pixels, and whether it is to lie around one of its lesions."""

    side: int
    lesion: bool


def section_of(augmentation: str | Augmentation) -> Augmentation | None:
    """What every sample goes through; None where nothing does or the augmentation adds copies instead."""
    if isinstance(augmentation, str):
        return SMALL_ROTATIONS if augmentation == "small-rotations" else None
    return None if augmentation == Augmentation() else augmentation


def moves_between_pixels(section: Augmentation | None) -> bool:
    """Whether pixels land between pixels, so that labels must be moved instead of grey masks."""
    return section is not None and max(section.rotation, section.scale, section.shift) > 0


def turn(planes: NDArray[np.generic], draw: float) -> NDArray[np.generic]:
    """Turn ``[..., S, S]`` by 90, 180 or 270 degrees; ``draw`` in [0, 1)."""
    return np.rot90(planes, 1 + int(3 * draw), axes=(-2, -1))


def brighten(planes: Images, draw: float, most: float = MAX_BRIGHTNESS) -> Images:
    """Add a number from [-most, most), unclipped, as tf.image.random_brightness does with floats."""
    return planes + np.float32(most * (2 * draw - 1))


def copy_as_coded(
    kind: int, images: Images, plane: Images, random: np.random.Generator
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """``paper-2019``: a turned (kind 1) or brightened (kind 2) copy; image and mask draw apart, as coded there."""
    change = turn if kind == 1 else brighten
    return change(images, random.random()), change(plane, random.random())


def copy_corrected(
    kind: int, images: Images, plane: NDArray[np.generic], random: np.random.Generator
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """``right-angles``: one draw turns image and mask (kind 1); brightness leaves the mask alone (kind 2)."""
    draw = random.random()
    return (turn(images, draw), turn(plane, draw)) if kind == 1 else (brighten(images, draw), plane)


def augment(
    images: Images,
    plane: NDArray[np.generic],
    section: Augmentation,
    random: np.random.Generator,
    cut: Cut | None = None,
) -> tuple[Images, NDArray[np.generic]]:
    """One sample changed: the whole window and its mask move by one draw, grey values change in the window alone.

    Args:
        images: float32 ``[width, S, S]``, 0..1.
        plane: ``[S, S]``: labels (uint8) where :func:`moves_between_pixels` or ``cut``, else labels or the grey mask.
        section: what to do and how far; each number is drawn evenly from -most..most.
        random: gives eight numbers, two more for ``cut``, then the noise.
        cut: what of the changed sample to keep; None: all.

    Returns:
        Both, of the same shapes (cut: with its side for S); grey values unclipped; 0 where something outside the
        slice came into view.
    """
    quarters, flip, *rest = random.random(8)
    angle, scale, *away, bright, contrast = (2 * draw - 1 for draw in rest)
    if section.right_angles:
        images, plane = (np.rot90(pixels, int(4 * quarters), axes=(-2, -1)) for pixels in (images, plane))
    if section.flip and flip < 0.5:
        images, plane = images[..., ::-1], plane[..., ::-1]
    shift = np.array(away) * section.shift * plane.shape[0]
    placement = _placement(section.rotation * angle, 1 + section.scale * scale, shift, plane.shape[0])
    corner, side = (0, 0), plane.shape[0]
    if cut is not None:
        corner, side = _corner(plane, cut, placement, random.random(2)), cut.side
    if moves_between_pixels(section):
        move = partial(_move, placement=placement, corner=corner, side=side)
        images, plane = np.stack([move(one, order=1) for one in images]), move(plane, order=0)
    elif cut is not None:
        down, right = (slice(start, start + side) for start in corner)
        images, plane = images[..., down, right], plane[down, right]
    return _grey_changed(images, section, bright, contrast, random), plane


def _placement(angle: float, size: float, shift: NDArray[np.float64], side: int) -> Placement:
    """Where an output pixel reads: input = matrix @ output + offset. About the slice's centre, then shifted."""
    turned = np.deg2rad(angle)
    matrix = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]) / size
    centre = np.full(2, (side - 1) / 2)
    return matrix, centre - matrix @ (centre + shift)


def _corner(
    plane: NDArray[np.generic], cut: Cut, placement: Placement, draws: NDArray[np.float64]
) -> tuple[int, int]:
    """Top and left of a cut-out of what ``placement`` makes of ``plane``, inside it.

    Around the place of any lesion pixel of ``plane`` (each as likely), as far as the border allows; where there is
    none or none is asked for, every corner is as likely.
    """
    most = plane.shape[0] - cut.side
    lesion = np.flatnonzero(plane == LESION) if cut.lesion else np.empty(0)
    if lesion.size == 0:
        top, left = (draws * (most + 1)).astype(int)
    else:
        matrix, offset = placement
        pixel = np.array(divmod(int(lesion[int(draws[0] * lesion.size)]), plane.shape[1]))
        middle = np.linalg.solve(matrix, pixel - offset)
        top, left = np.clip(np.rint(middle - cut.side / 2), 0, most).astype(int)
    return int(top), int(left)


def _move(
    pixels: NDArray[np.generic], order: int, placement: Placement, corner: tuple[int, int], side: int
) -> NDArray[np.generic]:
    """Read ``[S, S]`` by nearest neighbour (order 0) or bilinear (1): ``[side, side]`` from ``corner`` on."""
    from scipy import ndimage

    matrix, offset = placement
    moved: NDArray[np.generic] = ndimage.affine_transform(
        pixels, matrix, offset + matrix @ corner, (side, side), order=order, mode="constant"
    )
    return moved


def _grey_changed(
    images: Images, section: Augmentation, bright: float, contrast: float, random: np.random.Generator
) -> Images:
    if section.contrast:
        mean = images.mean(dtype=np.float32)
        images = (images - mean) * np.float32(1 + section.contrast * contrast) + mean
    if section.brightness:
        images = images + np.float32(section.brightness * bright)
    if section.noise:
        images = images + np.float32(section.noise) * random.standard_normal(images.shape, np.float32)
    return images
