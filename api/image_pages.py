"""The page of one evaluated slice of a run."""

from fastapi import APIRouter, Request, Response

from api import render
from api.callers import Project
from api.overlay_page import MOST_RUNS, address
from api.parameters import RunId
from api.problems import not_found
from api.routes.figures import ImageKey, Part
from api.routes.runs import known_run
from api.schemas import RunOut
from store import scores, tiles, views
from store.database import transaction

router = APIRouter(include_in_schema=False)


@router.get("/runs/{run}/images/{part}/{image}")
def image_page(request: Request, project: Project, run: RunId, part: Part, image: ImageKey) -> Response:
    """Its panels, its scores, and the way to the slices beside it."""
    scan, number = map(int, image.split("_"))
    with transaction() as session:
        found = known_run(session, project, run)
        source = views.source(found)
        around = views.slices_of_scan(session, source, part, scan)
        if number not in around:
            raise not_found("evaluated slice", f"{part}/{image}")
        row = scores.image(session, source, part, scan, number)
        out = RunOut.of(found)
        beside = tiles.siblings(session, found, MOST_RUNS)
    place = around.index(number)
    return render.page(
        request,
        "image.html",
        run=out,
        image=row,
        alone=address([run], part, scan, number),
        beside=address(beside, part, scan, number) if len(beside) > 1 else None,
        together=len(beside),
        before=around[place - 1] if place else None,
        after=around[place + 1] if place + 1 < len(around) else None,
    )
