"""The check of a data set for scans that may show one person."""

from threading import Lock

from fastapi import APIRouter

from api.callers import Project
from api.dataset_schemas import DatasetOut
from api.problems import Problem
from api.routes.uploads import NameOrHash, known_dataset
from store import artifacts
from store.database import transaction
from store.datasets import manifest_of

router = APIRouter(prefix="/v1", tags=["data sets"])

_checking = Lock()


@router.post("/datasets/{name}/check", responses={409: {"description": "another check is running"}})
def check(project: Project, name: NameOrHash) -> DatasetOut:
    """Look for pairs of scans that may show one person, by their pixels alone; takes up to a minute.

    The finding is kept with the data set. A data set never changes, so checking it again changes nothing.
    """
    with transaction() as session:
        dataset = known_dataset(session, project, name)
        known, manifest, sha256 = dataset.name, manifest_of(dataset), dataset.artifact
    if not artifacts.there(sha256):
        raise Problem(410, f"the file of this data set is gone from the store ({sha256[:12]}); import it again")
    if not _checking.acquire(blocking=False):  # each takes a core and reads a whole data set
        raise Problem(409, "another check is running; ask again when it is done")
    try:
        from liverseg_core.data import similarity  # SciPy and Pillow, only where they are needed

        with artifacts.held(sha256) as archive:
            found = similarity.to_json(similarity.compare_scans(archive, manifest))
    finally:
        _checking.release()
    with transaction() as session:
        dataset = known_dataset(session, project, known)
        dataset.similarity = found
        return DatasetOut.of(dataset)
