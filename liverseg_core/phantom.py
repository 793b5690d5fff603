"""A synthetic abdomen with liver and lesions, drawn from a seed: data to try everything on, owned by nobody.

Coordinates: x from -1 (patient's right, left in the picture) to 1, y from -1 (front) to 1 (back), z from 0 (feet)
to 1 (head). Grey values are those of a windowed 8-bit CT.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.png import MASK_VALUES, write_png
from liverseg_core.errors import InputError

Field = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float, float]

FAT, SKIN, MUSCLE, LUNG, BONE, MARROW, VESSEL = 26.0, 95.0, 112.0, 3.0, 246.0, 150.0, 172.0
LIVER, SPLEEN, KIDNEY, PELVIS, STOMACH, BOWEL, CONTRAST = 146.0, 152.0, 182.0, 110.0, 132.0, 104.0, 232.0
NOISE = 12.0
"""Standard deviation before the picture is blurred; about 5 after."""

LESION_CONTRAST = (-95.0, -80.0)
LESION_RADII = (0.08, 0.28)
"""Half-axes before each is varied; large and dark, so that the smallest network can learn them in minutes."""
MOST_LESIONS = 6


@dataclass(frozen=True)
class Ellipsoid:
    """Centre, half-axes and grey value."""

    centre: Point
    radii: Point
    grey: float = 0.0

    def distance(self, x: Field, y: Field, z: float) -> Field:
        """Squared distance from the centre in half-axes: below 1 inside. Shape of ``x`` and ``y``."""
        (cx, cy, cz), (rx, ry, rz) = self.centre, self.radii
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2

    def inside(self, x: Field, y: Field, z: float) -> Mask:
        return self.distance(x, y, z) < 1


LIVER_LOBES = (
    Ellipsoid((-0.44, -0.02, 0.52), (0.36, 0.50, 0.62)),
    Ellipsoid((-0.30, -0.10, 0.72), (0.48, 0.48, 0.42)),
    Ellipsoid((0.06, -0.32, 0.74), (0.40, 0.22, 0.30)),
)
DIAPHRAGM = Ellipsoid((-0.04, -0.24, 0.30), (0.88, 0.94, 0.98))
ORGANS = (
    Ellipsoid((0.62, 0.26, 0.58), (0.17, 0.30, 0.34), SPLEEN),
    Ellipsoid((0.40, -0.12, 0.66), (0.27, 0.36, 0.34), STOMACH),
    Ellipsoid((0.36, -0.40, 0.70), (0.17, 0.10, 0.24), LUNG),
    Ellipsoid((0.02, -0.02, 0.26), (0.30, 0.10, 0.16), BOWEL + 18),
    Ellipsoid((-0.34, 0.38, 0.16), (0.17, 0.18, 0.30), KIDNEY),
    Ellipsoid((-0.29, 0.37, 0.16), (0.08, 0.08, 0.16), PELVIS),
    Ellipsoid((0.36, 0.38, 0.24), (0.17, 0.18, 0.30), KIDNEY),
    Ellipsoid((0.31, 0.37, 0.24), (0.08, 0.08, 0.16), PELVIS),
)


@dataclass(frozen=True)
class Anatomy:
    """One subject: the atlas above, changed a little."""

    body: tuple[float, float]
    stretch: Point
    shift: Point
    wobble: NDArray[np.float64]
    organs: tuple[Ellipsoid, ...]
    bowel: tuple[Ellipsoid, ...]
    vessels: tuple[tuple[float, float, float, float], ...]
    lesions: tuple[Ellipsoid, ...]
    liver_grey: float


def draw_phantom(folder: Path, subjects: int = 8, slices: int = 24, size: int = 128, seed: int = 0) -> None:
    """Draw a data set into a new folder: train, val and, from three subjects on, test, with ``subjects.json``.

    Of eight subjects five train, two validate and one tests; the last training subject is free of lesions.
    The same arguments give the same bytes.

    Args:
        folder: absent or empty; appears whole or not at all.
        subjects: one scan each, 2 to 1,000.
        slices: of each scan, 4 to 1,000; every one shows liver.
        size: side in pixels, 32 to 2,048.
        seed: of anatomy and noise, not negative.

    Raises:
        InputError: a number out of range, or a folder that holds something.
    """
    _check(folder, {"subjects": (subjects, 2, 1000), "slices": (slices, 4, 1000), "size": (size, 32, 2048)}, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        work = Path(temporary) / "phantom"
        parts = _parts(subjects)
        for scan, part in enumerate(parts):
            healthy = scan == parts.count("train") - 1 and scan > 0
            anatomy = draw_anatomy(np.random.default_rng([seed, scan]), MOST_LESIONS * (not healthy))
            _write_scan(work / part, scan, anatomy, slices, size, seed)
        people = {str(scan): f"P{scan + 1:02}" for scan in range(subjects)}
        (work / "subjects.json").write_text(json.dumps({"subjects": people}, indent=1) + "\n")
        work.rename(folder)


def draw_anatomy(random: np.random.Generator, most_lesions: int) -> Anatomy:
    """One subject with 2 to ``most_lesions`` lesions, or none where that is 0."""
    healthy = Anatomy(
        body=(random.uniform(0.86, 0.94), random.uniform(0.70, 0.77)),
        stretch=_point(random.uniform(0.93, 1.07, 3)),
        shift=_point(random.uniform(-0.03, 0.03, 3)),
        wobble=random.uniform((0.01, 3.0, 0.0), (0.035, 6.0, 2 * np.pi), (4, 3)),
        organs=tuple(_vary(organ, random) for organ in ORGANS),
        bowel=tuple(_bowel_loop(random) for _ in range(26)),
        vessels=tuple(_vessel(random) for _ in range(7)),
        lesions=(),
        liver_grey=LIVER + random.uniform(-8, 8),
    )
    return _with_lesions(healthy, random, most_lesions)


def draw_slice(
    anatomy: Anatomy, z: float, size: int, random: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask, Mask]:
    """One picture.

    Returns:
        uint8 ``[size, size]`` grey values, then where liver (lesion included) and where lesion is.
    """
    x, y = _grid(size)
    picture, cavity = _draw_body(anatomy, x, y, z)
    warped = _warp(anatomy, x, y)
    _draw_organs(picture, anatomy, cavity, *warped, z)
    liver = liver_field(anatomy, *warped, z) & cavity
    lesion = liver & _any(anatomy.lesions, *warped, z)
    _draw_liver(picture, anatomy, liver, *warped, z)
    _draw_spine(picture, x, y, z)
    liver &= ~_spine(x, y)
    picture = _blur(_blur(picture) + random.normal(0, NOISE, picture.shape))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), liver, lesion & liver


def liver_field(anatomy: Anatomy, x: Field, y: Field, z: float, depth: float = 0.0) -> Mask:
    """Where liver is: its lobes melt into one another; ``depth`` > 0 keeps away from its edge."""
    u, v, w = _to_atlas(anatomy, x, y, z)
    melted = sum(np.exp(-3.0 * lobe.distance(u, v, w)) for lobe in LIVER_LOBES)
    roof = DIAPHRAGM.distance(x, y, z) < (0.97 - depth) ** 2
    return np.asarray((melted > np.exp(-3.0 * (1 - depth))) & roof)


# ---- one subject ---------------------------------------------------------------------------------------------


def _vary(organ: Ellipsoid, random: np.random.Generator) -> Ellipsoid:
    centre = np.array(organ.centre) + random.uniform(-0.03, 0.03, 3)
    radii = np.array(organ.radii) * random.uniform(0.9, 1.1, 3)
    return Ellipsoid(_point(centre), _point(radii), organ.grey + random.uniform(-5, 5))


def _bowel_loop(random: np.random.Generator) -> Ellipsoid:
    reach = random.uniform(0.30, 0.62)
    angle = random.uniform(-1.15, 1.15) * np.pi / 2
    centre = (0.12 + reach * np.sin(angle), 0.02 - 0.75 * reach * np.cos(angle), random.uniform(-0.1, 0.62))
    radii = random.uniform((0.07, 0.06, 0.08), (0.14, 0.11, 0.24))
    return Ellipsoid(centre, _point(radii), float(random.choice([BOWEL, BOWEL, CONTRAST, LUNG + 20])))


def _vessel(random: np.random.Generator) -> tuple[float, float, float, float]:
    """Where a vessel starts (z) and how it runs: direction in the plane and drift with z."""
    return (random.uniform(0.1, 0.9), random.uniform(-np.pi, np.pi), random.uniform(0.1, 0.5), random.uniform(-1, 1))


def _with_lesions(anatomy: Anatomy, random: np.random.Generator, most: int) -> Anatomy:
    """The subject with lesions of several sizes, their centres well inside the liver."""
    if not most:
        return anatomy
    radii = np.geomspace(*LESION_RADII, random.integers(2, most + 1))
    lesions = tuple(_lesion(anatomy, random, float(radius)) for radius in radii)
    return Anatomy(**{**vars(anatomy), "lesions": lesions})


def _lesion(anatomy: Anatomy, random: np.random.Generator, radius: float) -> Ellipsoid:
    grey = anatomy.liver_grey + random.uniform(*LESION_CONTRAST)
    radii = radius * random.uniform((0.8, 0.8, 0.9), (1.25, 1.25, 1.3))
    while True:
        x, y, z = random.uniform((-0.85, -0.6, 0.05), (0.3, 0.5, 0.95))
        if liver_field(anatomy, np.array(x), np.array(y), z, depth=0.25):
            return Ellipsoid((x, y, z), _point(radii), grey)


# ---- one picture ---------------------------------------------------------------------------------------------


def _grid(size: int) -> tuple[Field, Field]:
    """Both coordinates of every pixel's centre, each ``[size, size]``."""
    line = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(line, line)
    return x, y


