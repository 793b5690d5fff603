"""Projects: whose data sets, experiments, runs, tables and tokens are whose. Nothing of one is seen from another."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store.models import Project

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What a project or a token may be called."""


def create(session: Session, name: str, actor: str | None = None) -> Project:
    """A new project, made by ``actor``.

    Raises:
        InputError: the name is taken.
    """
    made = session.scalar(
        insert(Project).values(name=name, created_by=actor).on_conflict_do_nothing().returning(Project.id)
    )
    if made is None:
        raise _taken(name)
    return session.get_one(Project, made)


def listed(session: Session, limit: int, before: int | None = None) -> Sequence[Project]:
    """Projects, newest first."""
    query = select(Project)
    if before is not None:
        query = query.where(Project.id < before)
    return session.scalars(query.order_by(Project.id.desc()).limit(limit)).all()


def named(session: Session, name: str) -> Project | None:
    """The project of this name, or None."""
    return session.scalar(select(Project).where(Project.name == name))


def rename(session: Session, project_id: int, name: str) -> Project | None:
    """Give a project another name; None where there is no such project.

    Raises:
        InputError: another project has the name.
    """
    found = session.get(Project, project_id)
    if found is not None:
        try:
            with session.begin_nested():
                found.name = name
        except IntegrityError:
            raise _taken(name) from None
    return found


def _taken(name: str) -> InputError:
    return InputError("name", "is the name of another project; choose another", name)
