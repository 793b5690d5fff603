"""Decoding, clean-up options and re-scoring, worked by hand and against scikit-learn."""

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from liverseg_core import metrics, patches, scoring
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.errors import DataError
from liverseg_core.maps import decode, decode_patch, read_map
from liverseg_core.spec import EvaluationOptions

SOFT = metrics.SoftFacts(1, 2, 3, 0.25, 0.5, 0.75, (9,) * 9)


def options(**changes):
    return EvaluationOptions(**changes)


# --- decoding -----------------------------------------------------------------------------------------------------


def test_thirds_are_exact():
    levels = np.array([[0, 21_844, 21_845, 43_689, 43_690, 65_535]], np.uint16)
    assert decode(levels).tolist() == [[0, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (2 / 3, [0, 0, 1, 1, 2, 2]),
        (0.5, [0, 0, 1, 2, 2, 2]),  # 43689 is .6667
        (0.9, [0, 0, 1, 1, 1, 2]),
        (1 / 3, [0, 0, 2, 2, 2, 2]),
        (0.2, [0, 2, 2, 2, 2, 2]),  # below one third there is no liver without lesion
        (21_844 / 65_535, [0, 2, 2, 2, 2, 2]),  # a value is at its own threshold
        (21_845 / 65_535, [0, 0, 2, 2, 2, 2]),
    ],
)
def test_a_threshold_says_where_lesion_starts(threshold, expected):
    levels = np.array([[0, 21_844, 21_845, 43_689, 43_690, 65_535]], np.uint16)
    assert decode(levels, options(threshold=threshold)).tolist() == [expected]


def test_every_fixed_point_value_is_at_its_own_threshold():
    for value in range(1, 65_535, 7):
        found = decode(np.array([[value - 1, value]], np.uint16), options(threshold=value / 65_535))
        assert found.tolist() == [[int(value > 21_845), 2]]


