"""Batches as pure functions of (seed, epoch, step)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.data.sampling import TrainPart, ValPart, epoch_order
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec

N, SIZE = 10, 16
TRAIN = (1, 2, 3, 5, 8)


def spec(batch_size=2, augmentation="none", shuffle=True, seed=0, model=None, **data) -> ExperimentSpec:
    return ExperimentSpec.parse(
        {
            "dataset": {"id": "x"},
            "data": {"image_size": SIZE, "augmentation": augmentation, "shuffle": shuffle, **data},
            "training": {"batch_size": batch_size, "seed": seed},
            "model": model or {},
        }
    )


def manifest_of(n: int, per_scan: int = 4) -> Manifest:
    """Scan 0 with slices 3, 2, 1, 0, then scan 1 and so on: falling, so that order in the file says nothing."""
    entries = [SliceEntry("train", index // per_scan, per_scan - 1 - index % per_scan, "", "") for index in range(n)]
    return Manifest(4, 4, tuple(entries), {}, True)


def part_of(cache, train, chosen) -> TrainPart:
    return TrainPart(chosen, manifest_of(len(cache.images)), cache, train)


def make_batch(cache, train, chosen, epoch, step):
    return part_of(cache, train, chosen).piece(epoch, step)


def samples(cache, train, chosen, seed, epoch):
    return part_of(cache, train, spec(augmentation="paper-2019", seed=seed)).make(chosen, epoch)


@pytest.fixture(scope="module")
def cache() -> SliceCache:
    """Every pixel differs from every other of its slice, so a turn cannot hide; slice i lies in i/10..i/10+0.05."""
    ramp = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE) / (SIZE * SIZE) * np.float32(0.05)
    images = np.stack([ramp + np.float32(index / 10) for index in range(N)])
    return SliceCache(images, images[:, ::-1] + np.float32(2), np.zeros((N, 4, 4), np.uint8))


def turns_of(changed, original) -> int:
    """By how many right angles ``original`` was turned."""
    found = [k for k in range(4) if np.array_equal(np.rot90(original, k), changed)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("n", "batch", "augmentation", "steps"),
    [
        (1092, 32, "none", 34),
        (1092, 4, "none", 273),
        (1037, 32, "paper-2019", 97),
        (5, 5, "none", 1),
        (5, 6, "none", 0),
    ],
)
def test_steps_are_rounded_down(n, batch, augmentation, steps):
    empty = SliceCache(
        np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), np.uint8)
    )
    assert part_of(empty, range(n), spec(batch, augmentation)).steps == steps  # 1037 * 3 = 3111 = 97 * 32 + 7


@given(st.integers(1, 300), st.integers(0, 2**31 - 1), st.integers(1, 10_000))
def test_an_epoch_holds_every_sample_once(n, seed, epoch):
    assert sorted(epoch_order(n, seed, epoch, shuffle=True)) == list(range(n))


def test_without_shuffling_the_order_is_the_manifests():
    assert epoch_order(5, 7, 3, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_epochs_and_seeds_give_other_orders_and_the_same_ones_again():
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch, True)) for seed in range(4) for epoch in range(1, 5)}
    assert len(set(orders.values())) == 16
    assert orders[2, 3] == tuple(epoch_order(50, 2, 3, True))


def test_the_order_is_a_golden_one():
    # Guards every stored training: another order under the same seed gives other weights (raise TRAINING_VERSION).
    assert epoch_order(8, seed=0, epoch=1, shuffle=True).tolist() == [4, 7, 6, 1, 2, 0, 5, 3]


def test_all_places_are_equally_likely():
    # 6,000 epochs of 3 samples: each of 6 orders 1,000 times, standard deviation 29; five of them allowed.
    seen = [tuple(epoch_order(3, 1, epoch, True)) for epoch in range(1, 6001)]
    assert all(abs(seen.count(order) - 1000) < 145 for order in set(seen))
    assert len(set(seen)) == 6


def test_a_batch_holds_its_slices_of_train_alone(cache):
    plain = spec(shuffle=False)
    x, y = make_batch(cache, TRAIN, plain, epoch=1, step=1)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((2, SIZE, SIZE, 1), (2, SIZE, SIZE, 1), np.float32, np.float32)
    assert np.array_equal(x[..., 0], cache.images[[3, 5]])
    assert np.array_equal(y[..., 0], cache.masks[[3, 5]])


def test_the_steps_of_an_epoch_are_different_slices(cache):
    for epoch in (1, 2):
        seen = [
            round(float(image[0, 0, 0]) * 10)
            for step in (0, 1)
            for image in make_batch(cache, TRAIN, spec(), epoch, step)[0]
        ]
        assert len(set(seen)) == 4
        assert set(seen) <= set(TRAIN)


def test_image_and_mask_stay_together(cache):
    x, y = make_batch(cache, TRAIN, spec(5), 3, 0)
    assert np.array_equal(y, x[:, ::-1] + np.float32(2))


@pytest.mark.parametrize("augmentation", ["none", "paper-2019"])
def test_any_step_can_be_made_again_alone(cache, augmentation):
    first = [make_batch(cache, TRAIN, spec(2, augmentation), 4, step) for step in range(2)]
    again = make_batch(cache, TRAIN, spec(2, augmentation), 4, 1)
    assert all(np.array_equal(one, other) for one, other in zip(first[1], again, strict=True))


def test_the_cache_is_left_as_it_was(cache):
    before = cache.images.copy(), cache.masks.copy()
    make_batch(cache, TRAIN, spec(15, "paper-2019"), 1, 0)
    assert np.array_equal(cache.images, before[0])
    assert np.array_equal(cache.masks, before[1])


def test_unshuffled_augmentation_is_originals_then_turned_then_brightened(cache):
    x, y = make_batch(cache, TRAIN, spec(15, "paper-2019", shuffle=False), 1, 0)
    for place, index in enumerate(TRAIN):
        assert np.array_equal(x[place, ..., 0], cache.images[index])
        assert np.array_equal(y[place, ..., 0], cache.masks[index])
        assert turns_of(x[5 + place, ..., 0], cache.images[index]) in (1, 2, 3)
        assert turns_of(y[5 + place, ..., 0], cache.masks[index]) in (1, 2, 3)
        for changed, original in ((x, cache.images), (y, cache.masks)):
            shift = changed[10 + place, ..., 0] - original[index]
            assert shift.min() == pytest.approx(shift.max(), abs=1e-6)
            assert -0.1 <= shift.mean() <= 0.1
            assert abs(shift.mean()) > 1e-6


def test_image_and_mask_draw_independently_as_coded_in_the_study(cache):
    n, rounds = len(TRAIN), 360
    turns, shifts = [], []
    for epoch in range(1, rounds // n + 1):
        x, y = samples(cache, TRAIN, np.arange(n, 3 * n), seed=0, epoch=epoch)
        for place, index in enumerate(TRAIN):
            pair = (x[place, ..., 0], cache.images[index]), (y[place, ..., 0], cache.masks[index])
            turns.append(tuple(turns_of(*one) for one in pair))
            bright = x[n + place, ..., 0] - cache.images[index], y[n + place, ..., 0] - cache.masks[index]
            shifts.append([float(one.mean()) for one in bright])
    # 9 pairs of turns, 40 each expected, standard deviation 6; five of them allowed.
    assert {pair: abs(turns.count(pair) - 40) < 30 for pair in set(turns)} == {
        (a, b): True for a in (1, 2, 3) for b in (1, 2, 3)
    }
    shifts = np.array(shifts)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 5 / np.sqrt(rounds)
    # Uniform in -0.1..0.1: standard deviation 0.1 / sqrt(3) = 0.0577.
    assert shifts.std(0) == pytest.approx([0.0577, 0.0577], rel=0.1)
    assert shifts.min() < -0.09
    assert shifts.max() > 0.09


def test_a_sample_changes_from_epoch_to_epoch(cache):
    brightened = np.array([2 * len(TRAIN)])
    values = {float(samples(cache, TRAIN, brightened, 0, epoch)[0][0, 0, 0, 0]) for epoch in range(1, 11)}
    assert len(values) == 10


def test_a_sample_does_not_depend_on_its_batch(cache):
    alone = samples(cache, TRAIN, np.array([12]), 5, 2)
    among = samples(cache, TRAIN, np.array([3, 12, 7]), 5, 2)
    assert np.array_equal(alone[0][0], among[0][1])
    assert np.array_equal(alone[1][0], among[1][1])
