"""Masks for unlabelled slices through a real trainer process: the same labels as those that were scored."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from liverseg_core.data.cache import open_cache
from liverseg_core.data.manifest import Manifest
from liverseg_core.data.png import read_labels
from liverseg_core.data.unlabelled import pack_slices
from liverseg_core.metrics import count_3x3
from liverseg_core.phantom import draw_phantom
from liverseg_core.spec import ModelOptions
from liverseg_core.weights import network_shapes, write_weights
from store import artifacts, experiments, predictions, scores, views
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories, processes
from tests.store import ledger
from worker.attempt import attempt

SIZE = 40


def trained(tmp_path: Path, **sections) -> int:
    """A tiny run on slices of 40 pixels, seen at 32, so that masks must be enlarged."""
    factories.import_phantom(tmp_path, size=SIZE)
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(factories.tiny_spec(**sections)))
        run_id = made.runs[0].id
    assert attempt("default", "test-worker", threads=1) == run_id
    assert processes.get_run(run_id).state == "succeeded"
    return run_id


def untrained(tmp_path: Path) -> int:
    """A succeeded run with random weights, for what does not depend on training."""
    factories.import_phantom(tmp_path, size=SIZE)
    options, random = ModelOptions(filters=2, depth=2), np.random.default_rng(5)
    arrays = [random.normal(size=shape).astype(np.float32) for _, shape in network_shapes(options)]
    write_weights(tmp_path / "weights.npz", arrays, options)
    held = ledger.claimed()
    with transaction() as session:
        files = {"weights": artifacts.put(tmp_path / "weights.npz")}
        scores.finish(session, held, [factories.slice_score()], files, 1, Ending(0))
    return held.run_id


def flat_val(tmp_path: Path) -> Path:
    """The pictures of the phantom's val part, without masks."""
    folder = tmp_path / "flat"
    shutil.copytree(tmp_path / "phantom" / "val" / "images", folder)
    pack_slices(folder, tmp_path / "flat.zip")
    return tmp_path / "flat.zip"


def predict(run_id: int, packed: Path) -> int:
    with transaction() as session:
        run = views.run(session, DEFAULT_PROJECT, run_id)
        made = predictions.submit_prediction(session, run, artifacts.put(packed).sha256)
        return made.runs[0].id


def masks_of(run_id: int) -> dict[str, np.ndarray]:
    with transaction() as session:
        stored = {one.kind: one.sha256 for one in views.artifacts(session, run_id)}
    assert set(stored) == {"masks", "log"}
    with zipfile.ZipFile(artifacts.locate(stored["masks"])) as bundle:
        return {name: read_labels(bundle.read(name), name) for name in bundle.namelist()}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {
            "model": {"filters": 2, "depth": 2, "head": "softmax"},
            "evaluation": {"threshold": 0.3, "largest_component": True, "min_lesion": 5},
        },
    ],
)
def test_masks_of_the_val_slices_give_the_counts_that_were_scored(database: Path, tmp_path: Path, sections) -> None:
    run_id = trained(tmp_path, **sections)
    made = predict(run_id, flat_val(tmp_path))
    assert attempt("default", "test-worker", threads=1) == made
    run = processes.get_run(made)
    assert (run.state, run.kind, run.scored_from, run.message) == ("succeeded", "predict", run_id, None)
    masks = masks_of(made)
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM slice_scores WHERE run_id = :a"), {"a": made}) == 0
        counts = {
            f"{scan}_{number}.png": tuple(row)
            for scan, number, *row in session.execute(
                text(
                    "SELECT scan, slice, n00, n01, n02, n10, n11, n12, n20, n21, n22 FROM slice_scores "
                    "WHERE run_id = :a AND part = 'val'"
                ),
                {"a": run_id},
            )
        }
        dataset = experiments.datasets.resolve(session, DEFAULT_PROJECT, "phantom")
        manifest = Manifest.from_json(dataset.manifest)
    assert set(masks) == set(counts)
    assert len(masks) == 8
    if sections:
        # Small lesions count as liver in the truth too, so predicted pixels of each class are compared alone.
        for name, labels in masks.items():
            assert labels.shape == (SIZE, SIZE)
            assert np.bincount(labels.ravel(), minlength=3).tolist() == [sum(counts[name][k::3]) for k in range(3)]
        return
    cache = open_cache(tmp_path / "phantom.zip", manifest, 32, tmp_path / "cache")
    for entry, truth in zip(manifest.slices, cache.labels, strict=True):
        if entry.part == "val":
            assert count_3x3(truth, masks[f"{entry.key}.png"]) == counts[f"{entry.key}.png"]


def test_a_zip_that_was_damaged_in_the_store_fails_the_run_and_leaves_nothing(database: Path, tmp_path: Path) -> None:
    run_id = untrained(tmp_path)
    made = predict(run_id, flat_val(tmp_path))
    artifacts.locate(processes.get_run(made).images).write_bytes(b"no zip at all")
    assert attempt("default", "test-worker", threads=1) == made
    run = processes.get_run(made)
    assert (run.state, run.reason) == ("failed", "bad-input")
    with transaction() as session:
        assert views.artifacts(session, made) == []


def test_a_scan_s_masks_have_its_size_and_do_not_depend_on_what_comes_with_it(database: Path, tmp_path: Path) -> None:
    run_id = untrained(tmp_path)
    draw_phantom(tmp_path / "more", subjects=2, slices=4, size=48, seed=9)
    (tmp_path / "both").mkdir()
    (tmp_path / "one").mkdir()
    for path in (tmp_path / "more").glob("*/images/*.png"):
        shutil.copy(path, tmp_path / "both" / path.name)
        if path.name.startswith("0_"):
            shutil.copy(path, tmp_path / "one" / path.name)
    for name in ("both", "one"):
        pack_slices(tmp_path / name, tmp_path / f"{name}.zip")
    made = [predict(run_id, tmp_path / f"{name}.zip") for name in ("both", "one")]
    for _ in made:
        attempt("default", "test-worker", threads=1)
    both, one = map(masks_of, made)
    assert (len(both), len(one)) == (8, 4)
    for name, labels in one.items():
        assert labels.shape == (48, 48)
        assert np.array_equal(labels, both[name])
    assert len(np.unique(np.stack(list(one.values())))) > 1


def test_slices_that_are_gone_fail_the_run_and_say_so(database: Path, tmp_path: Path) -> None:
    run_id = trained(tmp_path)
    packed = flat_val(tmp_path)
    made = predict(run_id, packed)
    artifacts.locate(artifacts.sha256_of(packed)).unlink()
    assert attempt("default", "test-worker", threads=1) == made
    run = processes.get_run(made)
    assert (run.state, run.reason) == ("failed", "bad-input")
    assert "send it again" in run.message