def _warp(anatomy: Anatomy, x: Field, y: Field) -> tuple[Field, Field]:
    """Bend the plane a little, so that no organ stays an ellipse."""
    (a, f, p), (b, g, q), (c, h, r), (d, i, s) = anatomy.wobble
    return x + a * np.sin(f * y + p) + c * np.sin(h * x + r), y + b * np.sin(g * x + q) + d * np.sin(i * y + s)


def _to_atlas(anatomy: Anatomy, x: Field, y: Field, z: float) -> tuple[Field, Field, float]:
    (sx, sy, sz), (dx, dy, dz) = anatomy.stretch, anatomy.shift
    return (x - dx) / sx, (y - dy) / sy, (z - dz - 0.5) / sz + 0.5


def _draw_body(anatomy: Anatomy, x: Field, y: Field, z: float) -> tuple[Field, Mask]:
    """Air, table, skin, fat, muscle, ribs and lungs; and where the abdomen's cavity is."""
    width, height = anatomy.body
    reach = (np.abs(x / width) ** 2.3 + np.abs(y / height) ** 2.3) ** (1 / 2.3)
    picture = np.zeros_like(x)
    picture[np.abs(y - 0.84 + 0.10 * x**2) < 0.012] = 200.0
    for edge, grey in ((1.0, SKIN), (0.97, FAT), (0.90, MUSCLE), (0.80, FAT)):
        picture[reach < edge] = grey
    back = np.hypot((np.abs(x) - 0.22) / 0.24, (y - 0.56) / 0.14) < 1
    picture[back & (reach < 0.93)] = MUSCLE
    psoas = np.hypot((np.abs(x) - 0.21) / 0.08, (y - 0.42) / 0.11) < 1
    ribs = np.cos(7 * np.arctan2(y / height, x / width) + 14 * z) > 0.86
    picture[ribs & (reach > 0.82) & (reach < 0.87)] = BONE
    cavity = (reach < 0.79) & ~back
    picture[cavity & ~DIAPHRAGM.inside(x, y, z)] = LUNG
    picture[psoas & cavity] = MUSCLE
    return picture, cavity


