"""The synthetic abdomen."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.png import read_image, read_labels
from liverseg_core.errors import InputError
from liverseg_core.phantom import draw_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """Eight subjects of 8 slices, 64 x 64."""
    folder = tmp_path_factory.mktemp("drawn") / "phantom"
    draw_phantom(folder, slices=8, size=64)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def volume(folder: Path, scan: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey values and labels of one scan, each ``[slices, H, W]``."""
    paths = sorted(folder.glob(f"*/images/{scan}_*.png"), key=lambda path: int(path.stem.split("_")[1]))
    images = [read_image(path.read_bytes(), path.name) for path in paths]
    masks = [path.parent.parent / "masks" / path.name for path in paths]
    return np.stack(images), np.stack([read_labels(path.read_bytes(), path.name) for path in masks])


def test_is_a_valid_data_set_with_told_subjects(phantom, tmp_path):
    pack_folder(phantom, tmp_path / "p.zip")
    manifest = read_archive(tmp_path / "p.zip")
    assert (manifest.height, manifest.width, len(manifest.slices)) == (64, 64, 64)
    assert [len(manifest.scans(part)) for part in ("train", "val", "test")] == [5, 2, 1]
    assert not manifest.subjects_assumed
    assert len(set(manifest.subjects.values())) == 8


def test_the_same_arguments_give_the_same_bytes(phantom, tmp_path):
    draw_phantom(tmp_path / "again", slices=8, size=64)
    assert content(tmp_path / "again") == content(phantom)


def test_another_seed_gives_other_pictures(phantom, tmp_path):
    draw_phantom(tmp_path / "other", slices=8, size=64, seed=1)
    mine, other = content(phantom), content(tmp_path / "other")
    assert mine.keys() == other.keys()
    assert not any(mine[name] == other[name] for name in mine if "images" in name)


def test_every_slice_shows_liver_and_both_labels_are_in_train_and_val(phantom):
    labels = {scan: volume(phantom, scan)[1] for scan in range(8)}
    assert all((one > 0).any(axis=(1, 2)).all() for one in labels.values())
    assert not (labels[4] == 2).any()
    assert all((labels[scan] == 2).any() for scan in (0, 1, 2, 3, 5, 6, 7))


def test_sizes_are_those_of_a_body(phantom):
    for scan in range(8):
        images, labels = volume(phantom, scan)
        body = (images > 12).mean()
        assert 0.3 < body < 0.7  # an ellipse of 0.9 x 0.74 half-axes has 0.52, blur and table add
        assert 0.06 < (labels > 0).mean() < 0.2
        assert (labels == 2).sum() < 0.45 * (labels > 0).sum()


def test_grey_values_are_those_of_the_windowed_ct(phantom):
    for scan in range(8):
        images, labels = volume(phantom, scan)
        liver = images[labels == 1]
        assert 130 < np.median(liver) < 160
        assert 3 < liver.std() < 20
        if (labels == 2).any():
            assert np.median(images[labels == 2]) < np.median(liver) - 30
        assert images.max() > 220
        assert np.median(images[:, :4]) < 12


def test_liver_lies_on_the_patients_right_and_goes_on_from_slice_to_slice(phantom):
    for scan in range(8):
        liver = volume(phantom, scan)[1] > 0
        assert liver[..., :32].sum() > 1.5 * liver[..., 32:].sum()
        for lower, upper in itertools.pairwise(liver):
            assert (lower & upper).sum() > 0.5 * min(lower.sum(), upper.sum())


@pytest.mark.parametrize(("subjects", "parts"), [(2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (16, (10, 4, 2))])
def test_subjects_are_dealt_to_parts(tmp_path, subjects, parts):
    draw_phantom(tmp_path / "p", subjects=subjects, slices=4, size=32)
    found = [
        {path.name.split("_")[0] for path in tmp_path.glob(f"p/{part}/images/*")} for part in ("train", "val", "test")
    ]
    assert tuple(map(len, found)) == parts
    assert len(json.loads((tmp_path / "p/subjects.json").read_text())["subjects"]) == subjects


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"subjects": 1}, "subjects"),
        ({"subjects": 1001}, "subjects"),
        ({"slices": 3}, "slices"),
        ({"size": 31}, "size"),
        ({"size": 4096}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, arguments, path):
    with pytest.raises(InputError) as caught:
        draw_phantom(tmp_path / "p", **arguments)
    assert caught.value.path == path
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        draw_phantom(tmp_path, slices=4, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
