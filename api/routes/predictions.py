"""Unlabelled slices in, masks out, through the queue."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from api.bodies import FILE
from api.callers import Asking, Caller
from api.parameters import RunId
from api.routes.experiments import Key
from api.routes.runs import known_run
from api.routes.uploads import received
from api.schemas import ExperimentRuns
from store import artifacts
from store.database import transaction
from store.predictions import submit_prediction, with_weights

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post("/{run}/predictions", status_code=201, openapi_extra=FILE)
async def predict(request: Request, caller: Asking, run: RunId, key: Key = None) -> ExperimentRuns:
    """Take a zip of unlabelled SCAN_SLICE.png, as liverseg predict packs it; answers with the run that makes masks.

    Its artifact ``masks`` is a zip of 8-bit grey PNGs named and sized as the slices: 0 background, 127 liver, 255
    lesion. The same Idempotency-Key and slices give the same run.
    """
    async with received(request, "slices.zip") as file:
        made = await run_in_threadpool(_store, caller, run, file, key)
    request.app.state.upkeep.wake()
    return made


def _store(caller: Caller, run: int, file: Path, key: str | None) -> ExperimentRuns:
    with transaction() as session:  # refused here, a large zip need not be decoded
        with_weights(session, known_run(session, caller.project, run))
    kept = _checked(file)
    with transaction() as session:
        done = submit_prediction(
            session, known_run(session, caller.project, run), artifacts.sha256_of(kept), key, caller.actor
        )
        made = ExperimentRuns.of(done.experiment, done.runs)
        artifacts.put(kept)  # before the row that points to it is committed
        return made


def _checked(file: Path) -> Path:
    """The slices alone, without what else their files and the zip tell."""
    from liverseg_core.data.unlabelled import read_slices, rewrite_slices  # NumPy, only where it is needed

    read_slices(file)
    rewrite_slices(file, file.with_name("kept.zip"))
    return file.with_name("kept.zip")
