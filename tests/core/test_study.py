"""Records of finished runs: what is in them, what is not, and that the same run gives the same bytes."""

import json

import pytest

from liverseg_core.errors import DataError
from liverseg_core.study import EPOCH_COLUMNS, SLICE_COLUMNS, read_folder, record, write
from tests.core import exports


def test_a_record_is_read_as_it_was_written(tmp_path):
    run = exports.run("Shuffled 1", seed=2)
    file = write(run, tmp_path / "new" / "folder")
    assert file.name == f"shuffled-1-s2-{run.training_hash[:8]}-{run.evaluation_hash[:8]}.json"
    assert read_folder(file.parent) == (run,)
    before = file.read_bytes()
    assert write(run, file.parent).read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_record_holds(tmp_path):
    value = json.loads(write(exports.run("Shuffled 1"), tmp_path).read_text())
    assert value["format"] == 1
    assert value["dataset"] == {
        "content_hash": exports.CONTENT,
        "height": 10,
        "width": 10,
        "subjects": {"0": "a", "8": "b", "9": "b"},
        "subjects_assumed": False,
    }
    assert value["provenance"] == {
        "liverseg": "0.1.0",
        "commit": "0123456789ab",
        "python": "3.11.7",
        "backend": "tensorflow",
        "keras": "3.15.0",
        "tensorflow": "2.21.0",
        "processor": "A Processor",
        "cores": "2",
        "threads": "2",
    }
    assert (value["seconds"], value["attempts"], value["best_epoch"]) == (90.5, 2, 2)
    assert tuple(value["epochs"]) == EPOCH_COLUMNS
    assert value["epochs"]["val_dice"] == [0.4, 0.5]
    assert tuple(value["slices"]) == SLICE_COLUMNS
    assert value["slices"]["scan"] == [8, 8, 9]
    assert value["slices"]["n22"] == [6, 6, 6]


def test_nothing_private_is_in_a_record(tmp_path):
    text = write(exports.run("Shuffled 1"), tmp_path).read_text()
    for private in ("secret-host", "/private", "by Somebody", "a tag", "my slices", "worker-1"):
        assert private not in text
    # What the API said did hold them.
    described = json.dumps(exports.described("Shuffled 1"))
    assert all(private in described for private in ("secret-host", "by Somebody", "a tag", "my slices", "worker-1"))


def test_five_hundred_slices_are_small(tmp_path):
    slices = [(8, number) for number in range(500)]
    big = dict.fromkeys((f"{kind}{cell}" for kind in "nq" for cell in ("00", "11", "22")), 262_144)
    file = write(exports.run("Shuffled 1", slices=slices, epochs=50, dice=0.123456789012345678, **big), tmp_path)
    assert file.stat().st_size < 200_000
    assert len(file.read_text().splitlines()) < 80


def test_a_run_that_is_not_done_has_no_record():
    described = exports.described("Shuffled 1")
    with pytest.raises(DataError, match="has not succeeded"):
        record(described | {"state": "running"}, [], exports.images(), exports.DATASET)
    with pytest.raises(DataError, match="no scores"):
        record(described | {"kind": "predict"}, [], exports.images(), exports.DATASET)
    with pytest.raises(DataError, match="no scores"):
        record(described, [], [], exports.DATASET)


def test_a_run_without_provenance_says_nothing_about_it():
    described = exports.described("Shuffled 1")
    described["attempts"] = [one | {"provenance": None, "ended_at": None} for one in described["attempts"]]
    run = record(described, [], exports.images(), exports.DATASET)
    assert (run.provenance, run.seconds) == ({}, None)


def test_one_result_counts_once(tmp_path):
    for name in ("Shuffled 1", "the same again"):
        write(exports.run(name, seed=0), tmp_path)
    write(exports.run("Shuffled 1", seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert len(read_folder(tmp_path)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("format"),
        lambda value: value.update(format=2),
        lambda value: value.update(kind="predict"),
        lambda value: value.update(more=1),
        lambda value: value.pop("slices"),
        lambda value: value["slices"].pop("n11"),
        lambda value: value["slices"]["n11"].append(3),
        lambda value: value["spec"].update(modle={}),
        lambda value: value.update(slices=[]),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, damage):
    file = write(exports.run("Shuffled 1"), tmp_path)
    value = json.loads(file.read_text())
    damage(value)
    file.write_text(json.dumps(value))
    with pytest.raises(DataError) as error:
        read_folder(tmp_path)
    assert error.value.path == str(file)
    assert "export it again" in error.value.problem


def test_other_files_are_refused_and_an_empty_folder_too(tmp_path):
    with pytest.raises(DataError, match="holds no exported runs"):
        read_folder(tmp_path)
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="no exported run that can be read"):
        read_folder(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="no exported run that can be read"):
        read_folder(tmp_path)
