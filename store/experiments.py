"""Submitting: one transaction turns a submission into an experiment, its runs and their announcements."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.data.leaks import guarded
from liverseg_core.data.manifest import Manifest, check_runnable, fold_subjects, training_hash
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice, ExperimentSpec
from liverseg_core.submission import Submission, check_storable
from store import datasets, scores
from store.models import Dataset, Experiment, Run
from store.queue import enter_new
from store.settings import settings
from store.states import State


@dataclass(frozen=True)
class Planned:
    """One run that a submission asks for."""

    spec: ExperimentSpec
    dataset: Dataset
    training_hash: str
    evaluation_hash: str
    reused_from: int | None = None
    """A finished run with the same two hashes, whose result will be shown instead of training again."""
    scored_from: Run | None = None
    """A finished run with the same training hash, whose maps or weights will be scored under other options."""
    predictor: str | None = None
    """Which reference predictor is scored, where nothing is trained."""
    leaks: tuple[str, ...] = ()
    """Who lies on both sides of its split, under the reason written in ``dataset.split.override``."""

    @property
    def kind(self) -> str:
        """What a worker does; see ``store.models.Run.kind``."""
        if self.predictor is not None:
            return "reference"
        if self.scored_from is None:
            return "train"
        before = ExperimentSpec.parse(self.scored_from.spec)
        kept = before.evaluation.flips == self.spec.evaluation.flips
        # Facts of an older evaluation than today's must not live on beside counts of today's.
        return "rescore" if kept and self.scored_from.evaluation_hash == before.evaluation_hash() else "evaluate"


def plan(session: Session, project_id: int, submission: Submission, *, reuse: bool = True) -> list[Planned]:
    """What a submission would do; nothing is written.

    Raises:
        SpecError: the first thing in it that cannot be run, with its path.
    """
    specs = submission.expand(_subjects(session, project_id, submission))
    chosen = _resolve_all(session, project_id, specs)
    manifests = {wanted: Manifest.from_json(dataset.manifest) for wanted, dataset in chosen.items()}
    hashes = [(training_hash(spec, manifests[spec.dataset.id]), spec.evaluation_hash()) for spec in specs]
    done = finished(session, project_id, {training for training, _ in hashes}) if reuse else {}
    trained = {training: run for (training, _), run in done.items()}
    leaks = _let_pass(specs, manifests)
    return [
        replace(
            planned(spec, chosen[spec.dataset.id], pair, done.get(pair), trained.get(pair[0])),
            leaks=leaks[spec.dataset],
        )
        for spec, pair in zip(specs, hashes, strict=True)
    ]


def planned(
    spec: ExperimentSpec, dataset: Dataset, hashes: tuple[str, str], same: Run | None, trained: Run | None
) -> Planned:
    """One run: shown from ``same``, which has both hashes, else scored from ``trained``, else trained."""
    if same is not None:
        return Planned(spec, dataset, *hashes, reused_from=same.id)
    return Planned(spec, dataset, *hashes, scored_from=trained)


def _subjects(session: Session, project_id: int, submission: Submission) -> int:
    """How many folds ``folds: subject`` makes."""
    if submission.folds != "subject":
        return 0
    submission.count()  # refuses an axis without values, which would leave no cell to look at
    dataset = datasets.resolve(session, project_id, submission.dataset_id())
    return len(fold_subjects(Manifest.from_json(dataset.manifest)))


def _let_pass(
    specs: Sequence[ExperimentSpec], manifests: Mapping[str, Manifest]
) -> dict[DatasetChoice, tuple[str, ...]]:
    """The leaks of each choice of slices that a written override lets pass; without one a leak is refused."""
    choices = dict.fromkeys(spec.dataset for spec in specs)
    return {choice: tuple(map(str, guarded(manifests[choice.id], choice))) for choice in choices}


def _resolve_all(session: Session, project_id: int, specs: Sequence[ExperimentSpec]) -> dict[str, Dataset]:
    """Each data set that the specs name, after checking that every spec can run on its own."""
    names = dict.fromkeys(spec.dataset.id for spec in specs)  # in order, so that the first problem is told first
    chosen = {wanted: datasets.resolve(session, project_id, wanted) for wanted in names}
    manifests = {wanted: Manifest.from_json(dataset.manifest) for wanted, dataset in chosen.items()}
    # Only these fields decide whether a spec can run; a grid over others need not be checked cell by cell.
    different = {
        (spec.dataset.model_dump_json(), spec.training.batch_size, spec.data.augmentation, spec.data.batch_by): spec
        for spec in specs
    }
    for spec in different.values():
        check_runnable(spec, manifests[spec.dataset.id])
    return chosen


def finished(session: Session, project_id: int, training: set[str]) -> dict[tuple[str, str], Run]:
    """The oldest succeeded run of each (training hash, evaluation hash), reused ones apart."""
    query = select(Run).where(
        Run.project_id == project_id,
        Run.training_hash.in_(training),
        Run.state == State.SUCCEEDED,
        Run.reused_from.is_(None),
        Run.kind != "predict",
    )
    rows = session.scalars(query.order_by(Run.id.desc()))
    return {(run.training_hash, run.evaluation_hash): run for run in rows}  # the oldest one stays


def submit(
    session: Session,
    project_id: int,
    submission: Submission,
    *,
    key: str | None = None,
    reuse: bool = True,
    actor: str | None = None,
) -> tuple[Experiment, bool]:
    """Make the experiment and its runs; whether they are new (False: the idempotency key was used before).

    ``actor`` is whom the runs' first events name.

    Raises:
        SpecError: nothing can be run as asked, or the key was used with another body.
    """
    check_storable(submission.model_dump())
    body = submission.model_dump(mode="json")
    experiment, new = new_experiment(session, project_id, str(submission.spec.get("name", "")), body, key)
    if new:
        wanted = plan(session, project_id, submission, reuse=reuse)
        add_runs(session, experiment, wanted, actor=actor)
    return experiment, new


def submit_weights(
    session: Session, project_id: int, spec: ExperimentSpec, weights: str, actor: str | None = None
) -> Experiment:
    """Queue the evaluation of imported weights (an artifact) as a run of kind ``evaluate``.

    Raises:
        SpecError: the spec cannot be run, or its split leaks and no reason is written.
    """
    body = {"spec": spec.model_dump(mode="json"), "weights": weights}
    check_storable(body)
    dataset = _resolve_all(session, project_id, [spec])[spec.dataset.id]
    guarded(Manifest.from_json(dataset.manifest), spec.dataset)
    experiment, _ = new_experiment(session, project_id, spec.name, body, None)
    where = training_hash(spec, Manifest.from_json(dataset.manifest))  # else scores of other slices were reused
    imported = hashlib.sha256(f"imported weights {weights} {where}".encode()).hexdigest()
    run = _run(experiment, Planned(spec, dataset, imported, spec.evaluation_hash()))
    run.kind, run.weights = "evaluate", weights
    _enter(session, [run], actor)
    return experiment


def new_experiment(
    session: Session, project_id: int, name: str, body: dict[str, Any], key: str | None
) -> tuple[Experiment, bool]:
    """The experiment of a request, and whether it is new: its key may have been used before.

    Raises:
        SpecError: the key was used with another body.
    """
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    values = {"project_id": project_id, "name": name, "submission": body, "idempotency_key": key}
    # A second request with the key waits here until the first has committed, then finds its row.
    made = session.scalar(
        insert(Experiment).values(**values, request_hash=digest).on_conflict_do_nothing().returning(Experiment.id)
    )
    if made is not None:
        return session.get_one(Experiment, made), True
    found = session.scalars(
        select(Experiment).where(Experiment.project_id == project_id, Experiment.idempotency_key == key)
    ).one()
    if found.request_hash != digest:
        raise SpecError("Idempotency-Key", "was used before with another body; use a new key", key)
    return found, False


def _run(experiment: Experiment, planned: Planned) -> Run:
    spec = planned.spec
    return Run(
        project_id=experiment.project_id,
        experiment_id=experiment.id,
        dataset_id=planned.dataset.id,
        kind=planned.kind,
        name=spec.name,
        tags=list(spec.tags),
        notes=spec.notes,
        spec=spec.model_dump(mode="json"),
        training_hash=planned.training_hash,
        evaluation_hash=planned.evaluation_hash,
        reused_from=planned.reused_from,
        scored_from=planned.scored_from.id if planned.scored_from else None,
        predictor=planned.predictor,
        best_epoch=planned.scored_from.best_epoch if planned.scored_from else None,
        pool=settings().pool,
        state=State.QUEUED,
        crashes=0,
        announcements=0,
    )


def add_runs(
    session: Session,
    experiment: Experiment,
    planned: Sequence[Planned],
    priority: int = 0,
    actor: str | None = None,
) -> list[Run]:
    """The runs of an experiment, in their first state and announced."""
    runs = [_run(experiment, one) for one in planned]
    for run in runs:
        run.priority = priority
        if run.kind == "evaluate" and run.scored_from is not None:
            run.weights = scores.files(session, run.scored_from)["weights"]
    _enter(session, runs, actor)
    return runs


def _enter(session: Session, runs: list[Run], actor: str | None) -> None:
    session.add_all(runs)
    session.flush()  # gives the ids, in order
    now = session.scalar(select(func.clock_timestamp()))
    for run in runs:
        enter_new(session, run, "reuse" if run.reused_from else "submit", now, actor)
