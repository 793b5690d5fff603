"""A dotted picture stays on its dotted mask, whatever is done to both."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from liverseg_core.data.augmentation import SMALL_ROTATIONS, Cut, augment, section_of
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.data.sampling import TrainPart
from liverseg_core.spec import Augmentation, ExperimentSpec

SIDE = 64
LEVELS = np.array([0, 127, 255], np.float32) / np.float32(255)
CENTRES = [(14, 20), (16, 44), (40, 12), (45, 40)]
GEOMETRY = {"rotation": 180.0, "scale": 0.3, "shift": 0.2, "flip": True, "right_angles": True}


def dotted(turn: int = 0) -> np.ndarray:
    """Labels [64, 64]: four dots of 11 x 11 pixels at no symmetric places, two of liver, two of lesion."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for number, (row, column) in enumerate(CENTRES):
        labels[row - 5 : row + 6, column - 5 : column + 6] = 1 + number % 2
    return np.rot90(labels, turn).copy()


@pytest.fixture(scope="module")
def cache() -> SliceCache:
    """Three slices whose images are their grey masks."""
    labels = np.stack([dotted(turn) for turn in range(3)])
    return SliceCache(LEVELS[labels], LEVELS[labels], labels)


def samples_of(cache, augmentation, epoch=1, **model):
    spec = ExperimentSpec.parse(
        {
            "dataset": {"id": "dots"},
            "data": {"image_size": SIDE, "augmentation": augmentation},
            "model": model,
            "training": {"batch_size": 9 if augmentation in ("paper-2019", "right-angles") else 3},
        }
    )
    entries = tuple(SliceEntry("train", 0, number, "", "") for number in range(3))
    part = TrainPart(spec, Manifest(SIDE, SIDE, entries, {}, True), cache, range(3))
    return part.piece(epoch, 0)


def aligned(image, labels) -> bool:
    """Whether the image shows what the labels say, wherever all labels around (5 x 5) are the same."""
    inside = ndimage.maximum_filter(labels, 5) == ndimage.minimum_filter(labels, 5)
    inside[:3], inside[-3:], inside[:, :3], inside[:, -3:] = False, False, False, False
    return bool(np.abs(image - LEVELS[labels])[inside].max() < 1e-5)


def labels_of(target) -> np.ndarray:
    if target.shape[-1] == 3:
        return target.argmax(-1).astype(np.uint8)
    assert set(np.unique(target)) <= set(LEVELS)  # no value between the classes was invented
    return np.searchsorted(LEVELS, target[..., 0]).astype(np.uint8)


@pytest.mark.parametrize("head", ["grey-sigmoid", "softmax"])
@pytest.mark.parametrize("augmentation", ["none", "right-angles", "small-rotations", GEOMETRY])
def test_named_augmentations_keep_image_and_mask_together(cache, augmentation, head):
    grey_untouched = augmentation == "none" or isinstance(augmentation, dict)
    for epoch in range(1, 6):
        x, y = samples_of(cache, augmentation, epoch, head=head)
        assert y.shape == (len(x), SIDE, SIDE, 3 if head == "softmax" else 1)
        for image, labels in zip(x[..., 0], labels_of(y), strict=True):
            if not grey_untouched:  # undo brightness and contrast: what is darkest is background, brightest lesion
                image = (image - image.min()) / (image.max() - image.min())
            assert aligned(image, labels)


def test_the_study_s_own_does_not_and_so_the_check_can_fail(cache):
    x, y = samples_of(cache, "paper-2019")
    turned = [aligned(x[k, ..., 0], np.rint(y[k, ..., 0] * 2).astype(int)) for k in range(3, 6)]
    assert not all(turned)
    labels = dotted()
    assert aligned(LEVELS[labels], labels)
    assert not aligned(LEVELS[np.roll(labels, 3, 0)], labels)


def upto(most):
    return st.floats(0, most, allow_subnormal=False)


sections = st.builds(
    Augmentation,
    rotation=upto(180),
    scale=upto(0.3),
    shift=upto(0.2),
    flip=st.booleans(),
    right_angles=st.booleans(),
)


@settings(deadline=None)
@given(sections, st.integers(0, 2**32))
def test_any_section_keeps_image_and_mask_together(section, seed):
    labels = dotted()
    images, moved = augment(LEVELS[labels][None], labels, section, np.random.default_rng(seed))
    assume(ndimage.minimum_filter(moved, 5).any())  # some dot is still in view
    assert images.shape == (1, SIDE, SIDE)
    assert images.dtype == np.float32
    assert aligned(images[0], moved)


