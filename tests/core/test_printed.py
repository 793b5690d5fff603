import json

import pytest

from liverseg_core.errors import DataError
from liverseg_core.presets import PAPER_2019_ROWS, TABLE_6_COLUMNS
from liverseg_core.printed import PrintedRow, read_tables

PARAMETERS = {"training.batch_size": 32, "data.image_size": 256, "training.learning_rate": 0.001}
FIRST = PrintedRow("First", "0605-180358", PARAMETERS, {"loss": 3.663, "dice": 96.337, "dice_liver": 94.502})
SECOND = PrintedRow("Second one", None, {}, {"loss": 4.4, "dice": 95.6})

JSON = json.dumps(
    {
        "title": "Table",
        "columns": [
            "name",
            "run",
            "batch_size",
            "image_size",
            "learning_rate",
            "loss",
            "dice_coef",
            "dice_coef_liver",
        ],
        "rows": [
            ["First", "0605-180358", 32, 256, 0.001, 3.663, 96.337, 94.502],
            ["Second one", None, None, None, None, 4.4, 95.6, None],
        ],
    }
)
CSV = """\ufeffName,Run,Batch Size,Resize,Learning Rate,Loss [%],"Dice Coef.",Dice Coef. Liver
First,0605-180358,32,256 x 256,1e-3,3.663,96.337,94.502
Second one,,,,,4.4,95.6,
"""
MARKDOWN = """# What we did

| **Run** | Name | Batch Size | Resize | Learning Rate |
| :--- | --- | ---: | --- | --- |
| 0605-180358 | First | 32 | 256 \N{MULTIPLICATION SIGN} 256 | 0.001 |

And what came of it:

| Name | Loss | Dice Coef. | Dice Coef. Liver |
|---|---|---|---|
| First | 3.663% | 96.337% | 94.502% |
| Second one | 4.4 % | 95.600% | - |
"""
PASTED = """Table 5: Parameters values in each experiment

Run\tName\tBatch Size\tResize\tLearning Rate
0605-180358\tFirst\t32\t$256 \\times 256$\t0.001

Table 6: Scores of each experiment
Name          Loss      Dice Coef.   Dice Coef. Liver
First         3.663%    96.337%      94.502%
Second one    4.4%      95.600%      -

As future work to improve the results, we would take steps.
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", JSON), ("a.csv", CSV), ("a.md", MARKDOWN), ("a.txt", PASTED), ("-", PASTED), ("-", JSON), ("-", CSV)],
)
def test_every_way_to_write_a_table_gives_the_same_rows(name, text):
    assert read_tables([(name, text)]) == (FIRST, SECOND)


def test_files_are_joined_by_name_in_the_order_of_the_scores():
    parameters = "Name,Filters\nLast,4\nFirst,8\n"
    scores = "Name,Loss\nFirst,3\nNo parameters,4\nLast,5\n"
    rows = read_tables([("5.csv", parameters), ("6.csv", scores)])
    assert rows == (
        PrintedRow("First", None, {"model.filters": 8}, {"loss": 3.0}),
        PrintedRow("No parameters", None, {}, {"loss": 4.0}),
        PrintedRow("Last", None, {"model.filters": 4}, {"loss": 5.0}),
    )


def table(*rows, columns=("name", "loss", "batch size")):
    return json.dumps({"columns": columns, "rows": rows})


REFUSED = {
    "nothing": ("", "t", "is empty"),
    "no table": ("only words here and no more", "t", "holds no table"),
    "one space between columns": ("Name Loss\nFirst 3\n", "t", "holds no table"),
    "a heading alone": ("Name  Loss\n", "t", "no rows"),
    "broken JSON": ('{"columns": ', "t", "no JSON that can be read"),
    "NaN": (table(["a", float("nan"), 1]), "t: row 1, column 'loss'", "finite number"),
    "a number beyond all": (
        '{"columns": ["name", "loss"], "rows": [["a", 1e999]]}',
        "t: row 1, column 'loss'",
        "finite",
    ),
    "JSON of another shape": ('{"rows": []}', "t", 'must be {"title"'),
    "a list": ("[1, 2]", "t", 'must be {"title"'),
    "columns that are no texts": (table(columns=[1]), "t: columns", "list of texts"),
    "rows that are no lists": (table(3), "t: rows", "list of lists"),
    "unknown column": (
        table(["a", 1], columns=["name", "F-score"]),
        "t: column 'F-score'",
        "may be name, run, optimizer",
    ),
    "column twice": (table(["a", 1, 2], columns=["name", "dice", "Dice Coef."]), "t: column 'Dice Coef.'", "twice"),
    "no names": (table([1], columns=["loss"]), "t", "no column 'name'"),
    "names alone": (table(["a"], columns=["name"]), "t", "neither parameters nor scores"),
    "a row without its name": (table(["a", 1, 1], [None, 2, 2]), "t: row 2", "no name"),
    "a cell too few": (table(["a", 1, 1], ["b", 1]), "t: row 2", "2 cells where the heading has 3"),
    "a word for a score": (table(["a", 1, 1], ["b", "good", 1]), "t: row 2, column 'loss'", "must be a number"),
    "a flag for a score": (table(["a", True, 1]), "t: row 1, column 'loss'", "must be a number"),
    "a list for a name": (table([["a"], 1, 1]), "t: row 1, column 'name'", "must be a text"),
    "more than all": (table(["a", 100.1, 1]), "t: row 1, column 'loss'", "percentage"),
    "half a batch": (table(["a", 1, 0.5]), "t: row 1, column 'batch size'", "whole number"),
    "no square": (table(["a", "256 x 128"], columns=["name", "Resize"]), "t: row 1, column 'Resize'", "square"),
    "neither yes nor no": (table(["a", 1], columns=["name", "shuffled"]), "t: row 1, column 'shuffled'", "yes or no"),
    "one name, two settings": (table(["a", 1, 4], ["a", 1, 8]), "t: row 2", "'a' has another training.batch_size"),
    "one name, two scores": (table(["a", 1, 4], ["a", 2, 4]), "t: row 2", "'a' has another loss"),
    "fractions": (table(["a", 0.04, 0.96], columns=["name", "loss", "dice"]), "scores", "in percent"),
    "NUL": ("Name  Loss\nFirst\0  3\n", "t: row 1, column 'Name'", "printable"),
    "half a character": (table(["\ud800", 1, 1]), "t: row 1, column 'name'", "printable"),
    "a quote left open": ('name,loss\n"a,3\n', "t", "no CSV"),
    "too many rows": (table(*(["a", 1, 1] for _ in range(1001))), "t", "more than 1,000 rows"),
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda name: name.replace(" ", "-"))
def test_a_table_that_cannot_be_used_says_where(case):
    text, path, words = REFUSED[case]
    with pytest.raises(DataError) as error:
        read_tables([("t", text)])
    assert error.value.path == path
    assert words in error.value.problem


def test_no_files():
    with pytest.raises(DataError, match="at least one file"):
        read_tables([])


@pytest.mark.study
def test_the_study_s_tables_are_the_preset_s(study):
    files = [(name, (study / "paper" / name).read_text()) for name in ("table5.json", "table6.json")]
    rows = read_tables(files)
    assert [(row.name, row.run_id, tuple(row.scores.values())) for row in rows] == [
        (row.name, row.run_id, row.printed) for row in PAPER_2019_ROWS
    ]
    assert all(tuple(row.scores) == TABLE_6_COLUMNS for row in rows)
    assert {row.name: row.parameters for row in rows} == {
        row.name: {
            "training.optimizer": "adam",
            "training.batch_size": row.batch_size,
            "data.image_size": row.image_size,
            "model.filters": row.filters,
            "training.learning_rate": row.learning_rate,
        }
        if row.run_id
        else {}
        for row in PAPER_2019_ROWS
    }


def test_an_overlong_cell_and_an_empty_csv_are_refused_at_once():
    with pytest.raises(DataError, match="more than 200 characters"):
        read_tables([("a.csv", "name,image size,dice\nours,1" + " " * 100_000 + "1,90\n")])
    with pytest.raises(DataError):
        read_tables([("a.csv", ",,,\n")])
