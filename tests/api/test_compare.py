import click
from click.testing import CliRunner

from api import tables
from api.commands import compare, show

LABELS = {
    "loss": "Loss",
    "dice": "Dice Coef.",
    "dice_tumor": "Dice Coef. Tumor",
    "area": "False area",
    "lesion": "Lesion Dice",
}
UNITS = {"area": "pixels"}
ROW = {
    "what": "run",
    "depth": 0,
    "state": None,
    "size": None,
    "expected": None,
    "table": None,
    "collapsed": False,
    "deviations": None,
    "notes": [],
}


def row(run, name, settings, values, **changes):
    scores = dict(zip(LABELS, values, strict=True)) if values else None
    usual = {"training.optimizer": "adam", "training.learning_rate": 0.001, "dataset.exclude.scans": []}
    found = {"runs": [run], "name": name, "state": "succeeded", "settings": usual | settings, "scores": scores}
    return ROW | found | changes


def pinned(what, name, values, **changes):
    return row(0, name, {}, values) | {"what": what, "runs": [], "settings": {}} | changes


PAIRS = [{"subject": "p1", "baseline": 0.5, "value": 0.25, "difference": -0.25}]
CONTRAST = {"name": "lr5e-3", "subjects": 1, "won": 0, "lost": 1, "mean_difference": -0.25, "interval": None}
CONTRAST |= {"p": 1.0, "p_holm": 1.0}
COMPARISON = {
    "profile": "overview",
    "level": "slice",
    "parameters": ["training.optimizer", "training.learning_rate", "dataset.exclude.scans"],
    "columns": [{"key": key, "label": label, "unit": UNITS.get(key, "fraction")} for key, label in LABELS.items()],
    "rows": [
        row(3, "Shuffled 1", {}, [0.03663, 0.96337, 0.05386, 12.5, 0.5]),
        row(12, "lr5e-3", {"training.learning_rate": 0.005}, [0.99799, 0.00201, 0.00201, 0, None], collapsed=True),
        row(13, "Without", {"dataset.exclude.scans": [0, 1]}, None, state="running"),
    ],
    "references": [pinned("reference", "empty", [1, 0, 0, 0, 0])],
    "printed": [pinned("printed", "old", [None, 0.9, None, None, None], table="paper", notes=["looks odd"])],
    "statistics": None,
    "notes": ["What the columns mean. " * 6],
    "warnings": ["Without scores (yet): run 13."],
    "overrides": ["Run 3: split override: on purpose"],
}
TESTED = COMPARISON | {
    "statistics": {
        "label": "Lesion Dice",
        "unit": "fraction",
        "baseline": "Shuffled 1",
        "contrasts": [CONTRAST | {"effect": -1.0, "smallest_p": 1.0, "pairs": PAIRS}],
        "notes": ["the limits"],
        "skipped": ["one left out"],
    }
}


def test_table_6_as_plain_text():
    # 1 - 0.03663 = 0.96337: the first two rows are the study's printed ones.
    assert show.plain(compare.comparison_sheet(COMPARISON)).splitlines() == [
        "Run  Name                Learning rate  Without scans     Loss  Dice C"
        "oef.  Dice Coef. Tumor  False area [pixels]  Lesion Dice",
        "  3  Shuffled 1          0.001          none             3.663      96"
        ".337             5.386               12.500       50.000",
        " 12  lr5e-3 (collapsed)  0.005          none            99.799       0"
        ".201             0.201                0.000            -",
        " 13  Without (running)   0.001          0, 1                 -        "
        "   -                 -                    -            -",
        "  -  empty (reference)                                 100.000       0"
        ".000             0.000                0.000        0.000",
        "  -  old (paper)                                             -      90"
        ".000                 -                    -            -",
    ]


