from dataclasses import replace

import numpy as np
import pytest

from liverseg_core import evaluation, metrics, prediction, scoring
from liverseg_core.maps import decode
from liverseg_core.networks import build_network
from liverseg_core.spec import EvaluationOptions, ExperimentSpec, ModelOptions

SPEC = ExperimentSpec.parse(
    {"dataset": {"id": "tiny"}, "data": {"image_size": 32}, "model": {"filters": 2, "depth": 2}}
)


@pytest.fixture(scope="module")
def model(tiny):
    """A fresh network whose logits are stretched to about -3..3, so that all three labels occur."""
    network = build_network(32, ModelOptions(filters=2, depth=2), seed=4)
    p = network.predict_on_batch(tiny[1].images[..., None])
    low, middle, high = np.quantile(np.log(p / (1 - p)), (0.1, 0.5, 0.9))
    *weights, kernel, bias = network.get_weights()
    stretch = 6 / (high - low)
    network.set_weights([*weights, kernel * stretch, (bias - middle) * stretch])
    return network


@pytest.fixture
def parts(tiny):
    manifest, _ = tiny
    return {
        part: [index for index, entry in enumerate(manifest.slices) if entry.part == part]
        for part in ("val", "train")
    }


def test_every_slice_is_scored_from_its_stored_map(model, tiny, parts, tmp_path):
    manifest, cache = tiny
    scores, _ = evaluation.evaluate(model, SPEC, manifest, cache, parts, tmp_path / "maps.npz")

    chosen = [(part, index) for part, indices in parts.items() for index in indices]
    assert [(s.part, s.scan, s.slice) for s in scores] == [
        (part, manifest.slices[index].scan, manifest.slices[index].slice) for part, index in chosen
    ]
    with np.load(tmp_path / "maps.npz") as maps:
        assert len(maps.files) == len(scores)
        for score, (part, index) in zip(scores, chosen, strict=True):
            u = maps[f"{part}/{score.scan}_{score.slice}"]
            assert (u.dtype, u.shape) == (np.uint16, (32, 32))
            enlarged = metrics.enlarge_nearest(decode(u), (40, 40))
            assert metrics.count_3x3(cache.labels[index], enlarged) == score.counts
            assert sum(score.counts) == 40 * 40
            assert sum(score.quantised) == 32 * 32
    assert all(count > 0 for count in metrics.pool(scores)[:3])


def test_soft_scores_come_from_the_floats(model, tiny, parts, tmp_path):
    manifest, cache = tiny
    scores, _ = evaluation.evaluate(model, SPEC, manifest, cache, parts, tmp_path / "maps.npz")
    index = parts["val"][0]
    p = model.predict_on_batch(cache.images[[index]][..., None])[0, ..., 0].astype(np.float64)
    y = cache.masks[index].astype(np.float64)
    assert scores[0].dice == pytest.approx((2 * (y * p).sum() + 1) / ((y**2).sum() + (p**2).sum() + 1), rel=1e-5)
    assert scores[0].tp + scores[0].fn == (y > 0).sum()
    assert abs(scores[0].tp + scores[0].fp - (p > 0.5).sum()) <= 1


def test_how_many_slices_are_predicted_at_once_changes_nothing(model, tiny, parts, tmp_path, monkeypatch):
    whole, _ = evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / "whole.npz")
    monkeypatch.setattr(prediction, "PIXELS_AT_ONCE", 1)
    single, _ = evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / "single.npz")
    for one, other in zip(whole, single, strict=True):
        assert one.dice == pytest.approx(other.dice, rel=1e-5)
        assert np.abs(np.subtract(one.counts, other.counts)).sum() <= 4


def test_the_same_network_gives_the_same_file(model, tiny, parts, tmp_path):
    for name in ("one.npz", "two.npz"):
        evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_stop_leaves_no_file(model, tiny, parts, tmp_path):
    class AskedError(Exception):
        pass

    def stop():
        raise AskedError

    with pytest.raises(AskedError):
        evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / "maps.npz", between=stop)
    assert list(tmp_path.iterdir()) == []


def test_parts_without_slices_give_no_score(model, tiny, tmp_path):
    assert evaluation.evaluate(model, SPEC, *tiny, {"val": [], "test": ()}, tmp_path / "maps.npz") == ((), ())


@pytest.mark.parametrize("changes", [{}, {"threshold": 0.4, "min_lesion": 3, "largest_component": True}])
def test_unchanged_options_give_the_same_rows_again(model, tiny, parts, tmp_path, changes):
    manifest, cache = tiny
    spec = SPEC.model_copy(update={"evaluation": EvaluationOptions(**changes)})
    scores, lesions = evaluation.evaluate(model, spec, manifest, cache, parts, tmp_path / "maps.npz")
    assert lesions
    soft = {
        (s.part, s.scan, s.slice): metrics.SoftFacts(
            s.tp, s.fp, s.fn, s.dice, s.dice_liver, s.dice_tumor, s.quantised
        )
        for s in scores
    }
    again = scoring.rescore(manifest, cache.labels, tmp_path / "maps.npz", parts, soft, spec.evaluation)
    assert again == (scores, lesions)


def test_other_options_change_counts_and_nothing_of_the_study_s(model, tiny, parts, tmp_path):
    manifest, cache = tiny
    plain, _ = evaluation.evaluate(model, SPEC, manifest, cache, parts, tmp_path / "plain.npz")
    spec = SPEC.model_copy(update={"evaluation": EvaluationOptions(threshold=0.9)})
    other, _ = evaluation.evaluate(model, spec, manifest, cache, parts, tmp_path / "other.npz")
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    assert metrics.pool(plain)[8] > metrics.pool(other)[8]
    assert [replace(one, counts=()) for one in plain] == [replace(one, counts=()) for one in other]


def test_a_softmax_head_is_stored_without_its_background_and_scored_by_its_labels(tiny, parts, tmp_path, monkeypatch):
    """Probabilities of three classes out of the truth: labels 0, 1, 2 come back, and p = 0, .5, .999 is scored."""
    manifest, cache = tiny
    small = cache.labels[:, :32, :32]

    def predict(model, spec, manifest, cache, indices, between):
        for index in indices:
            yield index, np.eye(3, dtype=np.float32)[small[index]] * np.float32(0.8) + np.float32(0.2 / 3)

    monkeypatch.setattr(evaluation, "predictions", predict)
    scores, _ = evaluation.evaluate(None, SPEC, manifest, cache, parts, tmp_path / "maps.npz")
    index = parts["val"][0]
    with np.load(tmp_path / "maps.npz") as maps:
        u = maps[f"val/{manifest.slices[index].key}"]
    assert (u.shape, u.dtype) == ((2, 32, 32), np.uint16)
    assert np.array_equal(decode(u), small[index])
    p = np.select([small[index] == 1, small[index] == 2], [0.5, 0.999], 0).astype(np.float32)
    assert (scores[0].dice, scores[0].dice_liver, scores[0].dice_tumor) == pytest.approx(
        metrics.paper_scores(cache.masks[index], p)
    )
    assert scores[0].tp + scores[0].fp == (small[index] == 2).sum()
