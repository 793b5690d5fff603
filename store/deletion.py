"""Deleting runs, their large files, or data sets: what would go, what stands against it, and doing it.

One rule keeps every pointer true: a run goes only together with every run that shows or was scored from its result.
Rows go here, in the caller's transaction; ``store.tidy`` removes the files afterwards. Rows are locked newest first,
as ``store.experiments.finished`` holds them, so that two requests wait for each other instead of dying.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import usage
from store.deleted import frozen_with
from store.models import (
    Announcement,
    Artifact,
    Attempt,
    Dataset,
    Deletion,
    Epoch,
    Experiment,
    LesionComponent,
    Receipt,
    Run,
    RunEvent,
    SliceScore,
    StepLosses,
    Summary,
)
from store.queue import locking, seconds_from_now
from store.states import FINAL, State
from store.usage import LARGE, Use
from store.words import named_runs

What = Literal["run", "files"]

MOST = 1000
"""Runs at once: their rows must go within one statement's time."""

OWN_ROWS = (
    SliceScore,
    Summary,
    LesionComponent,
    StepLosses,
    Epoch,
    Receipt,
    Artifact,
    RunEvent,
    Attempt,
    Announcement,
)
"""Tables whose rows belong to a run; a test holds this complete."""

FIRST = {
    State.PAUSED: "is paused; cancel it first",
    State.STOPPING: "is being stopped; wait until it has ended",
}
"""State -> what to do before; every other run that has not ended is to be cancelled."""

POINTING = {
    "shows": ("shows its result", "show its result"),
    "scored": ("was scored from it", "were scored from it"),
    "predict": ("made masks by its weights", "made masks by its weights"),
}
"""How a run points to another: of one, of several."""


@dataclass(frozen=True)
class Selection:
    """Which runs: those named, or those that fit everything else that is given."""

    runs: tuple[int, ...] = ()
    experiment: int | None = None
    tag: str | None = None
    older_than_days: int | None = None
    """Ended so many days ago."""


@dataclass(frozen=True)
class Stays:
    """A run that cannot be deleted (so far), and why."""

    run: int
    name: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What a deletion would do.

    Attributes:
        what: ``run``: everything of the runs; ``files``: probability maps and checkpoints alone.
        runs: those that go, or whose files go.
        stays: those that were asked for and stay.
        uses: the files that lose a row, by the run that loses it.
        freed: SHA-256 -> bytes of the files that nobody else holds.
        checkpoints: run id -> bytes in its folder of checkpoints.
        rows: table -> how many rows go.
        experiments: those that go with their last run.
        frozen: keys of frozen comparisons that show one of the runs; they keep their numbers.
    """

    what: What
    runs: list[Run]
    stays: list[Stays]
    uses: list[Use]
    freed: dict[str, int]
    checkpoints: dict[int, int]
    rows: dict[str, int] = field(default_factory=dict)
    experiments: list[int] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What is really freed."""
        return sum(self.freed.values()) + sum(self.checkpoints.values())


# ---- runs ----------------------------------------------------------------------------------------------------


def plan(session: Session, project_id: int, what: What, selection: Selection, *, hold: bool = False) -> Plan:
    """What a deletion would do; nothing is written.

    Args:
        session: an open session.
        project_id: whose runs; ids that the project does not have are left out (the caller checks).
        what: how much of them.
        selection: which.
        hold: lock the runs, so that the plan stays true until the transaction ends.

    Raises:
        InputError: too many runs fit.
    """
    runs = _chosen(session, project_id, selection, hold)
    stays = _unended(runs)
    if what == "files":
        stays |= _without_own(runs, stays) | _being_scored(session, runs)
    else:
        stays |= _needed(session, [run for run in runs if run.id not in stays])
    going = [run for run in runs if run.id not in stays]
    uses = usage.by_runs(session, [run.id for run in going])
    if what == "files":
        uses = [use for use in uses if use.kind in LARGE]
    checkpoints = {run.id: usage.folder_bytes(usage.checkpoint_folder(run.id)) for run in going}
    if what == "files":
        holders = {use.run for use in uses} | {run for run, size in checkpoints.items() if size}
        going = [run for run in going if run.id in holders]
    ids = [run.id for run in going]
    return Plan(
        what=what,
        runs=going,
        stays=[Stays(run.id, run.name, stays[run.id]) for run in runs if run.id in stays],
        uses=uses,
        freed=usage.freed(session, uses),
        checkpoints={run: size for run, size in checkpoints.items() if size},
        rows=_rows(session, ids) if what == "run" else {Artifact.__tablename__: len(uses)},
        experiments=_emptied(session, ids) if what == "run" else [],
        frozen=frozen_with(session, project_id, ids) if what == "run" else [],
    )


