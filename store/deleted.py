"""What was deleted: the audit lines that outlive it, read back."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import Deletion, FrozenComparison


def deleted_runs(session: Session, project_id: int, run_ids: Collection[int]) -> dict[int, Deletion]:
    """Those of the ids that were runs of the project and are deleted."""
    if not run_ids:
        return {}
    query = select(Deletion).where(
        Deletion.project_id == project_id, Deletion.what == "run", Deletion.run_id.in_(run_ids)
    )
    return {one.run_id: one for one in session.scalars(query) if one.run_id is not None}


def deleted_of_experiment(session: Session, project_id: int, experiment_id: int) -> list[Deletion]:
    """The deleted runs of an experiment, in order."""
    query = select(Deletion).where(
        Deletion.project_id == project_id, Deletion.what == "run", Deletion.experiment_id == experiment_id
    )
    return list(session.scalars(query.order_by(Deletion.run_id)))


def without_maps(session: Session, run_ids: Collection[int]) -> dict[int, Deletion]:
    """Those of the runs whose maps were deleted, with the last deletion."""
    if not run_ids:
        return {}
    query = select(Deletion).where(Deletion.what == "files", Deletion.run_id.in_(run_ids)).order_by(Deletion.id)
    return {one.run_id: one for one in session.scalars(query) if one.run_id is not None}


def listing(session: Session, project_id: int, limit: int, before: int | None = None) -> Sequence[Deletion]:
    """What was deleted in a project, newest first."""
    query = select(Deletion).where(Deletion.project_id == project_id)
    if before is not None:
        query = query.where(Deletion.id < before)
    return session.scalars(query.order_by(Deletion.id.desc()).limit(limit)).all()


def frozen_with(session: Session, project_id: int, run_ids: Sequence[int]) -> list[str]:
    """Keys of the frozen comparisons that show one of the runs."""
    query = select(FrozenComparison.key).where(
        FrozenComparison.project_id == project_id, FrozenComparison.runs.overlap(list(run_ids))
    )
    return list(session.scalars(query.order_by(FrozenComparison.id)))


def sentence(one: Deletion) -> str:
    """``Run 3 (Shuffled) was deleted on 2027-01-31 by anna``."""
    what = {"run": f"Run {one.run_id}", "files": f"The maps and checkpoints of run {one.run_id}"}.get(
        one.what, "The data set"
    )
    verb = "were" if one.what == "files" else "was"
    return f"{what}{f' ({one.name})' if one.name else ''} {verb} deleted on {_day(one.at)} by {one.actor}"


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d")
