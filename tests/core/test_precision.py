"""Layers that compute in 16 bits: what stays float32, exact resume, and the scaled loss of float16."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from liverseg_core import checkpoints
from liverseg_core.backend import keras, prepare_backend
from liverseg_core.errors import Interrupted, SpecError
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec
from liverseg_core.steps import steps_for
from liverseg_core.training import _Training, evaluate_weights, run_experiment
from liverseg_core.weights import read_weights

MIXED = ("mixed_bfloat16", "mixed_float16")
KINDS = {
    "the study's": {},
    "batch": {"normalization": "batch"},
    "2.5d": {"network": "unet-2.5d", "window": 3, "head": "softmax", "subpixel": 2},
    "lstm": {"network": "convlstm-unet", "window": 3, "normalization": "group"},
}


def spec(precision, model=None, data=None, **training):
    return ExperimentSpec.parse(
        {
            "dataset": {"id": "tiny"},
            "data": {"image_size": 32, **(data or {})},
            "model": {"filters": 2, "depth": 2, **(model or {})},
            "training": {"batch_size": 4, "epochs": 3, "early_stopping": {"patience": None}}
            | {"learning_rate": 0.01, "precision": precision, **training},
        }
    )


def network(chosen):
    return build_network(32, chosen.model, 4, chosen.training.precision)


def noise(n=4, channels=1):
    return np.random.default_rng(0).random((n, 32, 32, channels), np.float32)


def run(chosen, tiny, folder, listener, **options):
    folder.mkdir()
    prepare_backend(chosen)
    return run_experiment(chosen, *tiny, folder, listener, **options)


def without_clock(records):
    return [dataclasses.replace(record, seconds=0, images_per_second=0) for record in records]


# --- what computes in what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", MIXED)
def test_layers_compute_in_16_bits_on_float32_variables_and_the_output_is_float32(precision, kind):
    chosen = spec(precision, KINDS[kind])
    model = network(chosen)
    assert {str(v.dtype) for v in model.weights} == {"float32"}
    computing = {layer.name: layer.compute_dtype for layer in model.layers if layer.name != "image"}
    assert {name for name, dtype in computing.items() if dtype == "float32"} == {
        name for name in computing if name.startswith("output")
    }
    assert set(computing.values()) == {"float32", precision.removeprefix("mixed_")}
    p = model.predict_on_batch(noise(channels=chosen.model.window))
    assert p.dtype == np.float32
    assert np.isfinite(p).all()


@pytest.mark.parametrize("precision", MIXED)
def test_the_last_layer_computes_in_float32_from_what_it_gets(precision):
    """A 1x1 convolution is a dot product of channels; in 16 bits it would be off by a thousandth."""
    model = network(spec(precision))
    before = keras.Model(model.input, model.get_layer("decoder1_conv3").output)
    kernel, bias = (np.asarray(v) for v in model.get_layer("output").weights)
    x = noise()
    z = np.asarray(before.predict_on_batch(x)).astype(np.float64) @ kernel[0, 0] + bias
    p = model.predict_on_batch(x)
    assert np.abs(p - 1 / (1 + np.exp(-z))).max() < 1e-6
    assert (np.round(p * 256) / 256 == p).mean() < 0.5  # not what 8 bits can say


@pytest.mark.parametrize("precision", MIXED)
def test_weights_and_start_are_those_of_float32(precision):
    usual, mixed = network(spec("float32")), network(spec(precision))
    assert [v.path for v in mixed.weights] == [v.path for v in usual.weights]
    assert all(np.array_equal(a, b) for a, b in zip(usual.get_weights(), mixed.get_weights(), strict=True))
    p, q = usual.predict_on_batch(noise()), mixed.predict_on_batch(noise())
    assert 0 < np.abs(p - q).max() < 0.05


def test_what_is_built_later_computes_in_float32_again():
    network(spec("mixed_bfloat16"))
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(ValueError, match="rate"):
        build_network(32, spec("float32").model.model_copy(update={"dropout": 2.0}), precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in network(spec("float32")).layers} == {"float32"}


# --- bfloat16 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    from tests.core.conftest import Listener

    listener, folder = Listener(), tmp_path_factory.mktemp("bfloat16") / "straight"
    return run(spec("mixed_bfloat16"), tiny, folder, listener), listener


def test_bfloat16_learns(straight):
    _, listener = straight
    assert np.isfinite(listener.losses).all()
    assert listener.records[-1].loss < listener.records[0].loss


def test_bfloat16_resumed_within_an_epoch_ends_with_the_same_bits(straight, tiny, tmp_path, listen):
    result, listener = straight
    broken = listen(stop_when=lambda so_far: bool(so_far.steps) and so_far.steps[-1][:2] == (2, 2))
    with pytest.raises(Interrupted):
        run(spec("mixed_bfloat16"), tiny, tmp_path / "broken", broken)
    begun = [tmp_path / "broken" / "checkpoints" / "begun.npz"]
    resumed = listen()
    again = run(
        spec("mixed_bfloat16"), tiny, tmp_path / "resumed", resumed, resume_from=broken.checkpoints[-1], begun=begun
    )
    assert resumed.steps[0][:2] == (2, 3)
    assert without_clock(broken.records + resumed.records) == without_clock(listener.records)
    for kind in ("weights", "probabilities"):
        assert again.artifacts[kind].read_bytes() == result.artifacts[kind].read_bytes(), kind


def test_scores_are_of_the_precision_that_it_was_trained_in(straight, tiny, tmp_path, listen):
    result, _ = straight
    chosen, weights = spec("mixed_bfloat16"), result.artifacts["weights"]
    index = tiny[0].given["val"][0]
    image = tiny[1].images[index][None, ..., None]
    told = np.load(result.artifacts["probabilities"])[f"val/{tiny[0].slices[index].key}"] / 65535
    found = {}
    for precision in ("float32", "mixed_bfloat16"):
        model = network(spec(precision))
        model.set_weights(read_weights(weights, chosen.model))
        found[precision] = np.abs(model.predict_on_batch(image)[0, ..., 0] - told).max()
    assert found["mixed_bfloat16"] < 1e-4 < found["float32"]
    again = evaluate_weights(chosen, *tiny, weights, tmp_path, listen())
    assert again.artifacts["probabilities"].read_bytes() == result.artifacts["probabilities"].read_bytes()


# --- float16 --------------------------------------------------------------------------------------------------------


def test_float16_is_refused_where_no_gpu_is(tiny, tmp_path, listen):
    with pytest.raises(SpecError, match=r"training\.precision: is for GPUs.*needs.*Received: 'mixed_float16'"):
        run(spec("mixed_float16"), tiny, tmp_path / "run", listen())
    assert not list((tmp_path / "run").iterdir())


def stepper(chosen):
    prepare_backend(chosen)
    model = network(chosen)
    return model, steps_for(model, chosen)


PIECES = {"at once": {}, "in pieces": {"batch_by": "scan"}}


def batch_of(data, x, y):
    """The batch as pieces, as often as a step wants it."""
    return [(x[:3], y[:3]), (x[3:], y[3:])] * 2 if data else [(x, y)]


@pytest.mark.parametrize("data", PIECES.values(), ids=PIECES)
def test_a_scaled_loss_changes_no_gradient_but_its_rounding(data):
    """One step of gradient descent takes off what it does in float32, up to the rounding of 16 bits."""
    x, y = noise(5), np.round(noise(5))
    taken = {}
    for precision in ("float32", "mixed_float16"):
        model, steps = stepper(spec(precision, {"dropout": 0.0}, data, optimizer="sgd", learning_rate=1.0))
        before = model.get_weights()
        steps.train(iter(batch_of(data, x, y)), 2 if data else 1)
        taken[precision] = np.concatenate([(a - b).ravel() for a, b in zip(before, model.get_weights(), strict=True)])
    usual, mixed = taken.values()
    assert np.linalg.norm(usual - mixed) < 0.02 * np.linalg.norm(usual)
    assert not np.array_equal(usual, mixed)


@pytest.mark.parametrize("data", PIECES.values(), ids=PIECES)
def test_a_step_whose_gradient_overflows_changes_no_weight_and_halves_the_scale(data):
    x, y = noise(5), np.round(noise(5))
    model, steps = stepper(spec("mixed_float16", {}, data))
    scale, before = model.optimizer.dynamic_scale, model.get_weights()
    assert float(scale) == 2**15
    scale.assign(2.0**40)  # float16 ends at 65504
    loss, _ = steps.train(iter(batch_of(data, x, y)), 2 if data else 1)
    assert 0 < loss < 1  # as it is, not scaled
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert (float(scale), int(model.optimizer.iterations)) == (2.0**39, 0)
    scale.assign(2.0**10)
    steps.train(iter(batch_of(data, x, y)), 2 if data else 1)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert (float(scale), int(model.optimizer.iterations)) == (2.0**10, 1)


@pytest.mark.parametrize("data", PIECES.values(), ids=PIECES)
def test_float16_resumes_to_the_same_bits_steps_that_were_left_out_included(data, tiny, tmp_path, listen):
    """From a scale that is too large for the first steps."""
    chosen = spec("mixed_float16", {}, data, epochs=4)

    def training(name, listener):
        (tmp_path / name).mkdir()
        prepare_backend(chosen)
        return _Training(chosen, *tiny, tmp_path / name, listener)

    listener, resumed = listen(), listen()
    whole = training("whole", listener)
    whole.model.optimizer.dynamic_scale.assign(2.0**23)
    whole.run()
    left_out = whole.train_part.steps * 4 - int(whole.model.optimizer.iterations)
    assert 0 < left_out < whole.train_part.steps * 4
    assert float(whole.model.optimizer.dynamic_scale) == 2.0 ** (23 - left_out)

    again = training("again", resumed)
    again.resume(listener.checkpoints[0], ())
    assert float(again.model.optimizer.dynamic_scale) < 2.0**23
    again.run()
    assert without_clock(resumed.records) == without_clock(listener.records[1:])
    ends = [checkpoints.load(one.checkpoints[-1]) for one in (listener, resumed)]
    for group in checkpoints.GROUPS:
        pairs = zip(*(getattr(end, group) for end in ends), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), group


# --- JAX ------------------------------------------------------------------------------------------------------------

JAX = """
import json, sys
from pathlib import Path
import numpy as np
from liverseg_core.backend import keras
from liverseg_core.checkpoints import weights_of
from liverseg_core.data.archive import read_archive
from liverseg_core.data.cache import open_cache
from tests.core.conftest import Listener
from tests.core.test_precision import PIECES, batch_of, noise, run, spec, stepper, without_clock

