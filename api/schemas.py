"""What the API answers with, and the one body it takes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import Submission
from store.deleted import sentence
from store.models import Deletion, Experiment, Run, Worker
from store.rows import Column
from store.usage import RunDisk
from store.wishes import HIGHEST_PRIORITY


class SubmitBody(Submission):
    """A submission, and whether finished runs may stand for equal new ones."""

    reuse: bool = Field(True, strict=True, description="show a finished run's result instead of training again")
    references: bool = Field(
        True,
        strict=True,
        description="also score the reference predictors on the same slices, where that is not done",
    )


class RunEdit(BaseModel):
    """What people may change about a run; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("", max_length=200, strict=True)
    notes: str = Field("", max_length=10_000, strict=True)
    tags: list[Annotated[str, Field(min_length=1, max_length=60, strict=True)]] = Field([], max_length=50)
    priority: int = Field(
        0,
        strict=True,
        ge=-HIGHEST_PRIORITY,
        le=HIGHEST_PRIORITY,
        description="of what waits in a pool the highest is taken first, then the oldest",
    )


class RescoreBody(BaseModel):
    """Finished runs, and the fields of the section ``evaluation`` to score them under."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[Annotated[int, Field(strict=True, ge=1, lt=2**63)]] = Field(min_length=1, max_length=1000)
    evaluation: dict[str, Any] = Field(description="fields that change; others stay as each run has them")
    name: str = Field("", max_length=200, strict=True, description="of the experiment that they become")


class ReferenceBody(BaseModel):
    """Where reference predictors are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: dict[str, Any] = Field(
        description="an ExperimentSpec; its data set, split, image size and evaluation decide what is scored"
    )


class Out(BaseModel):
    """Base of what is read from the tables."""

    model_config = ConfigDict(from_attributes=True)


class RunOut(BaseModel):
    """A run as the ledger knows it."""

    id: int
    experiment: int
    name: str
    tags: list[str]
    notes: str
    kind: str
    state: str
    reason: str | None
    message: str | None
    wish: str | None
    dataset: str
    spec: dict[str, Any]
    reused_from: int | None
    scored_from: int | None
    predictor: str | None
    retry_of: int | None = Field(description="the failed or cancelled run that this one tries again")
    crashes: int
    priority: int
    pool: str
    labels: dict[str, str] = Field(description="what a worker must have to take it")
    progress: dict[str, Any] | None
    epochs_total: int
    best_epoch: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    training_hash: str
    evaluation_hash: str

    @classmethod
    def of(cls, run: Run, **more: Any) -> "RunOut":
        """The run with what is derived from its spec; ``more`` are the fields of a subclass."""
        derived = {
            "experiment": run.experiment_id,
            "dataset": run.spec["dataset"]["id"],
            "epochs_total": run.spec["training"]["epochs"],
        }
        same = {name: getattr(run, name) for name in _SAME}
        if more:
            return cls(**same, **derived, **more)
        return cls.model_construct(**same, **derived)  # the ledger's own values, not checked again run by run


_SAME = tuple(name for name in RunOut.model_fields if name not in ("experiment", "dataset", "epochs_total"))
"""What is called the same in the ledger."""


class AttemptOut(Out):
    """One execution of a run."""

    number: int
    worker: str
    host: str
    outcome: str
    reason: str | None
    died_at: dict[str, Any] | None
    exit_code: int | None
    message: str | None
    resumed_from: int
    peak_memory_mb: int | None
    provenance: dict[str, Any] | None
    started_at: datetime
    ended_at: datetime | None
    has_log: bool = Field(description="whether the end of its log was kept: /v1/runs/{id}/logs?attempt={number}")

    @computed_field(description="what computed: the GPU's model, or else the processor's; null: not known")  # type: ignore[prop-decorator]
    @property
    def device(self) -> str | None:
        known = self.provenance or {}
        device: str | None = known.get("device")
        return known.get("processor", device) if device is None or device.startswith("cpu") else device


class EventOut(Out):
    """A move from state to state."""

    id: int
    at: datetime
    move: str
    state: str
    attempt: int | None
    actor: str | None
    detail: str | None


class ProjectEventOut(EventOut):
    """A move of one of a project's runs; ``name`` is the run's."""

    run: int
    name: str


class ArtifactOut(Out):
    """A file that a run left; its content at ``/v1/runs/{id}/artifacts/{kind}``."""

    kind: str
    sha256: str
    bytes: int
    created_at: datetime


class PartOut(Out):
    """What a run has on disk of one kind; ``shared``: other runs that hold the same file."""

    kind: str
    bytes: int
    shared: list[int]


