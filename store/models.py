"""The tables. Runs, experiments and data sets carry their project from the start."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

DEFAULT_PROJECT = 1


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        int: BigInteger,
        str: Text,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        list[float]: ARRAY(Double),
    }


class Project(Base):
    """Whose things are whose."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[str | None]
    """Null: before it was kept, or by the migrations."""


class Token(Base):
    """What a caller shows to be let in; of its secret only the SHA-256 is kept."""

    __tablename__ = "tokens"
    # Of a revoked token too: what it did is told by its name.
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    scope: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None]
    last_used_at: Mapped[datetime | None]


class Dataset(Base):
    """An imported data set: its manifest here, its pixels in one artifact."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project_id", "name"), Index(None, "project_id", "content_hash"))
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    content_hash: Mapped[str]
    artifact: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    similarity: Mapped[dict[str, Any] | None]
    """Pairs of scans that may show one person, see ``liverseg_core.data.similarity``; null: not looked at yet."""
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Experiment(Base):
    """One submission, which may expand to many runs."""

    __tablename__ = "experiments"
    __table_args__ = (UniqueConstraint("project_id", "idempotency_key"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    submission: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Run(Base):
    """One concrete spec on its way from ``queued`` to an end; see ``store.states``."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_queue", "pool", text("priority DESC"), "id", postgresql_where=text("state = 'queued'")),
        Index("ix_runs_leases", "lease_until", postgresql_where=text("state IN ('running', 'stopping')")),
        Index("ix_runs_reuse", "project_id", "training_hash", "evaluation_hash"),
        # What lists and searches ask of every run of a project, without the pages that hold their specs.
        Index("ix_runs_listed", "project_id", "id", postgresql_include=["experiment_id", "kind", "state", "name"]),
        Index(None, "experiment_id"),
        # Who depends on a run, and whether a file is still somebody's, is asked before anything is deleted.
        Index(None, "reused_from", postgresql_where=text("reused_from IS NOT NULL")),
        Index(None, "scored_from", postgresql_where=text("scored_from IS NOT NULL")),
        Index(None, "weights", postgresql_where=text("weights IS NOT NULL")),
        Index(None, "images", postgresql_where=text("images IS NOT NULL")),
        Index(None, "retry_of", postgresql_where=text("retry_of IS NOT NULL")),
    )
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    kind: Mapped[str]
    name: Mapped[str]
    tags: Mapped[list[str]]
    notes: Mapped[str]
    spec: Mapped[dict[str, Any]]
    training_hash: Mapped[str]
    evaluation_hash: Mapped[str]
    weights: Mapped[str | None]
    """Artifact of the weights that a run of kind ``evaluate`` scores."""
    reused_from: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    scored_from: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    """The finished run whose kept probability maps (kind ``rescore``) or weights (other kinds) are used."""
    predictor: Mapped[str | None]
    """Which reference predictor a run of kind ``reference`` is."""
    images: Mapped[str | None]
    """Artifact of the unlabelled slices that a run of kind ``predict`` reads."""
    retry_of: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    """The failed or cancelled run that this one was made from, to try the same again."""

    state: Mapped[str]
    reason: Mapped[str | None]
    message: Mapped[str | None]
    pool: Mapped[str]
    priority: Mapped[int] = mapped_column(Integer, server_default="0")
    fence: Mapped[int] = mapped_column(server_default="0")
    """Rises at every claim; a write that carries an older one is refused."""
    lease_until: Mapped[datetime | None]
    wish: Mapped[str | None]
    """What was asked of a run in state ``stopping`` (``store.states.Wish``)."""
    needs: Mapped[int] = mapped_column(Integer, server_default="1")
    """The oldest work version that can carry it through, see ``store.queue.WORK_VERSION``."""
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Labels that a worker must have to take it."""
    cost: Mapped[str | None]
    """Runs of one cost take the same memory, see ``store.peaks``; null: submitted before this was kept."""
    crashes: Mapped[int] = mapped_column(Integer, server_default="0")
    announced_at: Mapped[datetime | None]
    announcements: Mapped[int] = mapped_column(Integer, server_default="0")

    progress: Mapped[dict[str, Any] | None]
    checkpoint: Mapped[dict[str, Any] | None]
    best_epoch: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One execution of a run; its number is the fencing number of its claim."""

    __tablename__ = "attempts"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    host: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    """Why it crashed, was lost or was held, in one word, see ``store.reasons``."""
    died_at: Mapped[dict[str, Any] | None]
    """Phase, epoch and step of its last sign of life, where it crashed or was lost."""
    exit_code: Mapped[int | None] = mapped_column(Integer)
    message: Mapped[str | None]
    resumed_from: Mapped[int] = mapped_column(Integer, server_default="0")
    peak_memory_mb: Mapped[int | None] = mapped_column(Integer)
    provenance: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ended_at: Mapped[datetime | None]
    log: Mapped[str | None] = mapped_column(deferred=True)
    """The end of its log; null while it runs, and where its whole log became a file of the run."""
    ticket: Mapped[str | None]
    """What its worker made up before it claimed, so that it can find a claim whose answer was lost."""
    has_log: Mapped[bool] = column_property(log.is_not(None))


