"""Made-up finished runs as the API describes them, and their records."""

import hashlib
from typing import Any

from liverseg_core.presets import PAPER_2019_ROWS, paper_2019_overrides
from liverseg_core.study import COUNTS, QUANTISED, StudyRun, record
from liverseg_core.submission import Submission

CONTENT = "c" * 64
DATASET = {
    "name": "my slices",
    "content_hash": CONTENT,
    "height": 10,
    "width": 10,
    "subjects": {"0": "a", "8": "b", "9": "b"},
    "subjects_assumed": False,
}
SLICES = [(9, 0), (8, 1), (8, 0)]
SLICE = dict(zip(COUNTS + QUANTISED, (58, 2, 0, 3, 26, 1, 0, 4, 6) * 2, strict=True))
SLICE |= {"tp": 35, "fp": 2, "fn": 5, "dice": 0.9, "dice_liver": 0.8, "dice_tumor": 0.05}
"""100 pixels: 60 background, 30 parenchyma, 10 lesion. Lesion TP 6, FP 1, FN 4; liver TP 37, FP 2, FN 3."""

PROVENANCE = {
    "host": "secret-host",
    "liverseg": "0.1.0",
    "commit": "0123456789ab",
    "python": "3.11.7",
    "backend": "tensorflow",
    "keras": "3.15.0",
    "tensorflow": "2.21.0",
    "processor": "A Processor",
    "cores": "2",
    "threads": "2",
    "cache": "/private/cache",
}
ROWS = {row.name: paper_2019_overrides(row) for row in PAPER_2019_ROWS}


def described(
    name: str, kind: str = "train", predictor: str | None = None, imported: bool = False, **overrides: Any
) -> dict[str, Any]:
    """A run as ``/v1/runs/{id}`` tells of it; a row of the study by its name, changed by dotted paths.

    ``imported``: it scores a weight file, told apart by its name; else what is no reference was trained here.
    """
    (spec,) = Submission(
        spec={"dataset": {"id": "my slices"}, "tags": ["a tag"], "notes": "by Somebody"},
        variants=[ROWS.get(name, {}) | {"name": name} | overrides],
    ).expand()
    source = f"weights {name}" if imported else predictor
    training = hashlib.sha256(f"{source} {spec.training_hash(CONTENT)}".encode()).hexdigest()
    attempt = {"worker": "worker-1", "provenance": PROVENANCE, "started_at": "2026-01-01T10:00:00+00:00"}
    return {
        "id": 7,
        "name": name,
        "state": "succeeded",
        "kind": kind,
        "predictor": predictor,
        "spec": spec.model_dump(mode="json"),
        "training_hash": training,
        "evaluation_hash": spec.evaluation_hash(),
        "best_epoch": None if imported or kind == "reference" else 2,
        "attempts": [
            attempt | {"ended_at": "2026-01-01T10:00:30.25+00:00"},
            attempt | {"ended_at": "2026-01-01T10:01:00.25+00:00"},
        ],
    }


def images(slices: Any = SLICES, part: str = "val", **facts: Any) -> list[dict[str, Any]]:
    return [{"part": part, "scan": scan, "slice": number, **SLICE, **facts} for scan, number in slices]


def epoch(number: int) -> dict[str, Any]:
    values = {"loss": 0.5, "dice": 0.5, "val_loss": 0.6, "val_dice": 0.3 + number / 10, "learning_rate": 1e-3}
    return {"epoch": number, **values, "seconds": 1.5, "images_per_second": 40.0, "at": "2026-01-01", "attempt": 1}


def run(
    name: str,
    kind: str = "train",
    *,
    seed: int | None = None,
    slices: Any = SLICES,
    epochs: int = 2,
    predictor: str | None = None,
    imported: bool = False,
    settings: dict[str, Any] | None = None,
    dataset: dict[str, Any] = DATASET,
    **facts: Any,
) -> StudyRun:
    """A record; ``facts`` change every slice."""
    overrides = dict(settings or {})
    if seed is not None:
        overrides["training.seed"] = seed
    told = [epoch(number) for number in range(1, epochs + 1)] if kind == "train" else []
    return record(described(name, kind, predictor, imported, **overrides), told, images(slices, **facts), dataset)
