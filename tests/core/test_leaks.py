"""The same subject or picture on both sides of a split."""

from dataclasses import replace

import pytest

from liverseg_core.data.leaks import guarded, leaks
from liverseg_core.data.manifest import Manifest, SliceEntry, in_order, select
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice, ExperimentSpec

ENTRIES = [
    SliceEntry(part, scan, number, f"i{scan}_{number}", f"m{scan}_{number}")
    for scan, part in enumerate(["train", "train", "train", "val", "val", "test"])
    for number in range(2)
]
CLEAN = Manifest(4, 4, in_order(ENTRIES), {scan: str(scan) for scan in range(6)}, subjects_assumed=True)
SHARED = replace(CLEAN, subjects={0: "A", 1: "F", 2: "F", 3: "F", 4: "B", 5: "B"}, subjects_assumed=False)


def choice(**fields) -> DatasetChoice:
    return ExperimentSpec.parse({"dataset": {"id": "x", **fields}}).dataset


def told(manifest: Manifest, **fields) -> list[str]:
    return [str(leak) for leak in leaks(manifest, select(manifest, choice(**fields)))]


def same_pixels(manifest: Manifest, *keys: str) -> Manifest:
    slices = [replace(one, image_sha256="same" + one.key[-1]) if one.key in keys else one for one in manifest.slices]
    return replace(manifest, slices=tuple(slices))


def test_a_scan_a_subject_leaks_nothing():
    assert told(CLEAN) == []
    assert guarded(CLEAN, choice()) == []


def test_subjects_on_both_sides_are_named_with_their_scans():
    assert told(SHARED) == [
        "subject B lies in val (scan 4) and in test (scan 5)",
        "subject F lies in train (scans 1, 2) and in val (scan 3)",
    ]


def test_an_excluded_scan_leaks_nothing():
    assert told(SHARED, exclude={"scans": [1, 2]}) == ["subject B lies in val (scan 4) and in test (scan 5)"]


def test_equal_pictures_are_found_whoever_they_show():
    made = same_pixels(CLEAN, "0_0", "3_0", "0_1", "3_1")
    assert told(made) == ["2 equal pictures lie in train (scan 0) and in val (scan 3)"]
    assert told(same_pixels(CLEAN, "0_0", "1_0", "5_0")) == [
        "1 equal picture lies in train (scans 0, 1) and in test (scan 5)"
    ]
    assert told(same_pixels(CLEAN, "0_0", "1_0")) == []


def test_folds_by_subject_keep_a_subject_together():
    apart = replace(SHARED, subjects=SHARED.subjects | {5: "T"})
    assert told(apart, split={"kind": "leave-one-subject-out", "fold": 2}) == []


def test_a_leak_needs_a_written_reason():
    with pytest.raises(SpecError, match=r"subject F .*scans 1, 2.* dataset\.split\.override") as caught:
        guarded(SHARED, choice(split={"override": "  "}))
    assert caught.value.path == "dataset.split"
    assert [leak.subject for leak in guarded(SHARED, choice(split={"override": "for a reason"}))] == ["B", "F"]


def test_many_leaks_are_counted_not_listed():
    made = replace(CLEAN, subjects={scan: f"P{scan % 3}" for scan in range(6)})
    made = same_pixels(made, "0_0", "3_0", "1_1", "4_1", "2_1")
    made = replace(
        made, slices=(*made.slices, SliceEntry("val", 9, 1, "i0_1", "m")), subjects={**made.subjects, 9: "Q"}
    )
    made = replace(
        made, slices=(*made.slices, SliceEntry("val", 8, 1, "i2_0", "m")), subjects={**made.subjects, 8: "R"}
    )
    assert len(told(made)) == 7
    with pytest.raises(SpecError, match="; and 2 more"):
        guarded(made, choice())


@pytest.mark.study
def test_the_study_s_own_split_shares_one_assumed_subject(study):
    import json

    subjects = {
        int(scan): who for scan, who in json.loads((study / "liver_ct/subjects.json").read_text())["subjects"].items()
    }
    entries = [
        SliceEntry(part, *map(int, path.stem.split("_")), f"{part}{path.name}", "m")
        for part in ("train", "val")
        for path in (study / "liver_ct" / part / "images").glob("*.png")
    ]
    real = Manifest(512, 512, in_order(entries), subjects, subjects_assumed=False)
    assert told(real) == ["subject F lies in train (scans 6, 7) and in val (scans 8, 9, 10)"]
