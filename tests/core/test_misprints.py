"""Misprints in tables made by hand, and in the study's own."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from liverseg_core.misprints import find_misprints
from liverseg_core.presets import EMPTY_PREDICTION, PAPER_2019_ROWS, TABLE_6_COLUMNS
from liverseg_core.printed import PrintedRow, read_tables

SIZE = {"data.image_size": 256}


def row(name, *scores, run_id=None, parameters=SIZE):
    return PrintedRow(name, run_id, dict(parameters), dict(zip(TABLE_6_COLUMNS, scores, strict=False)))


def found(*rows):
    return [(note.check, note.rows) for note in find_misprints(rows)]


GOOD = row("good", 3.003, 96.997, 98.767, 85.962, 95.798, 6.422)
OTHER = row("other", 2.931, 97.069, 98.855, 84.578, 96.14, 5.006)


def test_a_sound_table_has_no_notes():
    assert found(GOOD, OTHER) == []


def test_loss_and_dice_that_do_not_add_up():
    (note,) = find_misprints([GOOD, row("odd", 26.761, 93.239)])
    assert (note.check, note.rows) == ("loss-and-dice", ("odd",))
    # 26.761 + 93.239 = 120; 100 - 93.239 = 6.761; 100 - 26.761 = 73.239
    assert "add to 120.000, not to 100" in note.message
    assert "loss would be 6.761" in note.message
    assert "Dice 73.239" in note.message


@pytest.mark.parametrize(
    ("loss", "dice", "wrong"),
    [
        (6.84, 93.161, False),  # 100.001: each of the two is rounded by up to 0.0005
        (6.838, 93.161, False),  # 99.999
        (6.841, 93.161, True),  # 100.002 cannot be rounding
        (6.8, 93.161, True),  # in a column of three decimals, 6.8 is 6.800
    ],
)
def test_rounding_is_no_misprint(loss, dice, wrong):
    assert found(GOOD, row("a", loss, dice)) == ([("loss-and-dice", ("a",))] if wrong else [])


def test_rounding_of_coarser_tables():
    assert found(row("a", 6.8, 93.161), row("b", 3.1, 96.9)) == []  # 0.05 + 0.0005 allowed, 0.039 off
    assert found(row("a", 7, 94), row("b", 3, 97)) == []  # 0.5 + 0.5 allowed
    assert found(row("a", 7, 95), row("b", 3, 97)) == [("loss-and-dice", ("a",))]


def test_scores_without_parameters_and_the_reverse():
    bare = replace(OTHER, name="bare", parameters={})
    unscored = row("unscored")
    assert found(GOOD, bare, unscored)[:2] == [("no-parameters", ("bare",)), ("no-scores", ("unscored",))]
    # A table of scores alone has nothing to be missed.
    assert found(replace(GOOD, parameters={}), bare)[1:] == []


def test_rows_alike_in_all_scores():
    copy = replace(GOOD, name="copy", parameters={"data.image_size": 512})
    (note,) = find_misprints([GOOD, OTHER, copy])
    assert (note.check, note.rows) == ("identical", ("good", "copy"))
    assert "though they differ in image size" in note.message
    nearly = replace(copy, scores=copy.scores | {"recall": 85.963})
    assert found(GOOD, nearly) == []
    assert found(row("a", 5.0, 95.0), row("b", 5.0, 95.0)) == []  # two scores may be equal by chance


def test_the_floor_of_the_study_is_known():
    """One row is enough: an empty prediction scores 0.201 at 256 and 0.050 at 512, see ``EMPTY_PREDICTION``."""
    low = row("low", 7.838, 92.162, 97.598, 89.396, 94.205, 0.201)
    near = row("near", 6.761, 93.239, 95.723, 90.185, 92.307, 0.203)
    assert found(GOOD, low, near) == [("floor", ("low",))]
    large = replace(low, name="large", parameters={"data.image_size": 512})
    assert found(GOOD, large) == []
    large = replace(large, scores=large.scores | {"dice_tumor": 0.05})
    assert found(GOOD, large) == [("floor", ("large",))]


def test_a_floor_is_seen_where_rows_share_it():
    scores = [(8.0, 92.0, 97.5, 89.3, 94.2, 31.337), (9.1, 90.9, 96.5, 88.3, 93.2, 31.337)]
    rows = [row(f"low {number}", *values) for number, values in enumerate(scores)]
    assert found(GOOD, *rows) == []  # 6.422 is lower
    high = replace(GOOD, scores=GOOD.scores | {"dice_tumor": 61.442})
    assert found(high, *rows) == []  # two may be chance
    third = row("third", 9.2, 90.8, 96.4, 88.2, 93.1, 31.337)
    (note,) = find_misprints([high, *rows, third])
    assert (note.check, note.rows) == ("floor", ("low 0", "low 1", "third"))
    assert "is the lowest value and shared to the last digit" in note.message


def test_coarse_values_are_shared_by_chance():
    rows = [row(f"row {number}", 8.0 + number, 92.0 - number, 97.5, 89.3, 94.2, 31.3) for number in range(4)]
    assert found(*rows) == []


def test_a_prediction_of_nothing():
    empty = row("empty", 99.6, 0.4, 0, 0, 0.5, 0.4)
    (note,) = find_misprints([GOOD, empty])
    assert (note.check, note.rows) == ("floor", ("empty",))
    assert "nothing was segmented" in note.message
    low = row("low", 8.0, 92.0, 97.5, 89.3, 94.2, 0.4)
    assert found(GOOD, empty, low) == [("floor", ("empty", "low")), ("floor", ("empty",))]
    # Just below the threshold of precision and recall, but far from empty.
    assert found(GOOD, row("faint", 2.5, 97.5, 0, 0, 95.0, 9.55)) == []


def test_empty_predictions_are_alike_by_nature():
    empty = row("empty", 99.6, 0.4, 0, 0, 0.5, 0.4)
    assert [check for check, _ in found(GOOD, empty, replace(empty, name="also empty"))] == ["floor"]


def test_run_ids_seconds_apart():
    ids = ["0605-180456", "0605-180358", "0605-190000", "0605-180517", "0606-143205", "run 7", None]
    rows = [row(f"r{number}", parameters={}, run_id=run) for number, run in enumerate(ids)]
    (note,) = find_misprints(rows)
    # 18:03:58 to 18:04:56 is 58 s, to 18:05:17 another 21 s.
    assert (note.check, note.rows) == ("run-times", ("r1", "r0", "r3"))
    assert "times 21 to 58 s apart" in note.message
    assert found(*(row(run, parameters={}, run_id=run) for run in ("0605-180358", "0605-180558"))) == []
    assert found(*(row(run, parameters={}, run_id=run) for run in ("1305-180358", "1305-180359"))) == []


def as_printed(**changes):
    rows = [
        PrintedRow(
            row.name,
            row.run_id,
            {"training.batch_size": row.batch_size, "data.image_size": row.image_size} if row.run_id else {},
            dict(zip(TABLE_6_COLUMNS, row.printed, strict=True)),
        )
        for row in PAPER_2019_ROWS
    ]
    return [replace(row, **changes.get(row.name, {})) for row in rows]


AT_THE_FLOOR = {
    "Not shuffled",
    "lr5e-3",
    "lr5e-4",
    "DA",
    "DA lr5e-4",
    "DA remove",
    "Remove shuffle 3",
    "Remove shuffle 4",
}


def check_errata(notes):
    """Errata 1, 2, 3, 4 and 6 of the study, and nothing else."""
    assert [note.check for note in notes] == [
        "loss-and-dice",
        "no-parameters",
        "identical",
        "floor",
        "floor",
        "run-times",
    ]
    first, second, third, floor, empty, times = notes
    assert first.rows == ("Remove shuffle 2",)
    assert "6.761" in first.message
    assert second.rows == ("Remove shuffle 5",)
    assert third.rows == ("Shuffled 2", "Shuffled 512 b4")
    assert set(floor.rows) == AT_THE_FLOOR
    assert empty.rows == ("lr5e-3",)
    assert times.rows == tuple(row.name for row in PAPER_2019_ROWS[:9])
    assert "17 to 58 s apart" in times.message


def test_the_study_s_errata_are_found():
    check_errata(find_misprints(as_printed()))


def test_the_study_s_tables_mended_leave_only_floors():
    mended = {
        "Remove shuffle 2": {
            "scores": dict(zip(TABLE_6_COLUMNS, (6.761, 93.239, 95.723, 90.185, 92.307, 0.203), strict=True))
        },
        "Remove shuffle 5": {"parameters": {"training.batch_size": 1, "data.image_size": 256}},
        "Shuffled 512 b4": {
            "scores": dict(zip(TABLE_6_COLUMNS, (2.943, 97.057, 98.956, 92.721, 96.263, 6.144), strict=True))
        },
        **{row.name: {"run_id": f"0605-{number + 10}0358"} for number, row in enumerate(PAPER_2019_ROWS[:9])},
    }
    notes = find_misprints(as_printed(**mended))
    assert [note.check for note in notes] == ["floor", "floor"]
    assert set(notes[0].rows) == AT_THE_FLOOR


def test_notes_are_data():
    (note,) = find_misprints([GOOD, row("odd", 26.761, 93.239)])
    assert json.loads(json.dumps(note.to_json())) == {
        "check": "loss-and-dice",
        "rows": ["odd"],
        "message": note.message,
    }


@pytest.mark.study
def test_the_errata_of_the_printed_files(study):
    files = [(name, (study / "paper" / name).read_text()) for name in ("table5.json", "table6.json")]
    check_errata(find_misprints(read_tables(files)))


@pytest.mark.study
def test_the_printed_files_mended(study):
    first, second = (json.loads((study / "paper" / name).read_text()) for name in ("table5.json", "table6.json"))
    for number, printed in enumerate(first["rows"]):
        printed[0] = f"06{number + 10}-180358"
    first["rows"].append(["0630-180358", "Remove shuffle 5", "Adam", 1, 256, 4, 0.001])
    scores = {printed[0]: printed for printed in second["rows"]}
    scores["Remove shuffle 2"][1] = 6.761
    scores["Shuffled 512 b4"][1:] = [2.943, 97.057, 98.956, 92.721, 96.263, 6.144]
    as_csv = io.StringIO()
    csv.writer(as_csv).writerows([second["columns"], *second["rows"]])
    notes = find_misprints(read_tables([("5.json", json.dumps(first)), ("6.csv", as_csv.getvalue())]))
    assert [note.check for note in notes] == ["floor", "floor"]


@pytest.mark.study
def test_what_an_empty_prediction_scores(study):
    """With p = 0: the mean over val of 1 / (sum y^2 + 1), y bilinear, which from 512 to 256 is the mean of 2 x 2."""
    found = {size: {"dice": [], "dice_liver": []} for size in (256, 512)}
    for path in (study / "liver_ct" / "val" / "masks").glob("*.png"):
        with Image.open(path) as image:
            full = np.asarray(image, dtype=np.float64) / 255
        for size, y in ((512, full), (256, full.reshape(256, 2, 256, 2).mean(axis=(1, 3)))):
            found[size]["dice"].append(1 / ((y**2).sum() + 1))
            found[size]["dice_liver"].append(1 / ((y[y != 1] ** 2).sum() + 1))
    for size, floor in EMPTY_PREDICTION.items():
        means = {key: 100 * np.mean(values) for key, values in found[size].items()}
        assert floor == pytest.approx({**means, "dice_tumor": means["dice"]}, abs=5e-6)
