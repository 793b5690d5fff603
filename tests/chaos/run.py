"""One run of chaos from the first start to the table of counts."""

import heapq
import itertools
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from store import database, verify
from store.models import Attempt, Run, RunEvent
from store.states import FINAL, Outcome, State
from tests import factories
from tests.chaos.checks import Checks, expected_end, left_behind
from tests.chaos.client import Person
from tests.chaos.faults import GAP_S, QUIET, Faults, shuffled
from tests.chaos.promises import Promises
from tests.chaos.stack import Stack

PEOPLE = 2
TICK_S = 0.1
LOOK_S = 5.0
"""How often the ledger is looked at while things break."""
STUCK_S = 180
"""Without any change for so long after the chaos, the queue stands still."""
SWEPT_S = 60
DONE, DONE_AT_LEAST, LONG_S = "kills and stops", 100, 600
"""What ten minutes must have done to the stack to count."""
REFUSED = re.compile(r"run (\d+): attempt (\d+) lost its lease and wrote nothing more")


class Chaos:
    """The stack, the people, what is done to it, and what is known of it.

    Args:
        home: a new folder, which the settings of this process name.
        random: everything random comes from it.
    """

    def __init__(self, home: Path, random: Random) -> None:
        self._random = random
        self._stack = Stack(home)
        self._faults = Faults(self._stack)
        self._promises = Promises()
        self._people = [
            Person(f"person-{number}", Random(random.random()), self._stack.urls, self._promises)
            for number in range(1, PEOPLE + 1)
        ]
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._broken: list[str] = []
        self._invariants = 0
        self._looked = 0.0

    def run(self, seconds: float) -> list[str]:
        """All of it; what is broken, in words."""
        try:
            factories.import_phantom(self._stack.home, slices=16)
            self._stack.await_ready()
            self._shake(seconds)
            self._calm()
            self._settle()
            self._await_sweep()
            self._check()
        except Exception:  # the runner's edge: the stack is to be stopped and the seed told, whatever happened
            self._broken.append(traceback.format_exc())
        table = self._table()
        if seconds >= LONG_S and table[DONE] < DONE_AT_LEAST:
            self._broken.append(f"{table[DONE]} {DONE} are too few to show anything; {DONE_AT_LEAST} are asked for")
        self._stack.stop()
        self._broken += [f"left over: {one}" for one in self._stack.left_over()]
        for name, value in table.items():
            print(f"  {name:<46} {value:>6}")
        return self._broken

    # ---- the chaos -------------------------------------------------------------------------------------------

    def _shake(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for person in self._people:
            person.start()
        deck: list[str] = []
        while time.monotonic() < end:
            deck = deck or shuffled(self._random)
            for delay, undo in self._faults.deal(deck.pop(), Random(self._random.random())):
                heapq.heappush(self._later, (time.monotonic() + delay, next(self._numbers), undo))
            self._pass_time(min(end, time.monotonic() + self._random.uniform(*GAP_S)))

    def _pass_time(self, until: float) -> None:
        """Tend the stack and undo what is due."""
        while time.monotonic() < until:
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
            self._stack.tend()
            self._look()
            time.sleep(TICK_S)

    def _look(self) -> None:
        """Now and then: what must be true at every moment, in one snapshot of the ledger."""
        if time.monotonic() - self._looked < LOOK_S or self._stack.postgres is None:
            return
        self._looked = time.monotonic()
        self._broken += self._stack.crowded()
        try:
            with database.transaction() as session:
                session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
                found = [one for one in verify.verify(session, files=False) if one.name not in verify.TIMED]
        except DBAPIError as error:
            if not database.is_outage(error):
                raise
            return
        self._invariants += len(found)
        self._broken += [f"in mid-chaos: {one}" for one in found if not one.holds]

    def _calm(self) -> None:
        """Everything that was stopped, frozen or taken away goes on."""
        for person in self._people:
            person.stop()
        while self._later:
            self._pass_time(time.monotonic() + TICK_S)
        self._broken += self._faults.broken

    def _settle(self) -> None:
        """Repeat what was not answered, resume and requeue, until every run has ended as it must."""
        seen, since = None, time.monotonic()
        while not self._at_rest():
            self._pass_time(time.monotonic() + 1)
            self._help()
            now = self._standing()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK_S:
                waiting = {run: str(one[0]) for run, one in now.items() if one[0] not in FINAL}
                raise AssertionError(f"nothing has moved for {STUCK_S} s: {waiting}")

    def _await_sweep(self) -> None:
        """A worker clears up now and then; what is left after a long while is found by a check."""
        deadline = time.monotonic() + SWEPT_S
        while self._left_behind() and time.monotonic() < deadline:
            self._pass_time(time.monotonic() + 1)

    def _left_behind(self) -> list[int]:
        with database.transaction() as session:
            return left_behind(session)

    def _help(self) -> None:
        """What a person would do in the end."""
        person = self._people[0]
        for submission in self._promises.unanswered():
            person.send(submission)
        for run_id, (state, _, end) in self._standing().items():
            if state == State.PAUSED:
                person.ask("resume", run_id)
            elif state == State.DEAD and end != State.DEAD:
                person.ask("requeue", run_id)

    def _at_rest(self) -> bool:
        ended = [
            state in FINAL and (state != State.DEAD or end == state) for state, _, end in self._standing().values()
        ]
        return all(ended) and not self._promises.unanswered()

    def _standing(self) -> dict[int, tuple[State, str, State]]:
        """Of each run: its state, what changes while it gets on, and where it ends if nobody cancels it."""
        with database.transaction() as session:
            return {
                run.id: (State(run.state), f"{run.fence} {run.progress} {run.checkpoint}", expected_end(run))
                for run in session.scalars(select(Run))
            }

    # ---- afterwards ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        with database.transaction() as session:
            found = verify.verify(session)
            checked = Checks(session, self._promises).every()
        self._invariants += len(found) + len(checked)
        self._broken += [str(one) for one in found if not one.holds]
        self._broken += [f"{name}: {one}" for name, broken in checked.items() for one in broken]
        self._broken += [f"a trainer runs though every run has ended: {one}" for one in self._stack.trainers()]

    def _table(self) -> dict[str, int]:
        """Counts of all that was done and of what came of it."""
        rows: dict[str, int] = {}
        faults = self._faults.counts
        rows[DONE] = sum(count for name, count in faults.items() if name not in QUIET)
        rows |= {f"  {name}": count for name, count in sorted(faults.items())}
        rows |= dict(sorted(self._stack.counts.items()))
        rows |= dict(sorted(self._promises.counts.items()))
        try:
            rows |= self._ledger()
        except DBAPIError:
            self._broken.append("the ledger cannot be read")
        rows["invariants and checks looked at"] = self._invariants
        return rows

    def _ledger(self) -> dict[str, int]:
        with database.transaction() as session:
            outcomes = dict(session.execute(select(Attempt.outcome, func.count()).group_by(Attempt.outcome)).all())
            moves = dict(session.execute(select(RunEvent.move, func.count()).group_by(RunEvent.move)).all())
            states = dict(session.execute(select(Run.state, func.count()).group_by(Run.state)).all())
            reused = session.scalars(select(func.count()).where(Run.reused_from.is_not(None))).one()
            lost = set(session.execute(select(Attempt.run_id, Attempt.number).where(Attempt.outcome == "lost")).all())
        refused = self._refused()
        rows = {f"attempts {one}": outcomes.get(one, 0) for one in Outcome}
        rows["stale writers refused"] = len(refused & {tuple(one) for one in lost})
        rows["own endings told twice (reply lost)"] = len(refused - {tuple(one) for one in lost})
        rows |= {f"moves {one}": moves.get(one, 0) for one in ("crash", "poison", "reattach", "requeue", "hold")}
        rows |= {f"runs {one}": states.get(one, 0) for one in State}
        rows["runs reused"] = reused
        return rows

    def _refused(self) -> set[tuple[int, int]]:
        """(run, attempt) of every writer that was told that its run is somebody else's, from the workers' logs."""
        told = "".join(worker.log.read_text(errors="replace") for worker in self._stack.workers)
        return {(int(run), int(attempt)) for run, attempt in REFUSED.findall(told)}
