"""A CT scan, or its mask, as a volume in the patient's space, and its axial slices as radiologists see them.

Space is NIfTI's: millimetres, x to the patient's right, y to the front, z to the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import affines, orientations
from numpy.typing import NDArray

from liverseg_core.errors import DataError

Values = NDArray[Any]
Affine = NDArray[np.float64]

AXIAL = ("S", "P", "L")
"""Where slices, rows and columns lead: to the head, to the back, to the patient's left (right in the picture)."""

MOST_TILT = 1.0
"""Degrees by which an axis may differ from the patient's; head holders and rounding stay far below."""


@dataclass(frozen=True)
class Volume:
    """Numbers on a grid in space.

    Attributes:
        name: the file or folder they come from, for errors.
        values: ``[a, b, c]``; along which axis slices lie is told by the affine alone.
        affine: ``[4, 4]``, from place in ``values`` to millimetres.
    """

    name: str
    values: Values
    affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbours along each axis, to a hundred-thousandth."""
        a, b, c = (round(float(size), 5) for size in affines.voxel_sizes(self.affine))
        return a, b, c


def axial(volume: Volume) -> Volume:
    """The same volume as ``[slices, rows, columns]``: slices from feet to head, seen from the feet, face up.

    Only whole axes are swapped and turned round; no value is interpolated.

    Raises:
        DataError: its axes are not the patient's (a tilted gantry, an oblique reformat), or voxels without a size.
    """
    if not np.isfinite(volume.affine).all() or min(volume.spacing) <= 0:
        raise DataError(volume.name, "does not tell how large its voxels are; convert it again")
    tilt = float(np.degrees(affines.obliquity(volume.affine).max()))
    if tilt > MOST_TILT:
        problem = (
            f"lies {tilt:.1f} degrees askew (a tilted gantry or an oblique reformat); resample it to axial slices"
        )
        raise DataError(volume.name, f"{problem} along the patient's axes")
    turn = orientations.ornt_transform(orientations.io_orientation(volume.affine), orientations.axcodes2ornt(AXIAL))
    affine = volume.affine @ orientations.inv_ornt_aff(turn, volume.values.shape)
    return Volume(volume.name, orientations.apply_orientation(volume.values, turn), affine)


def check_same_place(scan: Volume, mask: Volume) -> None:
    """Both cover the same voxels.

    Raises:
        DataError: another shape, or a corner that lies half a voxel or more elsewhere.
    """
    if mask.values.shape != scan.values.shape:
        problem = f"must have the shape of {scan.name}, {_shape(scan)} (slices x rows x columns, as axial)"
        raise DataError(mask.name, problem, _shape(mask))
    ends = np.array(np.meshgrid(*((0, length - 1) for length in scan.values.shape))).reshape(3, -1).T
    apart = affines.apply_affine(scan.affine, ends) - affines.apply_affine(mask.affine, ends)
    furthest = float(np.linalg.norm(apart, axis=1).max())
    if furthest >= min(scan.spacing) / 2:
        raise DataError(
            mask.name, f"lies {furthest:.2f} mm away from {scan.name} by its own header; save it in the scan's space"
        )


def labels(mask: Volume) -> NDArray[np.uint8]:
    """Labels 0 background, 1 liver, 2 lesion, in the shape of the mask.

    Raises:
        DataError: another value.
    """
    found: Sequence[Any] = np.unique(mask.values).tolist()
    strange = [value for value in found if value not in (0, 1, 2)]
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        problem = "a mask holds only 0 (background), 1 (liver) and 2 (lesion); write these values"
        raise DataError(mask.name, problem, ", ".join(f"{value:g}" for value in strange[:5]) + more)
    return mask.values.astype(np.uint8)


def window(hounsfield: Values, level: float, width: float) -> NDArray[np.uint8]:
    """Grey 0..255: ``round(255 * clip((hounsfield - (level - width / 2)) / width, 0, 1))``.

    Args:
        hounsfield: of any shape.
        level: Hounsfield units of the middle of the window.
        width: Hounsfield units from black to white.
    """
    share = (hounsfield.astype(np.float64) - (level - width / 2)) / width
    grey: NDArray[np.uint8] = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return grey


def _shape(volume: Volume) -> str:
    return " x ".join(map(str, volume.values.shape))
