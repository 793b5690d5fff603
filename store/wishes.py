"""What people ask of a run: cancel, pause, resume, requeue. None: the project has no such run."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import Run
from store.queue import locking, move
from store.states import State, Wish


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


def _locked(session: Session, project_id: int, run_id: int) -> Run | None:
    return session.scalar(locking(select(Run).where(Run.id == run_id, Run.project_id == project_id)))


def _wish(session: Session, run: Run, wish: Wish) -> None:
    run.wish = wish if run.state == State.STOPPING else None
    _settle(session, run)


def _settle(session: Session, run: Run) -> None:
    """Write and read back, so that times set by the database's clock can be shown."""
    session.flush()
    session.refresh(run)
