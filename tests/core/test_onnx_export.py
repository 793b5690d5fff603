"""A network as an ONNX file gives what the network gives, and its metadata is enough to make labels of that."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from liverseg_core.errors import WeightsError
from liverseg_core.evaluation import fixed_point_map
from liverseg_core.maps import decode
from liverseg_core.networks import build_network
from liverseg_core.onnx_export import described, export_onnx
from liverseg_core.prediction import predictions
from liverseg_core.spec import ExperimentSpec
from liverseg_core.weights import write_weights

# Together every kind of layer that a network may have.
KINDS: list[dict[str, Any]] = [
    {"model": {"normalization": "instance"}, "evaluation": {"flips": True}},
    {"model": {"network": "unet-2.5d", "window": 5, "head": "softmax", "normalization": "batch"}},
    {"model": {"network": "convlstm-unet", "window": 3, "head": "softmax", "normalization": "group"}},
]


def spec_of(**sections: Any) -> ExperimentSpec:
    model = {"filters": 2, "depth": 2} | sections.pop("model", {})
    return ExperimentSpec.parse({"dataset": {"id": "x"}, "data": {"image_size": 32}, "model": model, **sections})


def saved(spec: ExperimentSpec, folder: Path) -> tuple[Any, Path]:
    """A network that is no fresh one (every weight is moved), and its weights in a file."""
    model = build_network(spec.data.image_size, spec.model, seed=3)
    random = np.random.default_rng(5)
    model.set_weights([one + random.uniform(0, 0.3, one.shape).astype(np.float32) for one in model.get_weights()])
    write_weights(folder / "weights.npz", model.get_weights(), spec.model)
    return model, folder / "weights.npz"


@pytest.mark.parametrize("sections", KINDS, ids=["instance-flips", "2.5d-batch", "convlstm-group"])
def test_outputs_are_those_of_the_network_and_labels_equal(sections, tmp_path, tiny):
    spec, (manifest, cache) = spec_of(**sections), tiny
    model, weights = saved(spec, tmp_path)
    export_onnx(spec, weights, tmp_path / "out.onnx", {"run": "7"})
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    ((image,), (output,)) = session.get_inputs(), session.get_outputs()
    channels = 3 if spec.model.head == "softmax" else 1
    assert (image.name, image.shape) == ("image", ["batch", 32, 32, spec.model.window])
    assert (output.name, output.shape) == ("probabilities", ["batch", 32, 32, channels])

    indices = manifest.given["val"]
    expected = [p for _, p in predictions(model, spec, manifest, cache, indices, lambda: None)]
    (found,) = session.run(None, {"image": windows_by_hand(manifest, cache, indices, spec.model.window)})
    found = found[..., 0] if channels == 1 else found
    assert np.abs(found - np.stack(expected)).max() < 1e-4
    assert np.std(found) > 0.01  # no picture of one grey, which anything would agree with
    for one, other in zip(found, expected, strict=True):
        labels = decode(fixed_point_map(other), spec.evaluation)
        np.testing.assert_array_equal(decode(fixed_point_map(one), spec.evaluation), labels)
    told = session.get_modelmeta().custom_metadata_map
    assert told == described(spec) | {"run": "7"}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["out.onnx"]


def windows_by_hand(manifest: Any, cache: Any, indices: Any, width: int) -> np.ndarray:
    """What the metadata says of the input: neighbours by slice number, the end slice again beyond the ends."""
    places = {(one.scan, one.slice): index for index, one in enumerate(manifest.slices)}
    found = []
    for index in indices:
        one = manifest.slices[index]
        last = max(number for scan, number in places if scan == one.scan)
        numbers = [min(max(one.slice + step, 0), last) for step in range(-(width // 2), width // 2 + 1)]
        found.append(np.stack([cache.images[places[one.scan, number]] for number in numbers], axis=-1))
    return np.stack(found)


@pytest.mark.parametrize(
    ("head", "threshold", "words"),
    [
        # 65535 / 3 = 21845, twice that is 43690; 0.25 * 65535 = 16383.75, from 16384 on.
        ("grey-sigmoid", None, "2 lesion where u >= 43690, else 1 liver where u >= 21845, else 0 background"),
        ("grey-sigmoid", 0.25, "2 lesion where u >= 16384, else 1 liver where u >= 16384, else 0 background"),
        ("softmax", None, "the channel with the largest u"),
        ("softmax", 0.25, "2 lesion where u[2] >= 16384, else 1 liver where u[1] > 65535 - u[1] - u[2]"),
    ],
)
def test_the_metadata_says_how_labels_are_made(head, threshold, words):
    told = described(spec_of(model={"head": head}, evaluation={"threshold": threshold}))
    assert words in told["output.labels"]
    assert told["threshold"] == ("" if threshold is None else "0.25")


def test_nothing_that_people_wrote_goes_into_the_file(tmp_path):
    spec = spec_of(name="secret-name", notes="secret-notes", tags=["secret-tag"])
    _, weights = saved(spec, tmp_path)
    export_onnx(spec, weights, tmp_path / "out.onnx")
    content = (tmp_path / "out.onnx").read_bytes()
    assert b"secret" not in content
    assert str(tmp_path).encode() not in content
    assert onnx.load(tmp_path / "out.onnx").graph.input[0].name == "image"


def test_weights_that_do_not_fit_leave_no_file(tmp_path):
    _, weights = saved(spec_of(), tmp_path)
    with pytest.raises(WeightsError, match=r"model\.filters 3"):
        export_onnx(spec_of(model={"filters": 3}), weights, tmp_path / "out.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"weights.npz"}
