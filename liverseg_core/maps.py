"""Stored probability maps: read one, and make labels of it under any evaluation options."""

import functools
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from liverseg_core.errors import DataError
from liverseg_core.metrics import FULL, LESION, Labels, Level
from liverseg_core.patches import Patch, box
from liverseg_core.spec import EvaluationOptions

PLAIN = EvaluationOptions()


def decode(u: Level, options: EvaluationOptions = PLAIN) -> Labels:
    """Labels 0 background, 1 parenchyma, 2 lesion at network size.

    grey-sigmoid, ``[S, S]``: lesion from two thirds (or ``options.threshold`` t) on, parenchyma from one third (or t,
    if that is lower) on. softmax, ``[2, S, S]`` parenchyma and lesion, background is the rest: the most likely class,
    the first of equals; with a threshold lesion where its probability is at least t, else the more likely of the
    other two. Compared in whole numbers: 65535 / 3 = 21845 and 2 * 65535 / 3 = 43690 are exact.
    """
    level = lesion_level(options)
    return _decode_grey(u, level) if u.ndim == 2 else _decode_softmax(u[0], u[1], level)


def lesion_level(options: EvaluationOptions) -> int | None:
    """The fixed-point value from which a pixel is lesion; None without ``options.threshold``."""
    return None if options.threshold is None else max(1, math.ceil(round(options.threshold * FULL, 6)))


def _decode_grey(u: Level, level: int | None) -> Labels:
    liver_from, lesion_from = grey_levels(level)
    return (u >= liver_from).view(np.uint8) + (u >= lesion_from).view(np.uint8)


def grey_levels(level: int | None) -> tuple[int, int]:
    """The fixed-point values from which the grey-sigmoid head's output is liver and lesion."""
    lesion_from = 2 * FULL // 3 if level is None else level
    return min(FULL // 3, lesion_from), lesion_from


def _decode_softmax(parenchyma: Level, lesion: Level, level: int | None) -> Labels:
    one, two = parenchyma.astype(np.int32), lesion.astype(np.int32)
    rest = FULL - one - two
    labels = (one > rest).view(np.uint8)
    is_lesion = (two > rest) & (two > one) if level is None else lesion >= level
    return np.where(is_lesion, np.uint8(LESION), labels)


def decode_patch(u: Level, options: EvaluationOptions) -> Patch:
    """:func:`decode`, cropped before it is computed: most of a slice is background."""
    level = lesion_level(options)
    if u.ndim == 2:
        top, left, chosen = box(u >= grey_levels(level)[0])
        return Patch(_decode_grey(u[chosen], level), top, left)
    # A class needs a third to be the most likely one, and less than that only where the threshold of lesion is lower.
    least = FULL // 3 if level is None else min(FULL // 3, level)
    top, left, chosen = box(np.maximum(*u) >= least)
    return Patch(_decode_softmax(u[0][chosen], u[1][chosen], level), top, left)


def read_map(maps: zipfile.ZipFile, name: str) -> Level:
    """The stored map ``name``, e.g. ``val/8_12``: uint16 ``[S, S]`` or ``[2, S, S]``.

    Raises:
        DataError: absent, damaged, or something else.
    """
    try:
        data = maps.read(f"{name}.npy")
        start = len(npy.magic(1, 0)) + 2 + int.from_bytes(data[8:10], "little")
        shape, dtype = _parsed(data[:start])
        u = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except (KeyError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(name, f"has no readable probability map ({error}); evaluate the run again") from error
    if u.dtype != np.uint16 or u.ndim not in (2, 3) or (u.ndim == 3 and len(u) != 2):
        raise DataError(name, "is no probability map; evaluate the run again", f"{u.dtype} {u.shape}")
    return u


@functools.lru_cache(maxsize=16)
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that a .npy header of version 1.0 tells; the maps of a run share one."""
    stream = io.BytesIO(header)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if fortran or dtype.hasobject:
        raise ValueError("not an array of numbers in C order")
    return shape, dtype


def open_maps(maps: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(maps)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(maps.name, f"cannot be opened ({error}); evaluate the run again") from error
