"""Printed tables: rows of publications, checked for misprints, to be shown beside runs."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from api.callers import Asking, Project
from api.parameters import Limit
from api.problems import not_found
from liverseg_core.printed import read_tables
from store import printed
from store.database import transaction
from store.models import PrintedTable

router = APIRouter(prefix="/v1/tables", tags=["printed tables"])

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MAX_TEXT = 500_000

Name = Annotated[str, Query(pattern=NAME, description="letters, digits, dots, dashes, underscores")]
After = Annotated[str | None, Query(pattern=NAME, description="only tables with a later name")]
Wanted = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class TableFile(BaseModel):
    """One file as text; the ending of its name says what it is (.json, .csv, .md), else its text does."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=MAX_TEXT)


class TableBody(BaseModel):
    """Files whose rows are joined by name, such as the study's Tables 5 and 6."""

    model_config = ConfigDict(extra="forbid", strict=True)
    files: list[TableFile] = Field(min_length=1, max_length=20)


class TableOut(BaseModel):
    """A printed table: scores in percent, parameters by dotted path, and what looks wrong in them."""

    name: str
    created_at: datetime
    created_by: str | None
    rows: list[dict[str, Any]]
    notes: list[dict[str, Any]]

    @classmethod
    def of(cls, table: PrintedTable) -> "TableOut":
        about = {"name": table.name, "created_at": table.created_at, "created_by": table.created_by}
        return cls(**about, **table.content)


class TableSummary(BaseModel):
    """A printed table in a list."""

    name: str
    created_at: datetime
    created_by: str | None
    rows: int
    notes: int

    @classmethod
    def of(cls, table: PrintedTable) -> "TableSummary":
        rows, notes = (len(table.content[key]) for key in ("rows", "notes"))
        about = {"name": table.name, "created_at": table.created_at, "created_by": table.created_by}
        return cls(**about, rows=rows, notes=notes)


class TableList(BaseModel):
    """Printed tables, by name; ``next`` is the value of ``after`` that goes on, null at the end."""

    tables: list[TableSummary]
    next: str | None


@router.post("", status_code=201)
def put(caller: Asking, name: Name, body: TableBody) -> TableOut:
    """Read a printed table and check it; another table of this name is replaced."""
    rows = read_tables([(file.name, file.text) for file in body.files])
    with transaction() as session:
        return TableOut.of(printed.put(session, caller.project, name, rows, caller.actor))


@router.get("")
def listing(project: Project, limit: Limit = 500, after: After = None) -> TableList:
    """Printed tables, by name."""
    with transaction() as session:
        found = printed.listed(session, project, limit, after)
    following = found[-1].name if len(found) == limit else None
    return TableList(tables=[TableSummary.of(one) for one in found], next=following)


@router.get("/{name}")
def detail(project: Project, name: Wanted) -> TableOut:
    """One printed table with its notes."""
    with transaction() as session:
        found = printed.find(session, project, name)
        if found is None:
            raise not_found("printed table", name)
        return TableOut.of(found)
