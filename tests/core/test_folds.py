"""Splits by subject: who validates where, what is refused, and what the hash of a training sees of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liverseg_core.data.manifest import Manifest, SliceEntry, fold_subjects, in_order, select, training_hash
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice, ExperimentSpec

# scan -> (part, subject, slices); subject sizes in train and val: S2 5, S10 4, A 3, B 1
SCANS = {
    0: ("train", "S2", 3),
    1: ("val", "S2", 2),
    2: ("train", "S10", 4),
    3: ("val", "A", 3),
    4: ("train", "B", 1),
    5: ("test", "T", 2),
}


def manifest(scans=SCANS) -> Manifest:
    entries = [
        SliceEntry(part, scan, number, f"i{scan}_{number}", f"m{scan}_{number}")
        for scan, (part, _, count) in scans.items()
        for number in range(count)
    ]
    subjects = {scan: subject for scan, (_, subject, _) in scans.items()}
    return Manifest(4, 4, in_order(entries), subjects, subjects_assumed=False)


def choice(fold=0, folds=None, **fields) -> DatasetChoice:
    kind = "leave-one-subject-out" if folds is None else "subject-folds"
    split = {"kind": kind, "fold": fold} | ({} if folds is None else {"folds": folds})
    return ExperimentSpec.parse({"dataset": {"id": "x", "split": split, **fields}}).dataset


def scans(chosen, part, of=None) -> list[int]:
    return sorted({(of or manifest()).slices[index].scan for index in chosen[part]})


def test_subjects_are_in_natural_order_and_those_of_test_are_not_dealt():
    assert fold_subjects(manifest()) == ("A", "B", "S2", "S10")


@pytest.mark.parametrize(("fold", "held_out"), [(0, [3]), (1, [4]), (2, [0, 1]), (3, [2])])
def test_leave_one_subject_out_takes_the_subjects_one_by_one(fold, held_out):
    chosen = select(manifest(), choice(fold))
    assert scans(chosen, "val") == held_out
    assert scans(chosen, "train") == sorted({0, 1, 2, 3, 4} - set(held_out))
    assert scans(chosen, "test") == [5]


def test_folds_are_balanced_by_slices():
    """By hand, largest first, each to the smallest fold: S2 (5) -> 0, S10 (4) -> 1, A (3) -> 1, B (1) -> 0."""
    folds = [select(manifest(), choice(fold, 2)) for fold in range(2)]
    assert [scans(fold, "val") for fold in folds] == [[0, 1, 4], [2, 3]]
    assert [len(fold["val"]) for fold in folds] == [6, 7]


def test_as_many_folds_as_subjects_give_each_subject_one():
    held_out = [scans(select(manifest(), choice(fold, 4)), "val") for fold in range(4)]
    assert sorted(held_out) == [[0, 1], [2], [3], [4]]


@given(st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(1, 9)), min_size=4, max_size=12), st.integers(2, 4))
def test_every_slice_validates_once_and_no_subject_is_on_both_sides(drawn, folds):
    made = manifest({n: (("train", "val")[n % 2], subject, count) for n, (subject, count) in enumerate(drawn)})
    if len(fold_subjects(made)) < folds:
        with pytest.raises(SpecError):
            select(made, choice(0, folds))
        return
    chosen = [select(made, choice(fold, folds)) for fold in range(folds)]
    assert sorted(index for fold in chosen for index in fold["val"]) == list(range(len(made.slices)))
    for fold in chosen:
        sides = [{made.subjects[made.slices[index].scan] for index in fold[part]} for part in ("train", "val")]
        assert not sides[0] & sides[1]


def test_an_exclusion_thins_train_and_never_the_fold_that_validates():
    exclude = {"scans": [0], "slices": ["3_1"]}
    assert scans(select(manifest(), choice(0, exclude=exclude)), "train") == [1, 2, 4]
    assert len(select(manifest(), choice(0, exclude=exclude))["val"]) == 3
    assert scans(select(manifest(), choice(2, exclude=exclude)), "val") == [0, 1]
    assert len(select(manifest(), choice(2, exclude=exclude))["train"]) == 4 + 2 + 1


@pytest.mark.parametrize(
    ("fields", "path", "received", "told"),
    [
        ({"folds": 5}, "dataset.split.folds", 5, "at most 4"),
        ({"fold": 4}, "dataset.split.fold", 4, "at most 3"),
        ({"exclude": {"scans": [5]}}, "dataset.exclude.scans", [5], "only train"),
        ({"exclude": {"slices": ["0_7"]}}, "dataset.exclude.slices", ["0_7"], "only train"),
    ],
)
def test_refused_folds(fields, path, received, told):
    with pytest.raises(SpecError, match=told) as caught:
        select(manifest(), choice(**fields))
    assert (caught.value.path, caught.value.received) == (path, received)


def test_one_subject_makes_no_folds():
    alone = replace(manifest(), subjects=dict.fromkeys(SCANS, "A"))
    with pytest.raises(SpecError, match="at least 2 subjects"):
        select(alone, choice())


def test_the_hash_follows_the_subjects_and_the_fold():
    def hashed(fold=0, folds=None, of=None, **more):
        spec = ExperimentSpec.parse({"dataset": choice(fold, folds, **more).model_dump()})
        return training_hash(spec, of or manifest())

    assert hashed() == hashed(of=manifest())
    assert len({hashed(), hashed(1), hashed(0, 2), hashed(0, 3), hashed(exclude={"scans": [0]})}) == 5
    others = {**manifest().subjects, 3: "B"}  # scan 3 is B's now, so leaving out B leaves out more
    assert hashed(of=replace(manifest(), subjects=others)) != hashed()


def test_without_folds_subjects_leave_the_hash_alone():
    spec = ExperimentSpec.parse({"dataset": {"id": "x"}})
    renamed = replace(manifest(), subjects=dict.fromkeys(SCANS, "A"))
    assert (
        training_hash(spec, renamed) == training_hash(spec, manifest()) == spec.training_hash(manifest().content_hash)
    )
