"""CT scans as scanners and annotators write them, drawn by the phantom, in headers full of a patient's data.

Written by hand and by libraries that the product does not use for it, so that reading is held against something else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from liverseg_core.phantom import draw_anatomy, draw_slice

PERSON = ("Mustermann", "Erika", "PID-5520-19", "19550412", "20190131", "Klinik am Canaryberg", "canary-private-77")
"""Name, number, dates, place, private text: none of it may be found anywhere but in the scans themselves."""

SLOPE, BLACK = 2, -160
LEVEL, WIDTH = 95.0, 510.0
"""The window that shows Hounsfield units 2 * grey - 160 as that grey: from -160 to 350, two units a grey value."""

SPACING = (0.75, 0.625, 2.5)
"""Millimetres between rows, columns and slices."""


@dataclass(frozen=True)
class Drawn:
    """One scan as radiologists see it.

    Attributes:
        grey, labels: uint8 ``[slices, rows, columns]``, feet to head, front to back, right to left.
    """

    grey: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def hounsfield(self) -> NDArray[np.int16]:
        return self.grey.astype(np.int16) * SLOPE + BLACK


def draw(scan: int, slices: int = 6, size: int = 32) -> Drawn:
    """A subject with lesions; slices are all different, and no slice is its own mirror image."""
    anatomy = draw_anatomy(np.random.default_rng([7, scan]), 6)
    drawn = [
        draw_slice(anatomy, (number + 0.5) / slices, size, np.random.default_rng([scan, number]))
        for number in range(slices)
    ]
    grey = np.stack([picture for picture, _, _ in drawn])
    return Drawn(grey, np.stack([liver.astype(np.uint8) + lesion for _, liver, lesion in drawn]))


# ---- NIfTI ---------------------------------------------------------------------------------------------------


def nifti(
    values: NDArray[Any], codes: str = "RAS", spacing: tuple[float, float, float] = SPACING
) -> nibabel.Nifti1Image:
    """Axial values ``[slices, rows, columns]`` as an image whose axes lead to ``codes``, with an own origin."""
    rows, columns, step = spacing
    # By hand: x to the right, y to the front, z to the head.
    upright = values[:, ::-1, ::-1].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(
        upright, np.array([[columns, 0, 0, -9], [0, rows, 0, 4], [0, 0, step, 30], [0, 0, 0, 1]])
    )
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
    )
    assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
    header = turned.header
    header["descrip"], header["aux_file"], header["db_name"] = f"{PERSON[0]} {PERSON[1]}", PERSON[2], PERSON[3]
    header["intent_name"] = PERSON[2]
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", " ".join(PERSON).encode()))
    header.set_xyzt_units("mm")
    return turned


def write_lits(folder: Path, scans: dict[int, Drawn], codes: str = "RAS", suffix: str = ".nii.gz") -> Path:
    """``volume-N`` and ``segmentation-N`` of every scan."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scan in scans.items():
        nibabel.save(nifti(scan.hounsfield, codes), folder / f"volume-{number}{suffix}")
        nibabel.save(nifti(scan.labels, codes), folder / f"segmentation-{number}{suffix}")
    return folder


# ---- DICOM ---------------------------------------------------------------------------------------------------


def dicom_slice(pixels: NDArray[Any], number: int, series: str, **changes: Any) -> pydicom.Dataset:
    """One slice of a CT series, ``number`` slices above the lowest one; stored are Hounsfield units + 1024."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    _identify(one)
    one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(entropy_srcs=[series, "study"]), series
    one.FrameOfReferenceUID, one.PositionReferenceIndicator = generate_uid(entropy_srcs=[series, "frame"]), ""
    one.Modality, one.InstanceNumber = "CT", 1000 - 7 * number  # which says nothing about where it lies
    rows, columns, step = SPACING
    one.ImagePositionPatient = [-12.5, 8.25, 40 + step * number]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.SliceThickness = [rows, columns], step
    one.Rows, one.Columns = pixels.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
    one.PixelData = (pixels + 1024).astype("<u2").tobytes()
    for keyword, value in changes.items():
        delattr(one, keyword) if value is None else setattr(one, keyword, value)
    return one


def _identify(one: pydicom.Dataset) -> None:
    """Everything that tells who it is."""
    name, given, number, born, taken, place, private = PERSON
    one.PatientName, one.PatientID, one.PatientBirthDate = f"{name}^{given}", number, born
    one.PatientSex, one.PatientAge, one.PatientAddress = "F", "063Y", place
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = taken
    one.StudyTime, one.StudyID, one.AccessionNumber = "101112", number, number
    one.InstitutionName, one.ReferringPhysicianName, one.OperatorsName = place, f"Dr^{name}", f"{given}^O"
    one.StudyDescription = one.SeriesDescription = one.ImageComments = f"{name} {number} {taken}"
    block = one.private_block(0x0029, "CANARY", create=True)
    block.add_new(0x10, "LO", private)
    block.add_new(0x11, "PN", f"{name}^{given}")


def series_of(scan: Drawn, **changes: Any) -> list[pydicom.Dataset]:
    """The slices of one CT series, from feet to head."""
    series = generate_uid()
    return [dicom_slice(one, number, series, **changes) for number, one in enumerate(scan.hounsfield)]


def write_series(folder: Path, slices: list[pydicom.Dataset]) -> Path:
    """Files, at most 97, whose names sort in another order than the slices lie."""
    assert len(slices) <= 97
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(slices):
        one.save_as(folder / f"IM{(50 * number + 3) % 97:03}", enforce_file_format=True)
    return folder


def segmentation(scan: Drawn, source: list[pydicom.Dataset], names: tuple[str, str] = ("liver", "lesion")) -> Any:
    """A binary DICOM segmentation, liver below lesion included."""
    kinds = (codes.SCT.Organ, codes.SCT.Liver), (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, (name, (category, kind)) in enumerate(zip(names, kinds, strict=True), 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=np.stack([scan.labels > 0, scan.labels > 1], axis=-1),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=PERSON[5],
        manufacturer_model_name="drawn",
        software_versions="1",
        device_serial_number=PERSON[2],
        series_description=PERSON[0],
    )


def label_series(scan: Drawn) -> list[pydicom.Dataset]:
    """A parallel series whose values are labels."""
    series = generate_uid()
    plain = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    return [
        dicom_slice(one.astype(np.int32) - 1024, number, series, **plain) for number, one in enumerate(scan.labels)
    ]


def write_dicom(folder: Path, scans: dict[int, Drawn], mask: str = "segmentation") -> Path:
    """A folder for each scan with its series and one of three kinds of mask."""
    for number, scan in scans.items():
        source = series_of(scan)
        write_series(folder / str(number) / "ct", source)
        place = folder / str(number) / "mask"
        place.mkdir()
        if mask == "segmentation":
            segmentation(scan, source).save_as(place / "seg.dcm")
        elif mask == "series":
            write_series(place, label_series(scan))
        else:
            nibabel.save(beside(scan.labels), place / "mask.nii.gz")
    return folder


def beside(labels: NDArray[np.uint8]) -> nibabel.Nifti1Image:
    """Labels as a NIfTI image in the space of :func:`dicom_slice`; its axes lead to the left, the back, the head."""
    rows, columns, step = SPACING
    affine = np.array([[-columns, 0, 0, 12.5], [0, -rows, 0, -8.25], [0, 0, step, 40], [0, 0, 0, 1]])
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")
    return nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
