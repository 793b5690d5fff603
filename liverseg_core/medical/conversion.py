"""NIfTI and DICOM scans to a folder of PNG pairs, which is then imported like any other.

Into the folder go pixels, labels, spacing and the window; nothing else of a header or of a file's name.
"""

import re
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np

from liverseg_core.data.annotations import Acquisition, acquisitions_json
from liverseg_core.data.archive import ACQUISITIONS
from liverseg_core.data.png import MASK_VALUES, write_png
from liverseg_core.errors import DataError, InputError
from liverseg_core.medical.lits import find_scans, read_nifti
from liverseg_core.medical.segmentation import read_mask, read_scan
from liverseg_core.medical.volumes import Volume, axial, check_same_place, labels, window

Read = Callable[[], tuple[Volume, Volume]]
"""Reads a scan in Hounsfield units and its mask."""
Progress = Callable[[int, int, Acquisition], None]

LAYOUTS = "volume-N.nii with segmentation-N.nii (NIfTI), or folders SCAN/ct and SCAN/mask (DICOM)"

LEVEL, WIDTH = 50.0, 400.0
"""Hounsfield units; a usual window for soft tissue of the abdomen."""


def convert(
    folder: Path,
    out: Path,
    val: Collection[int],
    test: Collection[int] = (),
    level: float = LEVEL,
    width: float = WIDTH,
    progress: Progress = lambda *_: None,
) -> dict[int, Acquisition]:
    """Write every slice of the scans in ``folder`` as a pair of PNG files, with ``acquisitions.json``.

    Slices are axial, numbered from feet to head, and seen from the feet: the patient's right is on the left.

    Args:
        folder: ``volume-N.nii(.gz)`` and ``segmentation-N.nii(.gz)``; or a folder for each scan, called by its
            number, with one CT series in ``ct`` and its mask in ``mask``.
        out: absent or empty; appears whole or not at all.
        val: scans that validate.
        test: scans that test; all others train.
        level: middle of the window that grey 0..255 shows, Hounsfield units.
        width: of that window.
        progress: called with (scan, its slices, how it was taken).

    Returns:
        Scan -> how it was taken.

    Raises:
        DataError: a scan or mask that cannot be used, by its file.
        InputError: scans that are not there, nothing to train or validate on, a window without width, a folder that
            holds something.
    """
    if not width > 0 or not np.isfinite([level, width]).all():
        raise InputError("width", "must be a number of Hounsfield units over 0", width)
    scans = _scans(folder)
    parts = _parts(scans, val, test)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(str(out), "already holds something; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        work = Path(temporary) / "converted"
        told: dict[int, Acquisition] = {}
        shapes: dict[tuple[int, ...], str] = {}
        for number, read in scans.items():
            scan, mask = _read(read, shapes)
            step, rows, columns = scan.spacing
            told[number] = Acquisition((rows, columns, step), (float(level), float(width)))
            _write(work / parts[number], number, scan, mask, level, width)
            progress(number, len(scan.values), told[number])
        (work / ACQUISITIONS).write_text(acquisitions_json(told) + "\n")
        work.rename(out)
    return told


def _scans(folder: Path) -> dict[int, Read]:
    """Scan number -> how to read it, rising, by whichever layout the folder has."""
    if not folder.is_dir():
        raise DataError(str(folder), "is no folder")
    numbered = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch("[0-9]{1,9}", path.name)]
    if not any((path / "ct").is_dir() for path in numbered):
        return _nifti_scans(folder)
    found: dict[int, Read] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path not in numbered:
            raise DataError(path.name, f"does not belong there; the folder holds {LAYOUTS} and nothing else")
        if int(path.name) in found:
            raise DataError(path.name, "is a scan that is there already under another spelling; rename it")
        found[int(path.name)] = partial(_read_dicom, path)
    return dict(sorted(found.items()))


def _nifti_scans(folder: Path) -> dict[int, Read]:
    pairs = find_scans(folder)
    if not pairs:
        raise DataError(str(folder), f"holds no scans; put there {LAYOUTS}")
    return {number: partial(_read_nifti, folder, *pair) for number, pair in pairs.items()}


def _read_nifti(folder: Path, volume: Path, segmentation: Path) -> tuple[Volume, Volume]:
    scan, mask = (read_nifti(path, str(path.relative_to(folder))) for path in (volume, segmentation))
    return scan, mask


def _read_dicom(folder: Path) -> tuple[Volume, Volume]:
    scan = read_scan(folder / "ct", f"{folder.name}/ct")
    return scan, read_mask(folder / "mask", f"{folder.name}/mask", scan)


def _parts(scans: Collection[int], val: Collection[int], test: Collection[int]) -> dict[int, str]:
    """Scan -> its part."""
    for part, chosen in (("val", val), ("test", test)):
        unknown = sorted(set(chosen) - set(scans))
        if unknown:
            raise InputError(part, f"names scans that are not there; there are {sorted(scans)}", unknown)
    both = sorted(set(val) & set(test))
    if both:
        raise InputError("test", "names scans that are in val too; a scan belongs to one part", both)
    if not set(val) or set(scans) <= {*val, *test}:
        raise InputError(
            "val", f"must leave some scans to train on, and name at least one; there are {sorted(scans)}"
        )
    return {scan: "val" if scan in val else "test" if scan in test else "train" for scan in scans}


def _read(read: Read, shapes: dict[tuple[int, ...], str]) -> tuple[Volume, Volume]:
    """A scan and its labels as axial slices, checked; ``shapes`` holds the one size of all slices so far."""
    scan, mask = map(axial, read())
    check_same_place(scan, mask)
    rows, columns = scan.values.shape[1:]
    (first, name) = next(iter(shapes.items()), ((rows, columns), scan.name))
    if first != (rows, columns):
        problem = f"must have slices of the size of {name}, {first[0]} x {first[1]} (rows x columns); resample it"
        raise DataError(scan.name, problem, f"{rows} x {columns}")
    shapes[first] = name
    return scan, Volume(mask.name, labels(mask), mask.affine)


def _write(part: Path, number: int, scan: Volume, mask: Volume, level: float, width: float) -> None:
    grey = np.array(MASK_VALUES, np.uint8)
    for kind in ("images", "masks"):
        (part / kind).mkdir(parents=True, exist_ok=True)
    for place, (image, label) in enumerate(zip(scan.values, mask.values, strict=True)):
        name = f"{number}_{place}.png"
        (part / "images" / name).write_bytes(write_png(window(image, level, width)))
        (part / "masks" / name).write_bytes(write_png(grey[label]))
