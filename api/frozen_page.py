"""The list of frozen comparisons as a page."""

from fastapi import APIRouter, Request, Response

from api import render
from api.callers import Project
from api.parameters import Before
from api.routes.frozen import listing

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50


@router.get("/comparisons/frozen")
def frozen_page(request: Request, project: Project, before: Before = None) -> Response:
    """What was frozen, when and by whom, newest first."""
    found = listing(project, PAGE_SIZE, before)
    return render.page(request, "frozen.html", frozen=found.frozen, older=found.next)
