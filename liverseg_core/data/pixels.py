"""Single slices out of a data set's archive, which was checked when it came in."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.manifest import SliceEntry
from liverseg_core.data.png import plain_png, read_image, read_labels
from liverseg_core.errors import DataError


def open_archive(archive: Path) -> zipfile.ZipFile:
    """The zip, to be used as a context.

    Raises:
        DataError: it is gone or no zip any more.
    """
    try:
        return zipfile.ZipFile(archive)
    except (FileNotFoundError, zipfile.BadZipFile) as error:
        raise DataError(archive.name, "is gone from the store or damaged; import the data set again") from error


def image_of(bundle: zipfile.ZipFile, entry: SliceEntry) -> NDArray[np.uint8]:
    """Grey values of one slice, uint8 ``[H, W]``.

    Raises:
        DataError: the archive does not hold it, or it is damaged.
    """
    return read_image(_member(bundle, entry.image_path), entry.image_path)


def png_of(bundle: zipfile.ZipFile, entry: SliceEntry) -> bytes:
    """One slice as the PNG file that the archive holds, without a pixel decoded; raises as :func:`image_of`."""
    return plain_png(_member(bundle, entry.image_path), entry.image_path)


def labels_of(bundle: zipfile.ZipFile, entry: SliceEntry) -> NDArray[np.uint8]:
    """Labels 0, 1, 2 of one slice, uint8 ``[H, W]``; raises as :func:`image_of`."""
    return read_labels(_member(bundle, entry.mask_path), entry.mask_path)


def _member(bundle: zipfile.ZipFile, name: str) -> bytes:
    try:
        return bundle.read(name)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(name, "is missing from the archive or damaged; import the data set again") from error
