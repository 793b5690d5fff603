"""What trains nothing: finished runs under other evaluation options, and reference predictors."""

from fastapi import APIRouter, Request, Response

from api.callers import Project
from api.routes.experiments import Key
from api.schemas import ExperimentRuns, ReferenceBody, RescoreBody, RunList, RunOut
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import check_storable
from store import datasets
from store.database import transaction
from store.scorings import add_references, submit_rescores

router = APIRouter(prefix="/v1", tags=["scoring"])


@router.post("/rescores", status_code=201, responses={200: {"description": "the key was seen before"}})
def rescore(
    request: Request, response: Response, project: Project, body: RescoreBody, key: Key = None
) -> ExperimentRuns:
    """Score finished runs anew from their kept probability maps; nothing is trained.

    The same Idempotency-Key and body give the same experiment.
    """
    check_storable(body.evaluation, "evaluation")
    check_storable(body.name, "name")
    with transaction() as session:
        done = submit_rescores(session, project, body.runs, body.evaluation, body.name, key, request.state.actor)
        answer = ExperimentRuns.of(done.experiment, done.runs)
        if done.new:
            add_references(session, project, [(one.spec, one.dataset) for one in done.planned], request.state.actor)
    request.app.state.upkeep.wake()
    response.status_code = 201 if done.new else 200
    return answer


@router.post("/references", status_code=201)
def references(request: Request, project: Project, body: ReferenceBody) -> RunList:
    """Score the reference predictors where a spec would be scored, before anyone trains; the runs added."""
    check_storable(body.spec)
    spec = ExperimentSpec.parse(body.spec)
    with transaction() as session:
        dataset = datasets.resolve(session, project, spec.dataset.id)
        added = add_references(session, project, [(spec, dataset)], request.state.actor)
        runs = [RunOut.of(run) for run in added]
    request.app.state.upkeep.wake()
    return RunList(runs=runs, next=None)
