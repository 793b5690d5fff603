import pytest

from api import specs
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("1.5E+2", 150.0),
        ("0.001", 0.001),
        ("5", 5),
        ("-7", -7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'5e-4'", "5e-4"),
        ("[0, 1e-3, x]", [0, 0.001, "x"]),
        ("nothing", "nothing"),
    ],
)
def test_scalars_are_read_by_yaml_1_2(text, value):
    found = specs.parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_anchors_merge_and_the_nearer_key_wins():
    text = "base: &base {epochs: 3, seed: 1}\ntraining: {<<: *base, seed: 2}"
    assert specs.parse_yaml(text, "here")["training"] == {"epochs": 3, "seed": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' appears twice"),
        ("a: [1", "expected ',' or ']'"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("{[1]: 2}", "unhashable"),
        ("a: *gone", "undefined alias"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(text, told):
    with pytest.raises(SpecError) as error:
        specs.parse_yaml(text, "study.yaml")
    assert str(error.value).startswith("study.yaml: is no YAML that can be read: ")
    assert told in str(error.value)


def test_a_file_holds_a_spec_or_a_whole_submission(tmp_path):
    bare, whole = tmp_path / "bare.yaml", tmp_path / "whole.yaml"
    bare.write_text("dataset: {id: x}\n")
    whole.write_text("spec:\n  dataset: {id: x}\ngrid:\n  training.learning_rate: [5e-4, 1e-3]\nseeds: 2\n")
    assert specs.read_submission(bare) == {"spec": {"dataset": {"id": "x"}}}
    assert specs.read_submission(whole) == {
        "spec": {"dataset": {"id": "x"}},
        "grid": {"training.learning_rate": [0.0005, 0.001]},
        "seeds": 2,
    }
    assert specs.read_spec(bare) == {"dataset": {"id": "x"}}
    with pytest.raises(SpecError, match="describes many runs"):
        specs.read_spec(whole)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- 1\n", "must hold fields"),
        ("", "must hold fields"),
        ("spec: {dataset: {id: x}}\ngird: {}\n", "gird: does not belong beside `spec`"),
        ("spec: 5\n", "spec: must hold fields"),
        ("spec: {}\ngrid: [1]\n", "grid: must map"),
        ("spec: {}\nvariants: {a: 1}\n", "variants: must be a list"),
        ("spec: {}\nvariants: [3]\n", "variants: must be a list"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, told):
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(SpecError) as error:
        specs.read_submission(path)
    assert told in str(error.value)


def test_set_and_grid_change_the_body():
    body = {"spec": {"dataset": {"id": "x"}, "training": {"epochs": 3}}}
    sets = [
        "training.epochs=5",
        "dataset.exclude.scans=[0, 1]",
        "name=a = b",
        "training.early_stopping.patience=null",
    ]
    specs.change(body, sets, ["training.learning_rate=5e-4,0.001", "data.shuffle=true,false"])
    assert body == {
        "spec": {
            "dataset": {"id": "x", "exclude": {"scans": [0, 1]}},
            "training": {"epochs": 5, "early_stopping": {"patience": None}},
            "name": "a = b",
        },
        "grid": {"training.learning_rate": [0.0005, 0.001], "data.shuffle": [True, False]},
    }


def test_a_grid_of_lists_is_written_as_yaml():
    body = {"spec": {}}
    specs.change(body, [], ["dataset.exclude.scans=[[], [0, 1]]"])
    assert body["grid"] == {"dataset.exclude.scans": [[], [0, 1]]}


@pytest.mark.parametrize(
    ("sets", "grids", "told"),
    [
        (["training.epochs"], [], "--set: is written PATH=VALUE"),
        (["=5"], [], "--set: is written PATH=VALUE"),
        ([], ["training.epochs="], "--grid training.epochs: needs at least one value"),
        (["training.epochs=5"], ["training.epochs=3,4"], "--set training.epochs: grid or variants set it already"),
        (["name.first=5"], [], "name.first: 'name' is not a section"),
        (["training.epochs=[5"], [], "--set training.epochs: is no YAML"),
    ],
)
def test_options_that_cannot_be_applied_are_refused(sets, grids, told):
    with pytest.raises(SpecError) as error:
        specs.change({"spec": {"name": "x"}}, sets, grids)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(("text", "folds"), [("3", 3), ("subject", "subject")])
def test_folds(text, folds):
    assert specs.parse_folds(text) == folds


@pytest.mark.parametrize("text", ["", "scan", "3,4", "true", "2.0", "[3]"])
def test_what_is_no_number_of_folds(text):
    with pytest.raises(SpecError, match="how many folds"):
        specs.parse_folds(text)


@pytest.mark.parametrize(("text", "seeds"), [("5", 5), ("3,4,9", [3, 4, 9]), ("[7]", [7])])
def test_seeds(text, seeds):
    assert specs.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "many", "1.5", "1,true"])
def test_seeds_that_are_none(text):
    with pytest.raises(SpecError, match="--seeds"):
        specs.parse_seeds(text)


def test_the_list_of_fields_is_the_spec_itself():
    listed = {one.path: one.default for one in specs.fields()}
    spec = ExperimentSpec.parse({"dataset": {"id": "x"}})
    assert set(listed) == {*spec.settings(), "name", "tags", "notes"}
    assert [one.path for one in specs.fields() if one.required] == ["dataset.id"]
    del listed["dataset.id"]
    settings = {**spec.settings(), "name": "", "tags": [], "notes": ""}
    del settings["dataset.id"]
    assert listed == settings


def test_limits_and_choices_are_told():
    told = {one.path: one.told for one in specs.fields()}
    assert told["training.learning_rate"] == "more than 0, at most 10"
    assert told["training.optimizer"] == "one of adam, sgd, rmsprop"
    assert told["training.early_stopping.patience"].endswith("at least 1, at most 10,000")