class RunDiskOut(BaseModel):
    """What a run takes on disk; a reused run takes nothing, its files are its original's.

    ``frees_files``, ``frees_run``: bytes that deleting its large files, or all of it, would free; ``deleted``: when
    its maps and checkpoints were deleted, and by whom.
    """

    parts: list[PartOut]
    bytes: int
    frees_files: int
    frees_run: int
    deleted: str | None

    @classmethod
    def of(cls, disk: RunDisk, bare: Deletion | None) -> "RunDiskOut":
        parts = [PartOut.model_validate(one) for one in disk.parts]
        same = {name: getattr(disk, name) for name in ("bytes", "frees_files", "frees_run")}
        return cls(parts=parts, deleted=sentence(bare) if bare else None, **same)


class RunDetail(RunOut):
    """A run with its history; ``waits``: why it waits, ``next``: what will happen, or what can be done.

    ``resumed_elsewhere``: the attempts that went on from a checkpoint of other hardware, versions or thread count, so
    that the result may differ in its bits; null where none did. ``retries``: the runs that tried it again.
    """

    attempts: list[AttemptOut]
    events: list[EventOut]
    artifacts: list[ArtifactOut]
    waits: str | None
    next: str | None
    resumed_elsewhere: str | None
    retries: list[int]
    disk: RunDiskOut


class WorkerOut(BaseModel):
    """A worker process; ``runs``: how many it owns now."""

    name: str
    host: str
    pool: str
    slots: int
    threads: int
    version: str
    work_version: int
    draining: bool = Field(description="it takes no more runs and ends, or has been asked to")
    trouble: str | None
    labels: dict[str, str]
    devices: list[str] = Field(description="on each of which it has slots; none: the one that its surroundings name")
    memory_mb: int | None = Field(description="what its host has left for one more trainer, MiB")
    alive: bool
    runs: int
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, worker: Worker, alive: bool, runs: int) -> "WorkerOut":
        own = ("alive", "runs", "draining")
        same = {name: getattr(worker, name) for name in cls.model_fields if name not in own}
        return cls(**same, draining=worker.draining or worker.wish is not None, alive=alive, runs=runs)


class WorkerList(BaseModel):
    """Workers by pool and name."""

    workers: list[WorkerOut]


class ChosenRun(BaseModel):
    """Of a run its id, and the fields and settings that were asked for, called as they were."""

    model_config = ConfigDict(extra="allow")

    id: int


class RunList(BaseModel):
    """Runs, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    runs: list[RunOut | ChosenRun]
    next: int | None


class ExperimentOut(Out):
    """One submission as it was sent."""

    id: int
    name: str
    submission: dict[str, Any]
    created_at: datetime


class ExperimentRuns(BaseModel):
    """An experiment and the runs it became, in the order of its cells."""

    id: int
    name: str
    runs: list[RunOut]

    @classmethod
    def of(cls, experiment: Experiment, runs: Sequence[Run]) -> "ExperimentRuns":
        return cls(id=experiment.id, name=experiment.name, runs=[RunOut.of(run) for run in runs])


class ExperimentDetail(ExperimentOut):
    """An experiment with its runs."""

    runs: list[RunOut]


class ExperimentList(BaseModel):
    """Experiments, newest first; ``next`` as in :class:`RunList`."""

    experiments: list[ExperimentOut]
    next: int | None


class EpochOut(Out):
    """One epoch's values; Dice in 0..1, val over the whole part."""

    epoch: int
    attempt: int
    loss: float
    dice: float
    val_loss: float
    val_dice: float
    learning_rate: float
    seconds: float
    images_per_second: float
    at: datetime


class EpochList(BaseModel):
    """The epochs that count, in order."""

    epochs: list[EpochOut]


class ImageList(BaseModel):
    """Rows of the per-image table: stored counts and what is derived from them, null where nothing can be said.

    ``override``: why the run's split may have a person or a picture on both sides, as it was written.
    """

    images: list[dict[str, Any]]
    override: str


class ArtifactList(BaseModel):
    """The files a run left."""

    artifacts: list[ArtifactOut]


class ProfileOut(Out):
    """A named, frozen set of definitions; the first level is the one taken unless told otherwise."""

    key: str
    label: str
    about: str
    levels: list[str]
    columns: list[Column]


class ProfileList(BaseModel):
    """Every profile, the default first."""

    profiles: list[ProfileOut]


class Readiness(BaseModel):
    """Whether the API can do its work; without the broker it can, but queued runs wait: ``degraded``."""

    ready: bool
    database: bool
    schema_current: bool = Field(serialization_alias="schema")
    broker: bool
    degraded: bool


def changed_settings(spec: ExperimentSpec) -> dict[str, Any]:
    """The settings that differ from the defaults, by dotted path; the data set is always among them."""
    defaults = ExperimentSpec.parse({"dataset": {"id": spec.dataset.id}}).settings()
    changed = {path: value for path, value in spec.settings().items() if value != defaults.get(path)}
    return {"dataset.id": spec.dataset.id, **changed}


def next_page(items: list[Any], limit: int) -> int | None:
    """The cursor after a page: the last id of a full one."""
    return items[-1].id if len(items) == limit else None
