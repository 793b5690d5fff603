"""Reference predictors: floors and ceilings of every column, on a drawing and on the study's val slices."""

import numpy as np
import pytest

from liverseg_core import profiles, references
from liverseg_core.errors import InputError
from liverseg_core.facts import Facts
from liverseg_core.spec import EvaluationOptions

PLAIN = EvaluationOptions()


def values(name, manifest, cache, profile, level, options=PLAIN):
    parts = {"val": [index for index, entry in enumerate(manifest.slices) if entry.part == "val"]}
    scores, lesions = references.score_reference(name, manifest, cache, parts, options)
    assert len(scores) == len(parts["val"])
    return profiles.scores(profile, level, Facts.of(scores, lesions, manifest.subjects))


def test_an_unknown_predictor_is_refused(tiny):
    with pytest.raises(InputError, match="predictor: is none of empty, liver-as-lesion, perfect, shifted"):
        references.score_reference("magic", *tiny, {"val": []}, PLAIN)


@pytest.mark.parametrize("level", profiles.PROFILES["modern"].levels)
def test_a_perfect_prediction_is_perfect_in_every_modern_column(tiny, level):
    found = values("perfect", *tiny, "modern", level)
    best = {"lesion_false_area": 0, "liver_volume_difference": 0, "lesion_volume_difference": 0, "burden_rmse": 0}
    for key, value in found.items():
        if value.n:
            assert value.value == best.get(key, 1), key
    assert found["lesion_dice"].n > 0


def test_an_empty_prediction_finds_nothing(tiny):
    found = values("empty", *tiny, "modern", "pooled")
    assert (found["lesion_dice"].value, found["liver_recall"].value, found["lesions_recall_0"].value) == (0, 0, 0)
    assert (found["lesion_precision"].value, found["lesions_precision_0"].value) == (None, None)
    assert found["lesion_volume_difference"].value == -1


def test_a_minimal_size_reaches_the_truth_of_a_reference_too(tiny):
    found = values("perfect", *tiny, "modern", "pooled", EvaluationOptions(min_lesion=10**6))
    assert found["lesion_dice"].value is None
    assert found["parenchyma_dice"].value == 1


def test_moving_is_three_down_and_three_right():
    pixels = np.arange(25).reshape(5, 5)
    assert references.moved(pixels).tolist() == [[0] * 5, [0] * 5, [0] * 5, [0, 0, 0, 0, 1], [0, 0, 0, 5, 6]]


def test_a_shift_costs_small_structures_most(tiny):
    found = values("shifted", *tiny, "modern", "pooled")
    assert 0 < found["lesion_dice"].value < found["liver_dice"].value < 1


@pytest.mark.study
@pytest.mark.parametrize(
    ("name", "tolerance", "expected"),
    [
        # A lesion's rim where half of 2 x 2 pixels is lesion has y = .5, so the third is 1e-5 above the first.
        ("empty", 5e-6, (0.20143, 0.20852, 0.20144)),
        ("liver-as-lesion", 0.6, (83.5, 0.21, 79)),
        ("perfect", 5e-3, (100, 95.07, 9.55)),
    ],
)
def test_the_study_s_columns_of_fixed_predictions(study_val, name, tolerance, expected):
    """Percent, as the table of the study's consequences has them."""
    found = values(name, *study_val(256), "paper-2019", "slice")
    columns = ("dice", "dice_liver", "dice_tumor")
    assert [100 * found[column].value for column in columns] == pytest.approx(expected, abs=tolerance)
    if name == "perfect":
        assert 100 * found["recall"].value == pytest.approx(0.96, abs=5e-3)


@pytest.mark.study
def test_modern_tells_a_perfect_prediction_from_a_painted_liver(study_val):
    perfect, painted = (values(name, *study_val(256), "modern", "pooled") for name in ("perfect", "liver-as-lesion"))
    assert (perfect["lesion_dice"].value, perfect["liver_dice"].value) == (1, 1)
    assert painted["lesion_dice"].value == pytest.approx(0.017, abs=1e-3)
    assert painted["liver_dice"].value == 1
    assert profiles.warnings("modern", {"perfect": perfect, "liver-as-lesion": painted}) == {}


@pytest.mark.study
def test_the_study_s_tumor_column_carries_a_warning(study_val):
    scored = {name: values(name, *study_val(256), "paper-2019", "slice") for name in ("perfect", "liver-as-lesion")}
    told = profiles.warnings("paper-2019", scored)
    assert set(told) == {"dice_tumor", "recall"}
    assert "perfect prediction scores 9.5 %" in told["dice_tumor"]
    assert "painted as lesion scores 78.6 %" in told["dice_tumor"]