class RunEvent(Base):
    """What happened to a run; folding the events gives its state."""

    __tablename__ = "run_events"
    __table_args__ = (Index(None, "run_id", "id"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    move: Mapped[str]
    state: Mapped[str]
    attempt: Mapped[int | None]
    actor: Mapped[str | None]
    """Who: a token's name, a worker, the reaper; null before this was kept."""
    detail: Mapped[str | None]


class Epoch(Base):
    """One epoch's values; rows past a resume point are archived, never deleted."""

    __tablename__ = "epochs"
    __table_args__ = (
        Index("uq_epochs_live", "run_id", "epoch", unique=True, postgresql_where=text("archived_at IS NULL")),
    )
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    loss: Mapped[float]
    dice: Mapped[float]
    val_loss: Mapped[float]
    val_dice: Mapped[float]
    learning_rate: Mapped[float]
    seconds: Mapped[float]
    images_per_second: Mapped[float]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    archived_at: Mapped[datetime | None]


class StepLosses(Base):
    """Losses of consecutive optimizer steps within one epoch, as the trainer measured them before each step."""

    __tablename__ = "step_losses"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    first: Mapped[int] = mapped_column(Integer, primary_key=True)
    """Number of the first step, from 1."""
    losses: Mapped[list[float]]
    archived_at: Mapped[datetime | None]


class Receipt(Base):
    """A batch of a worker's records that has been stored; sent again, it is not stored again."""

    __tablename__ = "receipts"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    batch: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Worker(Base):
    """A worker process that is there, or was."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    """Host and process."""
    host: Mapped[str]
    pool: Mapped[str]
    slots: Mapped[int] = mapped_column(Integer)
    threads: Mapped[int] = mapped_column(Integer)
    version: Mapped[str]
    work_version: Mapped[int] = mapped_column(Integer)
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    trouble: Mapped[str | None]
    """Why it takes no run though it has a free slot."""
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """What runs may ask for, such as ``{"gpu": "h200"}``."""
    devices: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    """On each of which it has ``slots / len(devices)`` slots; empty: on the one that its surroundings name."""
    memory_mb: Mapped[int | None]
    """What its host has left for one more trainer, MiB; null: it cannot tell."""
    wish: Mapped[str | None]
    """What somebody asked of it (``store.presence.Leave``)."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Peak(Base):
    """Resident memory that runs of one cost took, see ``store.peaks``."""

    __tablename__ = "peaks"
    cost: Mapped[str] = mapped_column(primary_key=True)
    memory_mb: Mapped[int]


CONFUSION = [f"{kind}{truth}{predicted}" for kind in "nq" for truth in range(3) for predicted in range(3)]
"""Columns of the two 3 x 3 matrices, row by row."""


class SliceScore(Base):
    """The stored facts about one evaluated slice (``liverseg_core.records.SliceScore``).

    ``n00 .. n22`` are the counts at native size, ``q00 .. q22`` those of the quantised labels; the first digit
    is the truth, the second the prediction.
    """

    __tablename__ = "slice_scores"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    scan: Mapped[int] = mapped_column(primary_key=True)
    slice: Mapped[int] = mapped_column(primary_key=True)
    tp: Mapped[int] = mapped_column(Integer)
    fp: Mapped[int] = mapped_column(Integer)
    fn: Mapped[int] = mapped_column(Integer)
    dice: Mapped[float]
    dice_liver: Mapped[float]
    dice_tumor: Mapped[float]


class LesionComponent(Base):
    """One connected lesion (``liverseg_core.records.LesionComponent``); null ``slice``: of a whole scan."""

    __tablename__ = "lesion_components"
    __table_args__ = (Index(None, "run_id"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    part: Mapped[str]
    scan: Mapped[int]
    slice: Mapped[int | None]
    predicted: Mapped[bool]
    number: Mapped[int] = mapped_column(Integer)
    pixels: Mapped[int]
    iou: Mapped[float]


class Summary(Base):
    """What a run scored on one part under one profile at one level (``store.summaries``).

    Computed from the run's slice scores and lesions, and kept because thousands of runs are listed and compared.
    ``scores``: column -> [value, n, empty, failed]. ``people``: subject -> column -> value over that person's slices
    alone, at the profile's first level; null at its other levels.
    """

    __tablename__ = "summaries"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[str] = mapped_column(primary_key=True)
    level: Mapped[str] = mapped_column(primary_key=True)
    definitions: Mapped[int]
    slices_hash: Mapped[str]
    slices: Mapped[int]
    scans: Mapped[int]
    subjects: Mapped[int]
    scores: Mapped[dict[str, Any]]
    people: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)  # for those who ask for statistics


class PrintedTable(Base):
    """A table of scores from a publication: rows to be shown beside runs, and what its checks found."""

    __tablename__ = "printed_tables"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    content: Mapped[dict[str, Any]]
    """``{"rows": [...], "notes": [...]}``, see ``liverseg_core.printed``."""
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


for _name in CONFUSION:
    setattr(SliceScore, _name, mapped_column(_name, Integer, nullable=False))


class Artifact(Base):
    """A file in the artifact folder that belongs to a run."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("run_id", "kind"), Index(None, "sha256"))
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    attempt: Mapped[int]
    kind: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Deletion(Base):
    """What somebody deleted; it outlives what it tells of, so it names things without pointing to them."""

    __tablename__ = "deletions"
    __table_args__ = (
        Index(None, "project_id", "run_id"),
        Index("ix_deletions_untidy", "id", postgresql_where=text("tidied_at IS NULL")),
    )
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor: Mapped[str]
    what: Mapped[str]
    """``run``, ``files`` (the large ones of a run) or ``dataset``."""
    run_id: Mapped[int | None]
    experiment_id: Mapped[int | None]
    name: Mapped[str]
    """Of the run or the data set."""
    detail: Mapped[dict[str, Any]]
    """Kind, state and data set of a run; what it held."""
    bytes: Mapped[int]
    """Of files that nothing else held, and of checkpoints."""
    files: Mapped[list[str]]
    """SHA-256 of every file that lost a row by it."""
    tidied_at: Mapped[datetime | None]
    """When all of ``files`` were gone from the store, or found to be somebody else's too."""


class FrozenComparison(Base):
    """A comparison as it was, for good; runs that it shows may be deleted since."""

    __tablename__ = "frozen_comparisons"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    key: Mapped[str] = mapped_column(unique=True)
    """What its address ends with."""
    asked: Mapped[dict[str, Any]]
    """Runs or experiment, profile, level, baseline, tables, column."""
    runs: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    result: Mapped[str]
    """The answer of ``GET /v1/comparisons`` at that time, byte for byte; JSONB would write it anew."""
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Announcement(Base):
    """The outbox: written with the move that queues a run, sent after commit, then deleted."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    pool: Mapped[str]
    number: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Webhook(Base):
    """Where a project is told of ends of runs and experiments; see ``store.webhooks``."""

    __tablename__ = "webhooks"
    __table_args__ = (UniqueConstraint("project_id", "idempotency_key"),)
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str]
    secret: Mapped[str]
    """As it is, since every message is signed with it."""
    events: Mapped[list[str]]
    states: Mapped[list[str]]
    """Which ends of runs are told, where ``run.ended`` is one of ``events``."""
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str]
    off_at: Mapped[datetime | None]
    off_by: Mapped[str | None]
    """Who switched it off: a token's name, or the service."""
    off_reason: Mapped[str | None]
    seen: Mapped[int]
    """Moves of runs with this id or a smaller one have become deliveries, or are none."""
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    """In a row."""
    due_at: Mapped[datetime | None]
    """Not to be tried before; null: at once."""
    claimed_until: Mapped[datetime | None]
    """Some process is sending; when it must have ended, or when the last one did."""


class Delivery(Base):
    """A message for a webhook, written before it is sent and kept for a while."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event", "move_id"),
        Index(None, "webhook_id", "id"),
        Index("ix_webhook_deliveries_waiting", "webhook_id", "id", postgresql_where=text("done_at IS NULL")),
        Index(None, "created_at"),
    )
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    event: Mapped[str]
    move_id: Mapped[int | None]
    """The ``run_events`` row that it tells of, which may be deleted since; null: a test."""
    message: Mapped[str]
    """Its id for the receiver, the same each time it is sent."""
    body: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    attempted_at: Mapped[datetime | None]
    status: Mapped[int | None] = mapped_column(Integer)
    """HTTP status of the last answer; null: there was none."""
    error: Mapped[str | None]
    """Why the last attempt failed."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    done_at: Mapped[datetime | None]
    """When the receiver took it, or a test was over."""
