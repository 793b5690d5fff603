"""A trained network as an ONNX file, which runs without liverseg, Keras and TensorFlow.

A process of its own, started by ``liverseg export``, because commands never load Keras. It reads one job as JSON from
standard input: ``{"spec": ..., "weights": path, "out": path, "told": {name: text}}``.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from liverseg_core.backend import keras
from liverseg_core.errors import InputError
from liverseg_core.maps import grey_levels, lesion_level
from liverseg_core.metrics import FULL
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec
from liverseg_core.weights import read_weights

INPUT, OUTPUT = "image", "probabilities"


def export_onnx(spec: ExperimentSpec, weights: Path, out: Path, told: Mapping[str, str] | None = None) -> None:
    """Write the network of ``spec`` with its weights; :func:`described` says what stands in its metadata.

    Input ``image`` is float32 ``[batch, S, S, window]``, 0..1; output ``probabilities`` float32 ``[batch, S, S, 1]``
    or ``[batch, S, S, 3]``. With ``evaluation.flips`` the file itself takes the mean with the flipped prediction.

    Args:
        spec: how the network was made and how its output is read.
        weights: npz as :func:`liverseg_core.weights.write_weights` wrote it.
        out: the file; appears whole or not at all.
        told: more metadata.

    Raises:
        WeightsError: the weights do not fit ``spec.model``.
    """
    arrays = read_weights(weights, spec.model)
    # In float32 whatever it was trained in: few runtimes know bfloat16, and on processors both others are slow.
    model = build_network(spec.data.image_size, spec.model, spec.training.seed)
    model.set_weights(arrays)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary, _without_remarks():
        place = Path(temporary) / "network.onnx"
        shape = keras.InputSpec(shape=model.input_shape, dtype="float32", name=INPUT)
        _whole(model, spec).export(place, format="onnx", verbose=False, input_signature=[shape])
        network = onnx.load(place)
        _name(network)
        onnx.helper.set_model_props(network, {**described(spec), **(told or {})})
        onnx.checker.check_model(network, full_check=True)
        onnx.save(network, place)
        place.replace(out)


def described(spec: ExperimentSpec) -> dict[str, str]:
    """What somebody must know who runs the file: name -> text."""
    size, window = spec.data.image_size, spec.model.window
    slices = "the slice"
    if window > 1:
        slices = f"{window} neighbouring slices of a scan by rising number, of which the middle one is predicted"
        slices += "; beyond the ends of the scan its end slice again"
    return {
        "input": f"{INPUT}: float32 [batch, {size}, {size}, {window}] (rows, columns, slices), grey 0..255 over 255",
        "input.resize": f"to {size} x {size}, bilinear, half-pixel centres, no antialiasing",
        "input.slices": slices,
        "output": f"{OUTPUT}: float32 [batch, {size}, {size}, {3 if spec.model.head == 'softmax' else 1}], 0..1",
        "output.labels": _labels(spec),
        "output.labels.resize": "to the slice's own size, nearest neighbour, half-pixel centres",
        "head": spec.model.head,
        "image_size": str(size),
        "window": str(window),
        "threshold": "" if spec.evaluation.threshold is None else repr(spec.evaluation.threshold),
        "evaluation": spec.evaluation.model_dump_json(exclude_defaults=True),
        "model": spec.model.model_dump_json(),
    }


def _labels(spec: ExperimentSpec) -> str:
    """How output becomes 0 background, 1 liver, 2 lesion, as :func:`liverseg_core.maps.decode` does it."""
    level = lesion_level(spec.evaluation)
    scaled = f"with u = round({FULL} * p): "
    if spec.model.head == "grey-sigmoid":
        liver, lesion = grey_levels(level)
        return f"{scaled}2 lesion where u >= {lesion}, else 1 liver where u >= {liver}, else 0 background"
    if level is None:
        return f"{scaled}the channel with the largest u, 0 background ({FULL} less the others), 1 liver, 2 lesion"
    return f"{scaled}2 lesion where u[2] >= {level}, else 1 liver where u[1] > {FULL} - u[1] - u[2], else 0"


def _whole(model: keras.Model, spec: ExperimentSpec) -> keras.Model:
    """The network, or the mean of it and its flipped prediction of the flipped slice."""
    if not spec.evaluation.flips:
        return model
    image = keras.Input(model.input_shape[1:], name=INPUT)
    flipped = model(keras.ops.flip(image, axis=2))
    return keras.Model(image, (model(image) + keras.ops.flip(flipped, axis=2)) / 2)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """To make tf2onnx work with NumPy 2, Keras asks NumPy for a name that it has no more, and NumPy warns of that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        yield


def _name(network: "onnx.ModelProto") -> None:
    """One input and one output by names of ours, their first axis ``batch``."""
    for kind, name in ((network.graph.input, INPUT), (network.graph.output, OUTPUT)):
        (given,) = kind
        for node in network.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if one == given.name else one for one in names]
        given.name = name
        given.type.tensor_type.shape.dim[0].dim_param = "batch"


def main() -> int:
    """Carry out one job; 2, and a line on standard error, where its weights do not fit."""
    job: dict[str, Any] = json.load(sys.stdin)
    try:
        export_onnx(ExperimentSpec.parse(job["spec"]), Path(job["weights"]), Path(job["out"]), job["told"])
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
