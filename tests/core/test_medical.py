"""CT scans in NIfTI and DICOM become PNG pairs: the right pixels, the right way round, and nothing of the patient."""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage, generate_uid

from liverseg_core.data.annotations import Acquisition
from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.png import read_image, read_labels
from liverseg_core.errors import DataError, InputError
from liverseg_core.medical.conversion import convert
from liverseg_core.medical.volumes import window
from tests import scanner
from tests.scanner import LEVEL, PERSON, SPACING, WIDTH, Drawn

SCANS = {number: scanner.draw(number) for number in (3, 10)}


def converted(folder: Path, out: Path, **options: Any) -> dict[int, Drawn]:
    """The pixels that come out, by scan."""
    options = {"val": {10}, "level": LEVEL, "width": WIDTH} | options
    convert(folder, out, **options)
    found = {}
    for number in SCANS:
        images = sorted(out.glob(f"*/images/{number}_*.png"), key=lambda path: int(path.stem.split("_")[1]))
        masks = [path.parent.parent / "masks" / path.name for path in images]
        found[number] = Drawn(
            np.stack([read_image(path.read_bytes(), path.name) for path in images]),
            np.stack([read_labels(path.read_bytes(), path.name) for path in masks]),
        )
    return found


def check(found: dict[int, Drawn]) -> None:
    """Slice for slice and pixel for pixel what was drawn."""
    for number, scan in SCANS.items():
        np.testing.assert_array_equal(found[number].grey, scan.grey)
        np.testing.assert_array_equal(found[number].labels, scan.labels)


# ---- pixels, order, orientation ------------------------------------------------------------------------------


def test_grey_values_of_a_window_worked_by_hand():
    # Level 50, width 400: black from -150 down, white from 250 up; 255 * 200 / 400 = 127.5, to even 128.
    # -149: 255 / 400 = 0.6375, so 1. 249: 255 * 399 / 400 = 254.36, so 254.
    values = np.array([-3000, -150, -149, 50, 249, 250, 3000])
    assert window(values, 50, 400).tolist() == [0, 0, 1, 128, 254, 255, 255]


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "RPI", "PSR", "SAL"])
def test_nifti_of_any_orientation_comes_out_axial_as_radiologists_see_it(tmp_path: Path, codes: str):
    folder = scanner.write_lits(tmp_path / "lits", SCANS, codes, ".nii" if codes == "RAS" else ".nii.gz")
    check(converted(folder, tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "acquisitions.json").read_text())["acquisitions"]
    assert told == {number: {"spacing": list(SPACING), "window": [LEVEL, WIDTH]} for number in ("3", "10")}


@pytest.mark.parametrize("mask", ["segmentation", "series", "nifti"])
def test_a_dicom_series_is_ordered_by_place_whatever_its_files_are_called(tmp_path: Path, mask: str):
    check(converted(scanner.write_dicom(tmp_path / "dicom", SCANS, mask), tmp_path / "out"))


def test_a_compressed_series_is_read_where_there_is_a_decoder(tmp_path: Path):
    folder = scanner.write_dicom(tmp_path / "dicom", SCANS)
    for path in (folder / "3" / "ct").iterdir():
        one = pydicom.dcmread(path)
        one.compress(RLELossless)
        one.save_as(path)
    check(converted(folder, tmp_path / "out"))


def test_spacing_and_window_go_from_the_scan_to_the_manifest(tmp_path: Path):
    converted(scanner.write_dicom(tmp_path / "dicom", SCANS), tmp_path / "out")
    pack_folder(tmp_path / "out", tmp_path / "data.zip")
    manifest = read_archive(tmp_path / "data.zip")
    assert manifest.acquisitions == dict.fromkeys(SCANS, Acquisition(SPACING, (LEVEL, WIDTH)))
    assert (manifest.scans("train"), manifest.scans("val")) == ((3,), (10,))
    assert manifest.subjects_assumed


