"""The study's own weights must give the study's own scores, through the whole path of the product."""

import json
from pathlib import Path

import pytest

from liverseg_core.metrics import aggregate
from liverseg_core.spec import ExperimentSpec, ModelOptions
from liverseg_core.weights import read_hdf5_weights, write_weights

NAMES = ("shuffled_1_", "lr5e-3_", "remove_shuffle_4_", "shuffled_512_b4_")


@pytest.mark.study
@pytest.mark.parametrize("name", NAMES)
def test_table_6_comes_back(name, study, study_val, listen, tmp_path):
    from liverseg_core.training import evaluate_weights, prepare_backend

    oracle = json.loads((study / "paper" / "oracle.json").read_text())
    [file] = [file for file in oracle["rows"] if file.startswith(name)]
    row = oracle["rows"][file]
    spec = ExperimentSpec.parse(
        {"dataset": {"id": "study"}, "data": {"image_size": row["image_size"]}, "model": {"filters": row["filters"]}}
    )
    prepare_backend(spec)
    arrays = read_hdf5_weights(Path(study, "paper", "weights", file), ModelOptions(filters=row["filters"]))
    write_weights(tmp_path / "imported.npz", arrays, ModelOptions(filters=row["filters"]))
    manifest, cache = study_val(row["image_size"])

    result = evaluate_weights(spec, manifest, cache, tmp_path / "imported.npz", tmp_path, listen())

    assert len(result.scores) == 500
    found = aggregate(result.scores)
    dice, pixels, pooled = oracle["tolerance"].values()
    for column in ("loss", "dice", "dice_liver", "dice_tumor"):
        assert 100 * found[column] == pytest.approx(row[column], abs=dice), column
    for column in ("precision", "recall"):
        assert 100 * found[column] == pytest.approx(row[column], abs=pixels), column
    for column in ("pooled_lesion", "pooled_liver"):
        assert found[column] == pytest.approx(row[column], abs=pooled), column
