"""Components against a second library and by hand; matching against panoptica and against every possibility."""

from itertools import permutations

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from liverseg_core import components


def volume(seed, shape):
    """Nine boxes from a linear congruential generator, so that any program draws the same."""
    drawn = np.zeros(shape, np.uint8)
    state = seed

    def draw(n):
        nonlocal state
        state = (1103515245 * state + 12345) % 2**31
        return (state >> 8) % n

    for _ in range(9):
        corner = [draw(n) for n in shape]
        size = [1 + draw(4) for _ in shape]
        drawn[tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))] = 1
    return drawn


def pair(seed):
    """A truth and a prediction that is the truth moved, torn, and with boxes of its own; 3-D below seed 4."""
    shape = (6, 16, 16) if seed < 4 else (1, 24, 24)
    flat = shape if seed < 4 else shape[1:]
    truth, moved = volume(seed, flat), np.roll(volume(seed, flat), 1, axis=-1)
    torn = moved * (volume(seed + 200, flat) == 0)
    prediction = np.maximum(torn, volume(seed + 100, flat) * volume(seed + 300, flat))
    return truth.reshape(shape), prediction.reshape(shape)


def scan_level(stack):
    found = [components.find(one > 0) for one in stack]
    owners = components.link(found)
    return found, owners


def dense(stack):
    """The 3-D component numbers as a volume."""
    found, owners = scan_level(stack)
    numbers = np.zeros(stack.shape, np.int64)
    for plane, one, owner in zip(numbers, found, owners, strict=True):
        height, width = one.labels.shape
        plane[one.top : one.top + height, one.left : one.left + width] = np.concatenate([[0], owner])[one.labels]
    return numbers


def matched(truth, prediction):
    """IoU of each component of either side, the way a scan is scored."""
    (one, owner), (other, other_owner) = scan_level(truth), scan_level(prediction)
    shared = [
        np.stack([own[found[:, 0] - 1], others[found[:, 1] - 1], found[:, 2]], axis=1)
        for found, own, others in zip(map(components.overlaps, one, other), owner, other_owner, strict=True)
    ]
    sizes = components.volumes(one, owner), components.volumes(other, other_owner)
    return components.match(components.summed(np.concatenate(shared)), *sizes)


