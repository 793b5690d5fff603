"""What a data set holds and which of it is used."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liverseg_core.data.annotations import Acquisition
from liverseg_core.data.manifest import Manifest, SliceEntry, check_runnable, in_order, select
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice, ExperimentSpec

IN = "0" * 64


def entry(part: str, scan: int, number: int) -> SliceEntry:
    return SliceEntry(part, scan, number, IN, "1" * 64)


# Indices: train 0_46 0_5 10_1 1_1 -> 0..3, val 2_1 2_2 -> 4, 5, test 3_1 -> 6
ENTRIES = [
    entry("test", 3, 1),
    entry("val", 2, 2),
    entry("train", 1, 1),
    entry("train", 0, 5),
    entry("train", 10, 1),
    entry("val", 2, 1),
    entry("train", 0, 46),
]
MANIFEST = Manifest(4, 5, in_order(ENTRIES), {0: "A", 1: "A", 2: "B", 3: "C", 10: "D"}, subjects_assumed=False)


def choice(**fields) -> DatasetChoice:
    return ExperimentSpec.parse({"dataset": {"id": "x", **fields}}).dataset


def test_order_is_by_part_then_by_file_name():
    assert [(one.part, one.key) for one in MANIFEST.slices] == [
        ("train", "0_46"),
        ("train", "0_5"),
        ("train", "10_1"),
        ("train", "1_1"),
        ("val", "2_1"),
        ("val", "2_2"),
        ("test", "3_1"),
    ]


def test_order_is_that_of_sorted_file_names():
    names = [f"{one.key}.png" for one in MANIFEST.slices if one.part == "train"]
    assert names == sorted(names)


def test_paths_inside_the_archive():
    one = entry("val", 8, 12)
    assert (one.key, one.image_path, one.mask_path) == ("8_12", "val/images/8_12.png", "val/masks/8_12.png")


def test_parts_and_scans():
    assert MANIFEST.parts == ("train", "val", "test")
    assert MANIFEST.scans("train") == (0, 1, 10)
    assert MANIFEST.scans() == (0, 1, 2, 3, 10)
    assert replace(MANIFEST, slices=MANIFEST.slices[:6]).parts == ("train", "val")


def test_json_round_trip():
    assert Manifest.from_json(json.loads(json.dumps(MANIFEST.to_json()))) == MANIFEST


def test_content_hash_is_a_golden_number():
    # sha256 of {"height":1,"slices":[{"image_sha256":"a","mask_sha256":"b","part":"val","scan":8,"slice":12}],
    # "width":2} without the line break, by sha256sum
    tiny = Manifest(1, 2, (SliceEntry("val", 8, 12, "a", "b"),), {8: "F"}, subjects_assumed=False)
    assert tiny.content_hash == "3cf2bd8dc6fa9ab714b5d0dc8e231670103e9525ebb380d02d76e327c45b9418"


def test_spacing_is_content_where_it_is_told():
    taken = dict.fromkeys(MANIFEST.scans(), Acquisition((0.7, 0.7, 5.0), (50.0, 400.0)))
    told = replace(MANIFEST, acquisitions=taken)
    assert Manifest.from_json(json.loads(json.dumps(told.to_json()))) == told
    assert "acquisitions" not in MANIFEST.to_json()
    thinner = replace(MANIFEST, acquisitions=taken | {2: Acquisition((0.7, 0.7, 2.5), (50.0, 400.0))})
    assert len({one.content_hash for one in (MANIFEST, told, thinner)}) == 3
    assert replace(told, acquisitions={}).content_hash == MANIFEST.content_hash


def test_subjects_do_not_change_the_content_hash():
    assert replace(MANIFEST, subjects={}, subjects_assumed=True).content_hash == MANIFEST.content_hash


@pytest.mark.parametrize(
    "other",
    [
        replace(MANIFEST, height=5),
        replace(MANIFEST, width=4),
        replace(MANIFEST, slices=MANIFEST.slices[:-1]),
        replace(MANIFEST, slices=(replace(MANIFEST.slices[0], mask_sha256=IN), *MANIFEST.slices[1:])),
        replace(MANIFEST, slices=(replace(MANIFEST.slices[0], part="val"), *MANIFEST.slices[1:])),
    ],
)
def test_content_changes_the_content_hash(other):
    assert other.content_hash != MANIFEST.content_hash


def test_given_split():
    assert select(MANIFEST, choice()) == {"train": (0, 1, 2, 3), "val": (4, 5), "test": (6,)}


def test_scans_split_ignores_the_folders():
    split = {"kind": "scans", "train": [2, 3], "val": [10], "test": [1]}
    assert select(MANIFEST, choice(split=split)) == {"train": (4, 5, 6), "val": (2,), "test": (3,)}


def test_test_may_be_empty():
    split = {"kind": "scans", "train": [2], "val": [10]}
    assert select(MANIFEST, choice(split=split))["test"] == ()


def test_excluding_thins_train_alone():
    exclude = {"scans": [1], "slices": ["0_046", "10_1"]}
    assert select(MANIFEST, choice(exclude=exclude)) == {"train": (1,), "val": (4, 5), "test": (6,)}


@pytest.mark.parametrize(
    ("fields", "path", "received"),
    [
        ({"exclude": {"scans": [7]}}, "dataset.exclude.scans", [7]),
        ({"exclude": {"scans": [2, 0]}}, "dataset.exclude.scans", [2]),
        ({"exclude": {"slices": ["2_1"]}}, "dataset.exclude.slices", ["2_1"]),
        ({"exclude": {"slices": ["0_47"]}}, "dataset.exclude.slices", ["0_47"]),
        ({"exclude": {"scans": [0, 1, 10]}}, "dataset.exclude", None),
        ({"split": {"kind": "scans", "train": [0], "val": [9]}}, "dataset.split.val", [9]),
        ({"split": {"kind": "scans", "train": [0, 8], "val": [2]}}, "dataset.split.train", [8]),
        ({"split": {"kind": "scans", "train": [0], "val": [2], "test": [4]}}, "dataset.split.test", [4]),
        (
            {"split": {"kind": "scans", "train": [0], "val": [1]}, "exclude": {"scans": [1]}},
            "dataset.exclude.scans",
            [1],
        ),
    ],
)
def test_refused_choices(fields, path, received):
    with pytest.raises(SpecError) as caught:
        select(MANIFEST, choice(**fields))
    assert (caught.value.path, caught.value.received) == (path, received)


def test_a_data_set_without_val_cannot_train():
    with pytest.raises(SpecError, match="nothing to validate on"):
        select(replace(MANIFEST, slices=MANIFEST.slices[:4]), choice())


def spec(batch_size: int, augmentation: str = "none") -> ExperimentSpec:
    return ExperimentSpec.parse(
        {"dataset": {"id": "x"}, "data": {"augmentation": augmentation}, "training": {"batch_size": batch_size}}
    )


@pytest.mark.parametrize(("augmentation", "most"), [("none", 4), ("paper-2019", 12)])
def test_a_batch_may_be_as_large_as_an_epoch_and_no_larger(augmentation, most):
    check_runnable(spec(most, augmentation), MANIFEST)
    with pytest.raises(SpecError, match=f"at most {most}") as caught:
        check_runnable(spec(most + 1, augmentation), MANIFEST)
    assert caught.value.path == "training.batch_size"


@given(st.lists(st.sampled_from([0, 1, 10]), unique=True, max_size=2))
def test_excluding_leaves_exactly_the_others(scans):
    left = select(MANIFEST, choice(exclude={"scans": scans}))
    assert {MANIFEST.slices[index].scan for index in left["train"]} == {0, 1, 10} - set(scans)
    assert (left["val"], left["test"]) == ((4, 5), (6,))
