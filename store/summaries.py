"""What runs scored under every profile, kept: written when a run ends, and made up for runs that are without."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, exists, insert, select
from sqlalchemy.orm import Session, undefer

from store import facts
from store.measure import Measure
from store.models import Run, SliceScore, Summary
from store.results import Scope
from store.states import State

if TYPE_CHECKING:
    from liverseg_core.facts import Facts, Sums


def keep(session: Session, runs: Sequence[Run]) -> None:
    """Compute the summaries of runs from their stored slices and lesions, in place of those there are."""
    rows = [row for run, parts in facts.read(session, runs).items() for row in _rows(run, parts)]
    session.execute(delete(Summary).where(Summary.run_id.in_([run.id for run in runs])))
    if rows:
        session.execute(insert(Summary), rows)


def untrue(session: Session, runs: Sequence[Run]) -> Iterator[str]:
    """Summaries of the runs by today's definitions that are not what the stored slices and lesions give."""
    from liverseg_core.profiles import DEFINITIONS

    true = {_key(row): row for run, parts in facts.read(session, runs).items() for row in _rows(run, parts)}
    query = select(Summary).where(Summary.run_id.in_([run.id for run in runs]), Summary.definitions == DEFINITIONS)
    for one in session.scalars(query.options(undefer(Summary.people))):
        said = {column.name: getattr(one, column.name) for column in Summary.__table__.columns}
        if said != true.get(_key(said)):
            yield f"run {one.run_id}: {one.part}, {one.profile}, {one.level}"


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["run_id"], row["part"], row["profile"], row["level"]


def missing(session: Session, limit: int) -> Sequence[Run]:
    """The oldest scored runs without summaries by today's definitions."""
    from liverseg_core.profiles import DEFINITIONS

    kept = exists().where(Summary.run_id == Run.id, Summary.definitions == DEFINITIONS)
    scored = exists().where(SliceScore.run_id == Run.id)
    query = select(Run).where(Run.state == State.SUCCEEDED, Run.reused_from.is_(None), ~kept, scored)
    return session.scalars(query.order_by(Run.id).limit(limit)).all()


def _rows(run: int, parts: "Mapping[str, Facts]") -> Iterator[dict[str, Any]]:
    from liverseg_core.facts import Sums
    from liverseg_core.profiles import DEFINITIONS, PROFILES

    for part, scored in parts.items():
        scope, sums = vars(Scope.of(scored)), Sums(scored)
        for profile in PROFILES.values():
            for level in profile.levels:
                values = Measure(profile, level).values(sums)
                scores = {key: [one.value, one.n, one.empty, one.failed] for key, one in values.items()}
                people = _people(profile.key, sums) if level == profile.levels[0] else None
                yield {
                    "run_id": run,
                    "part": part,
                    "profile": profile.key,
                    "level": level,
                    "definitions": DEFINITIONS,
                    **scope,
                    "scores": scores,
                    "people": people,
                }


def _people(profile: str, scored: "Sums") -> dict[str, dict[str, float | None]]:
    from liverseg_core.profiles import per_subject

    found = per_subject(profile, scored)
    return {person: {key: one.value for key, one in values.items()} for person, values in found.items()}
