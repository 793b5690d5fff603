"""Masks of a DICOM series: a DICOM segmentation, a parallel series of label slices, or a NIfTI file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from nibabel import affines
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage

from liverseg_core.errors import DataError
from liverseg_core.medical.dicom import (
    SAME,
    TO_RAS,
    UNREADABLE,
    hounsfield,
    read_dataset,
    read_plane,
    silent,
    stack,
    vectors,
)
from liverseg_core.medical.lits import read_nifti
from liverseg_core.medical.volumes import Values, Volume
from liverseg_core.metrics import LESION, PARENCHYMA

LESION_WORDS = re.compile("lesion|tumou?r|mass|neoplasm|metasta|carcinoma", re.IGNORECASE)
LIVER_WORDS = re.compile("liver(?!.*(vein|vessel|arter|duct|cyst))", re.IGNORECASE)


MOST_OFF = 0.1
"""Share of a voxel by which a frame may lie beside its slice; positions are rounded."""


@dataclass(frozen=True)
class Frame:
    """One frame of a DICOM segmentation: the label of its pixels (``[rows, columns]``, bool), and where it lies."""

    label: int
    pixels: NDArray[np.bool_]
    position: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]


def read_scan(folder: Path, name: str) -> Volume:
    """The CT series of a folder in Hounsfield units, ``[slices, rows, columns]``, by place in space.

    Raises:
        DataError: a file that is no CT slice, or slices that make no volume; see :func:`dicom.stack`.
    """
    planes = [read_plane(read_dataset(path, own), own) for path, own in files(folder, name)]
    hounsfield(planes)
    return stack(planes, name)


def read_mask(folder: Path, name: str, scan: Volume) -> Volume:
    """The labels that a folder holds for ``scan``: 0 background, 1 liver, 2 lesion.

    A NIfTI file, a DICOM segmentation, or a series of slices with these values.

    Raises:
        DataError: nothing of these, or what cannot be read.
    """
    found = files(folder, name)
    if not found:
        raise DataError(name, "is empty; put a DICOM segmentation, a series of label slices or a NIfTI file there")
    path, own = found[0]
    if len(found) == 1 and path.name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, own)
    datasets = [(read_dataset(path, own), own) for path, own in found]
    if all(dataset.get("SOPClassUID") == SegmentationStorage for dataset, _ in datasets):
        return _segmented(datasets, name, scan)
    return stack([read_plane(dataset, own) for dataset, own in datasets], name)


def files(folder: Path, name: str) -> list[tuple[Path, str]]:
    """Every file of a folder by name, with what errors call it; hidden ones and an index of a disc are left out.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(name, "is missing or no folder; each scan needs ct and mask")
    paths = [path for path in sorted(folder.iterdir()) if path.name != "DICOMDIR" and not path.name.startswith(".")]
    return [(path, f"{name}/{path.name}") for path in paths]


# ---- a DICOM segmentation ------------------------------------------------------------------------------------


def _segmented(datasets: Sequence[tuple[pydicom.Dataset, str]], name: str, scan: Volume) -> Volume:
    """Frames of the segments that show liver or lesion, laid onto the slices of the scan; lesion lies on top."""
    values = np.zeros(scan.values.shape, np.uint8)
    seen = set()
    for dataset, own in datasets:
        for frame in _frames(dataset, own):
            seen.add(frame.label)
            number = _slice_of(frame, scan, own)
            values[number] = np.maximum(values[number], frame.pixels * np.uint8(frame.label))
    if PARENCHYMA not in seen:
        raise DataError(name, "has no segment whose label or type says liver; name the segments liver and lesion")
    return Volume(name, values, scan.affine)


def _frames(dataset: pydicom.Dataset, name: str) -> list[Frame]:
    """Those of segments that show liver or lesion."""
    if dataset.get("SegmentationType") != "BINARY":
        raise DataError(name, "must be a binary segmentation; export it as BINARY")
    try:
        with silent():
            labels = {int(segment.SegmentNumber): _label(segment) for segment in dataset.SegmentSequence}
            pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
            found = [_frame(dataset, number, one, labels) for number, one in enumerate(pixels)]
    except UNREADABLE as error:
        problem = f"cannot be read as a DICOM segmentation ({type(error).__name__}); export it again"
        raise DataError(name, problem) from None
    return [frame for frame in found if frame.label]


def _label(segment: pydicom.Dataset) -> int:
    """What a segment shows by its label, else by the meaning of its type's code; 0 for any other organ."""
    codes = segment.get("SegmentedPropertyTypeCodeSequence") or []
    for text in (str(segment.get("SegmentLabel", "")), *(str(code.get("CodeMeaning", "")) for code in codes)):
        if LESION_WORDS.search(text):
            return LESION
        if LIVER_WORDS.search(text):
            return PARENCHYMA
    return 0


def _frame(dataset: pydicom.Dataset, number: int, pixels: Values, labels: Mapping[int, int]) -> Frame:
    """One frame; what is the same for all of them is told once."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    own = dataset.PerFrameFunctionalGroupsSequence[number]

    def told(group: str, element: str) -> Any:
        return getattr(getattr(own if group in own else shared, group)[0], element)

    segment = int(told("SegmentIdentificationSequence", "ReferencedSegmentNumber"))
    position = np.array([float(value) for value in told("PlanePositionSequence", "ImagePositionPatient")])
    axes = vectors(told("PlaneOrientationSequence", "ImageOrientationPatient"))
    return Frame(labels[segment], pixels.astype(bool), position, *axes)


def _slice_of(frame: Frame, scan: Volume, name: str) -> int:
    """Which slice of the scan a frame lies on."""
    if frame.pixels.shape != scan.values.shape[1:]:
        rows, columns = scan.values.shape[1:]
        wanted = f"must have the size of {scan.name}, {rows} x {columns} (rows x columns)"
        raise DataError(name, wanted, f"{frame.pixels.shape[0]} x {frame.pixels.shape[1]}")
    axes = TO_RAS[:3, :3] @ np.stack([frame.along_column, frame.along_row], axis=1)
    turned = np.abs(axes - scan.affine[:3, 1:3] / affines.voxel_sizes(scan.affine)[1:]).max()
    place = affines.apply_affine(np.linalg.inv(scan.affine), TO_RAS[:3, :3] @ frame.position)
    number = round(float(place[0]))
    off = np.abs(place - [number, 0, 0]).max()
    if turned > SAME or off > MOST_OFF or not 0 <= number < len(scan.values):
        raise DataError(name, f"has a frame that lies on no slice of {scan.name}; it must be of the same series")
    return number
