import subprocess
import sys

import pytest
from pydantic import ValidationError

from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import MAX_RUNS, Submission

STUDY = {"dataset": {"id": "study"}}


def spec(**sections):
    return ExperimentSpec.parse({**STUDY, **sections})


def test_defaults_are_the_study_s_table_1():
    settings = spec().settings()
    table_1 = {
        "training.learning_rate": 0.001,
        "training.batch_size": 32,
        "data.image_size": 256,
        "model.filters": 4,
        "training.epochs": 30,
        "training.optimizer": "adam",
        "training.early_stopping.patience": 3,
    }
    assert {path: settings[path] for path in table_1} == table_1


def test_hashes_never_change():
    """Golden values: runs are reused by them, so a new field must leave them as they are."""
    changed = spec(training={"learning_rate": 0.005}, dataset={"id": "x", "exclude": {"scans": [0, 1]}})
    assert spec().training_hash("c") == "6b37d2e605bedcbfc14d7e55cafa577ef1bf1053991eabf47dc501727c03b3a8"
    assert changed.training_hash("c") == "9c21384912c6a634b435a85c66df6fee5d9da09e4bc44ca38560e48deb4dc653"
    assert spec().evaluation_hash() == "2430f1a2ad2982d0067885488a4c89e21ad1d7c83b115ba8f1b20acc88dfaea8"


def test_labels_and_the_data_set_s_name_are_outside_the_hash():
    labelled = spec(name="a", tags=["b"], notes="c", dataset={"id": "another name"})
    assert labelled.training_hash("c") == spec().training_hash("c")


def test_content_and_every_setting_are_inside_the_hash():
    assert spec().training_hash("c") != spec().training_hash("d")
    assert spec(model={"filters": 8}).training_hash("c") != spec().training_hash("c")


def test_a_default_written_out_changes_no_hash():
    assert spec(training={"seed": 0, "batch_size": 32}).training_hash("c") == spec().training_hash("c")
    assert spec(training={"precision": "float32"}).training_hash("c") == spec().training_hash("c")
    assert spec(training={"precision": "mixed_bfloat16"}).training_hash("c") != spec().training_hash("c")


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"training": {"learning_rate": 0}}, "training.learning_rate"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": {"learning_rate": "0.1"}}, "training.learning_rate"),
        ({"training": {"epochs": True}}, "training.epochs"),
        ({"training": {"epochs": 1.0}}, "training.epochs"),
        ({"training": {"early_stopping": {"patience": 0}}}, "training.early_stopping.patience"),
        ({"training": {"lr": 0.1}}, "training.lr"),
        ({"model": {"depth": 0}}, "model.depth"),
        ({"data": {"augmentation": "flips"}}, "data.augmentation"),
        ({"dataset": {"id": ""}}, "dataset.id"),
        ({"dataset": {"id": "x", "exclude": {"slices": ["8-1"]}}}, "dataset.exclude.slices.0"),
        ({"dataset": None}, "dataset"),
    ],
)
def test_bad_values_are_named_by_their_path(sections, path):
    with pytest.raises(SpecError) as caught:
        spec(**sections)
    assert caught.value.path == path


def test_everything_wrong_is_named_at_once():
    with pytest.raises(SpecError, match=r"depth: Input should .* 1; also wrong: training.epochs, training.lr\. Rec"):
        spec(model={"depth": 0}, training={"epochs": 0, "lr": 0.1})
    with pytest.raises(SpecError, match=r"also wrong: (training\.a\d+, ){9}training\.a10 and more"):
        spec(training={f"a{number}": 1 for number in range(20)})


