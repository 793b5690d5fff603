import numpy as np
import pytest

from liverseg_core import prediction
from liverseg_core.networks import build_network
from liverseg_core.prediction import predictions
from liverseg_core.spec import ExperimentSpec


def spec(model=None, **evaluation) -> ExperimentSpec:
    small = {"filters": 2, "depth": 2}
    return ExperimentSpec.parse(
        {
            "dataset": {"id": "tiny"},
            "data": {"image_size": 32},
            "model": small | (model or {}),
            "evaluation": evaluation,
        }
    )


def predict(chosen, tiny, indices):
    model = build_network(32, chosen.model, seed=4)
    found = list(predictions(model, chosen, *tiny, indices, lambda: None))
    assert [index for index, _ in found] == list(indices)
    return model, np.stack([p for _, p in found])


def test_one_channel_is_a_plane_and_three_stay_three(tiny):
    indices = [3, 1, 7]
    model, p = predict(spec(), tiny, indices)
    assert p.shape == (3, 32, 32)
    assert p == pytest.approx(model.predict_on_batch(tiny[1].images[indices][..., None])[..., 0], abs=1e-6)
    _, p = predict(spec({"head": "softmax"}), tiny, indices)
    assert p.shape == (3, 32, 32, 3)
    assert p.sum(-1) == pytest.approx(np.ones((3, 32, 32)), abs=1e-5)


@pytest.mark.parametrize("head", ["grey-sigmoid", "softmax"])
def test_flips_are_the_mean_of_both_ways(tiny, head):
    model, p = predict(spec({"head": head}, flips=True), tiny, [0, 5])
    images = tiny[1].images[[0, 5]][..., None]
    there = model.predict_on_batch(images)
    back = np.flip(model.predict_on_batch(np.flip(images, 2).copy()), 2)
    expected = (there + back) / 2
    assert p == pytest.approx(expected if head == "softmax" else expected[..., 0], abs=1e-6)
    assert np.abs(there - back).max() > 1e-3  # the two ways differ, so their mean says something


@pytest.mark.parametrize("network", ["unet-2.5d", "convlstm-unet"])
def test_a_window_is_the_slice_between_its_neighbours_in_the_scan(tiny, network, monkeypatch):
    manifest, cache = tiny
    monkeypatch.setattr(prediction, "PIXELS_AT_ONCE", 3 * 32 * 32)  # one window at a time
    scan = manifest.scans("val")[0]
    numbers = {entry.slice: index for index, entry in enumerate(manifest.slices) if entry.scan == scan}
    low, middle, high = (numbers[number] for number in sorted(numbers)[:3])
    model, p = predict(spec({"network": network, "window": 3}), tiny, [middle, low])
    windows = np.stack([cache.images[[low, middle, high]], cache.images[[low, low, middle]]])
    expected = model.predict_on_batch(np.moveaxis(windows, 1, -1).copy())[..., 0]
    assert p == pytest.approx(expected, abs=1e-5)
