import json

import pytest

from liverseg_core.presets import PAPER_2019_OVERRIDE, PAPER_2019_ROWS, TABLE_6_COLUMNS, paper_2019_overrides
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import Submission


def expanded():
    variants = [paper_2019_overrides(row) for row in PAPER_2019_ROWS]
    submission = Submission(spec={"dataset": {"id": "study"}}, variants=json.loads(json.dumps(variants)))
    return {spec.name: spec for spec in submission.expand()}


def test_fifteen_valid_experiments_no_two_alike():
    specs = expanded()
    assert len(specs) == 15
    assert len({spec.training_hash("content") for spec in specs.values()}) == 15


def test_settings_that_no_table_prints():
    specs = expanded()
    epochs = {name: spec.training.epochs for name, spec in specs.items() if spec.training.epochs != 50}
    assert epochs == {
        "Shuffled 1": 30,
        "Shuffled 2": 30,
        "Shuffle b4": 30,
        "Shuffled 512 b4": 30,
        "Remove shuffle 4": 60,
    }
    assert {n for n, spec in specs.items() if not spec.data.shuffle} == {"Not shuffled", "lr5e-3", "lr5e-4"}
    augmented = {name for name, spec in specs.items() if spec.data.augmentation != "none"}
    assert augmented == {"DA", "DA lr5e-4", "DA remove"}
    removed = {name for name, spec in specs.items() if spec.dataset.exclude.scans == (0, 1)}
    assert removed == {"DA remove", *(name for name in specs if name.startswith("Remove"))}
    assert all(spec.training.early_stopping.patience == 3 for spec in specs.values())


def test_the_default_row_is_the_study_s_table_1():
    shuffled = expanded()["Shuffled 1"]
    written = {"dataset": {"id": "study", "split": {"override": PAPER_2019_OVERRIDE}}}
    assert shuffled.model_copy(update={"name": ""}) == type(shuffled).parse(written)


def test_every_row_writes_down_that_its_split_leaks_and_trains_no_differently_for_it():
    assert {spec.dataset.split.override for spec in expanded().values()} == {PAPER_2019_OVERRIDE}
    plain = ExperimentSpec.parse({"dataset": {"id": "study"}})
    assert expanded()["Shuffled 1"].training_hash("content") == plain.training_hash("content")


@pytest.mark.study
def test_tables_5_and_6_as_printed(study):
    table_5 = json.loads((study / "paper" / "table5.json").read_text())["rows"]
    table_6 = json.loads((study / "paper" / "table6.json").read_text())
    ours = [
        [row.run_id, row.name, "Adam", row.batch_size, row.image_size, row.filters, row.learning_rate]
        for row in PAPER_2019_ROWS
        if row.run_id
    ]
    assert ours == table_5
    assert [[row.name, *row.printed] for row in PAPER_2019_ROWS] == table_6["rows"]
    printed = [name.removeprefix("dice_coef_").replace("dice_coef", "all") for name in table_6["columns"][1:]]
    assert [name.removeprefix("dice_") if name != "dice" else "all" for name in TABLE_6_COLUMNS] == printed
