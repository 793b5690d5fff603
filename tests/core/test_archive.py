"""Packing a data set and checking an untrusted one."""

import io
import json
import os
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liverseg_core.data import zips
from liverseg_core.data.annotations import Acquisition, parse_acquisitions, parse_subjects
from liverseg_core.data.archive import pack_folder, read_archive, rewrite_archive, write_archive
from liverseg_core.data.png import read_labels, write_png
from liverseg_core.errors import DataError

IMAGE = write_png(np.full((2, 3), 80, np.uint8))
MASK = write_png(np.array([[0, 127, 255], [0, 0, 127]], np.uint8))
WIDE = write_png(np.zeros((2, 4), np.uint8))


def pair(part: str, key: str) -> dict[str, bytes]:
    return {f"{part}/images/{key}.png": IMAGE, f"{part}/masks/{key}.png": MASK}


def good() -> dict[str, bytes]:
    return pair("train", "0_46") | pair("train", "0_5") | pair("val", "1_7")


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return path


# ---- packing -------------------------------------------------------------------------------------------------


def test_a_folder_packed_and_read(tmp_path):
    folder = write_folder(tmp_path / "data", good() | {"README.md": b"hello", "notes/x.txt": b""})
    pack_folder(folder, tmp_path / "data.zip")
    seen = []
    manifest = read_archive(tmp_path / "data.zip", lambda *done: seen.append(done))
    assert (manifest.height, manifest.width) == (2, 3)
    assert [(one.part, one.scan, one.slice) for one in manifest.slices] == [
        ("train", 0, 46),
        ("train", 0, 5),
        ("val", 1, 7),
    ]
    assert (manifest.subjects, manifest.subjects_assumed) == ({0: "0", 1: "1"}, True)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_packing_twice_gives_the_same_bytes_and_stores_plainly(tmp_path):
    folder = write_folder(tmp_path / "data", good())
    pack_folder(folder, tmp_path / "a.zip")
    for path in folder.rglob("*.png"):
        os.utime(path, (0, 0))
    pack_folder(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert {info.compress_type for info in bundle.infolist()} == {zipfile.ZIP_STORED}


def test_recompressing_a_picture_keeps_the_content_hash(tmp_path):
    other = io.BytesIO()
    Image.new("RGB", (3, 2), (80, 80, 80)).save(other, "PNG", compress_level=0)
    first = read_archive(write_zip(tmp_path / "a.zip", good()))
    second = read_archive(write_zip(tmp_path / "b.zip", good() | {"val/images/1_7.png": other.getvalue()}))
    assert first.content_hash == second.content_hash


def test_the_order_inside_the_zip_does_not_matter(tmp_path):
    first = read_archive(write_zip(tmp_path / "a.zip", good()))
    second = read_archive(write_zip(tmp_path / "b.zip", dict(reversed(good().items()))))
    assert first == second


def test_packing_takes_leading_zeros_off(tmp_path):
    folder = write_folder(tmp_path / "data", good() | pair("val", "001_008"))
    pack_folder(folder, tmp_path / "data.zip")
    assert read_archive(tmp_path / "data.zip").slices[-1].key == "1_8"


def test_test_part_is_optional_and_kept(tmp_path):
    folder = write_folder(tmp_path / "data", good() | pair("test", "2_1"))
    pack_folder(folder, tmp_path / "data.zip")
    assert read_archive(tmp_path / "data.zip").parts == ("train", "val", "test")


def test_subjects_of_the_folder_and_of_a_file(tmp_path):
    folder = write_folder(
        tmp_path / "data", good() | {"subjects.json": b'{"note": "", "subjects": {"0": "A", "1": "B"}}'}
    )
    pack_folder(folder, tmp_path / "data.zip")
    manifest = read_archive(tmp_path / "data.zip")
    assert (manifest.subjects, manifest.subjects_assumed) == ({0: "A", 1: "B"}, False)
    (tmp_path / "mine.json").write_text('{"1": "C", "0": "C"}')
    pack_folder(folder, tmp_path / "data.zip", subjects=tmp_path / "mine.json")
    assert read_archive(tmp_path / "data.zip").subjects == {0: "C", 1: "C"}


def test_directory_entries_and_deflate_of_ordinary_tools_are_fine(tmp_path):
    folders = dict.fromkeys(("train/", "train/images/", "val/"), b"")
    path = write_zip(tmp_path / "a.zip", folders | good(), zipfile.ZIP_DEFLATED)
    assert len(read_archive(path).slices) == 3


FOLDER_PROBLEMS = {
    "no val": (lambda root: shutil.rmtree(root / "val"), "val", "is missing"),
    "no train": (lambda root: shutil.rmtree(root / "train"), "train", "is missing"),
    "no masks": (lambda root: shutil.rmtree(root / "val/masks"), "val/masks", "is missing"),
    "test without images": (lambda root: (root / "test/masks").mkdir(parents=True), "test/images", "is missing"),
    "a mask is missing": (lambda root: (root / "val/masks/1_7.png").unlink(), "val/images/1_7.png", "no partner"),
    "an image is missing": (lambda root: (root / "val/images/1_7.png").unlink(), "val/masks/1_7.png", "no partner"),
    "another name": (lambda root: (root / "val/images/a.png").touch(), "val/images/a.png", "SCAN_SLICE"),
    "another format": (lambda root: (root / "val/images/1_8.jpg").touch(), "val/images/1_8.jpg", "SCAN_SLICE"),
    "hidden file": (lambda root: (root / "val/images/.DS_Store").touch(), "val/images/.DS_Store", "SCAN_SLICE"),
    "digits of another script": (
        lambda root: (root / "val/images/\u0661_\u0662.png").touch(),
        "val/images/\u0661_\u0662.png",
        "SCAN_SLICE",
    ),
    "line end in a name": (
        lambda root: (root / "val/images/1_9.png\n").touch(),
        "val/images/1_9.png\n",
        "SCAN_SLICE",
    ),
    "linked file": (
        lambda root: (
            (root / "val/images/1_7.png").unlink() or (root / "val/images/1_7.png").symlink_to("/etc/passwd")
        ),
        "val/images/1_7.png",
        "symbolic link",
    ),
    "linked part": (
        lambda root: (root / "val").rename(root / "other") and (root / "val").symlink_to("other"),
        "val",
        "symbolic link",
    ),
    "linked images": (
        lambda root: (root / "val/images").rename(root / "o") and (root / "val/images").symlink_to(root / "o"),
        "val/images",
        "symbolic link",
    ),
    "dangling test": (lambda root: (root / "test").symlink_to("nowhere"), "test", "symbolic link"),
    "linked subjects": (
        lambda root: (root / "subjects.json").symlink_to("/proc/self/environ"),
        "subjects.json",
        "symbolic link",
    ),
    "a pipe": (
        lambda root: (root / "val/images/1_7.png").unlink() or os.mkfifo(root / "val/images/1_7.png"),
        "val/images/1_7.png",
        "no plain file",
    ),
    "a folder for a file": (
        lambda root: (root / "val/images/1_7.png").unlink() or (root / "val/images/1_7.png").mkdir(),
        "val/images/1_7.png",
        "no plain file",
    ),
    "one slice twice": (
        lambda root: shutil.copy(root / "val/images/1_7.png", root / "val/images/1_007.png"),
        "val/images/1_7.png",
        "same slice as val/images/1_007.png",
    ),
    "one scan in two parts": (
        lambda root: write_folder(root, pair("val", "0_1")),
        "val",
        "scan 0 lies in train too",
    ),
    "no slices in val": (
        lambda root: [path.unlink() for path in (root / "val").rglob("*.png")],
        "val",
        "holds no slices",
    ),
}


@pytest.mark.parametrize(("spoil", "path", "words"), FOLDER_PROBLEMS.values(), ids=FOLDER_PROBLEMS)
def test_a_bad_folder_is_refused_and_nothing_is_written(tmp_path, spoil, path, words):
    root = write_folder(tmp_path / "data", good())
    spoil(root)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=words) as caught:
        pack_folder(root, tmp_path / "out" / "data.zip")
    assert caught.value.path == path
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        pack_folder(tmp_path / "nowhere", tmp_path / "data.zip")


