"""Every arrow, every missing arrow, and the drawing."""

import pytest

from store import states
from store.models import Run
from store.queue import move
from store.states import ARROWS, FINAL, OWNED, IllegalMove, State, target

# Written out a second time on purpose: a changed arrow must be changed in two places, knowingly.
EVERY_ARROW = {
    ("submit", None, "queued"),
    ("reuse", None, "succeeded"),
    ("claim", "queued", "running"),
    ("succeed", "running", "succeeded"),
    ("fail", "running", "failed"),
    ("release", "running", "queued"),
    ("crash", "running", "queued"),
    ("poison", "running", "dead"),
    ("hold", "running", "paused"),
    ("reattach", "queued", "running"),
    ("succeed", "stopping", "succeeded"),
    ("fail", "stopping", "failed"),
    ("cancel", "queued", "cancelled"),
    ("cancel", "running", "stopping"),
    ("cancel", "stopping", "stopping"),
    ("cancel", "paused", "cancelled"),
    ("cancelled", "stopping", "cancelled"),
    ("pause", "queued", "paused"),
    ("pause", "running", "stopping"),
    ("paused", "stopping", "paused"),
    ("resume", "paused", "queued"),
    ("requeue", "dead", "queued"),
}
HAVE = {(name, start) for name, start, _ in EVERY_ARROW}
MISSING = [(name, state) for name in ARROWS for state in State if (name, str(state)) not in HAVE]


class Recorder:
    """What a move adds; stands where a session does, as no database is needed to refuse a move."""

    def __init__(self) -> None:
        self.added = []

    def add(self, row) -> None:
        self.added.append(row)


def test_the_arrows_are_exactly_these():
    drawn = {(name, start, end) for name, arrows in ARROWS.items() for start, end in arrows.items()}
    assert drawn == EVERY_ARROW


@pytest.mark.parametrize(("name", "start", "end"), sorted(one for one in EVERY_ARROW if one[1]))
def test_an_arrow_leads_there_and_leaves_one_event(name, start, end):
    session, run = Recorder(), Run(id=7, pool="default", state=start)
    move(session, run, name, attempt=3, detail="why")
    events = [row for row in session.added if row.__tablename__ == "run_events"]
    assert run.state == end
    assert [(e.run_id, e.move, e.state) for e in events] == [(7, name, end)]
    assert sum(row.__tablename__ == "outbox" for row in session.added) == (end == "queued")
    assert target(name, State(start)) == end


@pytest.mark.parametrize(("name", "state"), MISSING)
def test_a_move_without_an_arrow_raises_and_changes_nothing(name, state):
    session, run = Recorder(), Run(id=7, pool="default", state=state)
    with pytest.raises(IllegalMove) as caught:
        move(session, run, name)
    assert (caught.value.run_id, caught.value.move, caught.value.state) == (7, name, state)
    assert str(state) in str(caught.value)
    assert run.state == state
    assert session.added == []


def test_there_are_moves_to_refuse():
    assert len(MISSING) == 16 * 8 - 20  # sixteen moves, eight states, twenty arrows that start at a state


def test_only_a_dead_run_leaves_a_final_state():
    assert {(name, start) for name, start in HAVE if start in FINAL} == {("requeue", "dead")}


def test_every_state_is_reached_and_is_waiting_owned_or_final():
    assert {end for _, _, end in EVERY_ARROW} == set(State)
    assert FINAL | OWNED | {State.QUEUED, State.PAUSED} == set(State)
    assert not FINAL & OWNED


def test_the_drawing_names_every_state_and_every_move():
    drawing = states.__doc__
    assert all(str(state) in drawing for state in State)
    assert all(name in drawing for name in ARROWS)
