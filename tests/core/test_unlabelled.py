"""Slices without masks: what is packed, what is read, what is refused."""

import zipfile

import numpy as np
import pytest

from liverseg_core.data import unlabelled
from liverseg_core.data.png import write_png
from liverseg_core.data.unlabelled import pack_slices, read_resized, read_slices
from liverseg_core.errors import DataError


def picture(value: int = 7, shape=(4, 6)) -> bytes:
    return write_png(np.full(shape, value, np.uint8))


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return path


def test_a_folder_is_packed_without_leading_zeros_and_remembers_the_files_own_names(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("8_012.png", "8_9.png", "10_1.png"):
        (folder / name).write_bytes(picture())
    names = pack_slices(folder, tmp_path / "a.zip")
    assert names == {"10_1.png": "10_1.png", "8_12.png": "8_012.png", "8_9.png": "8_9.png"}
    found = read_slices(tmp_path / "a.zip")
    assert (found.height, found.width, found.parts) == (4, 6, ("test",))
    assert [entry.key for entry in found.slices] == ["10_1", "8_12", "8_9"]
    pack_slices(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is empty"),
        (["1_2.png", "1_02.png"], "same slice"),
        (["1_2.png", "notes.txt"], "must be named"),
        (["-1_2.png"], "must be named"),
    ],
)
def test_folders_that_are_refused(tmp_path, names, words):
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(picture())
    with pytest.raises(DataError, match=words):
        pack_slices(tmp_path / "in", tmp_path / "out.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(picture())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1_1.png").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="symbolic link"):
        pack_slices(tmp_path / "in", tmp_path / "out.zip")


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({}, "up.zip", "holds no slices"),
        ({"a/1_1.png": picture()}, "a/1_1.png", "in no folder"),
        ({"../1_1.png": picture()}, "../1_1.png", "no safe name"),
        ({"/1_1.png": picture()}, "/1_1.png", "no safe name"),
        ({"1_01.png": picture()}, "1_01.png", "leading zeros"),
        ({"1_1.png": picture(), "subjects.json": b"{}"}, "subjects.json", "must be named"),
        ({"1_1.png": b"GIF89a"}, "1_1.png", "no PNG"),
        ({"1_1.png": picture(), "1_2.png": picture(shape=(6, 4))}, "1_2.png", "one size"),
        ({"1_1.png": bytes(65 * 2**20)}, "1_1.png", "larger than"),
    ],
)
def test_zips_that_are_refused(tmp_path, files, path, words):
    with pytest.raises(DataError, match=words) as caught:
        read_slices(zipped(tmp_path / "up.zip", files))
    assert caught.value.path == path


def test_no_zip_is_refused(tmp_path):
    (tmp_path / "up.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="no zip archive"):
        read_slices(tmp_path / "up.zip")


def test_a_network_sees_them_as_it_sees_those_of_a_data_set(tiny, tmp_path):
    """The phantom's own pictures, read both ways."""
    import shutil

    from liverseg_core.phantom import draw_phantom

    manifest, cache = tiny
    draw_phantom(tmp_path / "drawn", subjects=4, slices=6, size=40, seed=3)
    (tmp_path / "flat").mkdir()
    for path in (tmp_path / "drawn").glob("*/images/*.png"):
        shutil.copy(path, tmp_path / "flat" / path.name)
    pack_slices(tmp_path / "flat", tmp_path / "flat.zip")
    found = read_slices(tmp_path / "flat.zip")
    read = read_resized(tmp_path / "flat.zip", found, 32, tmp_path / "images.npy", lambda: None)
    mine = {entry.key: image for entry, image in zip(found.slices, read.images, strict=True)}
    assert len(mine) == len(manifest.slices) == 24
    for entry, image in zip(manifest.slices, cache.images, strict=True):
        assert np.array_equal(mine[entry.key], image)


def test_more_pixels_than_memory_holds_are_refused_by_their_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "MAX_SCAN_PIXELS", 32 * 32)
    with zipfile.ZipFile(tmp_path / "slices.zip", "w") as bundle:
        for number in (1, 2):
            bundle.writestr(f"3_{number}.png", write_png(np.zeros((32, 32), np.uint8)))
    with pytest.raises(DataError, match="scan 3 holds more than 1,024 pixels"):
        unlabelled.read_slices(tmp_path / "slices.zip")