def test_what_no_window_was_named_for_is_shown_in_the_usual_one(tmp_path: Path):
    folder = scanner.write_lits(tmp_path / "lits", SCANS)
    told = convert(folder, tmp_path / "out", val={10})
    assert told[3].window == (50, 400)
    image = read_image((tmp_path / "out" / "train" / "images" / "3_2.png").read_bytes(), "")
    np.testing.assert_array_equal(image, window(SCANS[3].hounsfield[2], 50, 400))


def test_slope_and_intercept_are_applied(tmp_path: Path):
    """Stored as (HU + 1000) / 4 in both."""
    scan = Drawn(SCANS[3].grey // 2 * 2, SCANS[3].labels)  # 4 * n - 160 HU, whole numbers when stored
    folder = scanner.write_lits(tmp_path / "lits", SCANS)
    (folder / "volume-3.nii.gz").unlink()
    nibabel.save(scanner.nifti((scan.hounsfield + 1000) // 4), folder / "volume-3.nii")
    with (folder / "volume-3.nii").open("r+b") as file:  # the library would scale the values as it writes
        file.seek(112)
        file.write(struct.pack("<ff", 4, -1000))  # scl_slope, scl_inter
    np.testing.assert_array_equal(converted(folder, tmp_path / "out")[3].grey, scan.grey)
    folder = scanner.write_dicom(tmp_path / "dicom", SCANS)
    slices = scanner.series_of(scan, RescaleSlope=4, RescaleIntercept=-1000)
    for one, values in zip(slices, scan.hounsfield, strict=True):
        one.PixelData = ((values + 1000) // 4).astype("<u2").tobytes()
    _replace(folder / "3", slices, scan)
    np.testing.assert_array_equal(converted(folder, tmp_path / "out2")[3].grey, scan.grey)


def _replace(folder: Path, slices: list[Any], scan: Drawn) -> None:
    """Another series in the place of a scan's, with a segmentation of its own."""
    for path in [*(folder / "ct").iterdir(), *(folder / "mask").iterdir()]:
        path.unlink()
    scanner.write_series(folder / "ct", slices)
    scanner.segmentation(scan, slices).save_as(folder / "mask" / "seg.dcm")


def test_segments_are_known_by_their_label_else_by_their_type(tmp_path: Path):
    """A clinic's own labels; portal vein and liver vessels are no liver."""
    for number, names in enumerate([("Segment_1", "Segment_2"), ("Leber", "Mass"), ("LIVER", "HCC tumour 1")]):
        folder = scanner.write_dicom(tmp_path / str(number), SCANS)
        source = scanner.series_of(SCANS[3])
        _replace(folder / "3", source, SCANS[3])
        scanner.segmentation(SCANS[3], source, names).save_as(folder / "3" / "mask" / "seg.dcm")
        check(converted(folder, tmp_path / f"out{number}"))


def test_parts_are_as_told(tmp_path: Path):
    scans = SCANS | {4: SCANS[3]}
    folder = scanner.write_lits(tmp_path / "lits", scans)
    convert(folder, tmp_path / "out", val={10}, test={4})
    found = {
        part: {int(path.stem.split("_")[0]) for path in (tmp_path / "out" / part).rglob("*.png")}
        for part in ("train", "val", "test")
    }
    assert found == {"train": {3}, "val": {10}, "test": {4}}


# ---- what cannot be used -------------------------------------------------------------------------------------


def nifti_pair(folder: Path, volume: Any = None, mask: Any = None) -> None:
    """Another volume or mask of scan 3."""
    for name, image in (("volume", volume), ("segmentation", mask)):
        if image is not None:
            nibabel.save(image, folder / f"{name}-3.nii.gz")


def moved(image: nibabel.Nifti1Image, affine: Any) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(image.get_fdata(), affine)


def oblique(degrees: float, shear: bool = False) -> Any:
    """Turned about the axis from right to left; ``shear``: only slices are shifted, as by a tilted gantry."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1, 0, 0, 0], [0, 1 if shear else c, -s, 0], [0, 0 if shear else s, c, 0], [0, 0, 0, 1]])
    return turn @ np.diag([0.625, 0.75, 2.5, 1])


HU, LABELS = SCANS[3].hounsfield, SCANS[3].labels
STRANGE = np.where(LABELS == 2, 7, LABELS)


def sizeless(folder: Path) -> None:
    """A row of the affine, srow_x, all zero."""
    packed = folder / "volume-3.nii.gz"
    content = bytearray(gzip.decompress(packed.read_bytes()))
    content[280:296] = bytes(16)
    packed.write_bytes(gzip.compress(bytes(content)))


BAD_NIFTI: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "shape": (
        lambda f: nifti_pair(f, mask=scanner.nifti(LABELS[:-1])),
        "segmentation-3.nii.gz",
        "must have the shape of volume-3.nii.gz, 6 x 32 x 32 (slices x rows x columns, as axial). "
        "Received: '5 x 32 x 32'",
    ),
    "labels": (lambda f: nifti_pair(f, mask=scanner.nifti(STRANGE)), "segmentation-3.nii.gz", "Received: '7'"),
    "place": (
        lambda f: nifti_pair(f, mask=moved(scanner.nifti(LABELS), np.diag([0.625, 0.75, 2.5, 1]))),
        "segmentation-3.nii.gz",
        "mm away from volume-3.nii.gz",
    ),
    "tilt": (
        lambda f: nifti_pair(f, moved(scanner.nifti(HU), oblique(12, shear=True))),
        "volume-3.nii.gz",
        "lies 12.0 degrees askew",
    ),
    "oblique": (
        lambda f: nifti_pair(f, moved(scanner.nifti(HU), oblique(5))),
        "volume-3.nii.gz",
        "lies 5.0 degrees askew",
    ),
    "no place": (lambda f: nifti_pair(f, nibabel.Nifti1Image(HU, None)), "volume-3.nii.gz", "sform and qform are 0"),
    "no size": (sizeless, "volume-3.nii.gz", "does not tell how large its voxels are"),
    "four axes": (
        lambda f: nifti_pair(f, nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4))),
        "volume-3.nii.gz",
        "must have three axes",
    ),
    "infinite": (
        lambda f: nifti_pair(f, scanner.nifti(np.where(HU > 0, np.inf, HU).astype(np.float32))),
        "volume-3.nii.gz",
        "no finite numbers",
    ),
    "size": (
        lambda f: nifti_pair(f, scanner.nifti(HU[:, :30]), scanner.nifti(LABELS[:, :30])),
        "volume-10.nii.gz",
        "must have slices of the size of volume-3.nii.gz, 30 x 32",
    ),
    "torn": (
        lambda f: (f / "volume-3.nii.gz").write_bytes((f / "volume-3.nii.gz").read_bytes()[:2000]),
        "volume-3.nii.gz",
        "cannot be read as NIfTI",
    ),
    "no nifti": (
        lambda f: (f / "volume-3.nii.gz").write_bytes(b"hello"),
        "volume-3.nii.gz",
        "cannot be read as NIfTI",
    ),
    "alone": (
        lambda f: (f / "segmentation-3.nii.gz").unlink(),
        "volume-3.nii.gz",
        "has no partner segmentation-3.nii",
    ),
    "twice": (
        lambda f: (f / "volume-03.nii").write_bytes((f / "volume-3.nii.gz").read_bytes()),
        "volume-3.nii.gz",
        "is the same scan as volume-03.nii",
    ),
    "name": (
        lambda f: (f / "volume-3.nii.gz").rename(f / "liver_3.nii.gz"),
        "liver_3.nii.gz",
        "must be named volume-N.nii",
    ),
}


@pytest.mark.parametrize("case", BAD_NIFTI)
def test_nifti_that_cannot_be_used_is_named(tmp_path: Path, case: str):
    break_it, path, words = BAD_NIFTI[case]
    folder = scanner.write_lits(tmp_path / "lits", SCANS)
    break_it(folder)
    refused(folder, tmp_path, path, words)


def refused(folder: Path, tmp_path: Path, path: str, words: str) -> None:
    """By the file's name, in words without the patient; nothing is left behind."""
    with pytest.raises(DataError) as caught:
        convert(folder, tmp_path / "out", val={10})
    assert caught.value.path == path
    assert words in str(caught.value)
    assert not any(word in str(caught.value) for word in PERSON)
    assert {one.name for one in tmp_path.iterdir()} == {folder.name}


def changed(folder: Path, **values: Callable[[int], Any]) -> None:
    """Scan 3's series anew, with elements that depend on the slice."""
    slices = scanner.series_of(SCANS[3])
    for number, one in enumerate(slices):
        for keyword, value in values.items():
            setattr(one, keyword, value(number))
    for path in (folder / "3" / "ct").iterdir():
        path.unlink()
    scanner.write_series(folder / "3" / "ct", slices)


def at(z: Callable[[int], float], y: Callable[[int], float] = lambda _: 8.25) -> Callable[[int], list[float]]:
    return lambda number: [-12.5, y(number), z(number)]


def remove_slice(folder: Path) -> None:
    (folder / "3" / "ct" / "IM006").unlink()  # the third: (50 * 2 + 3) % 97


def mask_of(folder: Path, write: Callable[[Path], Any]) -> None:
    place = folder / "3" / "mask"
    for path in place.iterdir():
        path.unlink()
    write(place)


def with_labels(labels: Any, **changes: Any) -> Callable[[Path], Any]:
    def write(place: Path) -> None:
        slices = scanner.label_series(Drawn(SCANS[3].grey, labels))
        for one in slices:
            for keyword, value in changes.items():
                setattr(one, keyword, value)
        scanner.write_series(place, slices)

    return write


def foreign(place: Path) -> None:
    """A segmentation of another series, three slices higher."""
    source = scanner.series_of(SCANS[3])
    for number, one in enumerate(source):
        one.ImagePositionPatient = [-12.5, 8.25, 400 + 2.5 * number]
    scanner.segmentation(SCANS[3], source).save_as(place / "seg.dcm")


def nameless(place: Path) -> None:
    made = scanner.segmentation(SCANS[3], scanner.series_of(SCANS[3]), ("spleen", PERSON[0]))
    for segment in made.SegmentSequence:
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "Spleen"
    made.save_as(place / "seg.dcm")


def name_as_number(folder: Path) -> None:
    """A header with a name where numbers belong: what the library says of it repeats the name."""
    path = folder / "3" / "ct" / "IM006"
    content = path.read_bytes()
    assert content.count(b"0.75\\0.625") == 1
    path.write_bytes(content.replace(b"0.75\\0.625", b"Mustermann"))


def odd_file(folder: Path) -> None:
    (folder / "3" / "ct" / "notes.txt").write_text(PERSON[0])


BAD_DICOM: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing slice": (remove_slice, "3/ct/IM056", "1 slice is missing between 3/ct/IM053 and this one"),
    "two series": (
        lambda f: changed(f, SeriesInstanceUID=lambda n: f"1.2.{n // 3}"),
        "3/ct/IM009",
        "belongs to another series than 3/ct/IM003",
    ),
    "two phases": (
        lambda f: changed(f, ImagePositionPatient=at(lambda n: 2.5 * (n // 2))),
        "3/ct/IM053",
        "lies where 3/ct/IM003 lies",
    ),
    "unequal": (
        lambda f: changed(f, ImagePositionPatient=at(lambda n: 2.5 * n + 1.1 * (n > 3))),
        "3/ct/IM009",
        "lies 3.60 mm from 3/ct/IM056, where slices lie 2.50 mm apart elsewhere",
    ),
    "tilt": (
        lambda f: changed(f, ImagePositionPatient=at(lambda n: 2.5 * n, lambda n: 0.5 * n)),
        "3/ct",
        "11.3 degrees askew on each other (a tilted gantry)",
    ),
    "beside": (
        lambda f: changed(f, ImagePositionPatient=at(lambda n: 2.5 * n, lambda n: 9.0 * (n == 2))),
        "3/ct/IM006",
        "lies 9.00 mm beside the line",
    ),
    "oblique": (
        lambda f: changed(
            f,
            ImageOrientationPatient=lambda n: [1, 0, 0, 0, np.cos(0.2), np.sin(0.2)],
            ImagePositionPatient=lambda n: [0, -2.5 * n * np.sin(0.2), 2.5 * n * np.cos(0.2)],
        ),
        "3/ct",
        "lies 11.5 degrees askew",
    ),
    "scout": (
        lambda f: changed(f, ImageOrientationPatient=lambda n: [1, 0, 0, 0, 0, -1] if n == 4 else [1, 0, 0, 0, 1, 0]),
        "3/ct/IM009",
        "is turned against 3/ct/IM003",
    ),
    "pixel spacing": (
        lambda f: changed(f, PixelSpacing=lambda n: [0.75, 0.625 + (n == 5)]),
        "3/ct/IM059",
        "must have the pixel spacing of 3/ct/IM003",
    ),
    "no scale": (
        lambda f: changed(f, RescaleIntercept=lambda n: None),
        "3/ct/IM003",
        "does not tell its Hounsfield units",
    ),
    "unit": (
        lambda f: changed(f, RescaleType=lambda n: "OD"),
        "3/ct/IM003",
        "does not tell its Hounsfield units",
    ),
    "kind": (
        lambda f: changed(f, SOPClassUID=lambda n: SecondaryCaptureImageStorage),
        "3/ct/IM003",
        "is no CT slice",
    ),
    "no position": (
        lambda f: changed(f, ImagePositionPatient=lambda n: [0, 0, 2.5 * n] if n != 1 else None),
        "3/ct/IM053",
        "cannot be read as a DICOM slice",
    ),
    "no number": (
        lambda f: changed(f, PixelSpacing=lambda n: [0.75, float("inf")]),
        "3/ct/IM003",
        "cannot be read as a DICOM slice",
    ),
    "name as number": (name_as_number, "3/ct/IM006", "cannot be read as a DICOM slice (ValueError)"),
    "no dicom": (odd_file, "3/ct/notes.txt", "cannot be read as a DICOM slice (InvalidDicomError)"),
    "torn": (
        lambda f: (f / "3" / "ct" / "IM003").write_bytes((f / "3" / "ct" / "IM003").read_bytes()[:-900]),
        "3/ct/IM003",
        "cannot be read as a DICOM slice",
    ),
    "one slice": (
        lambda f: [path.unlink() for path in sorted((f / "3" / "ct").iterdir())[1:]],
        "3/ct",
        "at least two slices",
    ),
    "no mask": (lambda f: mask_of(f, lambda place: None), "3/mask", "is empty"),
    "no mask folder": (
        lambda f: [mask_of(f, lambda place: None), (f / "3" / "mask").rmdir()],
        "3/mask",
        "is missing or no folder",
    ),
    "labels": (lambda f: mask_of(f, with_labels(STRANGE)), "3/mask", "Received: '7'"),
    "mask shape": (
        lambda f: mask_of(f, with_labels(LABELS[:, :30])),
        "3/mask",
        "must have the shape of 3/ct, 6 x 32 x 32",
    ),
    "mask slices": (lambda f: mask_of(f, with_labels(LABELS[:5])), "3/mask", "Received: '5 x 32 x 32'"),
    "mask place": (
        lambda f: mask_of(f, with_labels(LABELS, PixelSpacing=[0.75, 0.7])),
        "3/mask",
        "mm away from 3/ct",
    ),
    "foreign segmentation": (lambda f: mask_of(f, foreign), "3/mask/seg.dcm", "lies on no slice of 3/ct"),
    "segments without liver": (lambda f: mask_of(f, nameless), "3/mask", "has no segment whose label or type"),
    "not a number": (
        lambda f: (f / "3").rename(f / "Erika"),
        "Erika",
        "does not belong there",
    ),
}


@pytest.mark.parametrize("case", BAD_DICOM)
def test_dicom_that_cannot_be_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str):
    break_it, path, words = BAD_DICOM[case]
    folder = scanner.write_dicom(tmp_path / "dicom", SCANS, "nifti")
    break_it(folder)
    with pytest.raises(DataError) as caught:
        convert(folder, tmp_path / "out", val={10})
    assert caught.value.path == path
    assert words in str(caught.value)
    told = caplog.text + str(caught.value).replace("Erika", "", case == "not a number")
    assert not any(word in told for word in PERSON)
    assert {one.name for one in tmp_path.iterdir()} == {"dicom"}


def test_segmentations_that_lie_about_their_size_are_refused(tmp_path: Path):
    folder = scanner.write_dicom(tmp_path / "dicom", SCANS)
    small = Drawn(SCANS[3].grey[:, :30], SCANS[3].labels[:, :30])
    mask_of(folder, lambda place: scanner.segmentation(small, scanner.series_of(small)).save_as(place / "seg.dcm"))
    refused(folder, tmp_path, "3/mask/seg.dcm", "must have the size of 3/ct, 32 x 32")


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        ({"val": {4}}, "val", "there are [3, 10]"),
        ({"val": set()}, "val", "name at least one"),
        ({"val": {3, 10}}, "val", "must leave some scans to train on"),
        ({"val": {3}, "test": {3}}, "test", "belongs to one part"),
        ({"val": {3}, "width": 0}, "width", "over 0"),
        ({"val": {3}, "level": float("nan")}, "width", "must be a number"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], path: str, words: str):
    folder = scanner.write_lits(tmp_path / "lits", SCANS)
    with pytest.raises(InputError, match=words.replace("[", r"\[")) as caught:
        convert(folder, tmp_path / "out", **options)
    assert caught.value.path == path
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path):
    folder = scanner.write_lits(tmp_path / "lits", SCANS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="already holds something"):
        convert(folder, tmp_path / "out", val={10})


def test_a_folder_without_scans_says_what_belongs_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"volume-N\.nii.*SCAN/ct"):
        convert(tmp_path, tmp_path / "out", val={10})


# ---- the patient ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [scanner.write_lits, scanner.write_dicom])
def test_nothing_of_the_patient_is_kept(tmp_path: Path, write: Callable[..., Path]):
    folder = write(tmp_path / "scans", SCANS)
    sources = b"".join(_bytes(path) for path in folder.rglob("*") if path.is_file())
    assert all(word.encode() in sources for word in PERSON)  # they are there to be found
    convert(folder, tmp_path / "out", val={10})
    pack_folder(tmp_path / "out", tmp_path / "data.zip")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()] + [tmp_path / "data.zip"]
    assert len(written) == 2 * 12 + 2
    kept = b"".join(path.read_bytes() + str(path).encode() for path in written)
    assert {word for word in PERSON if word.encode() in kept} == set()
    assert {path.name for path in written if path.suffix != ".png"} == {"acquisitions.json", "data.zip"}


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path):
    scanner.write_lits(tmp_path / "lits", SCANS)
    words = ["dataset", "convert", "lits", "out", "--val", "10"]
    script = f"import sys; sys.modules['nibabel'] = None; sys.argv[1:] = {words}; "
    script += "from api.commands.main import main; main()"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 1
    assert 'nibabel is not installed; `pip install ".[medical]"` in the checkout' in done.stderr
    assert not (tmp_path / "out").exists()


def test_uids_are_not_repeated_in_errors(tmp_path: Path):
    folder = scanner.write_dicom(tmp_path / "dicom", SCANS)
    series = [generate_uid(), generate_uid()]
    changed(folder, SeriesInstanceUID=lambda n: series[n % 2])
    with pytest.raises(DataError, match="belongs to another series") as caught:
        convert(folder, tmp_path / "out", val={10})
    assert not any(uid in str(caught.value) for uid in series)