def test_an_image_size_that_cannot_be_pooled_names_the_nearest():
    with pytest.raises(SpecError, match=r"divisible by 16 .* received 250, take 240 or 256"):
        spec(data={"image_size": 250})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"crop": 72}}, r"data.crop must be divisible by 16 .* received 72, take 64 or 80"),
        (
            {"data": {"image_size": 272}, "model": {"subpixel": 2}},
            r"by 32 \(2 to the power of model.depth 4, times model.subpixel 2\); received 272, take 256 or 288",
        ),
        ({"model": {"subpixel": 0}}, "model.subpixel: Input should be greater than or equal to 1"),
        ({"data": {"crop": 272}}, "data.crop 272 is larger than data.image_size 256"),
        ({"data": {"crop": 64, "augmentation": "right-angles"}}, "set data.augmentation to other than paper-2019 or"),
        ({"data": {"crop": 64, "batch_by": "scan"}}, "data.batch_by 'scan' takes whole slices; leave one out"),
        (
            {"data": {"crop": 64}, "model": {"network": "convlstm-unet", "window": 3}},
            "needs a network that takes any",
        ),
    ],
)
def test_cut_outs_that_cannot_be(sections, message):
    with pytest.raises(SpecError, match=message):
        spec(**sections)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": [1]}, "belong to kind 'scans'"),
        ({"kind": "scans", "train": [1]}, "needs a train and a val list"),
        ({"kind": "scans", "train": [1, 2], "val": [2]}, r"\[2\] are listed more than once"),
    ],
)
def test_splits_that_cannot_be(split, message):
    with pytest.raises(SpecError, match=message):
        spec(dataset={"id": "x", "split": split})


def test_variants_grid_and_seeds_multiply_in_that_order():
    submission = Submission(
        spec=STUDY,
        variants=[{"name": "a"}, {"name": "b"}],
        grid={"training.learning_rate": [0.1, 0.2], "model.filters": [2, 4, 8]},
        seeds=[5, 9],
    )
    cells = submission.expand()
    assert submission.count() == len(cells) == 24
    assert [(c.name, c.training.learning_rate, c.model.filters, c.training.seed) for c in cells[:3]] == [
        ("a", 0.1, 2, 5), ("a", 0.1, 2, 9), ("a", 0.1, 4, 5),
    ]  # fmt: skip
    assert cells[-1].name == "b"


def test_folds_multiply_after_the_grid_and_before_the_seeds():
    cells = Submission(spec=STUDY, grid={"model.filters": [2, 4]}, folds=3, seeds=[5, 9]).expand()
    assert [(c.model.filters, c.dataset.split.fold, c.training.seed) for c in cells[:7]] == [
        (2, 0, 5), (2, 0, 9), (2, 1, 5), (2, 1, 9), (2, 2, 5), (2, 2, 9), (4, 0, 5),
    ]  # fmt: skip
    assert len(cells) == 12
    assert {(c.dataset.split.kind, c.dataset.split.folds) for c in cells} == {("subject-folds", 3)}


def test_a_fold_a_subject():
    submission = Submission(spec=STUDY, folds="subject", seeds=2)
    splits = [cell.dataset.split for cell in submission.expand(subjects=4)]
    assert submission.count(subjects=4) == len(splits) == 8
    assert [split.fold for split in splits] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {(split.kind, split.folds) for split in splits} == {("leave-one-subject-out", None)}


def test_folds_count_among_the_most_runs():
    submission = Submission(spec=STUDY, folds="subject", seeds=MAX_RUNS // 100)
    assert submission.count(subjects=100) == MAX_RUNS
    with pytest.raises(SpecError, match="10,100 runs"):
        submission.count(subjects=101)


@pytest.mark.parametrize("folds", [1, 0, 1001, True, 2.0, "3", "scan", [2]])
def test_folds_are_a_number_or_the_word_subject(folds):
    with pytest.raises(ValidationError, match="folds"):
        Submission(spec=STUDY, folds=folds)


def test_folds_leave_the_written_override():
    written = {"dataset": {"id": "study", "split": {"override": "why"}}}
    assert [cell.dataset.split.override for cell in Submission(spec=written, folds=2).expand()] == ["why", "why"]


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"dataset": {"id": "x", "split": {"kind": "scans", "train": [0], "val": [1]}}}},
        {"grid": {"dataset.split.fold": [1, 2]}},
        {"variants": [{"dataset.split.kind": "leave-one-subject-out"}]},
    ],
)
def test_folds_and_a_split_of_its_own_do_not_go_together(change):
    with pytest.raises(SpecError, match="makes the split itself") as caught:
        Submission(**{"spec": STUDY, "folds": 3, **change}).expand()
    assert caught.value.path == "folds"


