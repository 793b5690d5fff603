"""The study's page, made from synthetic records; every expected number is worked out from ``exports.SLICE``."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from liverseg_core.errors import DataError
from liverseg_core.presets import PAPER_2019_ROWS
from liverseg_core.study import read_folder
from liverseg_core.study_page import PAPER_SPLIT, page
from liverseg_core.study_verdicts import concordant, direction, spread, verdict
from tests.core import exports

DOCS = Path(__file__).parents[2] / "docs"
SUBJECTS = "With every subject left out in turn"
NO_LESION = {"n02": 0, "n12": 0, "n22": 0, "n21": 10, "n11": 27}


def left_out(fold: int, slices: list[tuple[int, int]], kind: str = "train", **more):
    """A fold of leave-one-subject-out; of the subjects a (scan 0) and b (scans 8 and 9), fold 0 leaves a out."""
    settings = {"dataset.split.kind": "leave-one-subject-out", "dataset.split.fold": fold, "training.epochs": 7}
    settings |= more.pop("settings", {})
    return exports.run(more.pop("name", "Recipe"), kind, settings=settings, slices=slices, **more)


def section(text: str, title: str) -> str:
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of every table."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first: rest for first, *rest in cells}


@pytest.fixture(scope="module")
def text():
    return page(
        [
            exports.run("Shuffled 1", seed=0, dice=0.9),
            exports.run("Shuffled 1", seed=1, dice=0.94),
            exports.run("Shuffled 1", seed=2, dice=0.95),
            exports.run("Not shuffled", dice=0.8, **NO_LESION),
            exports.run("lr5e-3", dice=0.85),
            exports.run("DA", dice=0.91),
            exports.run("DA corrected", settings={"data.augmentation": "right-angles"}, dice=0.92),
            exports.run("lr5e-4_0605.h5", "evaluate", imported=True, dice=0.85366, dice_tumor=0.00201),
            exports.run("Empty", "reference", predictor="empty", dice=0.00201, **NO_LESION),
            exports.run("Perfect", "reference", predictor="perfect", dice=1.0, dice_tumor=0.0955),
            left_out(0, [(0, 0), (0, 1)]),
            left_out(1, exports.SLICES),
        ]
    )


def test_table_6_as_printed_with_its_notes(text):
    printed = section(text, "Table 6 as printed")
    table = rows(printed)
    assert table["0605-180358"][:5] == ["Shuffled 1", "32", "256", "4", "0.001"]
    assert table["0605-180358"][5:] == ["3.663", "96.337", "99.530", "57.927", "94.502", "5.386"]
    assert table["-"][:5] == ["Remove shuffle 5", "-", "-", "-", "-"]
    notes = [line for line in printed.splitlines() if line.startswith("- ")]
    assert len(notes) == 6
    assert notes[0].startswith("- Remove shuffle 2: loss 26.761 and Dice 93.239 add to 120.000")


def test_retrained_rows_are_means_over_seeds_with_n(text):
    part = section(text, "Retrained here")
    table = rows(part)
    # 90, 94, 95: mean 93, deviations -3, 1, 2, so sd = sqrt(14 / 2) = 2.645751
    assert table["Shuffled 1"][:3] == ["n = 3", "7.000 ± 2.646", "93.000 ± 2.646"]
    # Precision 35 / 37, recall 35 / 40 over all pixels.
    assert table["Shuffled 1"][3:] == ["94.595 ± 0.000", "87.500 ± 0.000", "80.000 ± 0.000", "5.000 ± 0.000"]
    assert table["Shuffled 2"] == table["Shuffled 1"]  # the same settings
    assert table["Not shuffled"][:3] == ["n = 1", "20.000", "80.000"]
    assert PAPER_SPLIT in part
    trained = {"Shuffled 1", "Shuffled 2", "Not shuffled", "lr5e-3", "DA"}
    missing = [row.name for row in PAPER_2019_ROWS if row.name not in trained]
    assert f"Not run: {', '.join(missing)}." in part
    assert table["DA corrected"][0] == "n = 1"
    assert table["DA corrected"][-1] == "augmentation right-angles"


def test_modern_is_pooled_and_by_scan(text):
    part = section(text, "The same predictions under `modern`")
    lines = [line for line in part.splitlines() if "Shuffled 1 |" in line or "Not shuffled |" in line]
    # Lesion 12 / 17 = 70.588, liver 74 / 79 = 93.671, in every scan alike.
    assert (
        lines[0]
        == "| retrained | Shuffled 1 | n = 3 | 93.671 ± 0.000 | 70.588 ± 0.000 | 70.588 ± 0.000 | 70.588 ± 0.000 |  |"
    )
    # No lesion predicted: TP 0, FN 10; liver TP 27 + 10, FP 2, FN 3.
    assert lines[1] == "| retrained | Not shuffled | n = 1 | 93.671 | 0.000 | 0.000 | 0.000 | predicts no lesion |"
    assert (
        "| Source | Name | n | Liver Dice, pooled | Lesion Dice, pooled | Lesion Dice, scan 8 | Lesion Dice, scan 9 |"
        in part
    )
    assert "| study's weights | lr5e-4 | n = 1 |" in part


def test_the_study_s_weights_belong_to_their_rows(text):
    part = section(text, "From the study's weights")
    row = rows(part)["lr5e-4"]
    # Printed: 14.633, 85.367, 95.099, 76.411, 86.026, 0.201. Recall 87.5 is 11.089 more.
    assert row == ["14.634", "85.366", "94.595", "87.500", "80.000", "0.201", "+11.089 (Recall)"]
    assert "No weights at hand: Shuffled 1, Shuffled 2, Not shuffled, lr5e-3, Remove shuffle, " in part


def test_a_trained_run_that_is_scored_again_is_no_weight_of_the_study():
    flips = {"evaluation.flips": True}
    text = page(
        [
            exports.run("Shuffled 1", seed=0, dice_tumor=0.05),
            exports.run("Shuffled 1", "evaluate", seed=0, settings=flips, dice=0.7, dice_tumor=0.06),
            exports.run("Shuffled 1", "rescore", seed=1, settings=flips, dice=0.8),
            exports.run("DA", dice_tumor=0.055, n22=7, n21=3),
            exports.run("shuffled_1_0601.h5", "evaluate", imported=True, dice=0.96),
            exports.run("shuffled_1_0601.h5", "evaluate", imported=True, settings=flips, dice=0.5),
            exports.run("Shuffled 1", "evaluate", seed=0, dice=0.6),
            exports.run("Perfect", "reference", predictor="perfect"),
        ]
    )
    table = rows(section(text, "From the study's weights"))
    assert table["Shuffled 1"][1] == "96.000"
    part = section(text, "Retrained here")
    again, weights = [line for line in part.splitlines() if line.endswith("| flips True |")]
    # Seeds 0 and 1, one from its weights and one from its maps: 70 and 80, sd 10 / sqrt(2) = 7.071.
    assert again.startswith("| Shuffled 1 | n = 2 | 25.000 ± 7.071 | 75.000 ± 7.071 |")
    assert weights.startswith("| shuffled_1_0601.h5 | n = 1 |")
    assert "| Shuffled 1 | n = 1 | 40.000 | 60.000 |" in part  # its maps were deleted; no option differs
    # As first scored, DA alone is apart, and higher in both: 5.5 and 14 / 18 against 5 and 12 / 17 of three others.
    # Were seed 0 its scores with flips, at 6, that pair would be ordered the other way.
    part = section(text, "What survives and what does not")
    assert "order 3 of 3 pairs of runs alike" in part
    assert "the highest of the exported runs is 6.000." in part


def test_references_are_shown(text):
    table = rows(section(text, "Reference predictors"))
    assert table["empty, 256 pixels"][1] == "0.201"
    assert table["perfect, 256 pixels"][5] == "9.550"


def test_subjects_that_were_left_out(text):
    part = section(text, SUBJECTS)
    assert "**Recipe**, seed 0, subject-level; 2 of 2 folds (leave-one-subject-out); " in part
    table = rows(part)
    assert table["scans 0"] == ["2", "93.671", "70.588"]
    assert table["scans 8, 9"] == ["3", "93.671", "70.588"]
    assert table["all slices pooled"] == ["5", "93.671", "70.588"]
    # The defaults are the settings of Shuffled 1, which trains the study's 30 epochs.
    assert table[PAPER_SPLIT] == ["n = 3", "30", "93.671 ± 0.000", "70.588 ± 0.000"]
    assert table["subject-level, everybody left out once"] == ["n = 1", "7", "93.671", "70.588"]


def test_whom_the_folds_did_not_leave_out():
    part = section(page([exports.run("Shuffled 1"), left_out(1, exports.SLICES)]), SUBJECTS)
    assert "subject-level; 1 of 2 folds (leave-one-subject-out)" in part
    assert rows(part)["subject-level, 1 of 2 subjects left out"] == ["n = 1", "7", "93.671", "70.588"]
    # Were scan 0 the test part, which every fold scores, folds would be made of b alone.
    alone = left_out(1, exports.SLICES)
    tested = {name: [*values, values[0]] for name, values in alone.slices.items()}
    tested["part"][-1], tested["scan"][-1] = "test", 0
    part = section(page([exports.run("Shuffled 1"), replace(alone, slices=tested)]), SUBJECTS)
    assert "subject-level, everybody left out once" in rows(part)


def test_folds_hold_what_was_trained_without_somebody_and_nothing_else():
    floor = {"predictor": "empty", "name": "Empty", **NO_LESION}
    again = left_out(1, exports.SLICES, "rescore")
    older = replace(left_out(1, exports.SLICES), evaluation_hash="e" * 64)
    runs = [left_out(0, [(0, 0)]), again, older, left_out(1, exports.SLICES, "reference", **floor)]
    runs += [left_out(fold, [(scan, 0)], "evaluate", imported=True, name="w.h5") for fold, scan in enumerate((0, 8))]
    text = page([*runs, exports.run("w.h5", "rescore", imported=True)])
    part = section(text, SUBJECTS)
    # Fold 1 was scored again, which changes nothing about whom it left out; the older scores are not added to those.
    assert [line.split(";")[1] for line in part.splitlines() if line.startswith("**")] == [
        " 2 of 2 folds (leave-one-subject-out)",
        " 1 of 2 folds (leave-one-subject-out)",
    ]
    assert [line for line in part.splitlines() if line.startswith("| all slices")] == [
        "| all slices pooled | 4 | 93.671 | 70.588 |",
        "| all slices pooled | 3 | 93.671 | 70.588 |",
    ]
    # Weights that came as a file left nobody out, and two scores of them are no repeats.
    lines = [line for line in part.splitlines() if line.startswith("| w.h5 ")]
    assert len(lines) == 2
    assert all("| n = 1 |" in line for line in lines)
    assert lines[1].endswith("split.kind leave-one-subject-out, split.fold 1, epochs 7 |")
    assert PAPER_SPLIT not in part  # nor are they the same experiment on the paper split
    assert "Empty" not in part
    assert "Not run: no reference predictor on the paper split" in text


def test_the_page_of_the_committed_records_is_the_committed_page():
    made = page(read_folder(DOCS / "study"))
    # Lines, because a difference of two long texts takes pytest minutes. `liverseg study report` makes the page.
    assert made.split("\n") == (DOCS / "study.md").read_text(encoding="utf-8").split("\n")


def test_what_survives_follows_from_the_rows(text):
    part = section(text, "What survives and what does not")
    table = rows(part)
    # Shuffled 1: 90, 94, 95 against 80; printed 96.337 against 84.553. Lesions 70.588 against 0.
    assert table["Shuffling"] == [
        "Shuffled 1 against Not shuffled",
        "shuffle, epochs",
        "96.337 against 84.553",
        "93.000 ± 2.646 against 80.000",
        "agrees (n = 3 and 1)",
        "70.588 ± 0.000 against 0.000",
        "first is higher",
    ]
    # Printed 84.553 against 0.201; here 80 against 85.
    assert table["Learning rate 0.001 against 0.005"][1] == "learning rate"
    assert table["Learning rate 0.001 against 0.005"][4] == "disagrees (n = 1 and 1)"
    # Printed 92.162 against 96.337; here 91 lies among 90, 94, 95.
    assert table["The study's augmentation"][4] == "open (n = 1 and 3)"
    assert table["The study's augmentation"][6] == "open"
    assert table["Leaving scans 0 and 1 out"][3:5] == ["- against 93.000 ± 2.646", "not run"]
    assert table["512 against 256 pixels"][2] == "95.605 against 97.069, flagged as copied"
    assert table["512 against 256 pixels"][3:] == ["-", "not run", "-", "not run"]
    assert "A perfect prediction scores 9.550 in Dice Coef. Tumor at 256 pixels; the highest of " in part
    assert "the exported runs is 5.000." in part
    assert "Retrained here: Not shuffled: 1 of 1 without a lesion pixel; lr5e-3: 0 of 1 without " in part


def test_how_each_was_run(text):
    lines = section(text, "How each was run").splitlines()
    assert len([line for line in lines if line.startswith("| `")]) == 12
    (line,) = [line for line in lines if line.startswith("| `shuffled-1-s2-")]
    # 30.25 + 60.25 s = 0.0251 h
    assert line.endswith(
        "| Shuffled 1 | train | 2 | 2 (2) | 0.03, 2 attempts | A Processor, 2 cores, 2 threads "
        "| keras 3.15.0, tensorflow 2.21.0, python 3.11.7 | 0.1.0 0123456789ab |"
    )


def test_sections_without_runs_say_so():
    text = page([exports.run("Empty", "reference", predictor="empty")])
    assert "Not run: no weights of the study" in text
    assert "No row has been trained yet." in text
    assert "Not run: no run that leaves subjects out" in text
    assert f"Not run: {', '.join(row.name for row in PAPER_2019_ROWS)}." in text
    assert "Not run: no reference predictor" in page([exports.run("DA")])


def test_scores_on_other_slices_never_share_a_table():
    first = exports.run("Shuffled 1")
    with pytest.raises(DataError, match="not scored on the same slices"):
        page([first, exports.run("DA", slices=[(8, 0)])])
    other = exports.DATASET | {"content_hash": "d" * 64}
    with pytest.raises(DataError, match="different data sets"):
        page([first, exports.run("DA", dataset=other)])
    split = {"dataset.split.kind": "scans", "dataset.split.train": [0], "dataset.split.val": [8]}
    text = page([first, exports.run("tried", settings=split, slices=[(8, 0)])])
    assert "tried" not in section(text, "Retrained here")
    assert rows(section(text, SUBJECTS))["tried"][0] == "n = 1"


def test_weight_files_and_references_are_no_repeats_of_one_experiment():
    split = {"dataset.split.kind": "scans", "dataset.split.train": [0], "dataset.split.val": [8]}
    small = {"evaluation.min_lesion": 10}
    text = page(
        [
            exports.run("DA", settings=small),
            *(exports.run(f"{name}.h5", "rescore", imported=True, settings=small) for name in "ab"),
            *(exports.run(f"{name}.h5", "evaluate", imported=True, settings=split, slices=[(8, 0)]) for name in "cd"),
            exports.run("trained", settings=split, slices=[(8, 0)]),
            exports.run("again", "rescore", seed=1, settings=split, slices=[(8, 0)]),
            exports.run("Empty", "reference", predictor="empty", settings=split, slices=[(8, 0)]),
            exports.run("Perfect", "reference", predictor="perfect", settings=split, slices=[(8, 0)]),
        ]
    )
    others = rows(section(text, "Retrained here"))
    assert [others[name][0] for name in ("a.h5", "b.h5")] == ["n = 1"] * 2
    elsewhere = rows(section(text, SUBJECTS))
    del elsewhere["Name"], elsewhere["---"]
    assert {name: cells[0] for name, cells in elsewhere.items()} == dict.fromkeys(
        ("c.h5", "d.h5", "trained", "again"), "n = 1"
    )


def test_what_a_reader_must_know_is_said():
    words = "the study's own split, one person may be on both sides"
    split = {"dataset.split.override": words}
    text = page([exports.run("Shuffled 1", settings=split), exports.run("DA")])
    assert f"was overridden for Shuffled 1: {words}" in text
    assert "n = 1" in rows(section(text, "Retrained here"))["Shuffled 1"]  # an override is no other experiment
    assert "softmax" not in text
    text = page([exports.run("three classes", settings={"model.head": "softmax"})])
    assert "overridden" not in text
    assert "p = 0, 0.5 and 0.999" in section(text, "Retrained here")


def test_names_cannot_break_the_page():
    text = page([exports.run("a | b <img> `x` *y*\n# head", settings={"training.learning_rate": 0.002})])
    assert "a \\| b \\<img> " in text
    assert "\n# head" not in text


@pytest.mark.parametrize(
    ("printed", "first", "second", "word"),
    [
        (1.0, [2.0], [1.0], "agrees (n = 1 and 1)"),
        (-1.0, [2.0], [1.0], "disagrees (n = 1 and 1)"),
        (1.0, [2.0, 3.0], [1.0, 1.5], "agrees (n = 2 and 2)"),
        (1.0, [2.0, 3.0], [1.0, 2.5], "open (n = 2 and 2)"),
        (1.0, [2.0], [2.0], "open (n = 1 and 1)"),
        (0.0, [2.0], [1.0], "printed equal (n = 1 and 1)"),
        (1.0, [], [1.0], "not run"),
    ],
)
def test_verdicts(printed, first, second, word):
    assert verdict(printed, first, second) == word


def test_directions_pairs_and_spreads():
    assert direction([2, 3], [1]) == "first is higher"
    assert direction([1], [2, 3]) == "second is higher"
    assert direction([1, 3], [2]) == "open"
    assert direction([], [2]) == "not run"
    # Pairs: (1,1)-(2,3) alike, (1,1)-(3,2) alike, (2,3)-(3,2) not; the tie counts for nothing.
    assert concordant([(1, 1), (2, 3), (3, 2)]) == (2, 3)
    assert concordant([(1, 1), (1, 3)]) == (0, 0)
    assert spread([]) == "-"
    assert spread([1.0]) == "1.000"
    assert spread([1.0, 3.0]) == "2.000 ± 1.414"  # sqrt(2)
