"""What the front desk reads: experiments, runs and what belongs to them, always within one project."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, DateTime, Select, Text, bindparam, cast, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from liverseg_core.spec import FOLD_KINDS
from store.database import among
from store.models import Artifact, Attempt, Epoch, Experiment, Run, RunEvent, SliceScore
from store.states import State

SelectT = TypeVar("SelectT", bound=Select[*tuple[Any, ...]])

REFERENCES = "reference_predictors"
"""Key of the submission of an experiment that holds reference predictors."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs to list; None means any."""

    state: State | None = None
    experiment: int | None = None
    name: str | None = None
    kind: str | None = None
    """None: every kind but ``reference``, which nobody submitted."""
    before: int | None = None
    """Cursor: only runs with a smaller id."""


def runs(session: Session, project_id: int, wanted: RunFilter, limit: int) -> Sequence[Run]:
    """Runs of the project, newest first."""
    words = _words(project_id, wanted) | {"most": limit}
    return session.scalars(_page(select(Run), words), words).all()


def newer(session: Session, project_id: int, wanted: RunFilter, limit: int) -> int | None:
    """The cursor of the page of :func:`runs` before the one at ``wanted.before``; None: that is the first page."""
    words = _words(project_id, replace(wanted, before=None))
    query = _chosen(select(Run.id), words).where(Run.id >= wanted.before)
    return session.scalar(query.order_by(Run.id).offset(limit).limit(1), words)


SHOWN: dict[str, ColumnElement[Any]] = {
    **Run.__table__.columns,
    "experiment": Run.__table__.c.experiment_id,
    "dataset": Run.__table__.c.spec["dataset"]["id"],
    "epochs_total": Run.__table__.c.spec["training"]["epochs"],
}
"""What a run can be listed with: its columns, and what follows from them."""


@dataclass(frozen=True)
class Page:
    """Runs as the text of JSON objects with commas between them, how many they are, and the smallest id."""

    objects: str
    count: int
    last: int | None


def runs_as_json(
    connection: Connection, project_id: int, wanted: RunFilter, limit: int, names: Iterable[str]
) -> Page:
    """The runs of :func:`runs` as the database writes them.

    Each with its id and ``names``: of ``SHOWN``, or settings by their dotted paths, null where a spec has none.
    A page of 500 runs is most of a megabyte; to parse it into rows and write it again would be most of the work.
    """
    words = _words(project_id, wanted) | {"most": limit}
    objects, count, last = connection.execute(_as_json(tuple(names), frozenset(words)), words).one()
    return Page(objects or "", count, last)


@lru_cache(64)  # to put the query together takes longer than a search for a rare name
def _as_json(names: tuple[str, ...], words: frozenset[str]) -> Select[str | None, int, int | None]:
    columns = {"id": Run.id} | {name: _shown(name) for name in names}
    page = _page(select(*(column.label(name) for name, column in columns.items())), words).subquery("page")
    # Of a row rather than json_build_object, which looks the type of each value up anew in each row: twice as fast.
    each = cast(func.row_to_json(page.table_valued()), Text)
    return select(
        func.string_agg(each, aggregate_order_by(literal(","), page.c.id.desc())), func.count(), func.min(page.c.id)
    )


def _shown(name: str) -> ColumnElement[Any]:
    """What the object holds; times in UTC, whatever time zone the server is in."""
    if name not in SHOWN:
        return Run.__table__.c.spec[tuple(name.split("."))]
    column = SHOWN[name]
    if isinstance(column.type, DateTime):
        return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    return column


CONDITIONS: dict[str, ColumnElement[bool]] = {
    "state": Run.state == bindparam("state"),
    "experiment": Run.experiment_id == bindparam("experiment"),
    "name": Run.name.ilike(bindparam("name"), escape="/"),
    "before": Run.id < bindparam("before"),
    "kind": Run.kind == bindparam("kind"),
}
"""Field of :class:`RunFilter` -> what it asks of a run."""


def _words(project_id: int, wanted: RunFilter) -> dict[str, Any]:
    """The values in :func:`_chosen`, without the fields that may be anything."""
    name = None if wanted.name is None else f"%{wanted.name.translate(LITERALLY)}%"
    asked = {**vars(wanted), "name": name}
    return {key: value for key, value in asked.items() if value is not None} | {"project": project_id}


LITERALLY = str.maketrans({sign: f"/{sign}" for sign in "/%_"})
"""What stands for itself in a pattern whose escape is ``/``."""


def _page(query: SelectT, words: Collection[str]) -> SelectT:
    if "name" in words:  # found in an index that holds the names, before the rows with their specs are read
        found = _chosen(select(Run.id), words).order_by(Run.id.desc()).limit(bindparam("most"))
        return query.where(Run.id.in_(found)).order_by(Run.id.desc())
    return _chosen(query, words).order_by(Run.id.desc()).limit(bindparam("most"))


