import click
from click.testing import CliRunner

from api.commands import show

SCORES = {
    "loss": "Loss",
    "dice": "Dice Coef.",
    "precision": "Precision",
    "recall": "Recall",
    "dice_liver": "Dice Coef. Liver",
    "dice_tumor": "Dice Coef. Tumor",
    "pooled_liver_dice": "Liver Dice, pooled",
    "pooled_lesion_dice": "Lesion Dice, pooled",
}


def row(run, name, settings, values, state="succeeded"):
    scores = dict(zip(SCORES, values, strict=True)) if values else None
    usual = {"training.optimizer": "adam", "training.learning_rate": 0.001, "dataset.exclude.scans": []}
    return {"run": run, "name": name, "state": state, "settings": usual | settings, "scores": scores}


COMPARISON = {
    "parameters": ["training.optimizer", "training.learning_rate", "dataset.exclude.scans"],
    "scores": SCORES,
    "rows": [
        row(3, "Shuffled 1", {}, [0.03663, 0.96337, 0.9953, 0.57927, 0.94502, 0.05386, 0.9, 0.5]),
        row(12, "lr5e-3", {"training.learning_rate": 0.005}, [0.99799, 0.00201, 0, 0, 0.00209, 0.00201, 0, None]),
        row(13, "Without", {"dataset.exclude.scans": [0, 1]}, None, "running"),
    ],
    "notes": ["What the columns mean. " * 6],
    "warnings": ["Without scores (yet): runs 13."],
}


def test_table_6_as_plain_text():
    # 1 - 0.03663 = 0.96337: the first two rows are the study's printed ones.
    assert show.plain(show.comparison_sheet(COMPARISON)).splitlines() == [
        "Run  Name               Learning rate  Without scans    Loss  Dice Coef.  Precision  Recall"
        "  Dice Coef. Liver  Dice Coef. Tumor  Liver Dice, pooled  Lesion Dice, pooled",
        "  3  Shuffled 1         0.001          none            3.663      96.337     99.530  57.927"
        "            94.502             5.386              90.000               50.000",
        " 12  lr5e-3             0.005          none           99.799       0.201      0.000   0.000"
        "             0.209             0.201               0.000                    -",
        " 13  Without (running)  0.001          0, 1                -           -          -       -"
        "                 -                 -                   -                    -",
    ]


def test_notes_say_what_is_equal_in_all_rows():
    head, note, warning = show.comparison_notes(COMPARISON)
    assert head == "Scores in percent. The same in all rows: optimizer adam."
    assert note.startswith("What the columns mean.")
    assert warning == "WARNING: Without scores (yet): runs 13."


def test_the_printed_table_is_not_cut_and_its_notes_are_wrapped():
    @click.command()
    def printing():
        show.print_comparison(COMPARISON)

    lines = CliRunner().invoke(printing).output.splitlines()
    assert len(lines[0]) > 150
    assert lines[4] == ""
    assert lines[5] == "Scores in percent. The same in all rows: optimizer adam."
    assert max(len(line) for line in lines[5:]) <= 100
    assert "\x1b" not in "".join(lines)


def test_a_narrow_terminal_gets_two_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    settings, scores = show._fitting(show.comparison_sheet(COMPARISON), COMPARISON)
    assert settings.headers == ["Run", "Name", "Learning rate", "Without scans"]
    assert scores.headers == ["Run", "Name", *SCORES.values()]
    assert scores.rows[1] == ["12", "lr5e-3", *["99.799", "0.201", "0.000", "0.000", "0.209", "0.201", "0.000", "-"]]


def test_wide_characters_keep_columns_aligned():
    sheet = show.Sheet(["Name", "N"], [["肝臓", "1"], ["ab", "20"]], frozenset({"N"}))
    assert show.plain(sheet) == "Name   N\n肝臓   1\nab    20"


def test_control_characters_of_others_do_not_reach_the_terminal():
    assert show.clean("a\x1b[31mb\nc\x07") == "a [31mb c "
    assert show.clean_lines("a\x1b\nb") == "a \nb"


def run(**changed):
    values = {
        "id": 3,
        "name": "Shuffled",
        "state": "running",
        "epochs_total": 6,
        "progress": None,
        "reused_from": None,
    }
    return values | changed


def test_standing_in_words():
    progress = {
        "phase": "training",
        "epoch": 2,
        "step": 5,
        "steps": 10,
        "images_per_second": 41.4,
        "seconds_left": 80,
    }
    assert show.standing(run(progress=progress)) == "epoch 2 of 6, 41 images/s, 1:20 left"
    assert show.standing(run(progress={"phase": "loading"})) == "running: loading"
    assert show.standing(run(state="stopping", progress=progress)) == "stopping: training"
    assert show.standing(run(state="queued", waits="2 runs ahead in pool default")) == "2 runs ahead in pool default"
    assert show.standing(run(state="succeeded", reused_from=1)) == "succeeded: result of run 1"
    times = {"started_at": "2024-01-01T00:00:00Z", "finished_at": "2024-01-01T01:06:40.4+00:00"}
    assert show.standing(run(state="succeeded", best_epoch=4, **times)) == "succeeded after 1:06:40, best epoch 4"
    assert show.standing(run(state="failed", reason="loss-not-finite")) == "failed: loss-not-finite"


def test_complaint_says_why():
    failed = run(state="failed", reason="loss-not-finite", message="the loss is NaN;\nlower the learning rate")
    assert show.complaint(failed) == (
        "run 3 Shuffled failed: loss-not-finite: the loss is NaN;\nlower the learning rate"
    )


def test_settings_as_people_write_them():
    values = [True, False, None, [], [0, 1], 0.0005, 32, "adam"]
    assert [show.setting(value) for value in values] == ["yes", "no", "none", "none", "0, 1", "0.0005", "32", "adam"]
    paths = ["training.learning_rate", "dataset.exclude.scans", "dataset.split.train", "data.image_size"]
    assert [show.label(path) for path in paths] == ["Learning rate", "Without scans", "Split train", "Image size"]
