"""One slice with labels drawn over it, as a PNG file: the truth, or what a prediction found and missed.

Each pixel belongs to one of a few classes; they are drawn over the CT, or alone for whoever has the CT already.

Colours are of Okabe and Ito's palette: the three that are furthest apart, from each other and from the grey of CT,
for eyes that lack one kind of cone (Machado, Oliveira and Fernandes 2009). Green, usual for what is right, is not one
of them: over CT many take it for grey.
"""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liverseg_core.metrics import LESION, Labels

Classes = NDArray[np.uint8]
"""What each pixel is, ``[H, W]``: 0 CT alone, else a place in ``COLOURS``, from 1."""

Style = Literal["fill", "contour"]
Label = Literal["lesion", "liver"]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

FOUND: Colour = (240, 228, 66)
"""True positives, and the truth where it stands alone: yellow."""
TOO_MUCH: Colour = (213, 94, 0)
"""False positives: vermillion."""
MISSED: Colour = (86, 180, 233)
"""False negatives: sky blue."""
OUTLINE: Colour = (255, 255, 255)
"""The edge of the label that is not asked for: white."""

COLOURS = (OUTLINE, FOUND, TOO_MUCH, MISSED)

VERSION = 1
"""Raised whenever the same labels would give another picture: browsers keep pictures for good."""


def truth_classes(truth: Labels, label: Label, style: Style) -> Classes:
    """The true label as ``FOUND``, and the edge of the other one; arguments as :func:`prediction_classes`."""
    return _classes([(_mask(truth, label), FOUND)], _other(truth, label), style)


def prediction_classes(truth: Labels, prediction: Labels, label: Label, style: Style) -> Classes:
    """What a prediction found, predicted wrongly and missed, and the edge of the other predicted label.

    Args:
        truth: labels 0 background, 1 parenchyma, 2 lesion, uint8 ``[H, W]``.
        prediction: the same.
        label: ``lesion``, or ``liver`` with its lesions.
        style: ``fill``, or ``contour``: the edge of each area alone.
    """
    true, predicted = _mask(truth, label), _mask(prediction, label)
    areas = [(true & predicted, FOUND), (predicted & ~true, TOO_MUCH), (true & ~predicted, MISSED)]
    return _classes(areas, _other(prediction, label), style)


def over(image: NDArray[np.uint8], classes: Classes, style: Style) -> bytes:
    """The classes over the CT, 8-bit RGB; filled areas are two parts of CT and three of colour, rounded down.

    Args:
        image: CT, uint8 ``[H, W]``.
        classes: of the same size.
        style: that they were made with.
    """
    picture = np.repeat(image[..., None], 3, axis=2)
    for number, colour in enumerate(COLOURS, 1):
        mask = classes == number
        picture[mask] = colour if _solid(number, style) else _mixed(colour)[image[mask]]
    # The default level takes far longer, for few bytes less.
    return _png(Image.fromarray(picture))


def alone(classes: Classes, style: Style) -> bytes:
    """The classes on nothing, an 8-bit palette with transparency that gives :func:`over` where it lies on the CT.

    Few bytes, soon drawn: a palette of five colours instead of a picture of the CT.
    """
    height, width = classes.shape
    picture = Image.frombytes("P", (width, height), classes.tobytes())
    picture.putpalette([value for colour in ((0, 0, 0), *COLOURS) for value in colour])
    opacity = [
        0,
        *(255 if _solid(number, style) else 153 for number in range(1, len(COLOURS) + 1)),
    ]  # 153: 3/5 of 255
    return _png(picture, transparency=bytes(opacity))


def edge(mask: Mask) -> Mask:
    """Pixels of ``mask`` [H, W] with a neighbour above, below, left or right that is not in it; the rim counts."""
    inside = np.zeros_like(mask)
    inside[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inside


def _mask(labels: Labels, label: Label) -> Mask:
    mask: Mask = labels == LESION if label == "lesion" else labels > 0
    return mask


def _other(labels: Labels, label: Label) -> Mask:
    return edge(_mask(labels, "liver" if label == "lesion" else "lesion"))


def _classes(areas: list[tuple[Mask, Colour]], other: Mask, style: Style) -> Classes:
    classes = other.astype(np.uint8)  # below the rest: it must not hide a pixel of what is asked for
    for mask, colour in areas:
        classes[edge(mask) if style == "contour" else mask] = 1 + COLOURS.index(colour)
    return classes


def _solid(number: int, style: Style) -> bool:
    return style == "contour" or COLOURS[number - 1] == OUTLINE


def _mixed(colour: Colour) -> NDArray[np.uint8]:
    """Grey value -> two parts of it and three of the colour, ``[256, 3]``."""
    greys = 2 * np.arange(256)[:, None]
    mixed: NDArray[np.uint8] = ((greys + 3 * np.array(colour)) // 5).astype(np.uint8)
    return mixed


def _png(picture: Image.Image, **options: bytes) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, **options)
    return out.getvalue()
