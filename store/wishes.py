"""What people ask of a run: cancel, pause, resume, requeue, edit, put first. None: the project has no such run."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.models import Run, RunEvent
from store.queue import locking, move
from store.states import EDIT, FINAL, IllegalMove, State, Wish

HIGHEST_PRIORITY = 1_000_000


def cancel(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Ask a run to end; asking twice is once.

    Raises:
        IllegalMove: it has ended in another way.
    """
    run = _locked(session, project_id, run_id)
    if run is not None and run.state != State.CANCELLED and run.wish != Wish.CANCEL:
        move(session, run, "cancel", actor=actor)
        _wish(session, run, Wish.CANCEL)
    return run


def pause(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Ask a run to wait at its last checkpoint until it is resumed; asking twice is once.

    Raises:
        IllegalMove: it has ended, or is being cancelled.
    """
    run = _locked(session, project_id, run_id)
    if run is not None and run.state != State.PAUSED and run.wish != Wish.PAUSE:
        move(session, run, "pause", actor=actor)
        _wish(session, run, Wish.PAUSE)
    return run


def resume(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Queue a paused run again; it goes on from its checkpoint.

    Raises:
        IllegalMove: it is not paused.
    """
    run = _locked(session, project_id, run_id)
    if run is not None:
        move(session, run, "resume", actor=actor)
        run.reason, run.message = None, None
        _settle(session, run)
    return run


def requeue(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Give a dead run a new set of attempts.

    Raises:
        IllegalMove: it is not dead.
    """
    run = _locked(session, project_id, run_id)
    if run is not None:
        move(session, run, "requeue", actor=actor)
        run.crashes, run.reason, run.message, run.finished_at = 0, None, None, None
        _settle(session, run)
    return run


def edit(
    session: Session, project_id: int, run_id: int, changes: Mapping[str, Any], actor: str | None = None
) -> Run | None:
    """Change a run's name, notes, tags or priority; what stays as it is leaves no trace.

    Raises:
        IllegalMove: another priority for a run that has ended.
    """
    run = _locked(session, project_id, run_id)
    if run is None:
        return None
    different = {name: value for name, value in changes.items() if getattr(run, name) != value}
    if "priority" in different and run.state in FINAL:
        raise IllegalMove(run.id, "priority", State(run.state))
    if different:
        told = "; ".join(f"{name}: {_shown(getattr(run, name))} → {_shown(new)}" for name, new in different.items())
        session.add(RunEvent(run_id=run.id, move=EDIT, state=run.state, actor=actor, detail=told))
        for name, value in different.items():
            setattr(run, name, value)
        _settle(session, run)
    return run


def first(session: Session, project_id: int, run_id: int, actor: str | None = None) -> Run | None:
    """Put a run before all that wait in its pool; asking twice is once.

    Raises:
        IllegalMove: it is neither queued nor paused.
    """
    run = _locked(session, project_id, run_id)
    if run is None:
        return None
    if run.state not in (State.QUEUED, State.PAUSED):
        raise IllegalMove(run.id, "first", State(run.state))
    others = select(func.max(Run.priority)).where(
        Run.pool == run.pool, Run.state.in_((State.QUEUED, State.PAUSED)), Run.id != run.id
    )
    highest = session.scalar(others)
    if highest is None or run.priority > highest:
        return run
    return edit(session, project_id, run_id, {"priority": min(highest + 1, HIGHEST_PRIORITY)}, actor)


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _locked(session: Session, project_id: int, run_id: int) -> Run | None:
    return session.scalar(locking(select(Run).where(Run.id == run_id, Run.project_id == project_id)))


def _wish(session: Session, run: Run, wish: Wish) -> None:
    run.wish = wish if run.state == State.STOPPING else None
    _settle(session, run)


def _settle(session: Session, run: Run) -> None:
    """Write and read back, so that times set by the database's clock can be shown."""
    session.flush()
    session.refresh(run)