# ---- untrusted zips ------------------------------------------------------------------------------------------


def without(name: str) -> dict[str, bytes]:
    return {other: data for other, data in good().items() if other != name}


CONTENT_PROBLEMS = {
    "nothing": ({}, "train", "holds no slices"),
    "no val": (pair("train", "0_1"), "val", "holds no slices"),
    "no mask": (without("val/masks/1_7.png"), "val/images/1_7.png", "no partner"),
    "no image": (without("val/images/1_7.png"), "val/masks/1_7.png", "no partner"),
    "absolute": (good() | {"/etc/passwd": b""}, "/etc/passwd", "no safe name"),
    "dots": (good() | {"../../evil.png": b""}, "../../evil.png", "no safe name"),
    "dots inside": (good() | {"val/images/../../1_1.png": b""}, "val/images/../../1_1.png", "no safe name"),
    "backslash": (good() | {"val\\images\\1_8.png": b""}, "val\\images\\1_8.png", "no safe name"),
    "drive": (good() | {"C:/1_8.png": b""}, "C:/1_8.png", "no safe name"),
    "unexpected": (good() | {"README.md": b""}, "README.md", "does not belong"),
    "folder around it": ({f"data/{name}": data for name, data in good().items()}, None, "does not belong"),
    "deeper": (good() | {"val/images/more/1_8.png": b""}, "val/images/more/1_8.png", "does not belong"),
    "other part": (good() | {"holdout/images/1_8.png": b""}, "holdout/images/1_8.png", "does not belong"),
    "other name": (good() | {"val/images/x.png": b""}, "val/images/x.png", "SCAN_SLICE"),
    "too long a number": (good() | {"val/images/1_1234567890.png": b""}, "val/images/1_1234567890.png", "SCAN_SLICE"),
    "one slice twice": (
        pair("train", "0_46") | pair("train", "0_046") | pair("val", "1_7"),
        "train/images/0_46.png",
        "same slice as train/images/0_046.png",
    ),
    "leading zeros": (good() | pair("val", "1_08"), "val/images/1_08.png", "leading zeros"),
    "one scan in two parts": (good() | pair("val", "0_9"), "val", "scan 0 lies in train too"),
    "mask of another size": (good() | {"val/masks/1_7.png": WIDE}, "val/masks/1_7.png", "one size.*2 x 4"),
    "pair of another size": (
        good() | {"val/masks/1_7.png": WIDE, "val/images/1_7.png": WIDE},
        "val/images/1_7.png",
        "one size",
    ),
    "mask value 128": (
        good() | {"val/masks/1_7.png": write_png(np.full((2, 3), 128, np.uint8))},
        "val/masks/1_7.png",
        "128",
    ),
    "truncated picture": (good() | {"val/images/1_7.png": IMAGE[:-20]}, "val/images/1_7.png", "cut short"),
    "empty picture": (good() | {"val/images/1_7.png": b""}, "val/images/1_7.png", "0 bytes"),
    "no picture": (good() | {"val/images/1_7.png": b"GIF89a"}, "val/images/1_7.png", "no PNG"),
    "unknown subject scan": (
        good() | {"subjects.json": b'{"0": "A", "1": "B", "8": "C"}'},
        "subjects.json",
        r"does not have.*\[8\]",
    ),
    "scan without subject": (good() | {"subjects.json": b'{"0": "A"}'}, "subjects.json", r"leaves out scans \[1\]"),
    "broken subjects": (good() | {"subjects.json": b"{"}, "subjects.json", "no valid JSON"),
}


