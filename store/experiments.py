"""Submitting: one transaction turns a submission into an experiment, its runs and their announcements."""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.data.leaks import guarded
from liverseg_core.data.manifest import Manifest, check_runnable, fold_subjects, training_hash
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice, ExperimentSpec
from liverseg_core.submission import Submission, check_storable
from store import datasets, scores, views
from store.deleted import without_maps
from store.models import Dataset, Experiment, Run
from store.queue import enter_new, locking
from store.settings import settings
from store.states import FINAL, RETRIED, IllegalMove, State


@dataclass(frozen=True)
class Submitted:
    """What a request made now, or the first time its idempotency key was used."""

    experiment: Experiment
    runs: Sequence[Run]
    """In the order of its cells."""
    new: bool
    planned: "Sequence[Planned]" = ()
    """What each run was made from, where it was made now."""


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
    maps: bool = True
    """Whether ``scored_from`` has its maps still; without them its weights are evaluated again."""
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
        return (
            "rescore"
            if kept and self.maps and self.scored_from.evaluation_hash == before.evaluation_hash()
            else "evaluate"
        )


def plan(
    session: Session, project_id: int, submission: Submission, *, reuse: bool = True, hold: bool = False
) -> list[Planned]:
    """What a submission would do; nothing is written.

    With ``hold`` nothing that the plan points to can be deleted until the transaction ends.

    Raises:
        SpecError: the first thing in it that cannot be run, with its path.
    """
    specs = submission.expand(_subjects(session, project_id, submission))
    chosen = _resolve_all(session, project_id, specs, hold=hold)
    manifests = {wanted: datasets.manifest_of(dataset) for wanted, dataset in chosen.items()}
    hashes = [(training_hash(spec, manifests[spec.dataset.id]), spec.evaluation_hash()) for spec in specs]
    done = finished(session, project_id, {training for training, _ in hashes}, hold=hold) if reuse else {}
    bare = without_maps(session, [run.id for run in done.values()])
    # Those that have their maps come last, and so stand for their training.
    by_maps = sorted(done.items(), key=lambda one: one[1].id not in bare)
    trained = {training: run for (training, _), run in by_maps}
    leaks = _let_pass(specs, manifests)
    return [
        replace(
            planned(spec, chosen[spec.dataset.id], pair, done.get(pair), trained.get(pair[0]), bare),
            leaks=leaks[spec.dataset],
        )
        for spec, pair in zip(specs, hashes, strict=True)
    ]


def planned(
    spec: ExperimentSpec,
    dataset: Dataset,
    hashes: tuple[str, str],
    same: Run | None,
    trained: Run | None,
    bare: Container[int] = (),
) -> Planned:
    """One run: shown from ``same``, which has both hashes, else scored from ``trained``, else trained.

    ``bare``: runs whose maps were deleted.
    """
    if same is not None:
        return Planned(spec, dataset, *hashes, reused_from=same.id)
    maps = trained is None or trained.id not in bare
    return Planned(spec, dataset, *hashes, scored_from=trained, maps=maps)


def _subjects(session: Session, project_id: int, submission: Submission) -> int:
    """How many folds ``folds: subject`` makes."""
    if submission.folds != "subject":
        return 0
    submission.count()  # refuses an axis without values, which would leave no cell to look at
    dataset = datasets.resolve(session, project_id, submission.dataset_id())
    return len(fold_subjects(datasets.manifest_of(dataset)))


def _let_pass(
    specs: Sequence[ExperimentSpec], manifests: Mapping[str, Manifest]
) -> dict[DatasetChoice, tuple[str, ...]]:
    """The leaks of each choice of slices that a written override lets pass; without one a leak is refused."""
    choices = dict.fromkeys(spec.dataset for spec in specs)
    return {choice: tuple(map(str, guarded(manifests[choice.id], choice))) for choice in choices}


