"""Submitting what trains nothing: finished runs under other evaluation options, and reference predictors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from liverseg_core.data.manifest import select as chosen_slices
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from store import datasets, scores, views
from store.deleted import deleted_runs, sentence, without_maps
from store.experiments import Planned, Submitted, add_runs, finished, new_experiment, planned
from store.models import Dataset, Run
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
) -> Submitted:
    """Score finished runs under other options; a run each, in the order given.

    A run whose maps were deleted is evaluated again by its kept weights.

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
    hold_results(session, run_ids)
    wanted = [_rescored(session, *_asked(session, project_id, run_id), evaluation) for run_id in run_ids]
    body = {"rescore": list(run_ids), "evaluation": dict(evaluation)}
    experiment, new = new_experiment(session, project_id, name or "re-scored", body, key)
    if not new:
        return Submitted(experiment, views.experiment_runs(session, experiment.id), new)
    return Submitted(experiment, add_runs(session, experiment, wanted, SOON, actor), new, wanted)


def hold_results(session: Session, run_ids: Sequence[int]) -> set[int]:
    """From here to the end of the transaction neither these runs nor the originals of reused ones can be deleted.

    Returns the ids of those that are there.
    """
    originals = select(Run.reused_from).where(Run.id.in_(run_ids))
    query = select(Run.id).where(Run.id.in_(run_ids) | Run.id.in_(originals)).order_by(Run.id.desc())
    return set(session.scalars(query.with_for_update(read=True, key_share=True)))


def _asked(session: Session, project_id: int, run_id: int) -> tuple[Run, Run]:
    """The run asked for, and the one that holds its maps: itself, or the one it reuses."""
    asked = session.scalar(select(Run).where(Run.project_id == project_id, Run.id == run_id))
    if asked is None:
        gone = deleted_runs(session, project_id, [run_id]).get(run_id)
        raise SpecError("runs", sentence(gone) if gone else "there is no such run; see `liverseg runs`", run_id)
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
    same = finished(session, asked.project_id, {asked.training_hash}, hold=True).get(hashes)
    bare = without_maps(session, [holder.id])
    made = planned(spec, datasets.of(session, asked), hashes, same, holder, bare)
    if made.scored_from and bare and "weights" not in scores.files(session, holder.id):
        message = f"{sentence(bare[holder.id])}, and it has no weights to evaluate again; submit its settings anew"
        raise SpecError("runs", message, asked.id)
    return made


KNOWN = select(Run.training_hash).where(
    Run.project_id == bindparam("project"),
    Run.training_hash.in_(bindparam("hashes", expanding=True)),
    Run.state.in_([State.QUEUED, State.RUNNING, State.SUCCEEDED]),
)


def add_references(
    session: Session,
    project_id: int,
    runs: Iterable[tuple[ExperimentSpec, Dataset]],
    actor: str | None = None,
    pool: str | None = None,
) -> Sequence[Run]:
    """Queue the reference predictors that have not been scored yet on the slices that ``runs`` are scored on.

    They come before other runs, in an experiment of their own; the runs added, whose first events name ``actor``.
    They go into the ``pool`` of the runs, whose workers are there; any of them can score, whatever its labels.
    """
    # One of each kind: thousands of cells of a grid differ in what does not matter here.
    different = {
        (dataset.id, spec.dataset, spec.data.image_size, spec.evaluation): (spec, dataset) for spec, dataset in runs
    }
    wanted: dict[str, Planned] = {}
    for spec, dataset in different.values():
        manifest = datasets.manifest_of(dataset)
        own, evaluation = reference_spec(spec), spec.evaluation.model_dump()
        scans = scored_scans(manifest, spec)
        for name in PREDICTORS:
            digest = reference_hash(name, manifest.people_hash, spec.data.image_size, scans, evaluation)
            named = own.model_copy(update={"name": name})
            wanted[digest] = Planned(named, dataset, digest, own.evaluation_hash(), predictor=name)
    known = session.scalars(KNOWN, {"project": project_id, "hashes": list(wanted)})
    missing = [wanted[digest] for digest in wanted.keys() - set(known)]
    if not missing:
        return []
    datasets.hold(session, {one.dataset.id: one.dataset for one in missing}.values())
    missing.sort(key=lambda one: (one.spec.data.image_size, PREDICTORS.index(str(one.predictor))))
    body = {views.REFERENCES: [one.training_hash for one in missing]}
    experiment, _ = new_experiment(session, project_id, "reference predictors", body, None)
    return add_runs(session, experiment, missing, FIRST, actor, {"pool": pool} if pool else None)


def scored_scans(manifest: Manifest, spec: ExperimentSpec) -> dict[str, tuple[int, ...]]:
    """``val`` and ``test`` -> the scans that are scored; parts without any are left out."""
    chosen = chosen_slices(manifest, spec.dataset)
    scans = {part: tuple(sorted({manifest.slices[index].scan for index in chosen[part]})) for part in ("val", "test")}
    return {part: own for part, own in scans.items() if own}
