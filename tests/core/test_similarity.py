import json

import numpy as np
import pytest

from liverseg_core.data import similarity
from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.png import write_png
from liverseg_core.errors import DataError
from liverseg_core.phantom import draw_anatomy, draw_phantom, draw_slice


def write_scan(folder, part, scan, seed, size=128, slices=24, lesions=6, noise=0):
    """One drawn subject; ``seed`` is who it is, ``noise`` and ``lesions`` are the day of the scan."""
    drawn = draw_anatomy(np.random.default_rng(seed), lesions)
    for number in range(slices):
        random = np.random.default_rng([noise, number])
        picture, liver, _ = draw_slice(drawn, (number + 0.5) / slices, size, random)
        for kind, pixels in (("images", picture), ("masks", (127 * liver).astype(np.uint8))):
            place = folder / part / kind / f"{scan}_{number + 100 * scan}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(write_png(pixels))


def packed(folder):
    archive = folder.with_suffix(".zip")
    pack_folder(folder, archive)
    return archive, read_archive(archive)


def test_a_subject_drawn_twice_is_found_and_nobody_else(tmp_path):
    for scan, (part, seed) in enumerate([("train", 1), ("train", 2), ("train", 5), ("val", 2), ("val", 4)]):
        write_scan(tmp_path / "d", part, scan, seed, lesions=6 * (scan < 3), noise=scan)
    pairs = similarity.compare_scans(*packed(tmp_path / "d"))
    assert len(pairs) == 10
    assert [pair.scans for pair in pairs if pair.score > similarity.THRESHOLD] == [(1, 3)]
    assert [pair.score for pair in pairs] == sorted((pair.score for pair in pairs), reverse=True)
    a, b = pairs[0].slices
    assert abs((a - 100) - (b - 300)) <= 1  # the same place along the body


def test_what_is_kept_shows_the_margin():
    pairs = [similarity.Likeness((0, 1), 0.5, (3, 4)), similarity.Likeness((0, 2), 0.1, (5, 6))]
    kept = similarity.to_json(pairs)
    assert json.loads(json.dumps(kept)) == {
        "threshold": similarity.THRESHOLD,
        "compared": 2,
        "pairs": [{"scans": [0, 1], "score": 0.5, "slices": [3, 4]}],
        "next": {"scans": [0, 2], "score": 0.1, "slices": [5, 6]},
    }
    assert similarity.to_json(pairs[:1])["next"] is None
    assert similarity.to_json([])["pairs"] == []


def test_the_body_is_what_counts_not_where_it_lies():
    picture, _, _ = draw_slice(draw_anatomy(np.random.default_rng(1), 0), 0.5, 256, np.random.default_rng(0))
    picture[230:] = 0  # without the table
    aside = np.roll(picture, (9, -13), (0, 1))
    assert float(similarity.describe(picture) @ similarity.describe(aside)) > 0.98


@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_picture_is_like_nothing(value):
    described = similarity.describe(np.full((128, 128), value, np.uint8))
    assert np.isfinite(described).all()


def test_pictures_that_are_too_small_are_refused(tmp_path):
    draw_phantom(tmp_path / "d", subjects=2, slices=4, size=64)
    with pytest.raises(DataError, match="images: need sides of at least 96 pixels"):
        similarity.compare_scans(*packed(tmp_path / "d"))


def test_it_stops_when_asked(tmp_path):
    draw_phantom(tmp_path / "d", subjects=2, slices=4, size=96)

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        similarity.compare_scans(*packed(tmp_path / "d"), stop)


@pytest.mark.study
def test_the_study_shows_six_people(study, tmp_path):
    """``subjects.json`` says, from looking: {0, 1}, 2, 3, 4, 5, {6, 7, 8, 9, 10}."""
    archive = tmp_path / "study.zip"
    pack_folder(study / "liver_ct", archive)
    manifest = read_archive(archive)
    pairs = similarity.compare_scans(archive, manifest)
    found = {pair.scans for pair in pairs if pair.score > similarity.THRESHOLD}
    people = manifest.subjects
    assert found == {pair.scans for pair in pairs if people[pair.scans[0]] == people[pair.scans[1]]}
    assert len(found) == 11
    assert pairs[10].score > 0.30
    assert pairs[11].score < 0.20