def _resolve_all(
    session: Session, project_id: int, specs: Sequence[ExperimentSpec], *, hold: bool
) -> dict[str, Dataset]:
    """Each data set that the specs name, after checking that every spec can run on its own."""
    names = dict.fromkeys(spec.dataset.id for spec in specs)  # in order, so that the first problem is told first
    chosen = {wanted: datasets.resolve(session, project_id, wanted, hold=hold) for wanted in names}
    manifests = {wanted: datasets.manifest_of(dataset) for wanted, dataset in chosen.items()}
    # Only these fields decide whether a spec can run; a grid over others need not be checked cell by cell.
    different = {
        (spec.dataset.model_dump_json(), spec.training.batch_size, spec.data.augmentation, spec.data.batch_by): spec
        for spec in specs
    }
    for spec in different.values():
        check_runnable(spec, manifests[spec.dataset.id])
    return chosen


# Built once: every submission asks it.
FINISHED = (
    select(Run)
    .where(
        Run.project_id == bindparam("project"),
        Run.training_hash.in_(bindparam("hashes", expanding=True)),
        Run.state == State.SUCCEEDED,
        Run.reused_from.is_(None),
        Run.kind != "predict",
    )
    .order_by(Run.id.desc())
)
FINISHED_HELD = FINISHED.with_for_update(read=True, key_share=True)


def finished(
    session: Session, project_id: int, training: set[str], *, hold: bool = False
) -> dict[tuple[str, str], Run]:
    """The oldest succeeded run of each (training hash, evaluation hash), reused ones apart.

    With ``hold`` they cannot be deleted until the transaction ends; one that is being deleted is waited for.
    """
    rows = session.scalars(FINISHED_HELD if hold else FINISHED, {"project": project_id, "hashes": list(training)})
    return {(run.training_hash, run.evaluation_hash): run for run in rows}  # the oldest one stays


def submit(
    session: Session,
    project_id: int,
    submission: Submission,
    *,
    key: str | None = None,
    reuse: bool = True,
    actor: str | None = None,
) -> Submitted:
    """Make the experiment and its runs, unless the idempotency key was used before.

    ``actor`` is whom the runs' first events name.

    Raises:
        SpecError: nothing can be run as asked, or the key was used with another body.
    """
    check_storable(submission.model_dump())
    body = submission.model_dump(mode="json")
    # Without what older releases did not know: a key that was used before an upgrade still finds its experiment.
    body = {name: value for name, value in body.items() if name not in WHERE or value}
    experiment, new = new_experiment(session, project_id, str(submission.spec.get("name", "")), body, key)
    if not new:
        return Submitted(experiment, views.experiment_runs(session, experiment.id), new)
    wanted = plan(session, project_id, submission, reuse=reuse, hold=True)
    where = {"pool": submission.pool or settings().pool, "labels": dict(submission.needs)}
    return Submitted(experiment, add_runs(session, experiment, wanted, actor=actor, where=where), new, wanted)


WHERE = ("pool", "needs")
"""Fields of a submission that say where its runs are carried out; they are part of no hash of a run."""


def submit_weights(
    session: Session, project_id: int, spec: ExperimentSpec, weights: str, actor: str | None = None
) -> Submitted:
    """Queue the evaluation of imported weights (an artifact) as a run of kind ``evaluate``.

    Raises:
        SpecError: the spec cannot be run, or its split leaks and no reason is written.
    """
    body = {"spec": spec.model_dump(mode="json"), "weights": weights}
    check_storable(body)
    dataset = _resolve_all(session, project_id, [spec], hold=True)[spec.dataset.id]
    guarded(datasets.manifest_of(dataset), spec.dataset)
    experiment, _ = new_experiment(session, project_id, spec.name, body, None)
    where = training_hash(spec, datasets.manifest_of(dataset))  # else scores of other slices were reused
    imported = hashlib.sha256(f"imported weights {weights} {where}".encode()).hexdigest()
    run = _columns(Planned(spec, dataset, imported, spec.evaluation_hash()))
    runs = enter_new(session, experiment, [{**run, "kind": "evaluate", "weights": weights}], actor)
    return Submitted(experiment, runs, True)


