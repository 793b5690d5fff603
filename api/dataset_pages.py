"""The page of one data set, and its button that looks for scans of one person."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api import render
from api.callers import Project, caller_of
from api.dataset_schemas import DatasetOut
from api.routes import checks
from api.routes.uploads import NameOrHash, known_dataset
from liverseg_core.data.annotations import in_words
from liverseg_core.data.manifest import PARTS
from store.database import transaction
from store.datasets import manifest_of

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{name}")
def dataset_page(request: Request, project: Project, name: NameOrHash) -> Response:
    """Parts, subjects, histogram, and what the similarity check found."""
    with transaction() as session:
        dataset = known_dataset(session, project, name)
        found, manifest = DatasetOut.of(dataset), manifest_of(dataset)
    people = {
        subject: {part: [s for s in manifest.scans(part) if manifest.subjects[s] == subject] for part in PARTS}
        for subject in dict.fromkeys(manifest.subjects[scan] for scan in manifest.scans())
    }
    may_check = caller_of(request).may_write
    taken = in_words(one.to_json() for one in manifest.acquisitions.values())
    return render.page(
        request,
        "dataset.html",
        dataset=found,
        people=people,
        parts=manifest.parts,
        taken=taken,
        may_check=may_check,
    )


@router.post("/datasets/{name}/check")
def check(project: Project, name: NameOrHash) -> Response:
    """The page's button; the guard has checked where the request comes from."""
    found = checks.check(project, name)
    return RedirectResponse(f"/datasets/{found.name}", status_code=303)
