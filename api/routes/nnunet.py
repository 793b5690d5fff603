"""nnU-Net's own files: a run's ``summary.json``, a data set's ``splits_final.json``."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from api.callers import Project
from api.parameters import RunId
from api.problems import not_found, refused
from api.routes.runs import known_run
from api.routes.uploads import NameOrHash, known_dataset
from liverseg_core.data.manifest import Manifest, fold_subjects, select
from liverseg_core.spec import DatasetChoice
from store.database import transaction
from store.datasets import manifest_of
from store.views import shown_part

router = APIRouter(prefix="/v1", tags=["nnU-Net"])

Folds = Annotated[int | Literal["subject"], Query(description="how many folds of subjects, or subject: one each")]
MEDIA = "application/json"
WHOLE: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA: {"schema": {}}}}}


@router.get("/runs/{run}/summary.json", response_class=Response, responses=WHOLE)
def summary(project: Project, run: RunId) -> Response:
    """A run's scores as nnU-Net v2 writes them, a case a scan; metrics that are not defined are NaN, as there."""
    from liverseg_core.nnunet import write_summary  # NumPy, as below
    from store import facts

    with transaction() as session:
        wanted = known_run(session, project, run)
        parts = facts.read(session, [wanted])[run]
        part = shown_part(wanted, parts)
    if part is None:
        raise not_found("score of this run", run)
    return Response(write_summary(parts[part]), media_type=MEDIA)


@router.get("/datasets/{name}/splits_final.json", response_class=Response, responses=WHOLE)
def splits(project: Project, name: NameOrHash, folds: Folds = "subject") -> Response:
    """The folds of a data set's subjects as nnU-Net's splits: what `folds` of a submission would train on."""
    from liverseg_core.nnunet import write_splits

    with transaction() as session:
        manifest = manifest_of(known_dataset(session, project, name))
    count = len(fold_subjects(manifest)) if folds == "subject" else folds
    if not 2 <= count <= 1000:
        raise refused("folds", "must be 2 to 1000, or subject with at least two subjects", folds)
    split = {"kind": "leave-one-subject-out"} if folds == "subject" else {"kind": "subject-folds", "folds": count}
    choices = [DatasetChoice.model_validate({"id": name, "split": {**split, "fold": fold}}) for fold in range(count)]
    return Response(write_splits([_scans(manifest, choice) for choice in choices]), media_type=MEDIA)


def _scans(manifest: Manifest, choice: DatasetChoice) -> dict[str, list[int]]:
    chosen = select(manifest, choice)
    return {part: sorted({manifest.slices[index].scan for index in chosen[part]}) for part in ("train", "val")}
