import numpy as np
import pytest

from liverseg_core import evaluation, metrics, prediction
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec, ModelOptions

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
    scores = evaluation.evaluate(model, SPEC, manifest, cache, parts, tmp_path / "maps.npz")

    chosen = [(part, index) for part, indices in parts.items() for index in indices]
    assert [(s.part, s.scan, s.slice) for s in scores] == [
        (part, manifest.slices[index].scan, manifest.slices[index].slice) for part, index in chosen
    ]
    with np.load(tmp_path / "maps.npz") as maps:
        assert len(maps.files) == len(scores)
        for score, (part, index) in zip(scores, chosen, strict=True):
            u = maps[f"{part}/{score.scan}_{score.slice}"]
            assert (u.dtype, u.shape) == (np.uint16, (32, 32))
            assert metrics.native_counts(cache.labels[index], u) == score.counts
            assert sum(score.counts) == 40 * 40
            assert sum(score.quantised) == 32 * 32
    assert all(count > 0 for count in metrics.pool(scores)[:3])


def test_soft_scores_come_from_the_floats(model, tiny, parts, tmp_path):
    manifest, cache = tiny
    scores = evaluation.evaluate(model, SPEC, manifest, cache, parts, tmp_path / "maps.npz")
    index = parts["val"][0]
    p = model.predict_on_batch(cache.images[[index]][..., None])[0, ..., 0].astype(np.float64)
    y = cache.masks[index].astype(np.float64)
    assert scores[0].dice == pytest.approx((2 * (y * p).sum() + 1) / ((y**2).sum() + (p**2).sum() + 1), rel=1e-5)
    assert scores[0].tp + scores[0].fn == (y > 0).sum()
    assert abs(scores[0].tp + scores[0].fp - (p > 0.5).sum()) <= 1


def test_how_many_slices_are_predicted_at_once_changes_nothing(model, tiny, parts, tmp_path, monkeypatch):
    whole = evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / "whole.npz")
    monkeypatch.setattr(prediction, "PIXELS_AT_ONCE", 1)
    single = evaluation.evaluate(model, SPEC, *tiny, parts, tmp_path / "single.npz")
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
    assert evaluation.evaluate(model, SPEC, *tiny, {"val": [], "test": ()}, tmp_path / "maps.npz") == ()
