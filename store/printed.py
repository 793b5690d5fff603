"""Printed tables: rows of publications beside runs, one table a name; importing again replaces it."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.misprints import find_misprints
from liverseg_core.printed import PrintedRow
from store.models import PrintedTable


def put(
    session: Session, project_id: int, name: str, rows: Sequence[PrintedRow], actor: str | None = None
) -> PrintedTable:
    """Store the rows and what its checks find in them, in place of an older table of this name."""
    notes = [note.to_json() for note in find_misprints(rows)]
    content = {"rows": [row.to_json() for row in rows], "notes": notes}
    values = {"project_id": project_id, "name": name, "content": content, "created_by": actor}
    statement = insert(PrintedTable).values(**values)
    replaced = {"content": content, "created_by": actor, "created_at": func.now()}
    statement = statement.on_conflict_do_update(index_elements=["project_id", "name"], set_=replaced)
    return session.scalars(statement.returning(PrintedTable), execution_options={"populate_existing": True}).one()


def find(session: Session, project_id: int, name: str) -> PrintedTable | None:
    """The table of this name, or None."""
    query = select(PrintedTable).where(PrintedTable.project_id == project_id, PrintedTable.name == name)
    return session.scalar(query)


def rows(session: Session, project_id: int, name: str) -> tuple[PrintedRow, ...] | None:
    """The rows of the table of this name, or None where there is none."""
    found = find(session, project_id, name)
    return None if found is None else tuple(PrintedRow(**row) for row in found.content["rows"])


def listed(
    session: Session, project_id: int, limit: int | None = None, after: str | None = None
) -> Sequence[PrintedTable]:
    """Tables of the project by name; ``after`` is the name to go on from."""
    query = select(PrintedTable).where(PrintedTable.project_id == project_id)
    if after is not None:
        query = query.where(PrintedTable.name > after)
    return session.scalars(query.order_by(PrintedTable.name).limit(limit)).all()
