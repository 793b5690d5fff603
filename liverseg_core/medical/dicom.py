"""DICOM files as slices in space, and a series of them as a volume.

Of a header only the elements of ``KEPT`` are ever parsed: no name, date, number or private element of a patient gets
into memory as a value, and what the library says of a file is never repeated.
"""

import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import CTImageStorage

from liverseg_core.errors import DataError
from liverseg_core.medical.volumes import MOST_TILT, Values, Volume

KEPT = [
    *("SOPClassUID", "SeriesInstanceUID", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelData"),
    *("SegmentationType", "SegmentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
"""Keywords of the elements that are read: kind, series (to tell two apart), place in space, pixels, segments."""

UNREADABLE: tuple[type[Exception], ...] = (
    *(InvalidDicomError, BytesLengthException, OSError, EOFError, struct.error, ValueError, TypeError),
    *(LookupError, AttributeError, RuntimeError, ArithmeticError),
)
"""What the library raises on files that are damaged, compressed in an unknown way, or no DICOM at all."""

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's x leads to the left and y to the back."""

SAME = 1e-3
"""Direction cosines, and shares of a pixel's size, that differ by less are equal but for rounding."""

ONE_PLACE = 0.01
"""Millimetres; slices no further apart lie at one place, as positions are written with two decimals."""


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes:
        name: its file, for errors.
        series: which series it belongs to; compared and never shown.
        kind: the UID of its SOP class.
        position: millimetres of the first pixel's centre, DICOM's axes, ``[3]``.
        along_row, along_column: unit vectors, ``[3]``.
        size: millimetres between rows and between columns.
        pixels: ``[rows, columns]``, scaled.
        rescaled: whether the file told slope and intercept, and no other unit than Hounsfield's.
    """

    name: str
    series: str
    kind: str
    position: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    size: tuple[float, float]
    pixels: Values
    rescaled: bool


@contextmanager
def silent() -> Iterator[None]:
    """The library says nothing, since it may repeat what a header says, and takes values that break the rules."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def read_dataset(path: Path, name: str) -> pydicom.Dataset:
    """What ``KEPT`` names of a file.

    Raises:
        DataError: no intact DICOM file.
    """
    try:
        with silent():
            return pydicom.dcmread(path, specific_tags=KEPT)
    except UNREADABLE as error:
        raise _unreadable(name, error) from None


def read_plane(dataset: pydicom.Dataset, name: str) -> Plane:
    """One slice out of a single-frame file.

    Raises:
        DataError: several frames, colours, no place in space, pixels that cannot be decoded.
    """
    try:
        with silent():
            return _plane(dataset, name)
    except UNREADABLE as error:
        raise _unreadable(name, error) from None


def stack(planes: Sequence[Plane], name: str) -> Volume:
    """The slices of one series as a volume ``[slices, rows, columns]``, ordered by where they lie.

    File names, instance numbers and the order of ``planes`` count for nothing.

    Args:
        planes: of one series, in any order.
        name: the folder, for errors.

    Raises:
        DataError: two series, different grids, fewer than two slices, one missing or there twice, unequal distances,
            a tilted gantry.
    """
    if len(planes) < 2:
        raise DataError(name, "must hold at least two slices of a series, a file each", len(planes))
    for plane in planes[1:]:
        _check_same_grid(planes[0], plane)
    normal = np.cross(planes[0].along_row, planes[0].along_column)
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    step = _step(ordered, normal, name)
    affine = np.eye(4)
    first = ordered[0]
    affine[:3] = np.stack(
        [step, first.along_column * first.size[0], first.along_row * first.size[1], first.position], axis=1
    )
    return Volume(name, np.stack([plane.pixels for plane in ordered]), TO_RAS @ affine)


def hounsfield(planes: Sequence[Plane]) -> None:
    """Refuse what is no CT in Hounsfield units.

    Raises:
        DataError: another kind of picture, or one without a scale.
    """
    for plane in planes:
        if plane.kind != CTImageStorage:
            raise DataError(plane.name, "is no CT slice (CT Image Storage); a folder ct holds one CT series alone")
        if not plane.rescaled:
            raise DataError(plane.name, "does not tell its Hounsfield units (rescale slope and intercept, type HU)")


def vectors(orientation: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along rows and along columns, of ImageOrientationPatient.

    Raises:
        ValueError: not two vectors at a right angle.
    """
    along_row, along_column = np.array([float(value) for value in orientation]).reshape(2, 3)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not np.allclose([*lengths, along_row @ along_column], [1, 1, 0], atol=10 * SAME):
        raise ValueError("not two unit vectors at a right angle")
    return along_row / lengths[0], along_column / lengths[1]


# ---- one file ------------------------------------------------------------------------------------------------


def _plane(dataset: pydicom.Dataset, name: str) -> Plane:
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DataError(name, "holds several frames; export the series with one slice a file")
    if dataset.SamplesPerPixel != 1:
        raise DataError(name, "is a colour picture; export the series as grey values")
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    pixels = dataset.pixel_array.astype(np.float32)
    if slope is not None and intercept is not None:
        pixels = pixels * np.float32(slope) + np.float32(intercept)
    along_row, along_column = vectors(dataset.ImageOrientationPatient)
    position = np.array([float(value) for value in dataset.ImagePositionPatient])
    rows, columns = (float(value) for value in dataset.PixelSpacing)
    if position.shape != (3,) or not np.isfinite([*position, rows, columns]).all() or rows <= 0 or columns <= 0:
        raise ValueError("no place in space")
    return Plane(
        name=name,
        series=str(dataset.get("SeriesInstanceUID", "")),
        kind=str(dataset.SOPClassUID),
        position=position,
        along_row=along_row,
        along_column=along_column,
        size=(rows, columns),
        pixels=pixels,
        rescaled=None not in (slope, intercept) and dataset.get("RescaleType") in (None, "", "HU"),
    )


def _unreadable(name: str, error: Exception) -> DataError:
    """Without the library's own words, which may repeat what a header says."""
    advice = (
        "it must be intact, tell where it lies in space, and be uncompressed or compressed by a method in use here"
    )
    return DataError(name, f"cannot be read as a DICOM slice ({type(error).__name__}); {advice}")


# ---- a series ------------------------------------------------------------------------------------------------


def _check_same_grid(first: Plane, plane: Plane) -> None:
    if plane.series != first.series:
        raise DataError(plane.name, f"belongs to another series than {first.name}; one series a folder")
    if plane.pixels.shape != first.pixels.shape:
        rows, columns = first.pixels.shape
        size = f"{plane.pixels.shape[0]} x {plane.pixels.shape[1]}"
        raise DataError(plane.name, f"must have the size of {first.name}, {rows} x {columns} (rows x columns)", size)
    if not np.allclose(plane.size, first.size, rtol=SAME):
        raise DataError(plane.name, f"must have the pixel spacing of {first.name}; resample it")
    turned = np.abs([plane.along_row - first.along_row, plane.along_column - first.along_column]).max()
    if turned > SAME:
        raise DataError(plane.name, f"is turned against {first.name}; a scout view, perhaps? Remove it")


def _step(ordered: Sequence[Plane], normal: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Millimetres from a slice to the next, ``[3]``, once all are known to be equal."""
    positions = np.stack([plane.position for plane in ordered])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    tolerance = max(ONE_PLACE, 0.02 * usual)
    for place in np.flatnonzero((gaps <= ONE_PLACE) | (np.abs(gaps - usual) > tolerance)).tolist():
        raise _uneven(ordered[place].name, ordered[place + 1].name, float(gaps[place]), usual)
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / len(gaps)
    aside = step - (step @ normal) * normal
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(aside), step @ normal)))
    if tilt > MOST_TILT:
        problem = f"has slices that lie {tilt:.1f} degrees askew on each other (a tilted gantry); resample the series"
        raise DataError(name, problem)
    line = positions[0] + np.arange(len(positions))[:, None] * step
    off = np.linalg.norm(positions - line, axis=1)
    if off.max() > min(ordered[0].size) / 2 + tolerance:
        plane = ordered[int(off.argmax())]
        raise DataError(
            plane.name, f"lies {off.max():.2f} mm beside the line of the other slices; resample the series"
        )
    return step


def _uneven(below: str, above: str, gap: float, usual: float) -> DataError:
    """Two neighbours that do not lie as far apart as the others do."""
    if gap <= ONE_PLACE:
        return DataError(above, f"lies where {below} lies; two phases in one folder, perhaps? Keep one of them")
    missing = round(gap / usual) - 1 if usual > ONE_PLACE else 0
    if missing > 0 and abs(gap - (missing + 1) * usual) <= 0.02 * gap:
        count = f"{missing} slice{'s are' if missing > 1 else ' is'} missing"
        return DataError(above, f"{count} between {below} and this one; add them or split the series")
    return DataError(
        above, f"lies {gap:.2f} mm from {below}, where slices lie {usual:.2f} mm apart elsewhere; resample the series"
    )
