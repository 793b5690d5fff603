"""Tokens of the installation; for administrators. A secret is shown once, to whoever makes it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from api.callers import LOCAL, Asking
from api.parameters import LARGEST_ID, Before, Limit
from api.problems import not_found, refused
from api.schemas import next_page
from store import projects, tokens
from store.database import transaction
from store.models import Project, Token
from store.tokens import Scope

router = APIRouter(prefix="/v1/tokens", tags=["projects and tokens"])

TokenId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="id of a token")]


def _text(value: Any) -> Any:
    """Refuse numbers, which would count as seconds since 1970."""
    if value is not None and not isinstance(value, str):
        raise ValueError("must be a text such as 2027-01-31T00:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_text), Field(lt=datetime(9999, 1, 1, tzinfo=UTC))]


class TokenBody(BaseModel):
    """Who gets a token, for what, and until when."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(
        pattern=projects.NAME, strict=True, description="whose it is; what it does is told by this name"
    )
    scope: Literal["read", "write", "admin"] = Field(
        "write", description="write includes read; admin also makes projects and tokens of the whole installation"
    )
    project: str | None = Field(None, pattern=projects.NAME, strict=True, description="left out: the caller's")
    expires_at: Moment | None = Field(None, description="left out: it holds until it is revoked")


class TokenOut(BaseModel):
    """A token without its secret; ``last_used_at`` is kept to the minute."""

    id: int
    name: str
    project: str
    scope: str
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, token: Token, project: str, **more: str) -> "TokenOut":
        same = {name: getattr(token, name) for name in TokenOut.model_fields if name != "project"}
        return cls(**same, project=project, **more)


class NewTokenOut(TokenOut):
    """A new token; ``secret`` is what to send, and is never shown again."""

    secret: str


class TokenList(BaseModel):
    """Tokens of every project, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    tokens: list[TokenOut]
    next: int | None


@router.post("", status_code=201)
def create(request: Request, response: Response, caller: Asking, body: TokenBody) -> NewTokenOut:
    """A new token. Once there is one, every request needs one."""
    scope = Scope[body.scope.upper()]
    if caller == LOCAL and scope < Scope.ADMIN:
        message = "must be admin for the first token: from then on everybody needs one, and only admins make more"
        raise refused("scope", message, body.scope)
    with transaction() as session:
        project = session.get_one(Project, caller.project)
        if body.project is not None:
            project = projects.named(session, body.project) or project
            if project.name != body.project:
                raise refused("project", "there is no such project; see `liverseg project list`", body.project)
        made, secret = tokens.issue(session, project.id, body.name, scope, caller.actor, body.expires_at)
        answer = NewTokenOut.of(made, project.name, secret=secret)
    request.app.state.keyring.forget()
    response.headers["Cache-Control"] = "no-store"
    assert isinstance(answer, NewTokenOut)
    return answer


@router.get("")
def listing(limit: Limit = 50, before: Before = None) -> TokenList:
    """Every token, newest first, without secrets."""
    with transaction() as session:
        found = list(tokens.listed(session, limit, before))
    following = next_page([token for token, _ in found], limit)
    return TokenList(tokens=[TokenOut.of(token, project) for token, project in found], next=following)


@router.post("/{token}/revoke")
def revoke(request: Request, token: TokenId) -> TokenOut:
    """End a token for good, within two seconds in every API process; revoking twice is once."""
    with transaction() as session:
        found = tokens.revoke(session, token, request.state.actor)
        if found is None:
            raise not_found("token", token)
        answer = TokenOut.of(found, session.get_one(Project, found.project_id).name)
    request.app.state.keyring.forget()
    return answer
