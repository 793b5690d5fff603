"""The states of a run and every arrow between them; drawn here and nowhere else.

    submit ──> queued ──claim──> running ──succeed──> succeeded
      │         │^ ^ ^            ││ │ ├──fail──────> failed
      │         ││ │ └──release───┘│ │ ├──poison────> dead ──requeue──> queued
      │         ││ └────crash──────┘ │ ├──hold──────> paused ──resume──> queued
      │         ││                   │ └──cancel, pause──> stopping ──cancelled──> cancelled
      │         │└──reattach         │                              ├──paused────> paused
      │         │   (to running)     │                              └──succeed, fail (the trainer was quicker)
      │         ├──cancel──> cancelled <──cancel── paused
      │         └──pause───> paused
      └─reuse──> succeeded

``release`` is an interruption (drain, SIGTERM) and burns nothing; ``crash`` is a trainer or worker that died
and counts; at the limit it is ``poison``. ``hold`` is a pause that the worker asks for itself, its disk being full.
``reattach`` is a worker that comes back after its lease ran out, before anybody has claimed, paused or requeued its
run.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Waits for a worker of its pool."""
    RUNNING = "running"
    """A worker owns it and its trainer works."""
    STOPPING = "stopping"
    """Cancel or pause was asked; its worker is ending the trainer."""
    PAUSED = "paused"
    """Waits, with its checkpoint, until somebody resumes it."""
    SUCCEEDED = "succeeded"
    """Finished, with a score for every evaluated slice."""
    FAILED = "failed"
    """The run itself is at fault; another attempt would fail too."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    DEAD = "dead"
    """Its attempts crashed too often; an operator may requeue it."""


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.DEAD})
OWNED = frozenset({State.RUNNING, State.STOPPING})

ARROWS: dict[str, dict[State | None, State]] = {
    "submit": {None: State.QUEUED},
    "reuse": {None: State.SUCCEEDED},
    "claim": {State.QUEUED: State.RUNNING},
    "reattach": {State.QUEUED: State.RUNNING},
    "succeed": {State.RUNNING: State.SUCCEEDED, State.STOPPING: State.SUCCEEDED},
    "fail": {State.RUNNING: State.FAILED, State.STOPPING: State.FAILED},
    "release": {State.RUNNING: State.QUEUED},
    "crash": {State.RUNNING: State.QUEUED},
    "poison": {State.RUNNING: State.DEAD},
    "hold": {State.RUNNING: State.PAUSED},
    "cancel": {
        State.QUEUED: State.CANCELLED,
        State.PAUSED: State.CANCELLED,
        State.RUNNING: State.STOPPING,
        State.STOPPING: State.STOPPING,
    },
    "pause": {State.QUEUED: State.PAUSED, State.RUNNING: State.STOPPING},
    "cancelled": {State.STOPPING: State.CANCELLED},
    "paused": {State.STOPPING: State.PAUSED},
    "resume": {State.PAUSED: State.QUEUED},
    "requeue": {State.DEAD: State.QUEUED},
}


class Wish(StrEnum):
    """What somebody asked of a run that a worker owns."""

    CANCEL = "cancel"
    PAUSE = "pause"


class Outcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CRASHED = "crashed"
    LOST = "lost"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


EDIT = "edit"
"""Word of an event that is no move: somebody changed the run's name, notes, tags or priority; its state stayed."""

ELSEWHERE = "elsewhere"
"""Word of another event that is no move: the attempt went on from a checkpoint of different hardware."""

REMARKS = frozenset({EDIT, ELSEWHERE})
"""Words of events that change no state."""

RETRIED = frozenset({State.FAILED, State.CANCELLED})
"""From these a run is tried again as another one, linked to it: its own end stands."""

MEANT = {
    "cancel": "be cancelled",
    "pause": "be paused; only a queued or running run can",
    "resume": "be resumed; only a paused run can",
    "requeue": "be queued again; only a dead run can",
    "retry": "be tried again as another run; only a failed or cancelled run can",
    "first": "be put first; only a queued or paused run can",
    "priority": "be given another priority, since it has ended",
}
"""Moves that people ask for, in words."""


class IllegalMove(Exception):
    """A move that no arrow allows from the run's true state."""

    def __init__(self, run_id: int, move: str, state: State) -> None:
        self.run_id, self.move, self.state = run_id, move, state
        super().__init__(f"run {run_id} is {state}, so it cannot {MEANT.get(move, move)}")


def target(move: str, state: State | None) -> State | None:
    """The state that ``move`` leads to from ``state``; None where there is no such arrow."""
    return ARROWS[move].get(state)
