"""NIfTI scans in the layout of the Liver Tumor Segmentation benchmark: ``volume-N.nii`` and ``segmentation-N.nii``.

Nothing is taken from a header but size, place in space and the scale of the values.
"""

import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from liverseg_core.errors import DataError
from liverseg_core.medical.volumes import Volume

_NAME = re.compile(r"(volume|segmentation)-([0-9]{1,9})\.nii(\.gz)?")

UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)


def find_scans(folder: Path) -> dict[int, tuple[Path, Path]]:
    """Scan number -> its volume and segmentation, rising; empty where there is no NIfTI file.

    Folders below are looked into, as the benchmark comes in batches; files of other kinds are left out.

    Raises:
        DataError: a NIfTI file of another name, one scan twice, a volume or segmentation without the other.
    """
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.name.endswith((".nii", ".nii.gz")):
            continue
        name = str(path.relative_to(folder))
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise DataError(
                name, "must be named volume-N.nii or segmentation-N.nii (or .nii.gz); rename or remove it"
            )
        files = found.setdefault(int(match[2]), {})
        if match[1] in files:
            raise DataError(name, f"is the same scan as {files[match[1]].relative_to(folder)}; keep one of them")
        files[match[1]] = path
    for number, files in found.items():
        if len(files) < 2:
            ((kind, path),) = files.items()
            partner = "segmentation" if kind == "volume" else "volume"
            raise DataError(
                str(path.relative_to(folder)), f"has no partner {partner}-{number}.nii; add it or remove this one"
            )
    return {number: (found[number]["volume"], found[number]["segmentation"]) for number in sorted(found)}


def read_nifti(path: Path, name: str) -> Volume:
    """One NIfTI file; values are scaled by slope and intercept of its header, where it has them.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        name: what errors call it.

    Raises:
        DataError: no intact NIfTI file, not three axes, no place in space, a value that is not finite.
    """
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise DataError(name, "is no NIfTI file; convert it")
        _check_header(image, name)
        values = np.asanyarray(image.dataobj)
    except UNREADABLE as error:  # its words may hold what a header says
        raise DataError(name, f"cannot be read as NIfTI ({type(error).__name__}); copy or convert it again") from None
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise DataError(name, "holds values that are no finite numbers; convert it again")
    return Volume(name, values, np.asarray(image.affine, np.float64))


def _check_header(image: "nibabel.Nifti1Pair", name: str) -> None:
    header = image.header
    if len(image.shape) != 3:
        raise DataError(name, "must have three axes, one scan a file", f"{len(image.shape)} axes")
    if not header["sform_code"] and not header["qform_code"]:
        raise DataError(name, "does not say how it lies in space (sform and qform are 0); convert it again")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise DataError(name, "must be measured in millimetres; convert it", header.get_xyzt_units()[0])