def _draw_organs(picture: Field, anatomy: Anatomy, cavity: Mask, x: Field, y: Field, z: float) -> None:
    room = cavity & (DIAPHRAGM.distance(x, y, z) < 0.94)
    for organ in (*anatomy.bowel, *anatomy.organs):
        picture[organ.inside(x, y, z) & room] = organ.grey
    for centre_x, centre_y, radius in ((0.07, 0.27, 0.062), (-0.12, 0.20, 0.07)):
        picture[np.hypot(x - centre_x, y - centre_y) < radius] = VESSEL


def _draw_liver(picture: Field, anatomy: Anatomy, liver: Mask, x: Field, y: Field, z: float) -> None:
    """Parenchyma, its vessels, then lesions over them."""
    picture[liver] = anatomy.liver_grey
    for start, angle, drift, bend in anatomy.vessels:
        turn = angle + bend * (z - start)
        along = (x + 0.3) * np.cos(turn) + (y + 0.05) * np.sin(turn) - drift * (z - start)
        across = -(x + 0.3) * np.sin(turn) + (y + 0.05) * np.cos(turn)
        tube = (across / 0.022) ** 2 + ((along - 0.1) / 0.28) ** 2 + ((z - start) / 0.10) ** 2 < 1
        picture[tube & liver] = VESSEL
    for lesion in anatomy.lesions:
        picture[lesion.inside(x, y, z) & liver] = lesion.grey