@pytest.mark.parametrize(("files", "path", "words"), CONTENT_PROBLEMS.values(), ids=CONTENT_PROBLEMS)
def test_a_bad_archive_is_refused_by_name(tmp_path, files, path, words):
    with pytest.raises(DataError, match=words) as caught:
        read_archive(write_zip(tmp_path / "up.zip", files))
    assert path is None or caught.value.path == path


def special_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    path = write_zip(tmp_path / "up.zip", without("val/images/1_7.png"))
    with zipfile.ZipFile(path, "a") as bundle:
        bundle.writestr(special_entry("val/images/1_7.png", mode | 0o777), "/etc/passwd")
    with pytest.raises(DataError, match="link or special file"):
        read_archive(path)


def test_a_name_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "up.zip", good())
    with zipfile.ZipFile(path, "a") as bundle, pytest.warns(UserWarning, match="Duplicate"):
        bundle.writestr("val/images/1_7.png", IMAGE)
    with pytest.raises(DataError, match="in the archive twice"):
        read_archive(path)


def test_a_null_byte_in_a_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "up.zip", good() | {"val/images/1_8.pngX.exe": IMAGE})
    path.write_bytes(path.read_bytes().replace(b"1_8.pngX.exe", b"1_8.png\0.exe"))
    with pytest.raises(DataError, match="null bytes"):
        read_archive(path)


def test_an_encrypted_entry_is_refused(tmp_path):
    path = write_zip(tmp_path / "up.zip", good())
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        read_archive(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression):
    with pytest.raises(DataError, match="unknown way"):
        read_archive(write_zip(tmp_path / "up.zip", good(), compression))


