"""The same code under another Keras backend; in processes of their own, since a backend is chosen at import."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
from liverseg_core.backend import keras
from liverseg_core.data.archive import read_archive
from liverseg_core.data.cache import open_cache
from liverseg_core.spec import ExperimentSpec
from liverseg_core.training import prepare_backend, run_experiment

class Quiet:
    losses = []
    def phase(self, name): pass
    def step(self, *numbers): pass
    def epoch(self, record, checkpoint): self.losses.append((record.loss, record.val_loss))
    def should_stop(self): return False

archive, workdir = map(Path, sys.argv[1:3])
manifest = read_archive(archive)
spec = ExperimentSpec.parse({
    "dataset": {"id": "tiny"}, "data": {"image_size": 16}, "model": {"filters": 1, "depth": 1, "dropout": 0.0},
    "training": {"epochs": 2, "batch_size": 6, "early_stopping": {"patience": None}},
})
prepare_backend(spec, threads=1)
cache = open_cache(archive, manifest, 16, workdir / "cache")
result = run_experiment(spec, manifest, cache, workdir, Quiet())
resumed = run_experiment(spec, manifest, cache, workdir, Quiet(), workdir / "checkpoints" / "epoch-00001.npz")
print(json.dumps({
    "backend": keras.backend.backend(), "losses": Quiet.losses,
    "counts": [score.counts for score in result.scores], "dice": [score.dice for score in result.scores],
    "resumed": resumed.scores == result.scores,
}))
"""


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


def test_jax_resumes_exactly(runs):
    assert runs["jax"]["resumed"]
