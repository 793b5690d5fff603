"""Frozen comparisons: the answer as it was, kept byte for byte under a short key, whatever becomes of its runs."""

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import FrozenComparison
from store.rows import Comparison

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Of keys; nothing that is misread."""

KEY = rf"^[{LETTERS}]{{8}}$"


def freeze(
    session: Session, project_id: int, asked: dict[str, Any], found: Comparison, result: str, actor: str
) -> FrozenComparison:
    """Keep ``result``, the JSON of ``found`` as it is answered, for good."""
    runs = sorted({run for row in found.rows for run in row.runs})
    key = "".join(secrets.choice(LETTERS) for _ in range(8))
    made = FrozenComparison(project_id=project_id, key=key, asked=asked, runs=runs, result=result, created_by=actor)
    session.add(made)
    session.flush()
    return made


def find(session: Session, project_id: int, key: str) -> FrozenComparison | None:
    """The frozen comparison with this key, or None where the project has no such one."""
    query = select(FrozenComparison).where(FrozenComparison.project_id == project_id, FrozenComparison.key == key)
    return session.scalar(query)


def listed(session: Session, project_id: int, limit: int, before: int | None = None) -> Sequence[FrozenComparison]:
    """Frozen comparisons of the project, newest first."""
    query = select(FrozenComparison).where(FrozenComparison.project_id == project_id)
    if before is not None:
        query = query.where(FrozenComparison.id < before)
    return session.scalars(query.order_by(FrozenComparison.id.desc()).limit(limit)).all()
