"""Submitting what trains nothing: finished runs under other evaluation options, and reference predictors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from liverseg_core.data.manifest import select as chosen_slices
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from store import datasets, views
from store.experiments import Planned, add_runs, finished, new_experiment, planned
from store.models import Dataset, Experiment, Run
from store.references import PREDICTORS, reference_hash, reference_spec
from store.states import State

SCORED_KINDS = ("train", "evaluate", "rescore")
"""Kinds of run that leave probability maps."""

SOON = 5
"""Priority of re-scored runs: they take seconds, so nobody should wait for a training in front of them."""

FIRST = 10
"""Priority of reference runs: they take a second each, and a table without them says less."""


def submit_rescores(
    session: Session,
    project_id: int,
    run_ids: Sequence[int],
    evaluation: Mapping[str, Any],
    name: str = "",
    key: str | None = None,
    actor: str | None = None,
) -> tuple[Experiment, bool]:
    """Score finished runs under other options; a run each, in the order given. Also whether they are new.

    Args:
        session: an open session.
        project_id: whose runs.
        run_ids: finished runs with scores; reused ones stand for their original.
        evaluation: fields of the section ``evaluation`` that change; others stay as each run has them.
        name: of the experiment.
        key: idempotency key; the same key and request give the same experiment.
        actor: whom the runs' first events name.

    Raises:
        SpecError: an unknown or unfinished run, one without maps, options that cannot be, or a key of another
            request.
    """
    wanted = [_rescored(session, *_asked(session, project_id, run_id), evaluation) for run_id in run_ids]
    body = {"rescore": list(run_ids), "evaluation": dict(evaluation)}
    experiment, new = new_experiment(session, project_id, name or "re-scored", body, key)
    if new:
        add_runs(session, experiment, wanted, priority=SOON, actor=actor)
    return experiment, new


def _asked(session: Session, project_id: int, run_id: int) -> tuple[Run, Run]:
    """The run asked for, and the one that holds its maps: itself, or the one it reuses."""
    asked = session.scalar(select(Run).where(Run.project_id == project_id, Run.id == run_id))
    if asked is None:
        raise SpecError("runs", "there is no such run; see `liverseg runs`", run_id)
    run = asked if asked.reused_from is None else session.get_one(Run, asked.reused_from)
    if run.kind not in SCORED_KINDS or run.state != State.SUCCEEDED:
        raise SpecError(
            "runs", f"run {run_id} is a run of kind {run.kind}, {run.state}; only succeeded runs with scores can be "
            "scored anew", run_id,
        )  # fmt: skip
    return asked, run


def _rescored(session: Session, asked: Run, holder: Run, evaluation: Mapping[str, Any]) -> Planned:
    """Name, data set and settings of the run asked for, scored from the maps that ``holder`` kept."""
    changed = {**asked.spec, "evaluation": {**asked.spec.get("evaluation", {}), **evaluation}}
    spec = ExperimentSpec.parse(changed)
    hashes = asked.training_hash, spec.evaluation_hash()
    same = finished(session, asked.project_id, {asked.training_hash}).get(hashes)
    return planned(spec, datasets.of(session, asked), hashes, same, holder)


def add_references(session: Session, project_id: int, runs: Iterable[tuple[ExperimentSpec, Dataset]]) -> list[Run]:
    """Queue the reference predictors that have not been scored yet on the slices that ``runs`` are scored on.

    They come before other runs, in an experiment of their own; the runs added.
    """
    wanted: dict[str, Planned] = {}
    for spec, dataset in _different(runs):
        manifest = Manifest.from_json(dataset.manifest)
        own, evaluation = reference_spec(spec), spec.evaluation.model_dump()
        scans = scored_scans(manifest, spec)
        for name in PREDICTORS:
            digest = reference_hash(name, manifest.people_hash, spec.data.image_size, scans, evaluation)
            named = own.model_copy(update={"name": name})
            wanted[digest] = Planned(named, dataset, digest, own.evaluation_hash(), predictor=name)
    known = select(Run.training_hash).where(
        Run.project_id == project_id,
        Run.training_hash.in_(wanted),
        Run.state.in_([State.QUEUED, State.RUNNING, State.SUCCEEDED]),
    )
    missing = [wanted[digest] for digest in wanted.keys() - set(session.scalars(known))]
    if not missing:
        return []
    missing.sort(key=lambda one: (one.spec.data.image_size, PREDICTORS.index(str(one.predictor))))
    body = {views.REFERENCES: [one.training_hash for one in missing]}
    experiment, _ = new_experiment(session, project_id, "reference predictors", body, None)
    return add_runs(session, experiment, missing, priority=FIRST)


def scored_scans(manifest: Manifest, spec: ExperimentSpec) -> dict[str, tuple[int, ...]]:
    """``val`` and ``test`` -> the scans that are scored; parts without any are left out."""
    chosen = chosen_slices(manifest, spec.dataset)
    scans = {part: tuple(sorted({manifest.slices[index].scan for index in chosen[part]})) for part in ("val", "test")}
    return {part: own for part, own in scans.items() if own}


def _different(runs: Iterable[tuple[ExperimentSpec, Dataset]]) -> list[tuple[ExperimentSpec, Dataset]]:
    """One of each kind: thousands of cells of a grid differ in what does not matter here."""
    found = {
        (dataset.id, spec.dataset.split.model_dump_json(), spec.data.image_size, spec.evaluation.model_dump_json()): (
            spec,
            dataset,
        )
        for spec, dataset in runs
    }
    return list(found.values())
