"""Small real things for tests: a drawn data set, submissions, made-up results."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.manifest import Manifest
from liverseg_core.phantom import draw_phantom
from liverseg_core.records import EpochRecord, SliceScore
from liverseg_core.spec import ModelOptions
from liverseg_core.submission import Submission
from liverseg_core.weights import network_shapes
from store import artifacts, batches, datasets, wishes
from store.batches import Batch, Finished
from store.database import transaction
from store.models import DEFAULT_PROJECT, Dataset, Run
from store.queue import Claim


def tiny_archive(folder: Path, *, subjects: int = 4, slices: int = 8, size: int = 32, seed: int = 0) -> Path:
    """A drawn phantom as an archive."""
    draw_phantom(folder / "phantom", subjects=subjects, slices=slices, size=size, seed=seed)
    pack_folder(folder / "phantom", folder / "phantom.zip")
    return folder / "phantom.zip"


def import_phantom(folder: Path, name: str = "phantom", **options: Any) -> Dataset:
    """A drawn phantom in the store and the database."""
    archive = tiny_archive(folder, **options)
    manifest = read_archive(archive)
    stored = artifacts.put(archive)
    with transaction() as session:
        return datasets.add(session, DEFAULT_PROJECT, name, manifest, stored.sha256)


def tiny_spec(dataset: str = "phantom", /, **changes: Any) -> dict[str, Any]:
    """A spec that trains in a second or two; ``changes`` are whole sections."""
    spec: dict[str, Any] = {
        "dataset": {"id": dataset},
        "data": {"image_size": 32},
        "model": {"filters": 2, "depth": 2},
        "training": {"batch_size": 4, "epochs": 2},
    }
    return spec | changes


def dismiss_references() -> None:
    """Cancel the queued reference predictors, so that the next claim takes what a test submitted."""
    with transaction() as session:
        queued = session.scalars(select(Run.id).where(Run.kind == "reference", Run.state == "queued")).all()
        for run_id in queued:
            wishes.cancel(session, DEFAULT_PROJECT, run_id)


def submission(spec: dict[str, Any] | None = None, **fields: Any) -> Submission:
    return Submission.model_validate({"spec": spec or tiny_spec(), **fields})


def epoch_record(epoch: int, **changes: float) -> EpochRecord:
    values = {"loss": 0.5, "dice": 0.5, "val_loss": 0.6, "val_dice": 0.4, "learning_rate": 1e-3}
    return EpochRecord(epoch=epoch, **(values | {"seconds": 1.0, "images_per_second": 10.0} | changes))


def store_epoch(session: Session, held: Claim, record: EpochRecord, checkpoint: dict[str, Any]) -> bool:
    """Hand in one epoch as a worker does, in a batch of its own with the epoch's number."""
    return batches.record(session, held, Batch(record.epoch, epochs=[Finished(record, checkpoint)]))


def slice_score(part: str = "val", scan: int = 0, number: int = 0, **changes: Any) -> SliceScore:
    """A slice of 100 pixels: 60 background, 30 parenchyma, 10 lesion, with a few mistakes."""
    values: dict[str, Any] = {"counts": (58, 2, 0, 3, 26, 1, 0, 4, 6), "quantised": (58, 2, 0, 3, 26, 1, 0, 4, 6)}
    values |= {"tp": 35, "fp": 2, "fn": 5, "dice": 0.9, "dice_liver": 0.8, "dice_tumor": 0.05}
    return SliceScore(part=part, scan=scan, slice=number, **(values | changes))


def scores_for(manifest: Manifest) -> list[SliceScore]:
    """A made-up score for every slice that would be evaluated."""
    return [slice_score(e.part, e.scan, e.slice) for e in manifest.slices if e.part != "train"]


def keras_file(filters: int, depth: int) -> bytes:
    """Random weights in the layout of Keras 2: layers in order, each with its weights."""
    random, out = np.random.default_rng(0), io.BytesIO()
    layers: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, shape in network_shapes(ModelOptions(filters=filters, depth=depth)):
        layer, weight = name.split("/")
        layers.setdefault(layer, {})[weight] = random.normal(size=shape).astype(np.float32)
    with h5py.File(out, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, values in weights.items():
                group[weight] = values
    return out.getvalue()
