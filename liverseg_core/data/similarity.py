"""Which scans may show one person, judged by their pixels alone.

Every slice becomes a small picture of what is bright in it (bones, contrast-filled vessels, kidneys and bowel), cut
to the body and scaled to its width. Two scans of one person agree best where their slices are laid side by side at
the right offset and spacing, and badly elsewhere; two people agree a little everywhere. So the score of a pair is

    mean correlation along the best straight alignment - mean correlation over all pairs of their slices

which needs no other scans to compare with. It is a hint for people, who should look at the picture, and no proof.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.data.pixels import image_of, open_archive
from liverseg_core.errors import DataError

Floats = NDArray[np.float32]

THRESHOLD = 0.25
"""Pairs that score higher are flagged.

Seen on the study's eleven scans: what looks like one person (0 and 1; 6 to 10) 0.32 to 0.41, all 44 other pairs at
most 0.19. On drawn subjects, who share one spine and so are more alike than people are: one subject drawn twice 0.25
to 0.39, different ones at most 0.25 but for 1 pair in 190, at 0.27.
"""

LEAST_SIDE = 96
"""Smaller pictures hold too little of a spine to tell people apart."""

MOST_SCANS = 300
MOST_SLICES = 64
"""Looked at in a scan, evenly spread."""

SIDE = 64
BODY, BRIGHT = 25, 150
"""Grey values above which a pixel belongs to the body, and to what is compared."""

FINE, COARSE = 1.0, 6.0
"""Structures between these sizes (standard deviations in pixels of the small picture) are compared."""

STEPS = 48
SPACINGS = np.geomspace(0.6, 1.67, 15)
OFFSETS = np.arange(-0.5, 0.51, 0.01)
"""Of one scan against the other, in lengths of a scan; at least half of the steps must meet a slice."""


@dataclass(frozen=True)
class Likeness:
    """How alike two scans are.

    Attributes:
        scans: their numbers, the smaller one first.
        score: see the module; -2..2, flagged above ``THRESHOLD``.
        slices: the slice of each that match best, by number.
    """

    scans: tuple[int, int]
    score: float
    slices: tuple[int, int]


def compare_scans(
    archive: Path, manifest: Manifest, between: Callable[[], None] = lambda: None
) -> tuple[Likeness, ...]:
    """Every pair of scans, the most alike first.

    Args:
        archive: the data set as one zip.
        manifest: what it holds.
        between: called between slices; may raise to stop.

    Raises:
        DataError: pictures or too many scans that cannot be judged, or an archive that is damaged.
    """
    _check(manifest)
    with open_archive(archive) as bundle:
        seen = {scan: _describe_scan(bundle, _spread(manifest, scan), between) for scan in manifest.scans()}
    pairs = [_compare(first, second, seen) for first, second in combinations(seen, 2)]
    return tuple(sorted(pairs, key=lambda pair: -pair.score))


def _check(manifest: Manifest) -> None:
    if min(manifest.height, manifest.width) < LEAST_SIDE:
        size = f"{manifest.width} x {manifest.height}"
        raise DataError("images", f"need sides of at least {LEAST_SIDE} pixels to tell people apart", size)
    if len(manifest.scans()) > MOST_SCANS:
        raise DataError(
            "scans", f"are too many to compare each with each; at most {MOST_SCANS}", len(manifest.scans())
        )


def _spread(manifest: Manifest, scan: int) -> list[SliceEntry]:
    """At most ``MOST_SLICES`` slices of a scan in their order along the body."""
    entries = sorted((one for one in manifest.slices if one.scan == scan), key=lambda one: one.slice)
    chosen = np.unique(np.rint(np.linspace(0, len(entries) - 1, MOST_SLICES)).astype(int))
    return [entries[place] for place in chosen]


# ---- one slice -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Described:
    """``numbers`` of the slices and their small pictures, float32 ``[n, SIDE * SIDE]`` of mean 0 and length 1."""

    numbers: Sequence[int]
    pictures: Floats


def _describe_scan(bundle: zipfile.ZipFile, entries: list[SliceEntry], between: Callable[[], None]) -> _Described:
    return _Described([one.slice for one in entries], np.stack(list(_described(bundle, entries, between))))


def _described(bundle: zipfile.ZipFile, entries: list[SliceEntry], between: Callable[[], None]) -> Iterator[Floats]:
    for entry in entries:
        between()
        yield describe(image_of(bundle, entry))


def describe(image: NDArray[np.uint8]) -> Floats:
    """What is bright in a slice: uint8 ``[H, W]`` -> float32 ``[SIDE * SIDE]`` of mean 0 and length 1 (or all 0)."""
    from PIL import Image
    from scipy import ndimage

    body = _body(_reduce(image))
    height = min(SIDE, max(1, round(body.shape[0] * SIDE / body.shape[1])))
    bright = Image.fromarray(np.maximum(body, BRIGHT) - np.uint8(BRIGHT))
    picture = np.zeros((SIDE, SIDE), np.float32)
    picture[SIDE - height :] = np.asarray(bright.resize((SIDE, height), Image.Resampling.BOX))
    banded = ndimage.gaussian_filter(picture, FINE) - ndimage.gaussian_filter(picture, COARSE)
    centred = (banded - banded.mean()).ravel()
    unit: Floats = centred / max(float(np.linalg.norm(centred)), 1e-6)
    return unit


def _reduce(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A large picture at a side of 256 to 511 pixels: means of square blocks."""
    step = max(1, min(image.shape) // 256)
    height, width = image.shape[0] // step, image.shape[1] // step
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    reduced: NDArray[np.uint8] = blocks.mean((1, 3)).astype(np.uint8)
    return reduced


def _body(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture cut to its largest connected part, which leaves out the table."""
    from scipy import ndimage

    parts, count = ndimage.label(ndimage.binary_opening(image > BODY, iterations=max(1, image.shape[0] // 128)))
    if not count:
        return image
    largest = int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(image[ndimage.find_objects(parts)[largest]])


# ---- two scans -----------------------------------------------------------------------------------------------------


def _compare(first: int, second: int, seen: dict[int, _Described]) -> Likeness:
    a, b = seen[first], seen[second]
    correlation = a.pictures @ b.pictures.T
    score, rows, columns = _best_alignment(correlation)
    best = int(np.argmax(correlation[rows, columns]))
    slices = (a.numbers[rows[best]], b.numbers[columns[best]])
    return Likeness((first, second), float(score - correlation.mean()), slices)


def _best_alignment(correlation: Floats) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
    """Mean along the best straight line through ``[n, m]``, and the rows and columns that it meets."""
    places, lines = _lines()
    met = ~np.isnan(lines)
    rows = np.broadcast_to(np.rint(places * (correlation.shape[0] - 1)).astype(int), lines.shape)
    columns = np.rint(np.nan_to_num(lines) * (correlation.shape[1] - 1)).astype(int)
    means = (correlation[rows, columns] * met).sum(1) / met.sum(1)
    best = int(np.argmax(means))
    return float(means[best]), rows[best][met[best]], columns[best][met[best]]


def _lines() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places 0..1 along one scan ``[STEPS]``, and along the other for every line; NaN where it has no slice."""
    places = np.linspace(0, 1, STEPS)
    spacing, offset = (values.reshape(-1, 1) for values in np.meshgrid(SPACINGS, OFFSETS))
    lines = 0.5 + spacing * (places - 0.5) + offset
    lines = np.where((lines >= 0) & (lines <= 1), lines, np.nan)
    return places, lines[(~np.isnan(lines)).sum(1) * 2 >= STEPS]


# ---- what is kept of it --------------------------------------------------------------------------------------------


def to_json(pairs: Sequence[Likeness]) -> dict[str, Any]:
    """What the ledger keeps: the flagged pairs, and the highest score below, which shows the margin."""
    flagged = [pair for pair in pairs if pair.score > THRESHOLD]
    return {
        "threshold": THRESHOLD,
        "compared": len(pairs),
        "pairs": [asdict(pair) for pair in flagged],
        "next": asdict(pairs[len(flagged)]) if len(flagged) < len(pairs) else None,
    }
