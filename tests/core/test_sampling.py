"""Batches as pure functions of (seed, epoch, step)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.data.sampling import TrainPart, ValPart, epoch_order
from liverseg_core.data.windows import windows
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
        (1037, 32, "right-angles", 97),
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


# --- windows, targets, sampling, scans ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled() -> SliceCache:
    """Ten slices of 32 pixels: liver everywhere in a frame, and in slice i a lesion of LESIONS[i] pixels in a row."""
    labels = np.zeros((N, 32, 32), np.uint8)
    labels[:, 4:28, 4:28] = 1
    for index, pixels in LESIONS.items():
        labels[index, 9, 8 : 8 + pixels] = 2
    labels[3, 20, 20], labels[3, 21, 21] = 2, 2  # joined by a corner: one lesion of two pixels
    grey = np.array([0, 127, 255], np.float32)[labels]
    masks = grey.reshape(N, SIZE, 2, SIZE, 2).mean((2, 4)) / np.float32(255)
    return SliceCache(masks + np.arange(N, dtype=np.float32)[:, None, None], masks, labels)


LESIONS = {1: 5, 3: 9, 8: 3}


def seen_by(x) -> list[list[int]]:
    """Slices that a network sees, by their images, which lie in i..i+1."""
    return np.floor(x[:, 0, 0]).astype(int).tolist()


def test_windows_stay_in_their_scan_and_are_clamped_at_its_ends():
    """Slices 3, 2, 1, 0 of scan 0 have indices 0 to 3; 8 and 9 are slices 3 and 2 of a scan of two."""
    seen = windows(manifest_of(N), 5)
    assert seen[0].tolist() == [2, 1, 0, 0, 0]
    assert seen[1].tolist() == [3, 2, 1, 0, 0]
    assert seen[3].tolist() == [3, 3, 3, 2, 1]
    assert seen[8].tolist() == [9, 9, 8, 8, 8]
    assert windows(manifest_of(N), 1).tolist() == [[k] for k in range(N)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 4))
def test_windows_never_leave_the_scan(n, per_scan, reach):
    manifest = manifest_of(n, per_scan)
    seen = windows(manifest, 2 * reach + 1)
    assert seen[:, reach].tolist() == list(range(n))
    for index, row in enumerate(seen):
        assert {manifest.slices[k].scan for k in row} == {manifest.slices[index].scan}
        numbers = [manifest.slices[k].slice for k in row]
        assert numbers == sorted(numbers)


def test_the_images_of_a_sample_are_its_window_without_slices_left_out(labelled):
    chosen = spec(4, shuffle=False, model={"network": "unet-2.5d", "window": 3})
    x, y = part_of(labelled, (0, 2, 3, 8), chosen).piece(1, 0)
    assert x.shape == (4, SIZE, SIZE, 3)
    # Slice 1 is not in the train part, so 0 and 2 are neighbours; val may see every slice.
    assert seen_by(x) == [[2, 0, 0], [3, 2, 0], [3, 3, 2], [8, 8, 8]]
    assert np.array_equal(y[..., 0], labelled.masks[[0, 2, 3, 8]])
    val = ValPart(chosen, manifest_of(N), labelled, (0, 8))
    assert seen_by(val.piece(np.array([0, 8]))[0]) == [[1, 0, 0], [9, 8, 8]]


def test_a_window_changes_by_one_draw(labelled):
    own = {"rotation": 20.0, "right_angles": True}
    chosen = spec(4, own, shuffle=False, model={"network": "unet-2.5d", "window": 3})
    x, _ = part_of(labelled, (0, 1, 2, 3), chosen).piece(1, 0)
    # In the last sample the first two slices are the same one.
    assert np.array_equal(x[3, ..., 0], x[3, ..., 1])
    assert not np.array_equal(x[3, ..., 0], labelled.images[3])


def test_softmax_targets_are_the_nearest_labels(labelled):
    _, y = part_of(labelled, (1, 3), spec(2, shuffle=False, model={"head": "softmax"})).piece(1, 0)
    assert (y.shape, y.dtype) == ((2, SIZE, SIZE, 3), np.float32)
    # Pixel i of 16 has its centre between native 2i and 2i + 1 and reads 2i + 1: row 9 is 4, columns 9, 11 are 4, 5.
    assert np.array_equal(y.argmax(-1), labelled.labels[[1, 3], 1::2, 1::2])
    assert np.argwhere(y[0, ..., 2]).tolist() == [[4, 4], [4, 5]]
    assert np.array_equal(y.sum(-1), np.ones((2, SIZE, SIZE)))


@pytest.mark.parametrize(("fewest", "left"), [(0, {1: 5, 3: 11, 8: 3}), (3, {1: 5, 3: 9, 8: 3}), (4, {1: 5, 3: 9})])
def test_small_lesions_are_trained_as_liver(labelled, fewest, left):
    part = part_of(labelled, range(N), spec(10, shuffle=False, min_lesion=fewest))
    labels = np.stack([part.targets.labels(np.int64(row)) for row in range(N)])
    found = {row: int((labels[row] == 2).sum()) for row in range(N)}
    assert {row: pixels for row, pixels in found.items() if pixels} == left
    assert np.array_equal(labels > 0, labelled.labels > 0)
    _, y = part.piece(1, 0)
    expected = np.array([0, 127, 255], np.float32)[labels].reshape(N, SIZE, 2, SIZE, 2).mean((2, 4)) / 255
    assert y[..., 0] == pytest.approx(expected, abs=1e-6)
    softmax = part_of(labelled, range(N), spec(10, shuffle=False, min_lesion=fewest, model={"head": "softmax"}))
    assert np.array_equal(softmax.piece(1, 0)[1].argmax(-1), labels[:, 1::2, 1::2])


def test_small_lesions_stay_in_val(labelled):
    val = ValPart(spec(10, min_lesion=100), manifest_of(N), labelled, range(N))
    assert np.array_equal(val.piece(np.arange(N))[1][..., 0], labelled.masks)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_every_second_sample_holds_a_lesion_and_the_rest_is_everything(labelled, batch):
    part = part_of(labelled, range(N), spec(batch, sampling="lesion-balanced"))
    others, lesions = [], []
    for epoch in range(1, 41):
        seen = [index for step in range(part.steps) for [index] in seen_by(part.piece(epoch, step)[0])]
        assert len(seen) == part.steps * batch == N // batch * batch
        others, lesions = others + seen[0::2], lesions + seen[1::2]
    assert set(lesions) == set(LESIONS)
    assert {abs(lesions.count(index) - len(lesions) / 3) < 1 for index in LESIONS} == {True}
    assert {abs(others.count(index) - len(others) / N) < 1 for index in range(N)} == {True}


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_lesions_come_equally_often_from_every_scan(labelled, batch):
    """Slices 1 and 3 are of scan 0, slice 8 is of scan 2: each scan gives half, within a scan each slice as many."""
    part = part_of(labelled, range(N), spec(batch, sampling="lesion-scan-balanced"))
    epochs = [
        [index for step in range(part.steps) for [index] in seen_by(part.piece(epoch, step)[0])]
        for epoch in range(1, 41)
    ]
    lesions = [index for seen in epochs for index in seen[1::2]]
    half = len(lesions) / 2
    assert abs(lesions.count(8) - half) < 1
    assert abs(lesions.count(1) - half / 2) <= 1
    assert abs(lesions.count(3) - half / 2) <= 1
    assert lesions.count(1) + lesions.count(3) + lesions.count(8) == len(lesions)
    # The stream goes on from epoch to epoch without a break: every two in a row are of both scans.
    assert all({8} < {*lesions[place : place + 2]} for place in range(0, len(lesions) - 1, 2))
    others = [index for seen in epochs for index in seen[0::2]]
    assert {abs(others.count(index) - len(others) / N) < 1 for index in range(N)} == {True}
    again = part_of(labelled, range(N), part.spec)
    assert seen_by(again.piece(17, 1)[0]) == [[index] for index in epochs[16][batch : 2 * batch]]


def test_balanced_samples_draw_their_own_changes(labelled):
    """With replacement, one slice comes several times an epoch, each time changed anew."""
    part = part_of(labelled, (1, 2, 4, 5, 6, 7), spec(6, {"brightness": 0.5}, sampling="lesion-balanced"))
    x, _ = part.piece(1, 0)
    lesion = x[1::2]
    assert len({float(image[0, 0, 0]) for image in lesion}) == 3
    again = part_of(labelled, (1, 2, 4, 5, 6, 7), part.spec).piece(1, 0)
    assert np.array_equal(again[0], x)


@pytest.mark.parametrize("head", ["grey-sigmoid", "softmax"])
def test_cut_outs_lie_around_the_lesion_a_slice_was_drawn_for(head):
    """Slices of 64 pixels with one lesion pixel each; every second sample of a batch must show it."""
    labels = np.zeros((N, 64, 64), np.uint8)
    for index in range(N):
        labels[index, 5 * index + 8, 60 - 4 * index] = 2
    grey = np.array([0, 127, 255], np.float32)[labels] / np.float32(255)
    model = {"head": head, "network": "unet-2.5d", "window": 3}
    chosen = ExperimentSpec.parse(
        {
            "dataset": {"id": "x"},
            "data": {"image_size": 64, "crop": 16, "sampling": "lesion-balanced"},
            "training": {"batch_size": 4},
            "model": model,
        }
    )
    part = part_of(SliceCache(grey, grey, labels), range(N), chosen)
    shown = []
    for epoch in range(1, 21):
        for step in range(part.steps):
            x, y = part.piece(epoch, step)
            assert (x.shape, y.shape) == ((4, 16, 16, 3), (4, 16, 16, 3 if head == "softmax" else 1))
            lesion = y[..., 2] if head == "softmax" else y[..., 0]
            assert np.array_equal(x[..., 1], lesion)  # the picture is its mask
            shown += [bool(one.any()) for one in lesion]
    assert all(shown[1::2])
    assert 0 < np.mean(shown[0::2]) < 0.2  # anywhere: a 16th of the places around a pixel, more or less
    again = part_of(SliceCache(grey, grey, labels), range(N), chosen)
    assert np.array_equal(again.piece(20, 1)[0], x)


@pytest.mark.parametrize("sampling", ["lesion-balanced", "lesion-scan-balanced"])
@pytest.mark.parametrize("train", [(0, 2, 4), (8, 9)])
def test_balancing_without_lesions_is_refused(labelled, train, sampling):
    with pytest.raises(SpecError, match=rf"data.sampling: no train slice holds a lesion.*{sampling}"):
        part_of(labelled, train, spec(2, sampling=sampling, min_lesion=4))


def test_a_scan_is_a_step(labelled):
    chosen = spec(3, batch_by="scan")
    part = part_of(labelled, (0, 1, 2, 3, 4, 6, 8), chosen)
    assert (part.steps, part.samples) == (3, 7)
    orders = set()
    for epoch in range(1, 20):
        steps = []
        for step in range(3):
            pieces = [part.piece(epoch, step, number)[0] for number in range(part.pieces(epoch, step))]
            assert all(len(piece) <= 3 for piece in pieces)
            steps.append(tuple(index for piece in pieces for [index] in seen_by(piece)))
        assert set(steps) == {(0, 1, 2, 3), (4, 6), (8,)}
        orders.add(tuple(steps))
    assert len(orders) > 3
    still = part_of(labelled, (0, 4, 8), spec(3, shuffle=False, batch_by="scan"))
    assert [seen_by(still.piece(2, step)[0]) for step in range(3)] == [[[0]], [[4]], [[8]]]


def test_val_is_measured_in_batches_or_in_scans(labelled):
    rows = (0, 1, 2, 3, 4, 6, 8)

    def groups(chosen):
        return [
            [piece.tolist() for piece in group] for group in ValPart(chosen, manifest_of(N), labelled, rows).groups
        ]

    assert groups(spec(3)) == [[[0, 1, 2]], [[3, 4, 6]], [[8]]]
    assert groups(spec(3, batch_by="scan")) == [[[0, 1, 2], [3]], [[4, 6]], [[8]]]
