"""Records of finished runs as small JSON files: everything that tables are made of, and nothing private.

A record holds counts and stored facts a slice, values by epoch, the spec, hashes, code and machine. It holds no
pixels, no weights, no paths, no host names, no tags and no notes, so it can be committed and adds up over time.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from liverseg_core.errors import DataError, InputError
from liverseg_core.metrics import aggregate
from liverseg_core.records import SliceScore
from liverseg_core.spec import FOLD_KINDS, ExperimentSpec

Json = dict[str, Any]

FORMAT = 1
KINDS = ("train", "evaluate", "rescore", "reference")
EPOCH_COLUMNS = (
    "epoch",
    "loss",
    "dice",
    "val_loss",
    "val_dice",
    "learning_rate",
    "seconds",
    "images_per_second",
)
COUNTS = tuple(f"n{truth}{predicted}" for truth in range(3) for predicted in range(3))
QUANTISED = tuple(f"q{truth}{predicted}" for truth in range(3) for predicted in range(3))
FACTS = ("tp", "fp", "fn", "dice", "dice_liver", "dice_tumor")
SLICE_COLUMNS = ("part", "scan", "slice", *COUNTS, *QUANTISED, *FACTS)
PROVENANCE = (
    "liverseg",
    "commit",
    "python",
    "backend",
    "keras",
    "tensorflow",
    "jax",
    "processor",
    "cores",
    "threads",
    "device",
)
"""What is kept of a run's provenance; the host's name is not."""


@dataclass(frozen=True)
class StudyRun:
    """One finished run.

    Attributes:
        name: the run's name.
        kind: one of ``KINDS``.
        predictor: which reference predictor a run of kind ``reference`` is.
        spec: its spec as plain data; ``dataset.id`` is the content hash, tags and notes are left out.
        training_hash, evaluation_hash: what the result depends on.
        dataset: ``content_hash``, ``height``, ``width``, ``subjects`` (scan -> subject), ``subjects_assumed``.
        provenance: those of ``PROVENANCE`` that are known.
        seconds: time spent, over all attempts.
        attempts: how often it was begun.
        best_epoch: whose weights were scored; None where nothing was trained.
        epochs: column of ``EPOCH_COLUMNS`` -> values, one an epoch.
        slices: column of ``SLICE_COLUMNS`` -> values, one an evaluated slice.
    """

    name: str
    kind: str
    predictor: str | None
    spec: Json
    training_hash: str
    evaluation_hash: str
    dataset: Json
    provenance: Json
    seconds: float | None
    attempts: int
    best_epoch: int | None
    epochs: dict[str, list[Any]]
    slices: dict[str, list[Any]]

    @property
    def file_name(self) -> str:
        """``shuffled-1-s0-1a2b3c4d-5e6f7a8b.json``: name, seed, and the beginnings of the two hashes."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:60] or "run"
        seed = f"-s{self.spec['training']['seed']}" if self.kind == "train" else ""
        return f"{slug}{seed}-{self.training_hash[:8]}-{self.evaluation_hash[:8]}.json"

    @property
    def imported(self) -> bool:
        """Whether its weights came as a file; a trained run that is scored again keeps its best epoch."""
        return self.kind in ("evaluate", "rescore") and self.best_epoch is None

    @cached_property
    def settings(self) -> Json:
        """Every setting by dotted path."""
        return ExperimentSpec.parse(self.spec).settings()

    @cached_property
    def scores(self) -> tuple[SliceScore, ...]:
        """The facts about every slice of the part that counts: test where there is one; of a fold those held out."""
        held_out = self.settings["dataset.split.kind"] in FOLD_KINDS and "val" in self.slices["part"]
        part = "val" if held_out else min(self.slices["part"], default="val")  # "test" sorts before "val"
        rows = [dict(zip(self.slices, row, strict=True)) for row in zip(*self.slices.values(), strict=True)]
        return tuple(_score(row) for row in rows if row["part"] == part)

    @cached_property
    def values(self) -> dict[str, float | None]:
        """What ``metrics.aggregate`` makes of the scores: fractions."""
        return aggregate(self.scores)


def _score(row: Json) -> SliceScore:
    counts, quantised = (tuple(row[name] for name in names) for names in (COUNTS, QUANTISED))
    facts = {name: row[name] for name in ("part", "scan", "slice", *FACTS)}
    return SliceScore(counts=counts, quantised=quantised, **facts)


