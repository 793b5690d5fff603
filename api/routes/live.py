"""Events of runs as they happen, for pages and whoever else follows: server-sent, resumable."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool

from api.callers import Project
from api.parameters import RunId
from api.routes.runs import known_run
from api.schemas import EpochOut, EventOut, ProjectEventOut
from store import changes
from store.changes import Changes, Followed, Moves, Position
from store.database import is_outage, looking, snapshot, transaction
from store.models import Epoch, RunEvent
from store.settings import settings

router = APIRouter(prefix="/v1", tags=["runs"])

LOOK_EVERY_S = 0.5
RECONNECT_MS = 1000
MOVE_ID = r"^[0-9]{1,18}$"

After = Annotated[str | None, Query(pattern=changes.PATTERN, description="go on after the event with this id")]
AfterMove = Annotated[
    str | None,
    Query(pattern=MOVE_ID, description="go on after the event with this id; 0: all that has ever happened"),
]
LastEventId = Annotated[str | None, Header(max_length=200, description="the same; what browsers send, counts more")]

Found = TypeVar("Found")
Place = TypeVar("Place")


def followed(project: Project, run: RunId) -> int:
    """The run, or a 404 before anything is streamed."""
    with transaction() as session:
        return known_run(session, project, run).id


@router.get("/runs/{run}/events", response_class=EventSourceResponse)
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
    progress = None

    def look(seen: Position) -> tuple[Changes, Position] | None:
        with snapshot() as session:
            found = changes.since(session, run, seen)
        return None if found is None else (found, found.news[-1][1] if found.news else seen)

    start = _position(last_event_id) or _position(after) or Position()
    yield ServerSentEvent(retry=RECONNECT_MS)  # also where nothing happens until the stream ends
    async for found, seen in _looks(look, start, request.app.state.closing):
        for one, place in found.news:
            yield _told(one, place)
        if found.progress is not None and found.progress != progress:
            progress = found.progress
            yield ServerSentEvent(event="progress", data=progress)
        if found.over:
            yield ServerSentEvent(event="end", data={}, id=str(seen))
            return


@router.get("/events", response_class=EventSourceResponse)
async def project_events(
    request: Request, project: Project, after: AfterMove = None, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """What happens to all runs of the project, from now on or after an event: a ``move`` each.

    The stream ends after a minute or so; a client goes on where it was by sending the last ``id`` in
    ``Last-Event-ID``, as browsers do by themselves. The first event, ``begin``, tells where the stream begins: from
    now on means once all that is being written down is there, which a large upload may hold up.

    Moves come in the order of their ``data.id``, but for one case: while something else takes long to be written
    down, they come without an ``id`` of the stream and those of different runs in any order. Their ``id`` follows
    by itself, as an event without data; who connects again before it did hears them again, and knows them by their
    ``data.id``. None is missed.
    """

    def look(seen: Followed) -> tuple[Moves, Followed]:
        with looking() as connection:
            seen = changes.marked(connection, seen)
        with transaction() as session:
            return changes.of_project(session, project, seen)

    known = [int(text) for text in (last_event_id, after) if text and re.fullmatch(MOVE_ID, text, re.ASCII)]
    sent, unnumbered = None, False
    async for found, seen in _looks(look, Followed(known[0] if known else None), request.app.state.closing):
        if seen.after is None:
            continue
        if sent is None:
            sent = known[0] if known else seen.after
            yield ServerSentEvent(event="begin", data={}, id=str(sent), retry=RECONNECT_MS)
        for move, name in found:
            data = ProjectEventOut(**EventOut.model_validate(move).model_dump(), run=move.run_id, name=name)
            if move.id <= seen.after:
                sent = move.id
                yield ServerSentEvent(event="move", data=data, id=str(sent))
            else:  # an earlier one may still come: whoever went on after this one would miss that
                yield ServerSentEvent(event="move", data=data)
        if unnumbered and sent < seen.after:
            sent = seen.after
            yield ServerSentEvent(id=str(sent))
        unnumbered = bool(seen.told)


def _position(text: str | None) -> Position | None:
    """None also for an id of another stream, which a browser may have kept."""
    return Position.parse(text) if text else None


async def _looks(
    look: Callable[[Place], tuple[Found, Place] | None], seen: Place, closing: asyncio.Event
) -> AsyncIterator[tuple[Found, Place]]:
    """What ``look`` finds after a place, and the place after it, again and again.

    Ends when it finds None, the stream's time is over, the database is away (who connects again is told) or the API
    is to stop.
    """

    def once() -> tuple[Found, Place] | None:
        try:
            return look(seen)
        except (DBAPIError, PoolTimeout) as error:
            if not is_outage(error):
                raise
            return None

    until = time.monotonic() + settings().stream_s
    while (found := await run_in_threadpool(once)) is not None:
        yield found
        seen = found[1]
        left = until - time.monotonic()
        if left <= 0 or await _is_set_within(closing, min(left, LOOK_EVERY_S)):
            return


def _told(one: Epoch | RunEvent, place: Position) -> ServerSentEvent:
    data = EpochOut.model_validate(one) if isinstance(one, Epoch) else EventOut.model_validate(one)
    kind = "epoch" if isinstance(one, Epoch) else "move"
    return ServerSentEvent(event=kind, data=data, id=str(place))


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