def test_a_deflate_bomb_is_refused_by_what_it_declares(tmp_path):
    bomb = good() | {"val/images/1_7.png": bytes(65 * 2**20)}
    path = write_zip(tmp_path / "up.zip", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="larger than"):
        read_archive(path)


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "up.zip", good() | {"val/images/1_7.png": bytes(65 * 2**20)}, zipfile.ZIP_DEFLATED)
    lie = path.read_bytes().replace(struct.pack("<L", 65 * 2**20), struct.pack("<L", len(IMAGE)))
    path.write_bytes(lie)
    with pytest.raises(DataError, match=r"val/images/1_7.png"):
        read_archive(path)


@pytest.mark.parametrize(
    ("cap", "words"), [("MAX_ENTRIES", "too many files"), ("MAX_TOTAL_BYTES", "unpacks to more")]
)
def test_caps_over_the_whole_archive(tmp_path, monkeypatch, cap, words):
    monkeypatch.setattr(zips, cap, 5)
    with pytest.raises(DataError, match=words):
        read_archive(write_zip(tmp_path / "up.zip", good()))


def test_a_table_of_contents_too_large_for_memory_is_refused_unread(tmp_path):
    path = write_zip(tmp_path / "up.zip", good())
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, len(data) - 22 + 12, 2**31)
    path.write_bytes(data)
    with pytest.raises(DataError, match="lists too many files"):
        read_archive(path)


def test_a_large_archive_with_64_bit_fields_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)  # zipfile then writes its 64-bit records
    path = write_zip(tmp_path / "up.zip", good())
    assert b"PK\x06\x06" in path.read_bytes()
    assert len(read_archive(path).slices) == 3


@pytest.mark.parametrize("keep", [0, 1, 21, 100, 400])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    path = write_zip(tmp_path / "up.zip", good())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="no zip archive"):
        read_archive(path)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path):
    path = write_zip(tmp_path / "up.zip", pair("train", "0_1") | pair("val", "1_1"), zipfile.ZIP_DEFLATED)
    whole, manifest = path.read_bytes(), read_archive(path)
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            assert {one.image_sha256 for one in read_archive(path).slices} == {manifest.slices[0].image_sha256}
        except DataError:
            refused += 1
    assert refused > 100


def test_a_failed_write_leaves_the_old_archive(tmp_path):
    out = write_zip(tmp_path / "data.zip", good())
    before = out.read_bytes()

    def breaks():
        yield "val/images/1_7.png", IMAGE
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_archive(out, breaks())
    assert [path.name for path in tmp_path.iterdir()] == ["data.zip"]
    assert out.read_bytes() == before


# ---- subjects ------------------------------------------------------------------------------------------------


def test_both_forms_of_subjects_and_their_order():
    assert list(parse_subjects(b'{"10": "F", "2": "B"}', "s").items()) == [(2, "B"), (10, "F")]
    assert parse_subjects(b'{"note": "x", "subjects": {"0": "A"}}', "s") == {0: "A"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("\xff", "no valid JSON"),
        ("[]", "must map scans"),
        ("3", "must map scans"),
        ('{"subjects": []}', "a scan is a number"),
        ('{"a": "A"}', "a scan is a number"),
        ('{"00": "A"}', "a scan is a number"),
        ('{"-1": "A"}', "a scan is a number"),
        ('{"0": "A", "0": "B"}', "appears twice"),
        ('{"0": ""}', "1 to 100"),
        ('{"0": "  "}', "1 to 100"),
        ('{"0": 7}', "1 to 100"),
        ('{"0": null}', "1 to 100"),
        (json.dumps({"0": "x" * 101}), "1 to 100"),
    ],
)
def test_bad_subjects(text, words):
    with pytest.raises(DataError, match=words):
        parse_subjects(text.encode("latin-1"), "subjects.json")


# ---- the study -----------------------------------------------------------------------------------------------

LESION_SLICES = {0: 16, 1: 17, 2: 29, 3: 15, 4: 237, 5: 11, 6: 92, 7: 83, 8: 81, 9: 80, 10: 81}
SLICES = {0: 28, 1: 27, 2: 130, 3: 164, 4: 240, 5: 162, 6: 174, 7: 167, 8: 167, 9: 162, 10: 171}


@pytest.mark.study
def test_the_studys_slices(study, tmp_path):
    pack_folder(study / "liver_ct", tmp_path / "study.zip")
    manifest = read_archive(tmp_path / "study.zip")
    count = {part: sum(one.part == part for one in manifest.slices) for part in manifest.parts}
    assert count == {"train": 1092, "val": 500}
    assert (manifest.height, manifest.width) == (512, 512)
    assert len(set(manifest.subjects.values())) == 6
    found, with_lesion = dict.fromkeys(SLICES, 0), dict.fromkeys(SLICES, 0)
    with zipfile.ZipFile(tmp_path / "study.zip") as bundle:
        for one in manifest.slices:
            labels = read_labels(bundle.read(one.mask_path), one.mask_path)
            assert labels.any()
            found[one.scan] += 1
            with_lesion[one.scan] += bool((labels == 2).any())
    assert (found, with_lesion) == (SLICES, LESION_SLICES)


