"""Queueing masks for unlabelled slices, by the weights of a finished run."""

from sqlalchemy.orm import Session

from liverseg_core.errors import SpecError
from store import artifacts, scores, views
from store.experiments import Submitted, new_experiment
from store.models import Run
from store.queue import enter_new
from store.scorings import hold_results
from store.settings import settings
from store.states import State
from store.tidy import storing

REFUSED_KINDS = ("reference", "predict")
"""Kinds of run that have no weights."""


def submit_prediction(
    session: Session, run: Run, images: str, key: str | None = None, actor: str | None = None
) -> Submitted:
    """Queue masks for slices (an artifact) as a run of kind ``predict``; a reused run stands for its original.

    The same idempotency key and slices give the same experiment. ``actor`` is whom its first event names.

    Raises:
        SpecError: the run has not succeeded, or has no weights; or the key was used with another body.
    """
    if run.id not in hold_results(session, [run.id]):
        raise SpecError("run", "was deleted a moment ago", run.id)
    source = with_weights(session, run)
    storing(session)
    body = {"predict": source.id, "images": images}
    name = f"masks by run {source.id}"
    experiment, new = new_experiment(session, source.project_id, name, body, key)
    if not new:
        return Submitted(experiment, views.experiment_runs(session, experiment.id), new)
    made = {
        "project_id": source.project_id,
        "dataset_id": source.dataset_id,
        "kind": "predict",
        "name": name,
        "tags": [],
        "notes": "",
        "spec": source.spec,
        "training_hash": source.training_hash,
        "evaluation_hash": source.evaluation_hash,
        "weights": scores.files(session, source.id)["weights"],
        "images": images,
        "reused_from": None,
        "scored_from": source.id,
        "pool": settings().pool,
    }
    return Submitted(experiment, enter_new(session, experiment, [made], actor), new)


def with_weights(session: Session, run: Run) -> Run:
    """The run whose weights ``run`` stands for.

    Raises:
        SpecError: it has not succeeded, or has no weights.
    """
    source = run if run.reused_from is None else session.get_one(Run, run.reused_from)
    if source.kind in REFUSED_KINDS:
        raise SpecError("run", f"is of kind {source.kind} and has no weights; name a run that was trained", run.id)
    if source.state != State.SUCCEEDED:
        raise SpecError("run", f"is {source.state}; only a succeeded run has weights to predict with", run.id)
    weights = scores.files(session, source.id).get("weights")
    if weights is None or not artifacts.there(weights):
        raise SpecError("run", "has no weights in the store, so nothing can be predicted; train it again", run.id)
    return source
