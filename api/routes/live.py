"""Events of a run as they happen, for pages and whoever else follows one: server-sent, resumable."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool

from api.callers import Project
from api.parameters import RunId
from api.routes.runs import known_run
from api.schemas import EpochOut, EventOut
from store import changes
from store.changes import Changes, Position
from store.database import is_outage, snapshot, transaction
from store.models import Epoch, RunEvent
from store.settings import settings

router = APIRouter(prefix="/v1/runs", tags=["runs"])

LOOK_EVERY_S = 0.5
RECONNECT_MS = 1000

After = Annotated[str | None, Query(pattern=changes.PATTERN, description="go on after the event with this id")]
LastEventId = Annotated[str | None, Header(max_length=200, description="the same; what browsers send, counts more")]


def followed(project: Project, run: RunId) -> int:
    """The run, or a 404 before anything is streamed."""
    with transaction() as session:
        return known_run(session, project, run).id


@router.get("/{run}/events", response_class=EventSourceResponse)
async def events(
    request: Request,
    run: Annotated[int, Depends(followed)],
    after: After = None,
    last_event_id: LastEventId = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a run as it happens, and what has happened so far.

    ``move``: an entry of its history. ``epoch``: an epoch's values, which take the place of an earlier epoch of that
    number and of all after it. ``progress``: what its worker told last. ``end``: nothing will follow. The stream ends
    after a minute or so; a client goes on where it was by sending the last ``id`` in ``Last-Event-ID``, as browsers
    do by themselves.
    """
    seen = _position(last_event_id) or _position(after) or Position()
    progress = None
    async for found in _looks(run, seen, request.app.state.closing):
        for one, seen in found.news:
            yield _told(one, seen)
        if found.progress is not None and found.progress != progress:
            progress = found.progress
            yield ServerSentEvent(event="progress", data=progress)
        if found.over:
            yield ServerSentEvent(event="end", data={}, id=str(seen))


def _position(text: str | None) -> Position | None:
    """None also for an id of another stream, which a browser may have kept."""
    return Position.parse(text) if text else None


async def _looks(run: int, seen: Position, closing: asyncio.Event) -> AsyncIterator[Changes]:
    """What is new, again and again, until the run or the stream's time is over or the API is to stop."""
    until = time.monotonic() + settings().stream_s
    while found := await run_in_threadpool(_since, run, seen):
        yield found
        seen = found.news[-1][1] if found.news else seen
        left = until - time.monotonic()
        if found.over or left <= 0 or await _is_set_within(closing, min(left, LOOK_EVERY_S)):
            return


def _since(run: int, seen: Position) -> Changes | None:
    """None: the run was deleted, or the database is away; who connects again is told."""
    try:
        with snapshot() as session:
            return changes.since(session, run, seen)
    except (DBAPIError, PoolTimeout) as error:
        if not is_outage(error):
            raise
        return None


def _told(one: Epoch | RunEvent, place: Position) -> ServerSentEvent:
    data = EpochOut.model_validate(one) if isinstance(one, Epoch) else EventOut.model_validate(one)
    kind = "epoch" if isinstance(one, Epoch) else "move"
    return ServerSentEvent(event=kind, data=data, id=str(place), retry=RECONNECT_MS)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
