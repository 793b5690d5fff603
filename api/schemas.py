"""What the API answers with, and the one body it takes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import Submission
from store.cautions import fewest_subjects
from store.experiments import Planned
from store.models import Experiment, Run, Worker
from store.rows import Column


class SubmitBody(Submission):
    """A submission, and whether finished runs may stand for equal new ones."""

    reuse: bool = Field(True, strict=True, description="show a finished run's result instead of training again")
    references: bool = Field(
        True,
        strict=True,
        description="also score the reference predictors on the same slices, where that is not done",
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
    crashes: int
    priority: int
    pool: str
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
        same = {name: getattr(run, name) for name in RunOut.model_fields if name not in derived}
        return cls(**same, **derived, **more)


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


class EventOut(Out):
    """A move from state to state."""

    at: datetime
    move: str
    state: str
    attempt: int | None
    actor: str | None
    detail: str | None


class ArtifactOut(Out):
    """A file that a run left; its content at ``/v1/runs/{id}/artifacts/{kind}``."""

    kind: str
    sha256: str
    bytes: int
    created_at: datetime


class RunDetail(RunOut):
    """A run with its history; ``waits``: why it waits, ``next``: what will happen, or what can be done."""

    attempts: list[AttemptOut]
    events: list[EventOut]
    artifacts: list[ArtifactOut]
    waits: str | None
    next: str | None


class WorkerOut(BaseModel):
    """A worker process; ``runs``: how many it owns now."""

    name: str
    host: str
    pool: str
    slots: int
    threads: int
    version: str
    work_version: int
    draining: bool
    alive: bool
    runs: int
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, worker: Worker, alive: bool, runs: int) -> "WorkerOut":
        same = {name: getattr(worker, name) for name in cls.model_fields if name not in ("alive", "runs")}
        return cls(**same, alive=alive, runs=runs)


class WorkerList(BaseModel):
    """Workers by pool and name."""

    workers: list[WorkerOut]


class RunList(BaseModel):
    """Runs, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    runs: list[RunOut]
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
    def of(cls, experiment: Experiment, runs: list[Run]) -> "ExperimentRuns":
        return cls(id=experiment.id, name=experiment.name, runs=[RunOut.of(run) for run in runs])


class ExperimentDetail(ExperimentOut):
    """An experiment with its runs."""

    runs: list[RunOut]


class ExperimentList(BaseModel):
    """Experiments, newest first; ``next`` as in :class:`RunList`."""

    experiments: list[ExperimentOut]
    next: int | None


class PlannedOut(BaseModel):
    """A run that a submission would make; ``settings`` are those that differ from the defaults."""

    name: str
    settings: dict[str, Any]
    training_hash: str
    evaluation_hash: str
    reused_from: int | None
    kind: str
    scored_from: int | None
    leaks: list[str] = Field(description="who lies on both sides of the split, let pass by dataset.split.override")

    @classmethod
    def of(cls, planned: Planned) -> "PlannedOut":
        return cls(
            name=planned.spec.name,
            settings=changed_settings(planned.spec),
            training_hash=planned.training_hash,
            evaluation_hash=planned.evaluation_hash,
            reused_from=planned.reused_from,
            kind=planned.kind,
            scored_from=planned.scored_from.id if planned.scored_from else None,
            leaks=list(planned.leaks),
        )


class PlanOut(BaseModel):
    """What a submission would do, and what comparing its runs can show.

    ``subjects``: how many are scored, the fewest of any run or set of folds; ``reach``: the same as a sentence.
    """

    count: int
    reused: int
    subjects: int
    smallest_p: float
    reach: str
    runs: list[PlannedOut]

    @classmethod
    def of(cls, planned: Sequence[Planned]) -> "PlanOut":
        from liverseg_core.statistics import reach, smallest_p  # NumPy is no part of the start

        subjects = fewest_subjects((one.dataset, one.spec.dataset) for one in planned)
        return cls(
            count=len(planned),
            reused=sum(one.reused_from is not None for one in planned),
            subjects=subjects,
            smallest_p=smallest_p(subjects),
            reach=reach(subjects),
            runs=[PlannedOut.of(one) for one in planned],
        )


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
    """Rows of the per-image table: stored counts and what is derived from them, null where nothing can be said."""

    images: list[dict[str, Any]]


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