def record(run: Json, epochs: Sequence[Json], images: Sequence[Json], dataset: Json) -> StudyRun:
    """The record of a run as the API describes it: ``/v1/runs/{id}``, its ``/epochs``, its ``/images``, its data set.

    Raises:
        DataError: the run has not succeeded or is of a kind that is not scored.
    """
    where = f"run {run['id']}"
    if run["state"] != "succeeded":
        raise DataError(where, "has not succeeded, so there is nothing to export", run["state"])
    if run["kind"] not in KINDS or not images:
        raise DataError(where, "has no scores to export", run["kind"])
    spec = {key: value for key, value in run["spec"].items() if key not in ("tags", "notes")}
    spec["dataset"] = spec["dataset"] | {"id": dataset["content_hash"]}
    ordered = sorted(images, key=lambda one: (one["part"], one["scan"], one["slice"]))
    return StudyRun(
        name=run["name"],
        kind=run["kind"],
        predictor=run.get("predictor"),
        spec=spec,
        training_hash=run["training_hash"],
        evaluation_hash=run["evaluation_hash"],
        dataset={key: dataset[key] for key in ("content_hash", "height", "width", "subjects", "subjects_assumed")},
        provenance=_provenance(run["attempts"]),
        seconds=_seconds(run["attempts"]),
        attempts=len(run["attempts"]),
        best_epoch=run["best_epoch"] or None,
        epochs={name: [one[name] for one in epochs] for name in EPOCH_COLUMNS},
        slices={name: [one[name] for one in ordered] for name in SLICE_COLUMNS},
    )


def _provenance(attempts: Sequence[Json]) -> Json:
    known: Json = next((one["provenance"] for one in reversed(attempts) if one["provenance"]), {})
    return {name: known[name] for name in PROVENANCE if name in known}


def _seconds(attempts: Sequence[Json]) -> float | None:
    ended = [
        datetime.fromisoformat(one["ended_at"]) - datetime.fromisoformat(one["started_at"])
        for one in attempts
        if one["ended_at"]
    ]
    return round(sum(spent.total_seconds() for spent in ended), 1) if ended else None


# ---- files ---------------------------------------------------------------------------------------------------


def write(run: StudyRun, folder: Path) -> Path:
    """Write the record into ``folder`` under its own name; the same run gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / run.file_name
    fields = {name: getattr(run, name) for name in StudyRun.__dataclass_fields__}
    text = _text({"format": FORMAT, **fields})
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(file)


def _text(value: Json) -> str:
    """JSON with a line for each entry of the two upper levels, so that a column of numbers is one line."""
    lines = ",\n".join(f" {json.dumps(key)}: {_section(inner)}" for key, inner in value.items())
    return f"{{\n{lines}\n}}\n"


def _section(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return _compact(value)
    lines = ",\n".join(f"  {json.dumps(key)}: {_compact(inner)}" for key, inner in value.items())
    return f"{{\n{lines}\n }}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_folder(folder: Path) -> tuple[StudyRun, ...]:
    """Every record in ``folder`` by file name; of records of one result the first stands for all.

    Raises:
        DataError: there is none, or a file is no record.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(str(folder), "holds no exported runs; make some with `liverseg study export RUN...`")
    found: dict[tuple[str, str, str], StudyRun] = {}
    for file in files:
        run = _read(file)
        found.setdefault((run.kind, run.training_hash, run.evaluation_hash), run)
    return tuple(found.values())


def _read(file: Path) -> StudyRun:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if value.pop("format") != FORMAT:
            raise ValueError("it has another format")
        run = StudyRun(**value)
        _check(run)
    except (InputError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(str(file), f"is no exported run that can be read ({error}); export it again") from None
    return run


def _check(run: StudyRun) -> None:
    _check_columns(run.epochs, EPOCH_COLUMNS)
    _check_columns(run.slices, SLICE_COLUMNS)
    if run.kind not in KINDS or not run.slices["part"]:
        raise ValueError("it has no scores")
    _ = run.settings


def _check_columns(table: Mapping[str, Sequence[Any]], wanted: Sequence[str]) -> None:
    if tuple(table) != tuple(wanted) or len({len(values) for values in table.values()}) > 1:
        raise ValueError("its columns are not as they should be")