def _spine(x: Field, y: Field) -> Mask:
    return np.asarray(np.hypot(x / 0.15, (y - 0.42) / 0.12) < 1)


def _draw_spine(picture: Field, x: Field, y: Field, z: float) -> None:
    """Vertebra, its marrow (a disc now and then), canal and the processes."""
    process = (np.abs(x) < 0.03) & (y > 0.5) & (y < 0.66)
    wings = np.hypot((np.abs(x) - 0.15) / 0.12, (y - 0.55) / 0.03) < 1
    picture[process | wings | _spine(x, y)] = BONE
    marrow = MARROW if np.sin(30 * z) > -0.5 else MUSCLE
    picture[np.hypot(x / 0.12, (y - 0.42) / 0.095) < 1] = marrow + 30
    picture[np.hypot(x / 0.05, (y - 0.545) / 0.04) < 1] = MUSCLE


def _any(shapes: tuple[Ellipsoid, ...], x: Field, y: Field, z: float) -> Mask:
    return np.asarray(np.any([np.zeros(x.shape, bool), *(shape.inside(x, y, z) for shape in shapes)], axis=0))


def _blur(picture: Field) -> Field:
    """Mean over 3 x 3 with weights 1 2 1."""
    wide = np.pad(picture, 1, mode="edge")
    rows = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
    blurred: Field = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return blurred


# ---- files ---------------------------------------------------------------------------------------------------


def _write_scan(part: Path, scan: int, anatomy: Anatomy, slices: int, size: int, seed: int) -> None:
    grey = np.array(MASK_VALUES, np.uint8)
    for kind in ("images", "masks"):
        (part / kind).mkdir(parents=True, exist_ok=True)
    for number in range(slices):
        random = np.random.default_rng([seed, scan, number, 1])
        picture, liver, lesion = draw_slice(anatomy, (number + 0.5) / slices, size, random)
        (part / "images" / f"{scan}_{number}.png").write_bytes(write_png(picture))
        (part / "masks" / f"{scan}_{number}.png").write_bytes(write_png(grey[liver.astype(int) + lesion]))


def _parts(subjects: int) -> list[str]:
    """The part of every subject: about 5 : 2 : 1, at least one each of train and val."""
    val = max(1, round(subjects / 4))
    test = max(1, round(subjects / 8)) if subjects > 2 else 0
    return ["train"] * (subjects - val - test) + ["val"] * val + ["test"] * test


def _check(folder: Path, ranges: dict[str, tuple[int, int, int]], seed: int) -> None:
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise InputError(name, f"must lie between {least} and {most}", value)
    if seed < 0:
        raise InputError("seed", "must not be negative", seed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(str(folder), "already holds something; name a new folder")


def _point(values: NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
