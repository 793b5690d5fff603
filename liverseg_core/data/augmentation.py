"""Changes of a training sample. Nothing here reads a slice; every draw comes from the generator that is given."""

import numpy as np
from numpy.typing import NDArray

from liverseg_core.spec import Augmentation

Images = NDArray[np.float32]

MAX_BRIGHTNESS = 0.1
"""The study's code; its text says 0.05."""

SMALL_ROTATIONS = Augmentation(rotation=15, scale=0.1, shift=0.1, brightness=0.05, contrast=0.05)
"""What another placement of the same patient could look like. Without flips, since the liver lies on one side."""


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
    images: Images, plane: NDArray[np.generic], section: Augmentation, random: np.random.Generator
) -> tuple[Images, NDArray[np.generic]]:
    """One sample changed: the whole window and its mask move by one draw, grey values change in the window alone.

    Args:
        images: float32 ``[width, S, S]``, 0..1.
        plane: ``[S, S]``: labels (uint8) where :func:`moves_between_pixels`, else labels or the grey mask.
        section: what to do and how far; each number is drawn evenly from -most..most.
        random: gives eight numbers, then the noise.

    Returns:
        Both, of the same shapes; grey values unclipped; 0 where something outside the slice came into view.
    """
    quarters, flip, *rest = random.random(8)
    angle, scale, down, right, bright, contrast = (2 * draw - 1 for draw in rest)
    if section.right_angles:
        images, plane = (np.rot90(pixels, int(4 * quarters), axes=(-2, -1)) for pixels in (images, plane))
    if section.flip and flip < 0.5:
        images, plane = images[..., ::-1], plane[..., ::-1]
    if moves_between_pixels(section):
        shift = np.array([down, right]) * section.shift * plane.shape[0]
        matrix, offset = _placement(section.rotation * angle, 1 + section.scale * scale, shift, plane.shape[0])
        images, plane = np.stack([_move(one, matrix, offset, 1) for one in images]), _move(plane, matrix, offset, 0)
    return _grey_changed(images, section, bright, contrast, random), plane


def _placement(
    angle: float, size: float, shift: NDArray[np.float64], side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where an output pixel reads: input = matrix @ output + offset. About the slice's centre, then shifted."""
    turned = np.deg2rad(angle)
    matrix = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]) / size
    centre = np.full(2, (side - 1) / 2)
    return matrix, centre - matrix @ (centre + shift)


def _move(
    pixels: NDArray[np.generic], matrix: NDArray[np.float64], offset: NDArray[np.float64], order: int
) -> NDArray[np.generic]:
    """Read ``[S, S]`` by nearest neighbour (order 0) or bilinear (1)."""
    from scipy import ndimage

    moved: NDArray[np.generic] = ndimage.affine_transform(pixels, matrix, offset, order=order, mode="constant")
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