@settings(deadline=None)
@given(sections, st.integers(0, 2**32), upto(1), upto(0.9))
def test_grey_values_change_in_the_image_alone(section, seed, brightness, contrast):
    labels = dotted()
    still, moved = augment(LEVELS[labels][None], labels, section, np.random.default_rng(seed))
    changed = section.model_copy(update={"brightness": brightness, "contrast": contrast})
    image, mask = augment(LEVELS[labels][None], labels, changed, np.random.default_rng(seed))
    assert np.array_equal(mask, moved)
    # (1 + c) (x - mean) + mean + b, whatever b and c were: one line for all pixels, within its limits.
    slope, height = np.polyfit(still.ravel(), image.ravel(), 1) if still.any() else (1, 0)
    assert np.abs(slope * still + height - image).max() < 1e-4
    assert abs(slope - 1) <= contrast + 1e-4
    assert abs(image.mean() - still.mean()) <= brightness + 1e-4


def test_noise_has_its_deviation_and_spares_the_mask():
    labels = dotted()
    images, mask = augment(LEVELS[labels][None], labels, Augmentation(noise=0.1), np.random.default_rng(0))
    assert mask is labels
    noise = images[0] - LEVELS[labels]
    assert noise.std() == pytest.approx(0.1, rel=0.05)  # 4,096 draws: standard error 1.1 %
    assert abs(noise.mean()) < 0.008


def test_all_slices_of_a_window_move_together():
    labels = dotted()
    window = np.stack([LEVELS[labels], 1 - LEVELS[labels], LEVELS[labels]])
    section = SMALL_ROTATIONS.model_copy(update={"contrast": 0.0, "brightness": 0.0})
    images, mask = augment(window, labels, section, np.random.default_rng(3))
    assert np.array_equal(images[0], images[2])
    assert aligned(images[0], mask)
    seen = ndimage.minimum_filter(images[0] + images[1], 3) > 0.5  # 0 outside the slice
    assert np.allclose((images[0] + images[1])[seen], 1, atol=1e-5)


def test_small_rotations_are_small_and_reach_their_limits():
    """Angle, size and place from the centres of the first and the last dot, each dot with a number of its own."""
    found = []
    numbered, _ = ndimage.label(dotted())
    for seed in range(200):
        _, moved = augment(
            LEVELS[dotted()][None], numbered.astype(np.uint8), SMALL_ROTATIONS, np.random.default_rng(seed)
        )
        if min(np.bincount(moved.ravel(), minlength=5)[1:]) < 75:  # of 121; a dot left the slice
            continue
        upper, lower = (np.array(ndimage.center_of_mass(moved == k)) for k in (1, 4))
        found.append([*(lower - upper), *(lower + upper) / 2 - (29.5, 30)])
    down, right, *_ = np.array(found).T
    angles = np.rad2deg(np.arctan2(right, down) - np.arctan2(20, 31))
    sizes = np.hypot(down, right) / np.hypot(20, 31)
    assert len(found) > 100
    assert 12 < np.abs(angles).max() < 15.6
    assert 0.895 < sizes.min() < 0.92
    assert 1.08 < sizes.max() < 1.105
    assert abs(np.mean(angles)) < 3
    assert 4 < np.abs(np.array(found)[:, 2:]).max() < 6.4 + 1.6  # a tenth of 64, and the turn about the centre


@settings(deadline=None)
@given(sections, st.integers(0, 2**32), st.integers(16, SIDE), st.booleans())
def test_a_cut_out_is_a_part_of_what_would_have_been(section, seed, side, lesion):
    labels = dotted()
    number = np.arange(1, SIDE * SIDE + 1, dtype=np.float32).reshape(SIDE, SIDE)
    images = np.stack([LEVELS[labels], number])
    whole, whole_mask = augment(images, labels, section, np.random.default_rng(seed))
    part, mask = augment(images, labels, section, np.random.default_rng(seed), Cut(side, lesion))
    assert (part.shape, part.dtype, mask.shape) == ((2, side, side), np.float32, (side, side))
    # Places are worked out from another corner, so they may round to another pixel, where two are equally near.
    places = [
        (top, left)
        for top in range(SIDE - side + 1)
        for left in range(SIDE - side + 1)
        if np.abs(whole[:, top : top + side, left : left + side] - part).max() < 0.05
        and (whole_mask[top : top + side, left : left + side] != mask).mean() < 0.02
    ]
    assert places
    if lesion and section.shift == 0 and section.scale == 0:
        assert (mask == 2).any()


