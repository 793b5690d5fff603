"""Why a run stands where it stands, and what will happen next, in words for people."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from store import fitting, views
from store.models import Run
from store.reasons import ADVICE
from store.settings import settings
from store.states import State, Wish


@dataclass(frozen=True)
class Standing:
    """``waits``: why it waits to be begun, resumed or stored; ``next``: what will happen, or what to do.

    Null: nothing.
    """

    waits: str | None
    next: str | None


def standing(session: Session, run: Run) -> Standing:
    """How ``run`` stands, by what the ledger knows now."""
    state = State(run.state)
    if state == State.QUEUED:
        return Standing(_queue(session, run), _start(run))
    if state == State.PAUSED:
        return Standing(_pause(run), f"Resume it: it goes on {_place(run)}.")
    if state == State.STOPPING:
        return Standing(None, _end(run))
    if state == State.RUNNING:
        return Standing((run.progress or {}).get("waits"), _should_it_die(run))
    return Standing(None, ADVICE.get(run.reason or ""))


def _queue(session: Session, run: Run) -> str:
    if told := fitting.why_none(session, run, settings().lease_s):
        return told
    ahead = views.ahead(session, run)
    if ahead == 0:
        return f"next in pool {run.pool}; waits for a free worker"
    return f"{ahead} {'run' if ahead == 1 else 'runs'} ahead in pool {run.pool}"


def _start(run: Run) -> str | None:
    if run.fence == 0:
        return None
    crashes = f", after {_times(run.crashes)} crashing" if run.crashes else ""
    return f"It goes on {_place(run)}{crashes}."


def _pause(run: Run) -> str:
    return f"{run.reason}: {run.message}" if run.reason else "somebody paused it"


def _end(run: Run) -> str:
    asked = "It was asked to pause" if run.wish == Wish.PAUSE else "It was cancelled"
    return f"{asked}; its worker ends the trainer within {settings().grace_s:g} s."


def _should_it_die(run: Run) -> str:
    left = settings().max_crashes - run.crashes
    if left <= 1:
        return f"It has crashed {_times(run.crashes)}; should its worker die, it is dead."
    crashes = f" It has crashed {_times(run.crashes)}; {_times(left)} more and it is dead." if run.crashes else ""
    return f"Should its worker die, it goes on {_place(run)} within a minute.{crashes}"


def _place(run: Run) -> str:
    if not run.checkpoint:
        return "from its start"
    apart = " (from its start on a host without that checkpoint)" if settings().artifacts_at else ""
    return f"after epoch {run.checkpoint['epoch']}{apart}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