@pytest.mark.parametrize("path", ["dataset", "dataset.id"])
def test_a_fold_a_subject_is_of_one_data_set(path):
    submission = Submission(spec=STUDY, folds="subject", grid={path: ["a", "b"]})
    with pytest.raises(SpecError, match="one data set"):
        submission.dataset_id()
    assert Submission(spec=STUDY, folds="subject").dataset_id() == "study"


def test_a_number_of_seeds_counts_from_zero():
    assert [cell.training.seed for cell in Submission(spec=STUDY, seeds=3).expand()] == [0, 1, 2]


def test_a_billion_cells_are_refused_unexpanded():
    submission = Submission(spec=STUDY, grid={f"training.x{n}": list(range(1000)) for n in range(3)})
    with pytest.raises(SpecError, match="1,000,000,000 runs"):
        submission.expand()  # made one by one they would take hours


def test_the_most_runs_are_counted_and_one_more_refused():
    assert Submission(spec=STUDY, grid={"training.seed": list(range(MAX_RUNS))}).count() == MAX_RUNS
    with pytest.raises(SpecError, match="10,001 runs"):
        Submission(spec=STUDY, grid={"training.seed": list(range(MAX_RUNS + 1))}).count()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"grid": {"training.learning_rate": []}}, "grid.training.learning_rate"),
        ({"seeds": []}, "seeds"),
        ({"grid": {"training.learning_rate": [0.1, -1]}}, "training.learning_rate"),
        ({"variants": [{"training.nothing": 1}]}, "training.nothing"),
        ({"grid": {"name.x": [1]}}, "name.x"),
        ({"seeds": [-1]}, "training.seed"),
        ({"seeds": [1, 2, 1]}, "seeds"),
        ({"seeds": 2, "grid": {"training.seed": [1, 2]}}, "seeds"),
        ({"grid": {"model.filters": [2, 4, 2]}}, "grid.model.filters"),
        ({"grid": {"training.learning_rate": [1, 0.1, 1.0]}}, "grid.training.learning_rate"),
        ({"grid": {"dataset.exclude.scans": [[0, 1], [0, 1]]}}, "grid.dataset.exclude.scans"),
    ],
)
def test_bad_submissions_are_named_by_their_path(change, path):
    with pytest.raises(SpecError) as caught:
        Submission(**{"spec": {**STUDY, "name": "n"}, **change}).expand()
    assert caught.value.path == path


def test_the_spec_loads_nothing_heavy():
    code = "import sys, liverseg_core.spec, liverseg_core.presets; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "keras", "tensorflow", "h5py", "PIL"} & set(loaded)


def test_the_order_of_excluded_scans_changes_no_hash():
    def hashed(scans):
        return ExperimentSpec.parse({"dataset": {"id": "x", "exclude": {"scans": scans}}}).training_hash("c" * 64)

    assert hashed([1, 0]) == hashed([0, 1, 1])
    assert hashed([0, 1]) != hashed([0])


def test_seeds_replace_no_seed_of_a_variant():
    variants = [{"training.learning_rate": 0.01}, {"training.seed": 3}]
    with pytest.raises(SpecError, match=r"seeds: replaces variants\[1\] training.seed in every cell"):
        Submission(spec=STUDY, variants=variants, seeds=2).expand()


@pytest.mark.parametrize(
    ("section", "path", "said"),
    [
        ({"trainning": {"epochs": 3}}, "trainning", "did you mean training?"),
        ({"training": {"learning_rat": 0.1}}, "training.learning_rat", "did you mean learning_rate?"),
        ({"training": {"early_stopping": {"patient": 3}}}, "training.early_stopping.patient", "mean patience?"),
        ({"model": {"xyz": 3}}, "model.xyz", "no such field; see"),
        ({"dataset": "my-slices"}, "dataset", "such as `dataset: {id: my-slices}`"),
        ({"training": 3}, "training", "must be a section of fields"),
    ],
)
def test_what_is_misspelt_is_told_from_what_is_not_there(section, path, said):
    with pytest.raises(SpecError) as refusal:
        ExperimentSpec.parse({"dataset": {"id": "any"}, **section})
    assert refusal.value.path == path
    assert said in str(refusal.value)