def same_partition(one, other):
    """Whether two label volumes put the same pixels together, whatever the numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


def test_touching_by_a_corner_is_touching():
    """Two pixels on a diagonal of one slice, one more on the diagonal of the next, one two slices on."""
    stack = np.zeros((4, 5, 5), np.uint8)
    stack[0, 0, 0] = stack[0, 1, 1] = stack[1, 2, 2] = stack[3, 2, 2] = 1
    found, owners = scan_level(stack)
    assert [one.sizes.tolist() for one in found] == [[2], [1], [], [1]]
    assert components.volumes(found, owners).tolist() == [3, 1]


def test_two_pieces_of_a_slice_may_be_one_lesion_of_the_scan():
    stack = np.zeros((2, 1, 5), np.uint8)
    stack[0, 0] = [1, 0, 1, 0, 1]
    stack[1, 0] = [0, 0, 0, 1, 0]
    found, owners = scan_level(stack)
    assert found[0].sizes.tolist() == [1, 1, 1]
    assert owners[0][0] != owners[0][1] == owners[0][2] == owners[1][0]


stacks = arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.sampled_from([0, 0, 0, 1]))


@settings(max_examples=200, deadline=None)
@given(stacks)
def test_a_second_library_finds_the_same_components(stack):
    assert same_partition(dense(stack), cc3d.connected_components(stack, connectivity=26))
    for plane in stack:
        second = cc3d.connected_components(plane, connectivity=8)
        assert sorted(components.find(plane > 0).sizes) == sorted(np.bincount(second.ravel())[1:])


def test_a_second_library_finds_the_same_components_of_large_stacks():
    random = np.random.default_rng(0)
    for density in (0.02, 0.1, 0.5):
        stack = (random.random((12, 90, 70)) < density).astype(np.uint8)
        assert same_partition(dense(stack), cc3d.connected_components(stack, connectivity=26))


def test_small_components_are_dropped_and_the_rest_counted_anew():
    mask = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
    kept = components.without_small(components.find(mask), 2)
    assert kept.sizes.tolist() == [2, 3]
    assert kept.labels.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 2, 0]]


PANOPTICA = {
    1: (5, 7, (4, 4, 1), 0.4403763440860215),
    2: (6, 8, (5, 5, 0), 0.3436328377504848),
    3: (5, 6, (4, 4, 2), 0.4478547854785478),
    4: (8, 8, (6, 6, 2), 0.4777777777777778),
    5: (6, 6, (5, 5, 0), 0.4123076923076924),
    6: (9, 13, (8, 8, 2), 0.4583333333333333),
}
"""seed -> lesions of truth and prediction, pairs at IoU > 0, 0.1, 0.5 and their mean IoU at 0: panoptica 2.1.7,
NaiveThresholdMatching with strict_threshold. Noted down: it needs rich < 14, so it does not fit in here."""


@pytest.mark.parametrize("seed", PANOPTICA)
def test_panoptica_matches_the_same_lesions(seed):
    true, predicted, pairs, mean = PANOPTICA[seed]
    one, other = matched(*pair(seed))
    assert (len(one), len(other)) == (true, predicted)
    assert tuple(int((one > threshold).sum()) for threshold in (0, 0.1, 0.5)) == pairs
    assert np.sort(one[one > 0]).tolist() == np.sort(other[other > 0]).tolist()
    assert one[one > 0].mean() == pytest.approx(mean, rel=1e-12)


def greedy_by_exhaustion(ratios):
    """Of all one-to-one matchings the one whose sorted IoUs are the largest, place by place."""
    rows, columns = ratios.shape
    wide = np.zeros((rows, columns + rows))  # a row may also go without a partner
    wide[:, :columns] = ratios
    best = max(
        sorted((wide[row, column] for row, column in enumerate(chosen)), reverse=True)
        for chosen in permutations(range(columns + rows), rows)
    )
    return [float(one) for one in best]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_matching_is_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    sizes, others = random.integers(20, 60, random.integers(1, 4)), random.integers(20, 60, random.integers(1, 4))
    pixels = random.integers(0, 7, (len(sizes), len(others)))
    shared = np.array([(i + 1, j + 1, n) for (i, j), n in np.ndenumerate(pixels) if n], np.int64).reshape(-1, 3)
    ratios = pixels / (sizes[:, None] + others - pixels)
    unequal = ratios[ratios > 0]
    if len(np.unique(unequal)) == len(unequal):  # among equals either may come first
        iou, other_iou = components.match(shared, sizes, others)
        assert sorted(iou, reverse=True) == pytest.approx(greedy_by_exhaustion(ratios))
        assert sorted(iou[iou > 0]) == sorted(other_iou[other_iou > 0])


def test_a_threshold_changes_nothing_about_higher_pairs():
    """Pairs above t are those that would be found if only pairs above t were offered."""
    shared = np.array([[1, 1, 10], [1, 2, 14], [2, 1, 3]])
    sizes, others = np.array([20, 20]), np.array([20, 16])
    iou, _ = components.match(shared, sizes, others)
    assert iou.tolist() == pytest.approx([14 / 22, 3 / 37])
    high, _ = components.match(shared[:2], sizes, others)
    assert [one for one in iou if one > 0.1] == [one for one in high if one > 0.1]


def test_nothing_is_found_in_nothing():
    found, owners = scan_level(np.zeros((3, 4, 4), np.uint8))
    assert [len(one.sizes) for one in found] == [len(owner) for owner in owners] == [0, 0, 0]
    one, other = matched(np.zeros((2, 4, 4), np.uint8), np.ones((2, 4, 4), np.uint8))
    assert (one.tolist(), other.tolist()) == ([], [0])