archive, folder = map(Path, sys.argv[1:3])
manifest = read_archive(archive)
tiny = manifest, open_cache(archive, manifest, 32, folder / "cache")
whole, again = Listener(), Listener()
SMALL = {"filters": 1, "depth": 1}  # for XLA, which compiles for long
results = [
    run(spec("mixed_bfloat16", SMALL), tiny, folder / "whole", whole),
    run(spec("mixed_bfloat16", SMALL), tiny, folder / "again", again, resume_from=whole.checkpoints[0]),
]
weights = [result.artifacts["weights"].read_bytes() for result in results]

def float16(data):
    model, steps = stepper(spec("mixed_float16", SMALL, data))
    told = []
    for scale in (2.0**40, 2.0**10):
        model.optimizer.dynamic_scale.assign(scale)
        before = weights_of(model)
        steps.train(iter(batch_of(data, noise(5), np.round(noise(5)))), 2 if data else 1)
        moved = any(not np.array_equal(a, b) for a, b in zip(before, weights_of(model)))
        told.append([moved, float(model.optimizer.dynamic_scale) / scale])
    return told

print(json.dumps({
    "backend": keras.backend.backend(), "losses": [record.loss for record in whole.records],
    "same": weights[0] == weights[1], "records": without_clock(again.records) == without_clock(whole.records[1:]),
    "float16": [float16(data) for data in PIECES.values()],
}))
"""


def test_jax_does_the_same(tmp_path):
    from tests.factories import tiny_archive

    archive = tiny_archive(tmp_path, slices=4, size=32)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
    }
    command = [sys.executable, "-W", "error:__array__", "-c", JAX, archive, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["backend"] == "jax"
    assert told["losses"] == sorted(told["losses"], reverse=True)
    assert told["same"]
    assert told["records"]
    # Left out and the scale halved, then taken and the scale kept; at once and in pieces.
    assert told["float16"] == [[[False, 0.5], [True, 1.0]]] * 2
