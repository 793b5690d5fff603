"""Comparisons frozen under a short key: their numbers stay, whatever becomes of the runs."""

import json
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.orm import Session

from api.bodies import answers, as_json
from api.callers import Asking, Caller, Project
from api.deletion_schemas import Id
from api.parameters import MAX_COMPARED, Before, Limit
from api.problems import not_found
from api.routes.comparisons import TEXTS, Asked, Format, as_text, choose
from api.schemas import next_page
from store import frozen
from store.comparison import OVERVIEW
from store.database import transaction
from store.deleted import deleted_runs
from store.models import FrozenComparison
from store.rows import Comparison

router = APIRouter(prefix="/v1/comparisons/frozen", tags=["comparisons"])

Key = Annotated[str, Path(pattern=frozen.KEY, description="of a frozen comparison")]
Word = Annotated[str, Field(max_length=100, strict=True, pattern=r"^[^\x00]*$")]
Words = Annotated[str, Field(max_length=200, strict=True, pattern=r"^[^\x00]*$")]


class FreezeBody(BaseModel):
    """The comparison to freeze, as ``GET /v1/comparisons`` takes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[Id] | None = Field(None, min_length=1, max_length=MAX_COMPARED)
    experiment: Id | None = None
    profile: Word = OVERVIEW
    level: Word = ""
    baseline: Id | None = None
    tables: list[Word] = Field([], max_length=20)
    column: Word = ""
    sort: Words = ""
    descending: StrictBool = False
    filter: Words = ""


class FrozenAbout(BaseModel):
    """A frozen comparison without its numbers; ``deleted``: those of its ``runs`` that are gone since.

    ``address`` is that of its page; ``sha256`` is of its JSON, which never changes.
    """

    key: str
    address: str
    asked: dict[str, Any]
    runs: list[int]
    deleted: list[int]
    sha256: str
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, session: Session, one: FrozenComparison, **more: Any) -> "FrozenAbout":
        same = {name: getattr(one, name) for name in ("key", "asked", "runs", "created_by", "created_at")}
        lost = sorted(deleted_runs(session, one.project_id, one.runs))
        digest = sha256(one.result.encode()).hexdigest()
        return cls(**same, address=f"/c/{one.key}", deleted=lost, sha256=digest, **more)


class FrozenOut(FrozenAbout):
    """A frozen comparison; ``comparison`` is as ``GET /v1/comparisons`` answered then."""

    comparison: dict[str, Any]


class FrozenList(BaseModel):
    """Frozen comparisons, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    frozen: list[FrozenAbout]
    next: int | None


@router.post("", status_code=201)
def create(caller: Asking, body: FreezeBody) -> FrozenOut:
    """Freeze a comparison as it is now; nothing changes or removes it afterwards."""
    runs = None if body.runs is None else [",".join(map(str, body.runs))]
    chosen = (body.profile, body.level, body.baseline, tuple(body.tables), body.column)
    shown = (body.sort, body.descending, body.filter)
    with transaction() as session:
        return told(session, freeze(session, caller, Asked(runs, body.experiment, *chosen, *shown)))


@router.get("")
def listing(project: Project, limit: Limit = 50, before: Before = None) -> FrozenList:
    """Frozen comparisons, newest first."""
    with transaction() as session:
        found = list(frozen.listed(session, project, limit, before))
        return FrozenList(frozen=[FrozenAbout.of(session, one) for one in found], next=next_page(found, limit))


@router.get("/{key}")
def detail(project: Project, key: Key) -> FrozenOut:
    """One frozen comparison, and which of its runs are deleted since."""
    with transaction() as session:
        return told(session, known_frozen(session, project, key))


@router.get("/{key}/result", response_model=Comparison, responses=answers(*(one[0] for one in TEXTS.values())))
def result(project: Project, key: Key, format: Format = "json") -> Response:  # noqa: A002
    """The comparison alone; its JSON is byte for byte what was answered when it was frozen."""
    with transaction() as session:
        kept = known_frozen(session, project, key).result
    if format == "json":
        return Response(kept, media_type="application/json")
    return as_text(Comparison.model_validate_json(kept), format)


def freeze(session: Session, caller: Caller, asked: Asked) -> FrozenComparison:
    """Freeze what was asked for."""
    found = asked.arranged(choose(session, caller.project, asked, hold=True))
    query = {
        "runs": None if asked.runs is None else [int(run) for one in asked.runs for run in one.split(",")],
        "experiment": asked.experiment,
        "profile": found.profile,
        "level": found.level,
        "baseline": asked.baseline,
        "tables": list(asked.tables),
        "column": found.statistics.column if found.statistics else None,
        "sort": asked.sort,
        "descending": asked.descending,
        "filter": asked.filter,
    }
    text = bytes(as_json(found).body).decode()
    return frozen.freeze(session, caller.project, query, found, text, caller.actor)


def known_frozen(session: Session, project: int, key: str) -> FrozenComparison:
    """The project's frozen comparison, or a 404."""
    found = frozen.find(session, project, key)
    if found is None:
        raise not_found("frozen comparison", key)
    return found


def told(session: Session, one: FrozenComparison) -> FrozenOut:
    """The frozen comparison as it is answered."""
    made = FrozenOut.of(session, one, comparison=json.loads(one.result))
    assert isinstance(made, FrozenOut)
    return made
