"""A data set as one zip: packed from a folder by its owner, and checked strictly by whoever receives it.

Inside lie ``{train,val,test}/{images,masks}/{SCAN}_{SLICE}.png`` and, optionally, ``subjects.json`` and
``acquisitions.json``.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from liverseg_core.data import zips
from liverseg_core.data.annotations import (
    Acquisition,
    acquisitions_json,
    parse_acquisitions,
    parse_subjects,
    subjects_json,
)
from liverseg_core.data.manifest import PARTS, Manifest, SliceEntry, in_order
from liverseg_core.data.png import MAX_FILE_BYTES, plain_png, read_image, read_labels
from liverseg_core.errors import DataError

Progress = Callable[[int, int], None]

MAX_TOLD_BYTES = 2**20
SUBJECTS, ACQUISITIONS = "subjects.json", "acquisitions.json"
TOLD = (SUBJECTS, ACQUISITIONS)
KINDS = ("images", "masks")

_FILE_NAME = re.compile(r"([0-9]{1,9})_([0-9]{1,9})\.png")
_FOLDERS = {f"{part}/" for part in PARTS} | {f"{part}/{kind}/" for part in PARTS for kind in KINDS}

Pairs = dict[tuple[str, int, int], dict[str, str]]
"""(part, scan, slice) -> kind -> name; both kinds once it is complete."""


def pack_folder(folder: Path, out: Path, subjects: Path | None = None) -> None:
    """Pack a folder of PNG pairs into one zip; the same files give the same bytes.

    Only names are checked here; pixels are checked by :func:`read_archive`. Other files at the top, such as a
    README.md, are left out.

    Args:
        folder: holds ``train`` and ``val``, optionally ``test``, each with ``images`` and ``masks``.
        out: the zip; appears whole or not at all.
        subjects: scan -> subject as JSON; by default ``subjects.json`` of the folder, where there is one.

    Raises:
        DataError: a missing folder, a link or special file, a name that is not SCAN_SLICE.png, an incomplete pair,
            a ``subjects.json`` or ``acquisitions.json`` that cannot be read.
    """
    paths = {name: path for part in _folder_parts(folder) for name, path in _part_files(folder, part)}
    _pair_up(paths)
    sources = {name: folder / name for name in TOLD if (folder / name).exists()}
    sources |= {SUBJECTS: subjects} if subjects else {}
    told = {name: zips.read_file(path, name, MAX_TOLD_BYTES) for name, path in sources.items()}
    files = ((name, zips.read_file(path, name, MAX_FILE_BYTES)) for name, path in sorted(paths.items()))
    write_archive(out, ((_canonical(name), data) for name, data in files), *_parsed(told))


def write_archive(
    out: Path,
    files: Iterable[tuple[str, bytes]],
    subjects: dict[int, str] | None = None,
    acquisitions: Mapping[int, Acquisition] | None = None,
) -> None:
    """Write named PNG files and what is told of the scans as a stored zip, through a file beside ``out``."""

    def everything() -> Iterator[tuple[str, bytes]]:
        yield from files
        if subjects is not None:
            yield SUBJECTS, subjects_json(subjects).encode()
        if acquisitions:
            yield ACQUISITIONS, acquisitions_json(acquisitions).encode()

    zips.write(out, everything())


def read_archive(path: Path, progress: Progress | None = None) -> Manifest:
    """Check an untrusted zip, every pixel of it, and say what it holds. One slice is in memory at a time.

    Args:
        path: the zip; nothing is ever unpacked to disk.
        progress: called with (pairs done, all pairs).

    Raises:
        DataError: the first thing that is wrong, by its name inside the archive.
    """
    with zips.opened(path) as bundle:
        return _read(bundle, progress or _silent)


def rewrite_archive(path: Path, out: Path) -> None:
    """The same slices and subjects and nothing else: no text or camera data of a PNG, no remark of the zip.

    What :func:`pack_folder` packed out of plain PNGs comes out with the same bytes.

    Args:
        path: a zip that :func:`read_archive` takes.
        out: the new zip; appears whole or not at all.

    Raises:
        DataError: as :func:`read_archive`, as far as names and files are concerned.
    """
    with zips.opened(path) as bundle:
        known = zips.checked_names(bundle, _check_place) - _FOLDERS
        names = [name for name in bundle.namelist() if name in known and name not in TOLD]
        files = ((name, plain_png(zips.member(bundle, name, MAX_FILE_BYTES), name)) for name in names)
        write_archive(out, files, *_told(bundle, known))


# ---- the folder ----------------------------------------------------------------------------------------------


def _folder_parts(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(str(folder), "is no folder; give the one that holds train and val")
    for part in ("train", "val"):
        if not (folder / part).exists():
            raise DataError(part, f"is missing in {folder}; a data set needs train and val, test is optional")
    return [part for part in PARTS if os.path.lexists(folder / part)]


def _part_files(folder: Path, part: str) -> Iterator[tuple[str, Path]]:
    _check_plain_folder(folder / part, part)
    for kind in KINDS:
        inner = f"{part}/{kind}"
        _check_plain_folder(folder / inner, inner)
        for path in sorted((folder / inner).iterdir()):
            _parse_name(f"{inner}/{path.name}")
            yield f"{inner}/{path.name}", path


def _check_plain_folder(path: Path, name: str) -> None:
    if path.is_symlink():
        raise DataError(name, "is a symbolic link; put the folder itself there")
    if not path.is_dir():
        raise DataError(name, "is missing or no folder; each part needs images and masks")


# ---- names and pairs -----------------------------------------------------------------------------------------


def _parse_name(name: str) -> tuple[str, str, int, int]:
    """``val/masks/8_12.png`` -> (``val``, ``masks``, 8, 12)."""
    part, kind, file_name = name.split("/")
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise DataError(name, "must be named SCAN_SLICE.png, two whole numbers such as 8_12.png; rename or remove it")
    return part, kind, int(match[1]), int(match[2])


def _canonical(name: str) -> str:
    part, kind, scan, number = _parse_name(name)
    return f"{part}/{kind}/{scan}_{number}.png"


def _pair_up(names: Iterable[str]) -> Pairs:
    """Image and mask of every slice.

    Raises:
        DataError: one slice twice, an image or mask without its partner, an empty part, a scan in two parts.
    """
    pairs: Pairs = {}
    for name in sorted(names):
        part, kind, scan, number = _parse_name(name)
        pair = pairs.setdefault((part, scan, number), {})
        if kind in pair:
            raise DataError(name, f"is the same slice as {pair[kind]}; keep one of them")
        pair[kind] = name
    for pair in pairs.values():
        if len(pair) < 2:
            present, absent = ("images", "masks") if "images" in pair else ("masks", "images")
            name = pair[present]
            raise DataError(name, f"has no partner {name.replace(present, absent)}; add it or remove this one")
    _check_parts(pairs)
    return pairs


def _check_parts(pairs: Pairs) -> None:
    home: dict[int, str] = {}
    for part, scan, _ in pairs:
        if home.setdefault(scan, part) != part:
            raise DataError(part, f"scan {scan} lies in {home[scan]} too; a scan belongs to one part")
    for part in ("train", "val"):
        if part not in home.values():
            raise DataError(part, "holds no slices; a data set needs train and val, test is optional")


# ---- the archive ---------------------------------------------------------------------------------------------


def _read(bundle: zipfile.ZipFile, progress: Progress) -> Manifest:
    names = zips.checked_names(bundle, _check_place) - _FOLDERS
    pairs = _pair_up(name for name in names if name not in TOLD)
    _refuse_leading_zeros(pairs)
    scans = sorted({scan for _, scan, _ in pairs})
    subjects, acquisitions = _told(bundle, names)
    if subjects is not None:
        _check_scans(SUBJECTS, subjects, scans, "name the subject of every scan")
    if acquisitions is not None:
        _check_scans(ACQUISITIONS, acquisitions, scans, "tell the spacing of every scan")
    shape, entries = _read_pairs(bundle, pairs, progress)
    return Manifest(
        height=shape[0],
        width=shape[1],
        slices=in_order(entries),
        subjects=subjects if subjects is not None else {scan: str(scan) for scan in scans},
        subjects_assumed=subjects is None,
        acquisitions=acquisitions or {},
    )


def _told(
    bundle: zipfile.ZipFile, names: Iterable[str]
) -> tuple[dict[int, str] | None, dict[int, Acquisition] | None]:
    """Subjects and acquisitions of an archive that holds ``names``."""
    return _parsed({name: zips.member(bundle, name, MAX_TOLD_BYTES) for name in TOLD if name in names})


def _parsed(told: Mapping[str, bytes]) -> tuple[dict[int, str] | None, dict[int, Acquisition] | None]:
    """Subjects and acquisitions out of the files of ``TOLD`` that are there; None for one that is not."""
    return (
        parse_subjects(told[SUBJECTS], SUBJECTS) if SUBJECTS in told else None,
        parse_acquisitions(told[ACQUISITIONS], ACQUISITIONS) if ACQUISITIONS in told else None,
    )


def _read_pairs(
    bundle: zipfile.ZipFile, pairs: Pairs, progress: Progress
) -> tuple[tuple[int, int], list[SliceEntry]]:
    """Native (height, width) and the entries of all pairs."""
    first: tuple[int, ...] | None = None
    entries = []
    for done, ((part, scan, number), pair) in enumerate(sorted(pairs.items()), 1):
        image = read_image(zips.member(bundle, pair["images"], MAX_FILE_BYTES), pair["images"])
        labels = read_labels(zips.member(bundle, pair["masks"], MAX_FILE_BYTES), pair["masks"])
        for name, pixels in ((pair["images"], image), (pair["masks"], labels)):
            first = first or pixels.shape
            if pixels.shape != first:
                problem = f"every file must have one size, so far {first[0]} x {first[1]} (height x width)"
                raise DataError(name, problem, f"{pixels.shape[0]} x {pixels.shape[1]}")
        entries.append(SliceEntry(part, scan, number, _sha256(image), _sha256(labels)))
        progress(done, len(pairs))
    assert first is not None
    return (first[0], first[1]), entries


def _check_place(name: str) -> None:
    if name in TOLD or name in _FOLDERS:
        return
    if not any(name.startswith(folder) for folder in _FOLDERS if folder.count("/") == 2) or name.count("/") != 2:
        raise DataError(
            name,
            "does not belong here; only {train,val,test}/{images,masks}/SCAN_SLICE.png, subjects.json and "
            "acquisitions.json do",
        )
    _parse_name(name)


def _refuse_leading_zeros(pairs: Pairs) -> None:
    for (part, scan, number), pair in sorted(pairs.items()):
        for kind, name in pair.items():
            if name != f"{part}/{kind}/{scan}_{number}.png":
                raise DataError(name, f"has leading zeros; name it {scan}_{number}.png (`pack_folder` does)")


def _check_scans(name: str, told: Mapping[int, Any], scans: list[int], advice: str) -> None:
    unknown, missing = sorted(set(told) - set(scans)), sorted(set(scans) - set(told))
    if unknown:
        raise DataError(name, f"names scans that the data set does not have; it has {scans}", unknown)
    if missing:
        raise DataError(name, f"leaves out scans {missing}; {advice}")


def _sha256(pixels: Any) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