# ---- what is kept --------------------------------------------------------------------------------------------


def told_everywhere(path: Path, subjects: bytes) -> Path:
    """A zip whose pictures, entries and subjects tell more than they should."""
    text = b"Comment\0Mustermann"
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in {**good(), "subjects.json": subjects}.items():
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = b"Mustermann", struct.pack("<HH", 0xCAFE, 10) + b"Mustermann"
            bundle.writestr(info, data if name == "subjects.json" else data[:33] + chunk + data[33:])
    return path


def test_a_rewritten_archive_is_the_same_data_set_and_tells_nothing_else(tmp_path):
    told = told_everywhere(tmp_path / "told.zip", b'{"subjects": {"0": "A", "1": "B"}, "patient": "Mustermann"}')
    assert b"Mustermann" in told.read_bytes()
    rewrite_archive(told, tmp_path / "kept.zip")
    assert b"Mustermann" not in (tmp_path / "kept.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "kept.zip").read("val/masks/1_7.png") == MASK
    assert read_archive(tmp_path / "kept.zip") == read_archive(told)


def test_what_was_packed_here_is_rewritten_to_the_same_bytes(tmp_path):
    (write_folder(tmp_path / "data", good()) / "subjects.json").write_text('{"0": "A", "1": "B"}')
    pack_folder(tmp_path / "data", tmp_path / "packed.zip")
    rewrite_archive(tmp_path / "packed.zip", tmp_path / "kept.zip")
    assert (tmp_path / "kept.zip").read_bytes() == (tmp_path / "packed.zip").read_bytes()


# ---- how scans were taken ------------------------------------------------------------------------------------

TAKEN = b'{"acquisitions": {"0": {"spacing": [0.7, 0.8, 5], "window": [50, 400]}, "1": {"spacing": [1, 1, 2.5]}}}'


def test_spacing_and_window_are_read_and_kept(tmp_path):
    folder = write_folder(tmp_path / "data", good() | {"acquisitions.json": TAKEN})
    pack_folder(folder, tmp_path / "a.zip")
    rewrite_archive(tmp_path / "a.zip", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    expected = {0: Acquisition((0.7, 0.8, 5.0), (50.0, 400.0)), 1: Acquisition((1.0, 1.0, 2.5))}
    assert read_archive(tmp_path / "b.zip").acquisitions == expected


def test_nothing_beside_spacing_and_window_gets_in(tmp_path):
    named = TAKEN.replace(b'"window"', b'"patient": "Erika", "window"')
    with pytest.raises(DataError, match=r"spacing, window .* and nothing else") as caught:
        read_archive(write_zip(tmp_path / "a.zip", good() | {"acquisitions.json": named}))
    assert "Erika" not in str(caught.value)
    with pytest.raises(DataError, match="leaves out scans"):
        read_archive(write_zip(tmp_path / "a.zip", good() | {"acquisitions.json": b'{"0": {"spacing": [1, 1, 1]}}'}))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"0": 1}',
        '{"0": {}}',
        '{"0": {"window": [1, 2]}}',
        '{"0": {"spacing": [1, 1]}}',
        '{"0": {"spacing": [1, 1, 0]}}',
        '{"0": {"spacing": [1, 1, 101]}}',
        '{"0": {"spacing": [1, 1, true]}}',
        '{"0": {"spacing": [1, 1, NaN]}}',
        '{"0": {"spacing": [1, 1, 1e999]}}',
        '{"0": {"spacing": [1, 1, 1' + 400 * "0" + "]}}",
        '{"0": {"spacing": [1, 1, "1"]}}',
        '{"0": {"spacing": {"0": 1}}}',
        '{"0": {"spacing": [1, 1, 1], "window": null}}',
        '{"0": {"spacing": [1, 1, 1], "window": [50, 0]}}',
        '{"0": {"spacing": [1, 1, 1], "window": [50, 1e6]}}',
        '{"00": {"spacing": [1, 1, 1]}}',
        '{"0": {"spacing": [1, 1, 1]}, "0": {"spacing": [1, 1, 1]}}',
    ],
)
def test_acquisitions_that_cannot_be(text):
    with pytest.raises(DataError, match=r"acquisitions\.json"):
        parse_acquisitions(text.encode(), "acquisitions.json")
