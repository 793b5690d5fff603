"""The shared cache of decoded and resized slices."""

import fcntl
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.cache import built, open_built, open_cache, remove, resize_bilinear
from liverseg_core.data.png import read_image, read_labels
from liverseg_core.errors import DataError
from liverseg_core.phantom import draw_phantom


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A phantom of 3 x 4 slices, 32 x 32: its archive and manifest."""
    root = tmp_path_factory.mktemp("packed")
    draw_phantom(root / "phantom", subjects=3, slices=4, size=32)
    pack_folder(root / "phantom", root / "phantom.zip")
    return root / "phantom.zip", read_archive(root / "phantom.zip")


def test_resize_by_hand():
    # Halving is the mean of 2 x 2.
    assert resize_bilinear(np.array([[0, 4, 8, 8], [8, 12, 0, 0]] * 2, np.uint8), 2).tolist() == [[6, 4], [6, 4]]
    # 2 -> 4: places (i + .5) / 2 - .5 = -.25, .25, .75, 1.25, clamped to the ends: weights 0, 1/4, 3/4, 1.
    rows = resize_bilinear(np.array([[0, 100], [0, 100]], np.uint8), 4)
    assert rows.tolist() == [[0, 25, 75, 100]] * 4
    # 4 -> 3: places 1/6, 1.5, 2 + 5/6 on 0 6 12 18 = 1, 9, 17.
    assert resize_bilinear(np.array([[0, 6, 12, 18]] * 4), 3) == pytest.approx(np.array([[1, 9, 17]] * 3), abs=1e-5)
    # No antialiasing, 8 -> 2: places 1.5 and 5.5 see two pixels each, not four.
    assert resize_bilinear(np.array([[9, 0, 4, 9, 9, 0, 4, 9]] * 8), 2).tolist() == [[2, 2], [2, 2]]


def test_resize_to_the_same_size_changes_nothing():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    same = resize_bilinear(pixels, 4)
    assert same.dtype == np.float32
    assert np.array_equal(same, pixels)


def test_resize_keeps_leading_axes():
    stack = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7))
    assert np.array_equal(resize_bilinear(stack, 4)[1, 2], resize_bilinear(stack[1, 2], 4))


@pytest.mark.parametrize(("shape", "size"), [((512, 512), 256), ((64, 64), 48), ((33, 57), 40), ((20, 20), 64)])
def test_resize_equals_tensorflow(shape, size):
    tf = pytest.importorskip("tensorflow")
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    theirs = tf.image.resize(pixels[..., None], (size, size), method="bilinear", antialias=False).numpy()[..., 0]
    assert np.abs(resize_bilinear(pixels, size) - theirs).max() <= 1e-4  # of 255: 4e-7 of the range


def test_holds_every_slice_in_the_manifests_order(packed, tmp_path):
    archive, manifest = packed
    seen = []
    cache = open_cache(archive, manifest, 16, tmp_path, lambda *done: seen.append(done))
    assert cache.images.shape == cache.masks.shape == (12, 16, 16)
    assert (cache.images.dtype, cache.masks.dtype, cache.labels.dtype) == (np.float32, np.float32, np.uint8)
    assert seen == [(number, 12) for number in range(1, 13)]
    with zipfile.ZipFile(archive) as bundle:
        for index, entry in enumerate(manifest.slices):
            image = read_image(bundle.read(entry.image_path), "")
            mask = read_image(bundle.read(entry.mask_path), "")
            means = image.reshape(16, 2, 16, 2).mean((1, 3)) / 255, mask.reshape(16, 2, 16, 2).mean((1, 3)) / 255
            assert cache.images[index] == pytest.approx(means[0], abs=1e-7)
            assert cache.masks[index] == pytest.approx(means[1], abs=1e-7)
            assert np.array_equal(cache.labels[index], read_labels(bundle.read(entry.mask_path), ""))


def test_a_second_opening_reads_no_archive(packed, tmp_path):
    archive, manifest = packed
    first = open_cache(archive, manifest, 16, tmp_path)
    again = open_cache(tmp_path / "gone.zip", manifest, 16, tmp_path)
    assert np.array_equal(first.images, again.images)


def test_sizes_share_the_labels(packed, tmp_path):
    archive, manifest = packed
    open_cache(archive, manifest, 16, tmp_path)
    before = next(tmp_path.rglob("labels.npy")).stat().st_ino
    open_cache(archive, manifest, 32, tmp_path)
    assert [path.stat().st_ino for path in tmp_path.rglob("labels.npy")] == [before]


def test_maps_cannot_be_written(packed, tmp_path):
    cache = open_cache(*packed, 16, tmp_path)
    for array in (cache.images, cache.masks, cache.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["torn", "empty", "gone"])
def test_a_damaged_cache_is_built_again(packed, tmp_path, name, damage):
    expected = np.array(open_cache(*packed, 16, tmp_path).masks)
    path = next(tmp_path.rglob(name))
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "torn" else 0])
    assert np.array_equal(open_cache(*packed, 16, tmp_path).masks, expected)


def test_an_interrupted_build_leaves_nothing_that_is_used(packed, tmp_path):
    archive, manifest = packed

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(archive, manifest, 16, tmp_path, stop)
    assert list(tmp_path.rglob("*.npy")) == []
    assert open_cache(archive, manifest, 16, tmp_path).images.any(axis=(1, 2)).all()


OPEN_IN_ANOTHER_PROCESS = """
import os, signal, sys, time
from pathlib import Path
from liverseg_core.data.archive import read_archive
from liverseg_core.data.cache import open_cache
archive, root, die_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
built = 0
def progress(done, total):
    global built
    built = done
    time.sleep(0.02)
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
cache = open_cache(archive, read_archive(archive), 16, root, progress)
print(built, float(cache.images.sum()), float(cache.masks.sum()), int(cache.labels.sum()))
"""


def in_another_process(archive, root, die_at=-1) -> subprocess.Popen:
    command = [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, archive, root, str(die_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_swept_and_done_again(packed, tmp_path):
    killed = in_another_process(packed[0], tmp_path, die_at=5)
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert list(tmp_path.rglob("building-*/**/*.npy"))
    assert open_cache(*packed, 16, tmp_path).images.any(axis=(1, 2)).all()
    assert not list(tmp_path.rglob("building-*"))


def test_processes_that_come_together_build_once(packed, tmp_path):
    together = [in_another_process(packed[0], tmp_path) for _ in range(3)]
    lines = [process.communicate(timeout=60)[0].split() for process in together]
    assert sorted(int(built) for built, *_ in lines) == [0, 0, 12]
    assert len({tuple(sums) for _, *sums in lines}) == 1


def test_other_content_under_a_known_name_is_refused(packed, tmp_path):
    archive, manifest = packed
    first = replace(manifest.slices[0], mask_sha256="0" * 64)
    with pytest.raises(DataError, match="not the file that was imported") as caught:
        open_cache(archive, replace(manifest, slices=(first, *manifest.slices[1:])), 16, tmp_path)
    assert caught.value.path == first.mask_path
    assert list(tmp_path.rglob("*.npy")) == []


def test_a_slice_gone_from_the_archive_is_named(packed, tmp_path):
    archive, manifest = packed
    other = replace(manifest.slices[0], slice=99)
    with pytest.raises(DataError, match="missing from the archive"):
        open_cache(archive, replace(manifest, slices=(other,)), 16, tmp_path)


def test_what_is_in_use_stays_and_goes_when_nobody_uses_it(packed, tmp_path):
    archive, manifest = packed
    assert open_built(manifest, 16, tmp_path) is None
    cache = open_cache(archive, manifest, 16, tmp_path)
    ((home, _, size),) = built(tmp_path)
    assert home == tmp_path / manifest.content_hash
    assert size >= 8 * 12 * 16 * 16
    assert remove(home) == 0
    assert open_built(manifest, 16, tmp_path) is not None
    del cache
    assert remove(home) == size
    assert list(built(tmp_path)) == []
    assert open_built(manifest, 16, tmp_path) is None
    assert len(open_cache(archive, manifest, 16, tmp_path).images) == 12


def test_what_is_being_built_stays(packed, tmp_path):
    archive, manifest = packed
    open_cache(archive, manifest, 16, tmp_path)
    home = tmp_path / manifest.content_hash
    with (home / "lock").open("a") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        assert remove(home) == 0
    assert remove(home) > 0
    assert remove(tmp_path / "nothing") == 0
