"""What a run scored, as a comparison needs it: the kept summary, and the facts behind it where they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from pydantic_core import from_json
from sqlalchemy import ColumnElement, Text, cast, select
from sqlalchemy.orm import Session

from store import facts
from store.database import among
from store.measure import Values
from store.models import Run, Summary
from store.states import State
from store.views import source

if TYPE_CHECKING:
    from liverseg_core.facts import Facts
    from store.measure import Measure


@dataclass(frozen=True)
class Scope:
    """Which slices were scored, as a hash, and how many slices, scans and subjects they are."""

    slices_hash: str
    slices: int
    scans: int
    subjects: int

    @classmethod
    def of(cls, scored: "Facts") -> "Scope":
        which = sorted(zip(scored.scan.tolist(), scored.slice.tolist(), strict=True))
        digest = sha256(repr(which).encode()).hexdigest()
        return cls(digest, len(which), len(set(scored.scan.tolist())), len(set(scored.subject.tolist())))


People = Mapping[str, Mapping[str, float | None]]
"""Subject -> column -> value."""


class Result:
    """What one run, or the pooled folds of several, scored on one part under one measure.

    Args:
        measure: the profile and its level.
        load: reads the facts; called once, and only where somebody needs them.
        scope: the slices, where that is known without the facts.
        scores: column -> value, where they are known without the facts.
        people: reads subject -> column -> value, None where they are not known without the facts.
    """

    def __init__(
        self,
        measure: "Measure",
        load: "Callable[[], Facts]",
        scope: Scope | None = None,
        scores: Values | None = None,
        people: "Callable[[], People | None]" = lambda: None,
    ) -> None:
        self.measure, self._load, self._scope, self._scores = measure, load, scope, scores
        self._people = people

    @cached_property
    def facts(self) -> "Facts":
        return self._load()

    @cached_property
    def scope(self) -> Scope:
        return self._scope or Scope.of(self.facts)

    @cached_property
    def scores(self) -> Values:
        return self._scores or Values(self.measure.values(self.facts))

    @cached_property
    def people(self) -> "People | None":
        """Subject -> column -> value over that person's slices, where that is known without the facts."""
        return self._people()

    def by_subject(self, column: str) -> dict[str, float | None]:
        """Subject -> the column's value over that person's slices alone, in the order of their names."""
        from liverseg_core.profiles import per_subject

        if self.people is not None:
            return {person: self.people[person][column] for person in sorted(self.people)}
        found = per_subject(self.measure.profile.key, self.facts, only=column)
        return {person: found[person][column].value for person in sorted(found)}


Parts = dict[str, Result]
"""Part (``val``, ``test``) -> what was scored on it."""


def pooled(several: Sequence[Result]) -> Result:
    """The slices of all of them, as if one run had scored them."""
    return Result(
        several[0].measure,
        lambda: facts.joined([one.facts for one in several]),
        people=lambda: _together([one.people for one in several]),
    )


def _together(several: Sequence[People | None]) -> People | None:
    """Those of all; None where one does not know, or somebody is in two of them, whose slices belong together."""
    known = [one for one in several if one is not None]
    every = [person for one in known for person in one]
    if len(known) < len(several) or len(set(every)) < len(every):
        return None
    return {person: values for one in known for person, values in one.items()}


def read(session: Session, runs: Sequence[Run], measure: "Measure") -> dict[int, Parts]:
    """Run id -> part -> result; a reused run has its original's, an unscored one no parts.

    Scores come from the summaries; of a run that has none yet they are computed of its facts. Facts are read at once
    for all runs that are without, or for all when somebody asks for those of one.
    """
    kept = _kept(session, {source(run) for run in runs}, measure)
    behind = _Behind(session, runs, measure)
    found: dict[int, Parts] = {
        run.id: _parts(behind, run, kept[source(run)], measure) for run in runs if source(run) in kept
    }
    others = [run for run in runs if run.id not in found]
    succeeded = [run for run in others if run.state == State.SUCCEEDED]
    computed = facts.read(session, succeeded) if succeeded else {}
    for run in others:
        found[run.id] = {part: _known(measure, one) for part, one in computed.get(run.id, {}).items()}
    return found


class _Behind:
    """The facts of several runs, and what each of their subjects scored, read when the first of them is needed."""

    def __init__(self, session: Session, runs: Sequence[Run], measure: "Measure") -> None:
        self._session, self._runs, self._measure = session, runs, measure

    @cached_property
    def _all(self) -> "dict[int, dict[str, Facts]]":
        return facts.read(self._session, self._runs)

    def of(self, run: int, part: str) -> "Callable[[], Facts]":
        return lambda: self._all[run][part]

    @cached_property
    def _everybody(self) -> dict[tuple[int, str], People | None]:
        query = select(Summary.run_id, Summary.part, Summary.people).where(
            among(Summary.run_id, {source(run) for run in self._runs}),
            *_todays(self._measure, self._measure.profile.levels[0]),
        )
        return {(run, part): people for run, part, people in self._session.execute(query)}

    def people(self, run: int, part: str) -> Callable[[], People | None]:
        return lambda: self._everybody.get((run, part))


def _parts(behind: _Behind, run: Run, kept: Mapping[str, tuple[Scope, Values]], measure: "Measure") -> Parts:
    return {
        part: Result(measure, behind.of(run.id, part), scope, scores, behind.people(source(run), part))
        for part, (scope, scores) in kept.items()
    }


def _known(measure: "Measure", scored: "Facts") -> Result:
    return Result(measure, lambda: scored)


def _kept(session: Session, sources: set[int], measure: "Measure") -> dict[int, dict[str, tuple[Scope, Values]]]:
    """Run id -> part -> scope and scores of the summary, of those that were computed by today's definitions."""
    columns = Summary.slices_hash, Summary.slices, Summary.scans, Summary.subjects
    query = select(Summary.run_id, Summary.part, cast(Summary.scores, Text), *columns).where(
        among(Summary.run_id, sources), *_todays(measure, measure.level)
    )
    found: dict[int, dict[str, tuple[Scope, Values]]] = {}
    for run, part, scores, slices_hash, slices, scans, subjects in session.execute(query):
        scope = Scope(slices_hash, slices, scans, subjects)
        found.setdefault(run, {})[part] = scope, _values(measure.profile.key, scores)
    return found


@lru_cache(2048)  # the runs of a comparison are asked for again whenever it is sorted, filtered or pinned
def _values(profile: str, scores: str) -> Values:
    from liverseg_core.profiles import PROFILES, Value

    known = from_json(scores)
    return Values({column.key: Value(*known[column.key]) for column in PROFILES[profile].columns})


def _todays(measure: "Measure", level: str) -> tuple[ColumnElement[bool], ...]:
    """Summaries of a profile at a level by today's definitions."""
    from liverseg_core.profiles import DEFINITIONS

    return Summary.profile == measure.profile.key, Summary.level == level, Summary.definitions == DEFINITIONS
