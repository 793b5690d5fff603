"""Slices without masks: packed by their owner, checked strictly by whoever receives them, resized for a network."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data import zips
from liverseg_core.data.cache import SliceCache, resize_bilinear
from liverseg_core.data.manifest import Manifest, SliceEntry, in_order
from liverseg_core.data.png import MAX_FILE_BYTES, plain_png, read_image
from liverseg_core.errors import DataError

PART = "test"
"""What unlabelled slices are called in a manifest."""

MAX_SCAN_PIXELS = 2**30
"""Of one scan, whose masks are in memory together: 4,096 slices of 512 x 512."""
MAX_PIXELS = 2**33
"""Of one upload: 32,768 slices of 512 x 512."""

_NAME = re.compile(r"([0-9]{1,9})_([0-9]{1,9})\.png")


def pack_slices(folder: Path, out: Path) -> dict[str, str]:
    """Pack a folder of SCAN_SLICE.png into one zip; the same files give the same bytes.

    Args:
        folder: holds nothing but slices.
        out: the zip; appears whole or not at all.

    Returns:
        Name inside the zip, without leading zeros -> the file's own name.

    Raises:
        DataError: no file, a name that is not SCAN_SLICE.png, one slice twice, a link or special file.
    """
    names: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        scan, number = _parse(path.name)
        inner = f"{scan}_{number}.png"
        if inner in names:
            raise DataError(path.name, f"is the same slice as {names[inner]}; keep one of them")
        names[inner] = path.name
    if not names:
        raise DataError(str(folder), "is empty; put slices named SCAN_SLICE.png there")
    zips.write(out, ((inner, zips.read_file(folder / own, own, MAX_FILE_BYTES)) for inner, own in names.items()))
    return names


def read_slices(path: Path) -> Manifest:
    """Check an untrusted zip of SCAN_SLICE.png, every pixel of it. One slice is in memory at a time.

    Returns:
        What it holds, all in part ``test``, without masks: their hashes are empty.

    Raises:
        DataError: the first thing that is wrong, by its name inside the zip.
    """
    with zips.opened(path) as bundle:
        names = sorted(zips.checked_names(bundle, _check_name))
        _refuse_too_many(bundle, names)
        if not names:
            raise DataError(path.name, "holds no slices; put SCAN_SLICE.png files at its top")
        images = ((name, read_image(zips.member(bundle, name, MAX_FILE_BYTES), name)) for name in names)
        shape, entries = _entries(images)
    subjects = {entry.scan: str(entry.scan) for entry in entries}
    return Manifest(shape[0], shape[1], in_order(entries), subjects, subjects_assumed=True)


def rewrite_slices(path: Path, out: Path) -> None:
    """The same slices and nothing else, as ``archive.rewrite_archive`` does it.

    Raises:
        DataError: as :func:`read_slices`, as far as names and files are concerned.
    """
    with zips.opened(path) as bundle:
        zips.checked_names(bundle, _check_name)
        names = bundle.namelist()
        zips.write(out, ((name, plain_png(zips.member(bundle, name, MAX_FILE_BYTES), name)) for name in names))


def read_resized(path: Path, manifest: Manifest, size: int, out: Path, between: Callable[[], None]) -> SliceCache:
    """The slices as a network sees them: resized and scaled as those it was trained on.

    Args:
        path: the zip that ``manifest`` tells of.
        manifest: as :func:`read_slices` gave it.
        size: side S of the network's input.
        out: file for the images, float32 ``[n, S, S]``, mapped, not held in memory.
        between: called between slices; may raise to stop.

    Returns:
        The images; masks and labels are empty, there are none.
    """
    images = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(len(manifest.slices), size, size))
    with zips.opened(path) as bundle:
        for index, entry in enumerate(manifest.slices):
            between()
            images[index] = resize_bilinear(_image(bundle, f"{entry.key}.png"), size) / np.float32(255)
    nothing = np.zeros((0, size, size))
    return SliceCache(images, nothing.astype(np.float32), nothing.astype(np.uint8))


def _refuse_too_many(bundle: ZipFile, names: Sequence[str]) -> None:
    """By the sizes that the headers promise, before a pixel is decoded: black slices pack to next to nothing."""
    scans: dict[int, int] = {}
    for name in names:
        scan = _parse(name)[0]
        scans[scan] = scans.get(scan, 0) + _pixels(bundle, name)
    for scan, pixels in scans.items():
        if pixels > MAX_SCAN_PIXELS:
            problem = f"scan {scan} holds more than {MAX_SCAN_PIXELS:,} pixels; split it or make it smaller"
            raise DataError("slices", problem, pixels)
    if sum(scans.values()) > MAX_PIXELS:
        raise DataError(
            "slices", f"hold more than {MAX_PIXELS:,} pixels in all; send fewer at once", sum(scans.values())
        )


def _pixels(bundle: ZipFile, name: str) -> int:
    """Pixels that a PNG's header promises; 0 where it is none, which the reader refuses in words."""
    head = zips.beginning(bundle, name, 24)
    return int.from_bytes(head[16:20]) * int.from_bytes(head[20:24]) if head[:4] == b"\x89PNG" else 0


def _image(bundle: ZipFile, name: str) -> NDArray[np.uint8]:
    return read_image(zips.member(bundle, name, MAX_FILE_BYTES), name)


def _entries(images: Iterator[tuple[str, NDArray[np.uint8]]]) -> tuple[tuple[int, int], list[SliceEntry]]:
    """Native (height, width) and the entries of all slices."""
    shapes: dict[tuple[int, ...], str] = {}
    entries = []
    for name, image in images:
        shapes.setdefault(image.shape, name)
        if len(shapes) > 1:
            height, width = next(iter(shapes))
            problem = f"every slice must have one size, so far {height} x {width} (height x width)"
            raise DataError(name, problem, f"{image.shape[0]} x {image.shape[1]}")
        entries.append(SliceEntry(PART, *_parse(name), hashlib.sha256(image.tobytes()).hexdigest(), ""))
    height, width = next(iter(shapes))
    return (height, width), entries


def _check_name(name: str) -> None:
    scan, number = _parse(name)
    if name != f"{scan}_{number}.png":
        raise DataError(name, f"has leading zeros; name it {scan}_{number}.png (`liverseg predict` does)")


def _parse(name: str) -> tuple[int, int]:
    """``8_12.png`` -> (8, 12)."""
    match = _NAME.fullmatch(name)
    if match is None:
        problem = (
            "must be named SCAN_SLICE.png, two whole numbers such as 8_12.png, in no folder; rename or remove it"
        )
        raise DataError(name, problem)
    return int(match[1]), int(match[2])
