"""The same code under another Keras backend; in processes of their own, since a backend is chosen at import."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = '''
import json, sys
from pathlib import Path
import numpy as np
from liverseg_core.backend import compile_model, keras, provenance
from liverseg_core.data.archive import read_archive
from liverseg_core.data.cache import open_cache
from liverseg_core.losses import loss_for
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec
from liverseg_core.training import prepare_backend, run_experiment

class Quiet:
    losses = []
    moved = []
    def phase(self, name): pass
    def resumed_elsewhere(self, changed_from): self.moved.append(changed_from)
    def resumed_within(self, *told): pass
    def step(self, *numbers): pass
    def epoch(self, record, checkpoint): self.losses.append((record.loss, record.val_loss))
    def should_stop(self): return False

def lesion_network():
    """Losses of a few steps of what the study did not have: softmax, a lesion loss, an LSTM, a normalization."""
    spec = ExperimentSpec.parse({
        "dataset": {"id": "noise"}, "data": {"image_size": 16},
        "training": {"loss": "lesion-dice-cross-entropy", "batch_dice": False},
        "model": {"network": "convlstm-unet", "window": 3, "head": "softmax", "normalization": "group",
                  "filters": 2, "depth": 1, "dropout": 0.0},
    })
    model = build_network(16, spec.model, seed=1)
    compile_model(model, spec, loss_for(spec.training, spec.model.head))
    draw = np.random.default_rng(0)
    images = draw.random((2, 16, 16, 3), dtype=np.float32)
    truth = np.eye(3, dtype=np.float32)[draw.integers(0, 3, (2, 16, 16))]
    return [float(model.train_on_batch(images, truth)) for _ in range(3)]

archive, workdir = map(Path, sys.argv[1:3])
manifest = read_archive(archive)
spec = ExperimentSpec.parse({
    "dataset": {"id": "tiny"}, "data": {"image_size": 16}, "model": {"filters": 1, "depth": 1, "dropout": 0.0},
    "training": {"epochs": 2, "batch_size": 6, "early_stopping": {"patience": None}},
})
prepare_backend(spec, threads=1)
lesions = lesion_network()
cache = open_cache(archive, manifest, 16, workdir / "cache")
result = run_experiment(spec, manifest, cache, workdir, Quiet())
resumed = run_experiment(spec, manifest, cache, workdir, Quiet(), workdir / "checkpoints" / "epoch-00001.npz")
cut = ExperimentSpec.parse({
    "dataset": {"id": "tiny"}, "data": {"image_size": 32, "crop": 16, "sampling": "lesion-balanced"},
    "model": {"filters": 1, "depth": 1, "dropout": 0.0, "head": "softmax", "normalization": "batch",
              "subpixel": 2},
    "training": {"epochs": 1, "batch_size": 3, "loss": "dice-cross-entropy"},
})
whole = open_cache(archive, manifest, 32, workdir / "cache")
cut_scores = run_experiment(cut, manifest, whole, workdir, Quiet()).scores
print(json.dumps({
    "cut": [sum(score.counts) for score in cut_scores], "cut_loss": Quiet.losses.pop(),
    "backend": keras.backend.backend(), "losses": Quiet.losses,
    "counts": [score.counts for score in result.scores], "dice": [score.dice for score in result.scores],
    "moved": Quiet.moved, "provenance": provenance(),
    "lesions": lesions, "resumed": resumed.scores == result.scores,
}))
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from tests.factories import tiny_archive

    folder = tmp_path_factory.mktemp("backends")
    archive = tiny_archive(folder, slices=4, size=32)
    found = {}
    for backend in ("tensorflow", "jax"):
        (folder / backend).mkdir()
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        }
        command = [sys.executable, "-W", "error:__array__", "-c", SCRIPT, archive, folder / backend]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[backend] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_process_ran_its_backend(runs):
    assert {name: run["backend"] for name, run in runs.items()} == {"tensorflow": "tensorflow", "jax": "jax"}


def test_jax_and_tensorflow_agree_without_dropout(runs):
    """The same start, data and arithmetic: losses and scores agree to float32's rounding."""
    tensorflow, jax = runs["tensorflow"], runs["jax"]
    assert len(jax["losses"]) == 3  # two epochs, then one resumed
    for one, other in zip(tensorflow["losses"], jax["losses"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert jax["dice"] == pytest.approx(tensorflow["dice"], abs=1e-3)
    assert [len(counts) for counts in jax["counts"]] == [9] * len(tensorflow["counts"])
    assert [sum(counts) for counts in jax["counts"]] == [32 * 32] * len(tensorflow["counts"])


def test_they_agree_on_a_softmax_lstm_network_with_a_lesion_loss(runs):
    tensorflow, jax = runs["tensorflow"]["lesions"], runs["jax"]["lesions"]
    assert jax == pytest.approx(tensorflow, abs=1e-4)
    assert jax[2] < jax[1] < jax[0]


def test_they_agree_on_cut_outs_and_score_whole_slices(runs):
    tensorflow, jax = runs["tensorflow"], runs["jax"]
    assert jax["cut_loss"] == pytest.approx(tensorflow["cut_loss"], abs=1e-4)
    assert jax["cut"] == tensorflow["cut"] == [32 * 32] * len(tensorflow["counts"])


def test_jax_resumes_exactly(runs):
    assert runs["jax"]["resumed"]
    assert runs["jax"]["moved"] == []


def test_jax_tells_what_decides_bits(runs):
    told = runs["jax"]["provenance"]
    assert {"backend", "keras", "jax", "numpy", "processor", "cores"} <= told.keys()
    assert told["device"] == "cpu:0"