def carry_out(session: Session, project_id: int, planned: Plan, actor: str) -> None:
    """Delete the rows of a plan that holds its runs; an audit line for each run remains."""
    ids = [run.id for run in planned.runs]
    session.add_all(_audit(project_id, planned, actor))
    if planned.what == "files":
        session.execute(delete(Artifact).where(Artifact.run_id.in_(ids), Artifact.kind.in_(LARGE)))
        return
    for table in OWN_ROWS:
        session.execute(delete(table).where(table.run_id.in_(ids)))
    session.execute(delete(Run).where(Run.id.in_(ids)))
    session.execute(delete(Experiment).where(Experiment.id.in_(planned.experiments)))


def _chosen(session: Session, project_id: int, selection: Selection, hold: bool) -> list[Run]:
    """The runs, newest first."""
    query = select(Run.id, Run.experiment_id).where(Run.project_id == project_id)
    found = session.execute(_fitting(query, selection).order_by(Run.id.desc()).limit(MOST + 1)).all()
    if len(found) > MOST:
        raise InputError("runs", f"more than {MOST:,} runs fit; narrow it down, or name {MOST:,} at once")
    ids = [run for run, _ in found]
    if hold:
        # Experiments first: else two requests that each take one of the last two runs would both leave it empty.
        experiments = select(Experiment.id).where(Experiment.id.in_({one for _, one in found}))
        session.execute(experiments.order_by(Experiment.id.desc()).with_for_update())
    rows = select(Run).where(Run.id.in_(ids)).order_by(Run.id.desc())
    return list(session.scalars(locking(rows) if hold else rows))


def _fitting(query: Any, selection: Selection) -> Any:
    if selection.runs:
        return query.where(Run.id.in_(selection.runs))
    query = query.where(Run.kind != "reference")  # nobody submitted them; they go with their data set
    if selection.experiment is not None:
        query = query.where(Run.experiment_id == selection.experiment)
    if selection.tag is not None:
        query = query.where(Run.tags.contains([selection.tag]))
    if selection.older_than_days is not None:
        query = query.where(Run.finished_at < seconds_from_now(-86_400 * selection.older_than_days))
    return query


def _unended(runs: Iterable[Run]) -> dict[int, str]:
    usual = "cancel it first"
    return {run.id: FIRST.get(State(run.state), f"is {run.state}; {usual}") for run in runs if run.state not in FINAL}


def _needed(session: Session, runs: Sequence[Run]) -> dict[int, str]:
    """The runs on whose result others stand that would stay, in turn until nothing changes."""
    points = _dependents(session, [run.id for run in runs])
    going, stays = {run.id for run in runs}, dict[int, str]()
    while True:
        more = {
            run: _told(needing)
            for run in going
            if (needing := [one for one in points.get(run, ()) if one[0] not in going])
        }
        if not more:
            return stays
        stays |= more
        going -= more.keys()


def _dependents(session: Session, run_ids: Collection[int]) -> dict[int, list[tuple[int, str]]]:
    """Run id -> the runs that point to it, and how."""
    query = select(Run.id, Run.reused_from, Run.scored_from, Run.kind).where(
        Run.reused_from.in_(run_ids) | Run.scored_from.in_(run_ids)
    )
    found: dict[int, list[tuple[int, str]]] = {}
    for run, reused, scored, kind in session.execute(query.order_by(Run.id)):
        if reused is not None:
            found.setdefault(reused, []).append((run, "shows"))
        if scored is not None:
            found.setdefault(scored, []).append((run, kind if kind == "predict" else "scored"))
    return found


def _told(needing: Sequence[tuple[int, str]]) -> str:
    how: dict[str, list[int]] = {}
    for run, reason in needing:
        how.setdefault(reason, []).append(run)
    told = " and ".join(f"{named_runs(runs)} {POINTING[reason][len(runs) > 1]}" for reason, runs in how.items())
    return f"{told}; delete {'it' if len(needing) == 1 else 'them'} too, in the same request"


def _without_own(runs: Iterable[Run], known: Mapping[int, str]) -> dict[int, str]:
    return {
        run.id: f"shows the result of run {run.reused_from}, which holds the files"
        for run in runs
        if run.reused_from is not None and run.id not in known
    }