def test_groups_stand_above_what_is_in_them():
    members = [row(run, "a", {}, [0.5] * 5, depth=1) for run in (1, 2)]
    spread = dict.fromkeys(LABELS, 0.0125)
    group = row(0, "a", {}, [0.5] * 5, what="seeds", runs=[1, 2], size=2, deviations=spread)
    sheet = compare.comparison_sheet(COMPARISON | {"rows": [group, *members]})
    assert [line[:2] for line in sheet.rows[:3]] == [["1, 2", "a (mean of 2 seeds)"], ["1", "  a"], ["2", "  a"]]
    assert sheet.rows[0][2] == "50.000 ± 1.250"
    pool = compare.comparison_sheet(COMPARISON | {"rows": [group | {"what": "folds", "expected": 6}]})
    assert pool.rows[0][1] == "a (2 of 6 folds)"


def test_notes_say_what_is_equal_in_all_rows():
    head, warning, override, printed, note = compare.comparison_notes(COMPARISON)
    assert head == (
        "Profile overview, level slice; scores in percent where no unit is named. "
        "The same in all rows: optimizer adam."
    )
    assert note.startswith("What the columns mean.")
    assert warning == "WARNING: Without scores (yet): run 13."
    assert override == "WARNING: Run 3: split override: on purpose"
    assert printed == "paper: looks odd"


def test_statistics_are_printed_with_every_subject():
    tests, dots = map(show.plain, compare.statistics_sheets(TESTED))
    assert tests.splitlines() == [
        "Lesion Dice against Shuffled 1  Subjects  Won  Lost  Difference  95 % interval  p  p (Holm)  Effect"
        "  Smallest p",
        "lr5e-3                                 1    0     1     -25.000              -  1         1   -1.00"
        "           1",
    ]
    assert dots.splitlines() == [
        "Row     Subject  Baseline   Value  Difference",
        "lr5e-3  p1         50.000  25.000     -25.000",
    ]
    assert compare.comparison_notes(TESTED)[3:5] == ["one left out", "the limits"]
    assert list(compare.statistics_sheets(COMPARISON)) == []


def test_differences_stand_beside_scores():
    row = {**COMPARISON["rows"][0], "differences": {"dice": -0.0125}}
    text = show.plain(compare.comparison_sheet({**COMPARISON, "rows": [row]}))
    assert " (-1.250)" in text.splitlines()[1]


def test_a_score_over_fewer_than_its_row_has_says_so():
    counts = {"dice": {"n": 2, "empty": 1, "failed": 0}, "area": {"n": 1, "empty": 1, "failed": 1}}
    counts |= {"loss": {"n": 3, "empty": 0, "failed": 0}, "lesion": {"n": 0, "empty": 3, "failed": 0}}
    some = row(3, "a", {}, [0.5, 0.25, 0.5, 12.5, None], counts=counts)
    found = COMPARISON | {"rows": [some]}
    assert compare.comparison_sheet(found).rows[0][2:] == [
        "50.000",
        "25.000 (n = 2)",
        "50.000",
        "12.500 (n = 1, 1 failed)",
        "-",
    ]
    assert compare.comparison_notes(found)[-1] == tables.COUNTED
    assert tables.COUNTED not in compare.comparison_notes(COMPARISON)


def test_the_printed_table_is_not_cut_and_its_notes_are_wrapped():
    @click.command()
    def printing():
        compare.print_comparison(COMPARISON)

    lines = CliRunner().invoke(printing).output.splitlines()
    assert len(lines[0]) > 120
    assert lines[6] == ""
    assert lines[7].startswith("Profile overview, level slice;")
    assert max(len(line) for line in lines[7:]) <= 100
    assert "\x1b" not in "".join(lines)


def test_a_narrow_terminal_gets_two_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    settings, scores = compare._fitting(compare.comparison_sheet(COMPARISON), COMPARISON)
    assert settings.headers == ["Run", "Name", "Learning rate", "Without scans"]
    assert scores.headers == [
        "Run",
        "Name",
        "Loss",
        "Dice Coef.",
        "Dice Coef. Tumor",
        "False area [pixels]",
        "Lesion Dice",
    ]
    assert scores.rows[1] == ["12", "lr5e-3 (collapsed)", "99.799", "0.201", "0.201", "0.000", "-"]