def test_a_cut_out_without_a_lesion_in_mind_lies_anywhere_as_often():
    corners = {(top, left): 0 for top in range(3) for left in range(3)}
    number = np.arange(18 * 18, dtype=np.float32).reshape(1, 18, 18)
    for seed in range(900):
        part, _ = augment(
            number, np.full((18, 18), 2, np.uint8), Augmentation(), np.random.default_rng(seed), Cut(16, False)
        )
        corners[divmod(int(part[0, 0, 0]), 18)] += 1
    assert all(50 < times < 150 for times in corners.values())  # 100 each, standard deviation 9.4


def test_a_cut_out_around_a_lesion_has_one_of_its_pixels_in_the_middle():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[30, 20:22], labels[40, 41] = 2, 2
    labels[2, 60] = 2  # too near the border
    number = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    middles = []
    for seed in range(400):
        part, mask = augment(number, labels, Augmentation(), np.random.default_rng(seed), Cut(16, True))
        assert np.array_equal(mask, labels.ravel()[part[0].astype(int)])
        middles.append(divmod(int(part[0, 8, 8]), SIDE))
    assert set(middles) == {(30, 20), (30, 21), (40, 41), (8, 56)}
    assert all(50 < middles.count(place) < 150 for place in set(middles))  # 100 each, standard deviation 8.7


def test_the_lesion_is_in_the_middle_after_any_movement():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[28:31, 34:37] = 2
    section = Augmentation(rotation=180.0, scale=0.2, shift=0.1, flip=True, right_angles=True)
    for seed in range(100):
        _, mask = augment(LEVELS[labels][None], labels, section, np.random.default_rng(seed), Cut(16, True))
        middle = np.array(ndimage.center_of_mass(mask == 2))
        assert np.abs(middle - 8).max() < 2.5  # a corner of the lesion is 1.4 pixels from its middle, enlarged 1.7


def test_a_cut_out_of_a_slice_without_lesion_lies_anywhere():
    labels = np.ones((SIDE, SIDE), np.uint8)
    number = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    seen = [
        augment(number, labels, Augmentation(), np.random.default_rng(seed), Cut(16, True))[0][0, 0, 0]
        for seed in range(50)
    ]
    assert len(set(seen)) > 40


def test_flips_mirror_left_and_right_half_of_the_time():
    labels = dotted()
    seen = [
        augment(LEVELS[labels][None], labels, Augmentation(flip=True), np.random.default_rng(k)) for k in range(100)
    ]
    flipped = [np.array_equal(mask, labels[:, ::-1]) for _, mask in seen]
    assert all(flip or np.array_equal(mask, labels) for flip, (_, mask) in zip(flipped, seen, strict=True))
    assert 25 < sum(flipped) < 75  # 100 throws: standard deviation 5


def test_right_angles_of_a_section_come_equally_often():
    labels = dotted()
    section = Augmentation(right_angles=True)
    turns = [
        next(k for k in range(4) if np.array_equal(mask, np.rot90(labels, k)))
        for seed in range(200)
        for _, mask in [augment(LEVELS[labels][None], labels, section, np.random.default_rng(seed))]
    ]
    assert all(20 < turns.count(k) < 80 for k in range(4))  # 50 each, standard deviation 6


def test_grey_masks_keep_their_bilinear_edges_where_nothing_lands_between_pixels(cache):
    soft = SliceCache(cache.images, ndimage.uniform_filter(cache.masks, (0, 2, 2)), cache.labels)
    _, y = samples_of(soft, {"flip": True, "right_angles": True})
    assert len(np.unique(y)) > 3
    assert np.allclose(np.sort(y.ravel()), np.sort(soft.masks.ravel()))


def test_a_section_that_changes_nothing_is_none():
    assert section_of(Augmentation()) is None
    assert [section_of(name) for name in ("none", "paper-2019", "right-angles")] == [None] * 3
    assert section_of("small-rotations") == SMALL_ROTATIONS