def test_softmax_takes_the_most_likely_class():
    #                    background  parenchyma lesion  tie of 0 and 1  tie of 1 and 2  all but equal
    parenchyma = np.array([[10_000, 40_000, 10_000, 30_000, 30_000, 21_845]], np.uint16)
    lesion = np.array([[10_000, 10_000, 40_000, 5_535, 30_000, 21_846]], np.uint16)
    u = np.stack([parenchyma, lesion])
    assert decode(u).tolist() == [[0, 1, 2, 0, 1, 2]]
    assert decode(u, options(threshold=0.4)).tolist() == [[0, 1, 2, 0, 2, 1]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_softmax_is_argmax_of_what_is_stored(seed):
    u = np.random.default_rng(seed).dirichlet([1, 1, 1], (8, 8)) * 65_535
    stored = np.floor(u[..., 1:]).astype(np.uint16)
    rest = 65_535 - stored.astype(int).sum(axis=-1)
    expected = np.concatenate([rest[..., None], stored], axis=-1).argmax(axis=-1)
    assert np.array_equal(decode(np.moveaxis(stored, -1, 0)), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_labels_survive_storing_and_enlarging(seed, factor):
    """Labels -> the study's grey levels -> fixed point -> labels, then enlarged: every label where it was."""
    labels = np.random.default_rng(seed).integers(0, 3, (16, 16), dtype=np.uint8)
    grey = np.array([0, 127, 255])[labels] / 255
    assert np.array_equal(decode(metrics.to_fixed_point(grey)), labels)
    classes = np.stack([labels == 1, labels == 2]) * np.uint16(65_535)
    assert np.array_equal(decode(classes.astype(np.uint16)), labels)
    enlarged = metrics.enlarge_nearest(labels, (16 * factor, 16 * factor))
    assert np.array_equal(enlarged, labels.repeat(factor, 0).repeat(factor, 1))


# --- counts and lesions of a scan ---------------------------------------------------------------------------------


def random_scan(seed, slices=3):
    random = np.random.default_rng(seed)
    return random.choice(3, (2, slices, 12, 14), p=[0.6, 0.25, 0.15]).astype(np.uint8)


def scored(truth, prediction, **changes):
    return scoring.score_scan("val", 8, range(len(truth)), list(truth), list(prediction), options(**changes))


def test_counts_are_scikit_learn_s():
    truth, prediction = random_scan(0)
    counts, _ = scored(truth, prediction)
    for row, one, other in zip(counts, truth, prediction, strict=True):
        assert np.array_equal(np.reshape(row, (3, 3)), confusion_matrix(one.ravel(), other.ravel()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(), (-1,), (-2,), (0,), (0, -1, -2)]), st.integers(0, 4))
def test_flipping_both_changes_nothing(seed, axes, min_lesion):
    truth, prediction = random_scan(seed)
    counts, lesions = scored(truth, prediction, min_lesion=min_lesion)
    flipped, other_lesions = scored(np.flip(truth, axes), np.flip(prediction, axes), min_lesion=min_lesion)
    assert flipped[:: -1 if 0 in axes else 1] == counts
    for predicted in (True, False):
        sizes, other = (
            sorted((one.slice is None, one.pixels) for one in found if one.predicted == predicted)
            for found in (lesions, other_lesions)
        )
        assert sizes == other


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_dice_is_symmetric_and_pooled_counts_are_sums(seed):
    truth, prediction = random_scan(seed)
    (counts, _), (swapped, _) = scored(truth, prediction), scored(prediction, truth)
    for target in metrics.CLASSES:
        assert [metrics.dice(row, target) for row in counts] == [metrics.dice(row, target) for row in swapped]
    whole = confusion_matrix(truth.ravel(), prediction.ravel(), labels=[0, 1, 2])
    assert np.sum(counts, axis=0).tolist() == whole.ravel().tolist()


def test_small_lesions_become_liver_on_both_sides():
    """Truth: lesions of 3 and 1 pixels. Prediction: the larger one, and one of 2 pixels in the background."""
    truth = np.array([[[1, 1, 1, 1, 1], [1, 2, 2, 1, 2], [1, 2, 1, 1, 1], [0, 0, 0, 0, 0]]], np.uint8)
    prediction = np.array([[[1, 1, 1, 1, 1], [1, 2, 2, 1, 1], [1, 2, 1, 1, 1], [0, 0, 0, 2, 2]]], np.uint8)
    [plain], lesions = scored(truth, prediction)
    assert plain == (3, 0, 2, 0, 11, 0, 0, 1, 3)
    assert sorted((one.predicted, one.pixels) for one in lesions if one.slice == 0) == [
        (False, 1), (False, 3), (True, 2), (True, 3),
    ]  # fmt: skip
    [cleaned], lesions = scored(truth, prediction, min_lesion=3)
    assert cleaned == (3, 2, 0, 0, 12, 0, 0, 0, 3)
    assert [(one.slice, one.predicted, one.pixels, one.iou) for one in lesions] == [
        (0, False, 3, 1.0), (0, True, 3, 1.0), (None, False, 3, 1.0), (None, True, 3, 1.0),
    ]  # fmt: skip


def test_a_lesion_is_measured_in_each_slice():
    """Two pixels a slice through two slices are four voxels, and still small at three pixels."""
    stack = np.zeros((2, 3, 3), np.uint8)
    stack[:, 1, :2] = 2
    counts, lesions = scored(stack, stack, min_lesion=3)
    assert counts == [(7, 0, 0, 0, 2, 0, 0, 0, 0)] * 2
    assert lesions == []
    _, lesions = scored(stack, stack)
    assert [(one.slice, one.pixels) for one in lesions] == [(0, 2), (0, 2), (1, 2), (1, 2), (None, 4), (None, 4)]


def test_only_the_largest_liver_of_the_scan_is_kept():
    """One liver of 2 + 2 voxels through both slices; one of 3 pixels, larger in its slice, not in the scan."""
    prediction = np.zeros((2, 5, 5), np.uint8)
    prediction[0, 0, :2] = prediction[1, 0, 1:3] = 1
    prediction[0, 0, 0] = 2
    prediction[1, 4, :3] = 2
    kept = scoring.cleaned(list(prediction), options(largest_component=True))
    assert np.array_equal(kept[0], prediction[0])
    assert kept[1].tolist() == [[0, 1, 1, 0, 0], *[[0] * 5] * 4]
    counts, lesions = scored(np.zeros_like(prediction), prediction, largest_component=True)
    assert [row[:3] for row in counts] == [(23, 1, 1), (23, 2, 0)]
    assert [(one.slice, one.pixels, one.iou) for one in lesions] == [(0, 1, 0), (None, 1, 0)]


def test_no_liver_at_all_stays_no_liver():
    nothing = np.zeros((2, 4, 4), np.uint8)
    counts, lesions = scored(nothing, nothing, largest_component=True, min_lesion=5)
    assert (counts, lesions) == ([(16, *[0] * 8)] * 2, [])


# --- from files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """Two scans whose slices lie in lexicographic order (10 before 9), with their maps at half size."""
    entries = tuple(SliceEntry("val", scan, number, "", "") for scan in (1, 2) for number in (10, 9))
    manifest = Manifest(8, 8, entries, {1: "a", 2: "b"}, False)
    labels = np.random.default_rng(3).integers(0, 3, (4, 8, 8), dtype=np.uint8)
    maps = tmp_path / "maps.npz"
    small = {f"val/{entry.key}": np.array([0, 32_768, 65_535], np.uint16)[labels[n, ::2, ::2]]
             for n, entry in enumerate(entries)}  # fmt: skip
    np.savez(maps, **small)
    soft = {("val", entry.scan, entry.slice): SOFT for entry in entries}
    return manifest, labels, maps, {"val": [0, 1, 2, 3], "test": []}, soft


def test_rescoring_keeps_the_order_and_the_soft_facts(stored):
    _, labels, *_ = stored
    scores, lesions = scoring.rescore(*stored, options())
    assert [(one.scan, one.slice) for one in scores] == [(1, 10), (1, 9), (2, 10), (2, 9)]
    for score, truth in zip(scores, labels, strict=True):
        assert score.counts == metrics.count_3x3(truth, truth[::2, ::2].repeat(2, 0).repeat(2, 1))
        assert (score.tp, score.fp, score.fn) == (1, 2, 3)
        assert (score.dice, score.dice_liver, score.dice_tumor, score.quantised) == (0.25, 0.5, 0.75, (9,) * 9)
    assert {one.slice for one in lesions} == {9, 10, None}
    assert {(one.part, one.scan) for one in lesions} == {("val", 1), ("val", 2)}


def test_a_part_of_the_slices_is_scored_alone(stored):
    whole, _ = scoring.rescore(*stored, options())
    some, _ = scoring.rescore(*stored[:3], {"val": [3, 0]}, stored[4], options())
    assert some == (whole[3], whole[0])


def test_between_is_asked_before_every_scan(stored):
    asked = []
    scoring.rescore(*stored, options(), between=lambda: asked.append(1))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda maps: maps.unlink(), "cannot be opened"),
        (lambda maps: maps.write_bytes(b"no zip"), "cannot be opened"),
        (lambda maps: maps.write_bytes(maps.read_bytes()[:200] + bytes(60) + maps.read_bytes()[260:]), "no readable"),
        (lambda maps: np.savez(maps, **{"val/1_9": np.zeros((4, 4), np.uint16)}), "no readable"),
        (
            lambda maps: np.savez(maps, **{"val/1_9": np.zeros((4, 4)), "val/1_10": np.zeros((4, 4))}),
            "no probability",
        ),
        (lambda maps: np.savez(maps, **{"val/1_9": np.zeros((3, 4, 4), np.uint16)}), "no probability"),
    ],
)
def test_damaged_maps_are_refused_by_name(stored, damage, told):
    damage(stored[2])
    with pytest.raises(DataError, match=told):
        scoring.rescore(*stored, options())


