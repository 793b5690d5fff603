"""Data sets and weights: large bodies that are streamed to a file, checked there, then stored."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.bodies import FILE
from api.callers import Asking, Caller, Project
from api.dataset_schemas import DatasetList, DatasetOut
from api.parameters import Before, Limit
from api.problems import not_found
from api.schemas import ExperimentRuns, next_page
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import check_storable
from store import artifacts, datasets
from store.database import transaction
from store.experiments import submit_weights
from store.models import Dataset
from store.scorings import add_references
from store.settings import settings
from store.tidy import storing

router = APIRouter(prefix="/v1")

Name = Annotated[
    str,
    Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="letters, digits, dots, dashes, underscores"),
]
NameOrHash = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
FileName = Annotated[
    str, Query(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. +-]{0,99}$", description="what messages call the file")
]
SpecText = Annotated[str, Query(max_length=50_000, description="an ExperimentSpec as JSON")]


@router.get("/datasets", tags=["data sets"])
def listing(project: Project, limit: Limit = 500, before: Before = None) -> DatasetList:
    """Data sets, newest first."""
    with transaction() as session:
        found = list(datasets.listed(session, project, limit, before))
        return DatasetList(datasets=[DatasetOut.of(one) for one in found], next=next_page(found, limit))


@router.get("/datasets/{name}", tags=["data sets"])
def detail(project: Project, name: NameOrHash) -> DatasetOut:
    """One data set, by name or by at least 8 digits of its content hash."""
    with transaction() as session:
        return DatasetOut.of(known_dataset(session, project, name))


def known_dataset(session: Session, project: int, name: str) -> Dataset:
    """The project's data set, or a 404."""
    try:
        return datasets.resolve(session, project, name)
    except SpecError:
        raise not_found("data set", name) from None


@router.post(
    "/datasets",
    status_code=201,
    tags=["data sets"],
    responses={200: {"description": "it was here already"}},
    openapi_extra=FILE,
)
async def import_dataset(request: Request, response: Response, caller: Asking, name: Name) -> DatasetOut:
    """Take a zip of PNG pairs as liverseg dataset import packs it; every pixel is checked first."""
    async with received(request, "dataset.zip") as file:
        dataset, new = await run_in_threadpool(_store_dataset, caller, name, file)
    response.status_code = 201 if new else 200
    return dataset


@router.post("/weights", status_code=201, tags=["weights"], openapi_extra=FILE)
async def import_weights(
    request: Request, caller: Asking, spec: SpecText, name: FileName = "weights.h5"
) -> ExperimentRuns:
    """Take a Keras 2 HDF5 weights file; answers with the run that will score it, beside the reference predictors."""
    wanted = _parse_spec(spec)
    async with received(request, name) as file:
        made = await run_in_threadpool(_store_weights, caller, wanted, file)
    request.app.state.upkeep.wake()
    return made


@asynccontextmanager
async def received(request: Request, name: str) -> AsyncIterator[FilePath]:
    """The body in a file that is gone afterwards; the guard counts its bytes."""
    scratch = settings().scratch
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix="upload-") as folder:
        place = FilePath(folder) / name
        with place.open("wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
        yield place


def _store_dataset(caller: Caller, name: str, file: FilePath) -> tuple[DatasetOut, bool]:
    """The data set, and whether it is new."""
    from liverseg_core.data.archive import read_archive, rewrite_archive  # NumPy, only where it is needed

    manifest = read_archive(file)
    kept = file.with_name("kept.zip")
    rewrite_archive(file, kept)
    with transaction() as session:
        storing(session)
        new = not _has(session, caller.project, name)
        dataset = datasets.add(session, caller.project, name, manifest, artifacts.sha256_of(kept), caller.actor)
        # In the store only once the name is ours, and before the row that points to it is committed. Importing
        # again brings back a file that is lost or damaged; a zip of the same content may have other bytes.
        if not artifacts.intact(dataset.artifact):
            dataset.artifact = artifacts.put(kept).sha256
        return DatasetOut.of(dataset), new


def _has(session: Session, project: int, name: str) -> bool:
    try:
        return datasets.resolve(session, project, name).name == name
    except SpecError:
        return False


def _parse_spec(text: str) -> ExperimentSpec:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError("spec", f"is no valid JSON ({error})") from None
    check_storable(value)
    return ExperimentSpec.parse(value)


def _store_weights(caller: Caller, spec: ExperimentSpec, file: FilePath) -> ExperimentRuns:
    from liverseg_core.weights import read_hdf5_weights, write_weights  # h5py, only where it is needed

    arrays = file.with_name("weights.npz")
    write_weights(arrays, read_hdf5_weights(file, spec.model), spec.model)
    with transaction() as session:
        storing(session)
        done = submit_weights(session, caller.project, spec, artifacts.sha256_of(arrays), caller.actor)
        runs = ExperimentRuns.of(done.experiment, done.runs)
        add_references(session, caller.project, [(spec, datasets.of(session, done.runs[0]))], caller.actor)
        artifacts.put(arrays)
        return runs
