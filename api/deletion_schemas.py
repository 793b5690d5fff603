"""What the API answers about disk use and deletions, and the body that asks for a deletion."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas import Out
from store.deletion import MOST, DatasetPlan, Plan, Selection

Id = Annotated[int, Field(strict=True, ge=1, lt=2**63)]


class DeletionBody(BaseModel):
    """Which runs to delete: those named, or all that fit everything else that is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: Literal["run", "files"] = Field(
        description="run: everything of the runs; files: probability maps and checkpoints alone, scores and weights "
        "stay"
    )
    runs: list[Id] | None = Field(None, min_length=1, max_length=MOST)
    experiment: Id | None = None
    tag: str | None = Field(None, min_length=1, max_length=200, strict=True, pattern=r"^[^\x00]+$")
    older_than_days: int | None = Field(None, strict=True, ge=0, le=36_500, description="ended so many days ago")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        fits = (self.experiment, self.tag, self.older_than_days)
        if (self.runs is None) == all(one is None for one in fits):
            raise ValueError("name runs, or give experiment, tag or older_than_days")
        return self

    def selection(self) -> Selection:
        """The same for the ledger."""
        return Selection(tuple(self.runs or ()), self.experiment, self.tag, self.older_than_days)


class GoingOut(BaseModel):
    """A run that goes, or whose large files go."""

    run: int
    name: str
    kind: str
    state: str


class StaysOut(Out):
    """A run that was asked for and stays, and why."""

    run: int
    name: str
    why: str


class KindOut(BaseModel):
    """Files of one kind: how many bytes the runs hold, and how many of them nobody else holds."""

    kind: str
    files: int
    bytes: int
    frees: int


class DeletionOut(BaseModel):
    """What a deletion does, or with ``dry_run`` would do.

    ``frees``: bytes that are really freed, within an hour of their storing; ``rows``: how many go, by table;
    ``experiments``: those that go with their last run; ``frozen``: keys of the frozen comparisons that show one of
    the runs, and keep their numbers.
    """

    dry_run: bool
    what: Literal["run", "files"]
    frees: int
    runs: list[GoingOut]
    stays: list[StaysOut]
    files: list[KindOut]
    rows: dict[str, int]
    experiments: list[int]
    frozen: list[str]

    @classmethod
    def of(cls, plan: Plan, dry_run: bool) -> "DeletionOut":
        return cls(
            dry_run=dry_run,
            what=plan.what,
            frees=plan.bytes,
            runs=[GoingOut(run=one.id, name=one.name, kind=one.kind, state=one.state) for one in plan.runs],
            stays=[StaysOut.model_validate(one) for one in plan.stays],
            files=_kinds(plan),
            rows=plan.rows,
            experiments=plan.experiments,
            frozen=plan.frozen,
        )


def _kinds(plan: Plan) -> list[KindOut]:
    """By kind, each file once."""
    kinds: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for use in {use.sha256: use for use in plan.uses}.values():
        kinds[use.kind][use.sha256] = use.bytes
    found = [
        KindOut(
            kind=kind,
            files=len(own),
            bytes=sum(own.values()),
            frees=sum(size for sha256, size in own.items() if sha256 in plan.freed),
        )
        for kind, own in sorted(kinds.items())
    ]
    if plan.checkpoints:
        size = sum(plan.checkpoints.values())
        found.append(KindOut(kind="checkpoints", files=len(plan.checkpoints), bytes=size, frees=size))
    return found


class DatasetDeletionOut(BaseModel):
    """What deleting a data set does; ``references``: its reference predictors' runs, which go with it."""

    dry_run: bool
    dataset: str
    frees: int
    references: list[int]

    @classmethod
    def of(cls, plan: DatasetPlan, dry_run: bool) -> "DatasetDeletionOut":
        references = [one.id for one in plan.references.runs]
        frees = plan.bytes + plan.cache + plan.references.bytes
        return cls(dry_run=dry_run, dataset=plan.dataset.name, frees=frees, references=references)


class DeletedOut(Out):
    """What somebody deleted: a run, its large files, or a data set; ``bytes``: what that freed."""

    id: int
    at: datetime
    actor: str
    what: str
    run_id: int | None = Field(serialization_alias="run")
    experiment_id: int | None = Field(serialization_alias="experiment")
    name: str
    detail: dict[str, Any]
    bytes: int


class DeletedList(BaseModel):
    """Deletions, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    deletions: list[DeletedOut]
    next: int | None


class DatasetDiskOut(Out):
    """The stored zip of a data set, and its decoded slices, which are made again when needed."""

    name: str
    bytes: int
    cache: int


class RunTotalOut(Out):
    """One of the largest runs; files that others hold too are counted."""

    run: int
    name: str
    state: str
    bytes: int


class DiskOut(Out):
    """What a project takes on disk, rows in the database apart; every file is counted once.

    ``kinds``: by kind of file; ``leaving``: deleted files that were stored less than an hour ago and are still there.
    """

    bytes: int
    kinds: Mapping[str, int]
    datasets: list[DatasetDiskOut]
    checkpoints: int
    leaving: int
    runs: list[RunTotalOut]