def test_a_slice_without_a_stored_score_is_refused(stored):
    manifest, labels, maps, parts, soft = stored
    del soft["val", 2, 9]
    with pytest.raises(DataError, match="val/2_9: has no stored score"):
        scoring.rescore(manifest, labels, maps, parts, soft, options())


def test_one_map_can_be_read_alone(stored):
    with zipfile.ZipFile(stored[2]) as file:
        assert read_map(file, "val/2_9").shape == (4, 4)


# --- what need not be done again ----------------------------------------------------------------------------------


def sparse(tmp_path, name, seed):
    """One scan of ten slices, some without lesion in truth, in prediction or in both; and what scoring it needs."""
    entries = tuple(SliceEntry("val", 1, number, "", "") for number in range(10))
    random = np.random.default_rng(seed)
    truth, prediction = random.choice(3, (2, 10, 8, 8), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    truth[:6][truth[:6] == 2] = 1
    prediction[3:8][prediction[3:8] == 2] = 1
    levels = np.array([0, 32_768, 65_535], np.uint16)[prediction]
    np.savez(tmp_path / name, **{f"val/{one.key}": u for one, u in zip(entries, levels, strict=True)})
    soft = {("val", 1, number): SOFT for number in range(10)}
    return Manifest(8, 8, entries, {1: "a"}, False), truth, tmp_path / name, {"val": list(range(10))}, soft


def counts_of(scores):
    return {(one.part, one.scan, one.slice): one.counts for one in scores}


@pytest.mark.parametrize(("before", "after"), [(0, 3), (2, 2), (2, 10**6)])
def test_slices_without_lesion_are_neither_read_nor_counted_again(tmp_path, monkeypatch, before, after):
    case = sparse(tmp_path, "maps.npz", before)
    first, _ = scoring.rescore(*case, options(min_lesion=before))
    known = scoring.unchanged(counts_of(first), options(min_lesion=before), options(min_lesion=after))
    assert {key[2] for key in known} >= {3, 4, 5}
    expected = scoring.rescore(*case, options(min_lesion=after))
    read, names = scoring.read_map, []
    monkeypatch.setattr(scoring, "read_map", lambda file, name: (names.append(name), read(file, name))[1])
    assert scoring.rescore(*case, options(min_lesion=after), known=known) == expected
    assert len(names) == 10 - len(known)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"min_lesion": 3}, {"min_lesion": 2}),  # what was dropped comes back
        ({}, {"threshold": 0.5}),
        ({"threshold": 0.4}, {"threshold": 0.5, "min_lesion": 2}),
        ({}, {"largest_component": True}),
        ({"largest_component": True}, {"largest_component": True, "min_lesion": 2}),
        ({"largest_component": True}, {}),
    ],
)
def test_any_other_change_may_touch_every_slice(before, after):
    assert scoring.unchanged({("val", 1, 1): (64, *[0] * 8)}, options(**before), options(**after)) == {}