def _chosen(query: SelectT, words: Collection[str]) -> SelectT:
    chosen = [condition for word, condition in CONDITIONS.items() if word in words]
    if "kind" not in words:
        chosen.append(Run.kind != "reference")
    return query.where(Run.project_id == bindparam("project"), *chosen)


def run(session: Session, project_id: int, run_id: int) -> Run | None:
    """One run, or None where the project has no such run."""
    return session.scalar(select(Run).where(Run.project_id == project_id, Run.id == run_id))


def retries(session: Session, run_id: int) -> Sequence[int]:
    """The runs that tried it again, oldest first."""
    return session.scalars(select(Run.id).where(Run.retry_of == run_id).order_by(Run.id)).all()


def known(session: Session, project_id: int, run_ids: Collection[int]) -> dict[int, str]:
    """Those of the ids that the project has, each with its kind."""
    query = select(Run.id, Run.kind).where(Run.project_id == project_id, among(Run.id, run_ids))
    return dict(session.execute(query).all())


def experiments(session: Session, project_id: int, limit: int, before: int | None = None) -> Sequence[Experiment]:
    """Experiments of the project, newest first, without those of reference predictors: nobody submitted them."""
    query = select(Experiment).where(Experiment.project_id == project_id, ~Experiment.submission.has_key(REFERENCES))
    if before is not None:
        query = query.where(Experiment.id < before)
    return session.scalars(query.order_by(Experiment.id.desc()).limit(limit)).all()


def experiment(session: Session, project_id: int, experiment_id: int) -> Experiment | None:
    """One experiment, or None where the project has no such experiment."""
    query = select(Experiment).where(Experiment.project_id == project_id, Experiment.id == experiment_id)
    return session.scalar(query)


def experiment_runs(session: Session, experiment_id: int) -> Sequence[Run]:
    """The runs of an experiment in the order of its cells."""
    return session.scalars(EXPERIMENT_RUNS, {"experiment": experiment_id}).all()


EXPERIMENT_RUNS = select(Run).where(Run.experiment_id == bindparam("experiment")).order_by(Run.id)


def source(run: Run) -> int:
    """The run whose result ``run`` shows: itself, or the one it reuses."""
    return run.reused_from or run.id


def shown_part(run: Run, parts: Collection[str]) -> str | None:
    """Test where there is one; of a fold val, since folds that are pooled would hold the same test slices each."""
    folds = run.spec["dataset"].get("split", {}).get("kind") in FOLD_KINDS
    return "val" if folds and "val" in parts else min(parts, default=None)  # test sorts before val


def epochs(session: Session, run_id: int) -> Sequence[Epoch]:
    """The epochs that count, in order; archived rows are left out."""
    query = select(Epoch).where(Epoch.run_id == run_id, Epoch.archived_at.is_(None))
    return session.scalars(query.order_by(Epoch.epoch)).all()


def attempts(session: Session, run_id: int) -> Sequence[Attempt]:
    """Every attempt at a run, first one first."""
    return session.scalars(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number)).all()


def attempt_log(session: Session, run_id: int, number: int | None) -> str | None:
    """The end of the log of an attempt that left no result; ``number`` None: of the last one that has any."""
    query = select(Attempt.log).where(Attempt.run_id == run_id, Attempt.log.is_not(None))
    if number is not None:
        query = query.where(Attempt.number == number)
    return session.scalar(query.order_by(Attempt.number.desc()).limit(1))


def events(session: Session, run_id: int) -> Sequence[RunEvent]:
    """What happened to a run, in order."""
    return session.scalars(select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.id)).all()


def artifacts(session: Session, run_id: int) -> Sequence[Artifact]:
    """The files a run left."""
    return session.scalars(select(Artifact).where(Artifact.run_id == run_id).order_by(Artifact.kind)).all()


def slices_of_scan(session: Session, run_id: int, part: str, scan: int) -> Sequence[int]:
    """The evaluated slices of a scan by number, in their order along the body."""
    query = select(SliceScore.slice).where(SliceScore.run_id == run_id, SliceScore.part == part)
    return session.scalars(query.where(SliceScore.scan == scan).order_by(SliceScore.slice)).all()


def ahead(session: Session, run: Run) -> int:
    """How many queued runs of its pool come before a queued run."""
    first = (Run.priority > run.priority) | ((Run.priority == run.priority) & (Run.id < run.id))
    query = select(func.count()).where(Run.pool == run.pool, Run.state == State.QUEUED, first)
    return session.scalars(query).one()


def counts_by_state(session: Session, project_id: int, wanted: RunFilter) -> dict[str, int]:
    """How many of the runs that :func:`runs` lists are in each state, whatever ``state`` or ``before`` it asks."""
    words = _words(project_id, replace(wanted, state=None, before=None))
    query = _chosen(select(Run.state, func.count()), words).group_by(Run.state)
    return dict(session.execute(query, words).all())