def _being_scored(session: Session, runs: Sequence[Run]) -> dict[int, str]:
    """Runs from whose maps others are about to be scored."""
    query = select(Run.scored_from, func.array_agg(Run.id)).where(
        Run.scored_from.in_([run.id for run in runs]), Run.kind == "rescore", Run.state.not_in(FINAL)
    )
    return {
        run: f"{named_runs(sorted(waiting))} {'is' if len(waiting) == 1 else 'are'} to be scored from its maps; "
        "wait for that, or cancel it"
        for run, waiting in session.execute(query.group_by(Run.scored_from))
        if run is not None
    }


def _rows(session: Session, run_ids: Sequence[int]) -> dict[str, int]:
    counts = {Run.__tablename__: len(run_ids)}
    for table in OWN_ROWS:
        found = session.scalar(select(func.count()).select_from(table).where(table.run_id.in_(run_ids)))
        counts[table.__tablename__] = found or 0
    return {name: count for name, count in counts.items() if count}


def _emptied(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Experiments all of whose runs are among these."""
    query = select(Run.experiment_id).where(
        Run.experiment_id.in_(select(Run.experiment_id).where(Run.id.in_(run_ids)))
    )
    going = func.bool_and(Run.id.in_(run_ids))
    return list(session.scalars(query.group_by(Run.experiment_id).having(going).order_by(Run.experiment_id)))


def _audit(project_id: int, planned: Plan, actor: str) -> Iterable[Deletion]:
    left = dict(planned.freed)
    for run in planned.runs:
        own = {use.sha256 for use in planned.uses if use.run == run.id}
        size = sum(left.pop(sha256, 0) for sha256 in own) + planned.checkpoints.get(run.id, 0)
        dataset = run.spec["dataset"]["id"]
        yield Deletion(
            project_id=project_id,
            actor=actor,
            what=planned.what,
            run_id=run.id,
            experiment_id=run.experiment_id,
            name=run.name,
            detail={"kind": run.kind, "state": run.state, "dataset": dataset, "training_hash": run.training_hash},
            bytes=size,
            files=sorted(own),
        )


# ---- data sets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetPlan:
    """What deleting a data set would do; its reference runs, which nobody submitted, go with it."""

    dataset: Dataset
    stays: str | None
    """Why it stays."""
    references: Plan
    bytes: int
    """Its zip, unless another data set has the same one."""
    cache: int
    """Its decoded slices, unless another data set has the same content."""


def plan_dataset(session: Session, dataset: Dataset, *, hold: bool = False) -> DatasetPlan:
    """What deleting ``dataset`` would do; with ``hold`` no new run can refer to it until the transaction ends."""
    if hold:
        session.execute(select(Dataset.id).where(Dataset.id == dataset.id).with_for_update())
    rows = session.execute(select(Run.id, Run.kind).where(Run.dataset_id == dataset.id).order_by(Run.id)).all()
    references = [run for run, kind in rows if kind == "reference"]
    own = Use(dataset.artifact, None, "data set", usage.dataset_disk(dataset).bytes)
    same = select(func.count()).where(Dataset.content_hash == dataset.content_hash, Dataset.id != dataset.id)
    # An empty selection would mean every run there is.
    planned = plan(session, dataset.project_id, "run", Selection(tuple(references) or (0,)), hold=hold)
    twins = select(func.count()).where(Dataset.artifact == dataset.artifact, Dataset.id != dataset.id)
    return DatasetPlan(
        dataset=dataset,
        stays=_why_stays(
            [run for run, kind in rows if kind != "reference"], sorted(one.run for one in planned.stays)
        ),
        references=planned,
        bytes=0 if session.scalar(twins) else sum(usage.freed(session, [own]).values()),
        cache=0 if session.scalar(same) else usage.dataset_disk(dataset).cache,
    )


def _why_stays(runs: Sequence[int], waiting: Sequence[int]) -> str | None:
    if runs:
        one = len(runs) == 1
        return f"{named_runs(runs)} refer{'s' if one else ''} to it; delete {'it' if one else 'them'} first"
    if waiting:
        return f"its reference predictors ({named_runs(waiting)}) are not scored yet; wait for that, or cancel them"
    return None


def carry_out_dataset(session: Session, planned: DatasetPlan, actor: str) -> None:
    """Delete the rows of a plan without runs; an audit line remains."""
    dataset = planned.dataset
    carry_out(session, dataset.project_id, planned.references, actor)
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    session.add(
        Deletion(
            project_id=dataset.project_id,
            actor=actor,
            what="dataset",
            name=dataset.name,
            detail={"content_hash": dataset.content_hash},
            bytes=planned.bytes + planned.cache,
            files=[dataset.artifact],
        )
    )