def test_remembered_truths_change_no_score(tmp_path):
    truths = scoring.Truths(limit=2)
    one, other = sparse(tmp_path, "one.npz", 1), sparse(tmp_path, "other.npz", 2)
    other = (*one[:2], *other[2:])  # two predictions of one truth
    for min_lesion in (0, 3, 5, 0):
        for case in (one, other):
            plain = scoring.rescore(*case, options(min_lesion=min_lesion))
            assert scoring.rescore(*case, options(min_lesion=min_lesion), truths=truths) == plain


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_patch_is_enlarged_as_the_whole_slice_is(factor):
    labels = np.zeros((6, 7), np.uint8)
    labels[2:5, 1:3] = [[1, 0], [2, 1], [0, 2]]
    shape = (6 * factor + factor // 2, 7 * factor)
    patch = patches.enlarged(patches.crop(labels), labels.shape, shape)
    assert np.array_equal(patches.whole(patch, shape), metrics.enlarge_nearest(labels, shape))


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.01, 0.2, 0.34, 0.7]), st.booleans())
@settings(max_examples=60)
def test_cropping_before_decoding_changes_nothing(seed, threshold, softmax):
    random = np.random.default_rng(seed)
    p = random.dirichlet([0.3, 0.3, 0.3], (9, 11))[..., 1:] * random.integers(0, 2, (9, 11, 1))
    u = metrics.to_fixed_point(np.moveaxis(p, -1, 0) if softmax else p[..., 0])
    chosen = options(threshold=threshold)
    patch = decode_patch(u, chosen)
    assert np.array_equal(patches.whole(patch, (9, 11)), decode(u, chosen))
