"""Tokens: 256 random bits that let somebody into one project. Only their SHA-256 is kept."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store.models import Project, Token

PREFIX = "lvs_"
"""By it people and scanners of secrets see what a text is."""

RESERVED = ("local", "bootstrap")
"""Names of callers that have no row here, see ``api.callers``."""

USED_EVERY = timedelta(minutes=1)
"""How exactly ``last_used_at`` is kept, so that reading does not write each time."""


class Scope(IntEnum):
    """What a token may do; each includes the ones before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3
    """Projects and tokens of the whole installation."""

    @property
    def word(self) -> str:
        """As people and tables write it."""
        return self.name.lower()


def issue(
    session: Session,
    project_id: int,
    name: str,
    scope: Scope,
    created_by: str,
    expires_at: datetime | None = None,
) -> tuple[Token, str]:
    """A new token and its secret, which nobody can learn again.

    Raises:
        InputError: the project has or had a token of this name, the name is reserved, or the expiry has passed.
    """
    if name in RESERVED or name.startswith(PREFIX):  # a secret that somebody put in the wrong place
        raise InputError("name", "is reserved; choose another", name)
    if expires_at is not None and not session.scalar(select(expires_at > func.now())):
        raise InputError("expires_at", "must lie in the future", expires_at.isoformat())
    secret = PREFIX + secrets.token_urlsafe(32)
    values = {"project_id": project_id, "name": name, "scope": scope.word, "created_by": created_by}
    statement = insert(Token).values(**values, digest=digest_of(secret), expires_at=expires_at)
    statement = statement.on_conflict_do_nothing(index_elements=["project_id", "name"])
    made = session.scalar(statement.returning(Token.id))
    if made is None:
        raise InputError("name", "is or was the name of a token of this project; choose another", name)
    return session.get_one(Token, made), secret


def digest_of(secret: str) -> str:
    """What is kept of a secret. Plain SHA-256 will do: nobody can try out 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _live() -> ColumnElement[bool]:
    return Token.revoked_at.is_(None) & or_(Token.expires_at.is_(None), Token.expires_at > func.now())


@dataclass(frozen=True)
class Live:
    """A token that lets somebody in."""

    id: int
    name: str
    project_id: int
    scope: Scope
    due: bool
    """Whether its use is to be remembered."""


FIND = select(
    Token.id,
    Token.name,
    Token.project_id,
    Token.scope,
    or_(Token.last_used_at.is_(None), Token.last_used_at < func.now() - USED_EVERY),
).where(Token.digest == bindparam("digest"), _live())
"""Built once: it is asked at almost every request."""


def live(connection: Connection, digest: str) -> Live | None:
    """The token with this digest, unless it is revoked or has expired."""
    found = connection.execute(FIND, {"digest": digest}).one_or_none()
    return None if found is None else Live(found[0], found[1], found[2], Scope[found[3].upper()], found[4])


def any_live(connection: Connection) -> bool:
    """Whether anybody has a token, so that everybody needs one."""
    return bool(connection.scalar(select(select(Token.id).where(_live()).exists())))


def touch(session: Session, token_id: int) -> None:
    """Remember that a token is used now."""
    session.execute(text("SET LOCAL synchronous_commit = off"))  # nobody waits for a disk because of it
    session.execute(update(Token).where(Token.id == token_id).values(last_used_at=func.now()))


def listed(session: Session, limit: int, before: int | None = None) -> Sequence[tuple[Token, str]]:
    """Tokens of every project with the project's name, newest first."""
    query = select(Token, Project.name).join(Project, Project.id == Token.project_id)
    if before is not None:
        query = query.where(Token.id < before)
    return [(token, project) for token, project in session.execute(query.order_by(Token.id.desc()).limit(limit))]


def revoke(session: Session, token_id: int, actor: str | None = None) -> Token | None:
    """End a token for good; revoking twice is once, by whoever did it first. None where there is no such token."""
    ended = {
        "revoked_at": func.coalesce(Token.revoked_at, func.now()),
        "revoked_by": case((Token.revoked_at.is_(None), actor), else_=Token.revoked_by),
    }
    statement = update(Token).where(Token.id == token_id).values(**ended).returning(Token)
    return session.scalar(statement, execution_options={"populate_existing": True})
