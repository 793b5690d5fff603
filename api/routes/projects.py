"""Projects of the installation; for administrators."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from api.parameters import LARGEST_ID, Before, Limit
from api.problems import not_found
from api.schemas import Out, next_page
from store import projects
from store.database import transaction

router = APIRouter(prefix="/v1/projects", tags=["projects and tokens"])

ProjectId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="id of a project")]


class ProjectBody(BaseModel):
    """What a project is called."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(pattern=projects.NAME, description="letters, digits, dots, dashes, underscores")


class ProjectOut(Out):
    """A project: whose things are whose."""

    id: int
    name: str
    created_by: str | None


class ProjectList(BaseModel):
    """Projects, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    projects: list[ProjectOut]
    next: int | None


@router.post("", status_code=201)
def create(request: Request, body: ProjectBody) -> ProjectOut:
    """A new, empty project; make a token for it to get in."""
    with transaction() as session:
        return ProjectOut.model_validate(projects.create(session, body.name, request.state.actor))


@router.get("")
def listing(limit: Limit = 50, before: Before = None) -> ProjectList:
    """Every project, newest first."""
    with transaction() as session:
        found = list(projects.listed(session, limit, before))
    return ProjectList(projects=[ProjectOut.model_validate(one) for one in found], next=next_page(found, limit))


@router.patch("/{project}")
def rename(project: ProjectId, body: ProjectBody) -> ProjectOut:
    """Another name for a project; tokens and everything in it stay as they are."""
    with transaction() as session:
        found = projects.rename(session, project, body.name)
        if found is None:
            raise not_found("project", project)
        return ProjectOut.model_validate(found)