def retry(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Another run of the same, in an experiment of its own; None: the project has no such run.

    One that has not ended yet is returned instead of a second one, so that asking twice is once. Where the same
    settings have succeeded meanwhile, their result is shown.

    Raises:
        IllegalMove: the run has neither failed nor been cancelled.
    """
    old = session.scalar(locking(select(Run).where(Run.id == run_id, Run.project_id == project_id)))
    if old is None:
        return None
    if old.state not in RETRIED:
        raise IllegalMove(old.id, "retry", State(old.state))
    going = session.scalar(select(Run).where(Run.retry_of == old.id, Run.state.not_in(FINAL)))
    if going is not None:
        return going
    same = finished(session, project_id, {old.training_hash}, hold=True) if old.kind != "predict" else {}
    done = same.get((old.training_hash, old.evaluation_hash))
    kept = {name: getattr(old, name) for name in KEPT_BY_RETRY}
    run = {**kept, "retry_of": old.id, "reused_from": done.id if done else None}
    experiment, _ = new_experiment(session, project_id, old.name, {"retry_of": old.id, "spec": old.spec}, None)
    (made,) = enter_new(session, experiment, [run], actor)
    return made


KEPT_BY_RETRY = (
    "project_id",
    "dataset_id",
    "kind",
    "name",
    "tags",
    "notes",
    "spec",
    "training_hash",
    "evaluation_hash",
    "weights",
    "scored_from",
    "predictor",
    "images",
    "best_epoch",  # of what it is scored from; whoever trains has none before the end
    "pool",
    "labels",
    "priority",
)
"""What a run has in common with the one that it tries again."""


NEW_EXPERIMENT = insert(Experiment).on_conflict_do_nothing().returning(Experiment)


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
    made = session.scalar(NEW_EXPERIMENT, {**values, "request_hash": digest})
    if made is not None:
        return made, True
    found = session.scalars(
        select(Experiment).where(Experiment.project_id == project_id, Experiment.idempotency_key == key)
    ).one_or_none()
    if found is None:  # deleted in between
        return new_experiment(session, project_id, name, body, key)
    if found.request_hash != digest:
        raise SpecError("Idempotency-Key", "was used before with another body; use a new key", key)
    return found, False


def add_runs(
    session: Session,
    experiment: Experiment,
    planned: Sequence[Planned],
    priority: int = 0,
    actor: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> Sequence[Run]:
    """Add the runs of a new experiment, in their first state and announced; they come in the order planned.

    ``where``: pool and labels, if not those that every run has.
    """
    runs = [{**_columns(one), **(where or {}), "priority": priority} for one in planned]
    for run in runs:
        if run["kind"] == "evaluate" and run["scored_from"] is not None:
            run["weights"] = scores.files(session, run["scored_from"])["weights"]
    return enter_new(session, experiment, runs, actor)


def _columns(planned: Planned) -> dict[str, Any]:
    """What a new run is, without how it stands."""
    spec = planned.spec
    return {
        "project_id": planned.dataset.project_id,
        "dataset_id": planned.dataset.id,
        "kind": planned.kind,
        "name": spec.name,
        "tags": list(spec.tags),
        "notes": spec.notes,
        "spec": spec.model_dump(mode="json"),
        "training_hash": planned.training_hash,
        "evaluation_hash": planned.evaluation_hash,
        "weights": None,
        "reused_from": planned.reused_from,
        "scored_from": planned.scored_from.id if planned.scored_from else None,
        "predictor": planned.predictor,
        "best_epoch": planned.scored_from.best_epoch if planned.scored_from else None,
        "pool": settings().pool,
    }
