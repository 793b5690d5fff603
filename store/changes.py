"""What happened since somebody last looked: to one run, behind its live page, and to all runs of a project."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import ARRAY, BigInteger, Connection, all_, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from store import marks
from store.marks import Mark
from store.models import Epoch, Run, RunEvent
from store.states import FINAL

PATTERN = r"^[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,9}$"
"""How a position is written."""


@dataclass(frozen=True)
class Position:
    """How far somebody has followed a run; the start has seen nothing.

    Written as ``EVENT.ATTEMPT.EPOCH``: the id of the last move seen, and the attempt and number of the last epoch.
    An attempt that goes on from a checkpoint repeats epochs of an earlier one; by their attempts they come after it.
    """

    event: int = 0
    attempt: int = 0
    epoch: int = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The position that ``text`` writes; None: it writes none."""
        return cls(*map(int, text.split("."))) if re.fullmatch(PATTERN, text, re.ASCII) else None

    def after(self, one: Epoch | RunEvent) -> Self:
        """The position of whoever has seen that too."""
        if isinstance(one, Epoch):
            return replace(self, attempt=one.attempt, epoch=one.epoch)
        return replace(self, event=one.id)

    def __str__(self) -> str:
        return f"{self.event}.{self.attempt}.{self.epoch}"


@dataclass(frozen=True)
class Changes:
    """What somebody at a position has not seen yet."""

    news: Sequence[tuple[Epoch | RunEvent, Position]]
    """Each with the position of whoever has seen it. Epochs first, so that a run is seen to end with its last one
    there; each epoch takes the place of an earlier one of its number and of all after that."""
    progress: dict[str, Any] | None
    """What the worker told last, whether or not it was seen before."""
    over: bool
    """Whether nothing will follow, unless somebody queues a dead run again."""


NOW = select(
    Run.state,
    Run.progress,
    func.coalesce(Run.reused_from, Run.id).label("source"),
    select(func.max(RunEvent.id)).where(RunEvent.run_id == Run.id).scalar_subquery().label("event"),
).where(Run.id == bindparam("run"))
MOVES = select(RunEvent).where(RunEvent.run_id == bindparam("run"), RunEvent.id > bindparam("event"))
EPOCHS = select(Epoch).where(
    Epoch.run_id == bindparam("run"),
    Epoch.archived_at.is_(None),
    tuple_(Epoch.attempt, Epoch.epoch) > tuple_(bindparam("attempt"), bindparam("epoch")),
)


def since(session: Session, run_id: int, seen: Position) -> Changes | None:
    """What happened to the run after ``seen``; None where there is no such run (any more).

    The session should be one snapshot: else a move may be seen before the epochs that preceded it.
    """
    now = session.execute(NOW, {"run": run_id}).one_or_none()
    if now is None:
        return None
    moves: Sequence[RunEvent] = ()
    if now.event != seen.event:
        moves = session.scalars(MOVES.order_by(RunEvent.id), {"run": run_id, "event": seen.event}).all()
    after = {"run": now.source, "attempt": seen.attempt, "epoch": seen.epoch}
    epochs = session.scalars(EPOCHS.order_by(Epoch.attempt, Epoch.epoch), after).all()
    news: list[tuple[Epoch | RunEvent, Position]] = []
    rows: list[Epoch | RunEvent] = [*epochs, *moves]
    for one in rows:
        seen = seen.after(one)
        news.append((one, seen))
    return Changes(news, now.progress, now.state in FINAL)


@dataclass(frozen=True)
class Followed:
    """How far somebody has followed the moves of a project.

    Attributes:
        after: the id up to which everything has been told; None: it is not known yet from where on.
        mark: up to where everything will have been told, as soon as all of that can be seen.
        late: whether it could not be seen when it was last looked for.
        told: ids after ``after`` that have been told already.
    """

    after: int | None = None
    mark: Mark | None = None
    late: bool = False
    told: frozenset[int] = frozenset()


def marked(connection: Connection, followed: Followed) -> Followed:
    """With a mark where something has happened since; each question a transaction of its own."""
    newest = marks.newest(connection)
    if followed.mark is not None or (followed.after is not None and newest <= followed.after):
        return followed
    return replace(followed, mark=marks.drawn(connection, newest))


OF_PROJECT = (
    select(RunEvent, Run.name)
    .join(Run, Run.id == RunEvent.run_id)
    .where(
        Run.project_id == bindparam("project"),
        RunEvent.id > bindparam("after"),
        RunEvent.id <= bindparam("newest"),
        RunEvent.id != all_(bindparam("told", type_=ARRAY(BigInteger))),
    )
    .order_by(RunEvent.id)
    .limit(bindparam("limit"))
)
LAST = 2**63 - 1
EARLY = 5000
"""How many moves are told before an older transaction has ended; those after that wait for it."""

Moves = Sequence[tuple[RunEvent, str]]
"""Each with its run's name."""


def of_project(session: Session, project_id: int, followed: Followed, limit: int = 500) -> tuple[Moves, Followed]:
    """Moves of the project's runs that have not been told yet, in order, and where somebody is then.

    Whoever goes on from there, or begins again after the ``after`` of that place, misses none. A transaction that
    stays open for long holds up the others' moves for one look and no longer: then they are told as they can be seen,
    and come again for whoever begins again before it ends. Moves of one run are always in order.
    """
    mark = followed.mark
    if mark is None:
        return [], followed
    complete = marks.complete(session, mark)
    if not complete and (followed.after is None or not followed.late or len(followed.told) >= EARLY):
        return [], replace(followed, late=True)
    if followed.after is None:
        return [], Followed(mark.newest)
    bounds = {"after": followed.after, "newest": mark.newest if complete else LAST, "told": list(followed.told)}
    asked = session.execute(OF_PROJECT, {"project": project_id, "limit": limit, **bounds})
    moves = [(move, name) for move, name in asked]
    if not complete:
        return moves, replace(followed, told=followed.told.union(move.id for move, _ in moves))
    settled, left = (moves[-1][0].id, mark) if len(moves) == limit else (mark.newest, None)
    return moves, Followed(settled, left, told=frozenset(one for one in followed.told if one > settled))
