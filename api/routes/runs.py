"""Runs: what they are, what they did, what they left; cancel and requeue."""

from collections.abc import Callable
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from api import figure4, specs
from api.bodies import answers
from api.callers import Project, caller_of
from api.parameters import Before, Limit, RunId, SomeExperiment
from api.problems import Problem, gone, not_found, refused
from api.schemas import (
    ArtifactList,
    ArtifactOut,
    AttemptOut,
    EpochList,
    EpochOut,
    EventOut,
    ImageList,
    RunDetail,
    RunDiskOut,
    RunEdit,
    RunList,
    RunOut,
)
from liverseg_core.crash_points import crash_point
from liverseg_core.errors import DataError
from liverseg_core.submission import check_storable
from store import artifacts, experiments, scores, usage, views, wishes
from store.cautions import override
from store.database import looking, transaction
from store.deleted import deleted_runs, without_maps
from store.hardware import resumed_elsewhere
from store.models import Run
from store.standing import standing
from store.states import State

router = APIRouter(prefix="/v1/runs", tags=["runs"])

SORTS = f"one of {', '.join(sorted(scores.SORTABLE))}"

ImagesFormat = Annotated[
    Literal["json", "csv", "md", "latex"], Query(description="all but json are the study's Figure 4 as text")
]
Kind = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,60}$", description="which file, e.g. weights")]
Name = Annotated[str | None, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="part of a name")]


Fields = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=4000,
        pattern=r"^[a-z0-9_,.]+$",
        description="of each run only these fields and settings, as name,state,training.learning_rate; left out: all "
        "fields, with the whole spec",
    ),
]
SomeKind = Annotated[
    Literal["train", "evaluate", "rescore", "reference", "predict"] | None,
    Query(description="left out: every kind but reference"),
]


@router.get("", response_model=RunList)
def listing(
    project: Project,
    state: State | None = None,
    experiment: SomeExperiment = None,
    name: Name = None,
    kind: SomeKind = None,
    limit: Limit = 50,
    before: Before = None,
    fields: Fields = None,
) -> Response:
    """Runs, newest first, whole or with the fields and settings that are asked for."""
    wanted = views.RunFilter(state, experiment, name, kind, before)
    names = RunOut.model_fields if fields is None else _asked(fields)
    with looking() as connection:
        page = views.runs_as_json(connection, project, wanted, limit, names)
    last = page.last if page.count == limit else "null"
    return Response(f'{{"runs":[{page.objects}],"next":{last}}}', media_type="application/json")


def _asked(fields: str) -> list[str]:
    """The fields and settings in ``name,training.epochs``, each once.

    Raises:
        Problem: runs have no such field, and specs no such setting.
    """
    settings = {one.path for one in specs.fields()}
    names = list(dict.fromkeys(fields.split(",")))
    for name in names:
        if name not in RunOut.model_fields and name not in settings:
            near = get_close_matches(name, [*RunOut.model_fields, *settings], 1)
            meant = (
                f"; did you mean {near[0]}?" if near else "; settings are given by dotted path, as training.epochs"
            )
            raise refused("fields", f"runs have no field and no setting {name!r}{meant}", fields)
    return names


@router.get("/{run}")
def detail(project: Project, run: RunId) -> RunDetail:
    """One run with its history."""
    with transaction() as session:
        return read_detail(session, project, run)


@router.post("/{run}/cancel")
def cancel(request: Request, run: RunId) -> RunOut:
    """Ask a run to end; asking twice is once."""
    return change(request, run, wishes.cancel)


@router.post("/{run}/pause")
def pause(request: Request, run: RunId) -> RunOut:
    """Ask a run to wait at its last checkpoint until it is resumed; asking twice is once."""
    return change(request, run, wishes.pause)


@router.post("/{run}/resume")
def resume(request: Request, run: RunId) -> RunOut:
    """Queue a paused run again; it goes on from its checkpoint."""
    return change(request, run, wishes.resume)


@router.post("/{run}/requeue")
def requeue(request: Request, run: RunId) -> RunOut:
    """Give a dead run a new set of attempts."""
    return change(request, run, wishes.requeue)


@router.post("/{run}/retry")
def retry(request: Request, run: RunId) -> RunOut:
    """Try a failed or cancelled run again, as another run; one that has not ended yet is returned, not a second."""
    return change(request, run, experiments.retry)


@router.post("/{run}/first")
def first(request: Request, run: RunId) -> RunOut:
    """Put a queued or paused run before all that wait in its pool; asking twice is once."""
    return change(request, run, wishes.first)


@router.patch("/{run}")
def edit(request: Request, run: RunId, body: RunEdit) -> RunOut:
    """Change a run's name, notes, tags or, as long as it has not ended, its priority."""
    changes = {name: value for name, value in body if name in body.model_fields_set}
    check_storable(changes)

    def edited(session: Session, project: int, run_id: int, actor: str | None) -> Run | None:
        return wishes.edit(session, project, run_id, changes, actor)

    return change(request, run, edited)


@router.get("/{run}/epochs")
def epochs(project: Project, run: RunId) -> EpochList:
    """Values by epoch; of a reused run, those of its original."""
    with transaction() as session:
        found = views.epochs(session, views.source(known_run(session, project, run)))
    return EpochList(epochs=[EpochOut.model_validate(one) for one in found])


@router.get("/{run}/images", response_model=ImageList, responses=answers(*(one[0] for one in figure4.TEXTS.values())))
def images(
    project: Project,
    run: RunId,
    part: Annotated[Literal["val", "test"] | None, Query(description="left out: both")] = None,
    sort: Annotated[str, Query(description=SORTS)] = "scan",
    descending: bool = False,
    limit: Annotated[int | None, Query(ge=1, le=5000, description="default: 500 in JSON, else all")] = None,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    format: ImagesFormat = "json",  # noqa: A002
) -> Response:
    """The per-image table: stored counts and ratios in JSON, the study's own columns in percent as text."""
    if sort not in scores.SORTABLE:
        raise refused("sort", f"must be {SORTS}", sort)
    most = 500 if limit is None and format == "json" else limit
    with transaction() as session:
        known = known_run(session, project, run)
        rows = scores.images(
            session, views.source(known), part=part, sort=sort, descending=descending, limit=most, offset=offset
        )
        written = override(known)
    if format == "json":
        return JSONResponse(ImageList(images=rows, override=written).model_dump(mode="json"))
    media, ending, write = figure4.TEXTS[format]
    headers = {"Content-Disposition": f'attachment; filename="run-{run}-images.{ending}"'}
    return Response(write(figure4.lines(rows, written)), media_type=f"{media}; charset=utf-8", headers=headers)


@router.get("/{run}/artifacts")
def files(project: Project, run: RunId) -> ArtifactList:
    """The files the run left."""
    with transaction() as session:
        found = views.artifacts(session, views.source(known_run(session, project, run)))
    return ArtifactList(artifacts=[ArtifactOut.model_validate(one) for one in found])


@router.get("/{run}/artifacts/{kind}", response_class=FileResponse, responses=answers("application/octet-stream"))
def download(project: Project, run: RunId, kind: Kind) -> FileResponse:
    """The content of one file."""
    with transaction() as session:
        found = views.artifacts(session, views.source(known_run(session, project, run)))
    chosen = next((one for one in found if one.kind == kind), None)
    if chosen is None:
        raise not_found("artifact", kind)
    if not artifacts.there(chosen.sha256):
        raise Problem(410, f"the file of this artifact is gone from the store ({chosen.sha256[:12]})")
    kept = ExitStack()
    try:
        place = kept.enter_context(artifacts.held(chosen.sha256))
    except DataError as error:
        raise Problem(410, str(error)) from None
    name = _file_name(run, kind)
    return _Sent(place, media_type="application/octet-stream", filename=name).holding(kept)


class _Sent(FileResponse):
    """A file of the store, which stays until it has been sent or its reader has gone."""

    def holding(self, kept: ExitStack) -> Self:
        self._kept = kept
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._kept:
            await super().__call__(scope, receive, send)


def _file_name(run: int, kind: str) -> str:
    if kind == "tensorboard":
        return f"events.out.tfevents.run-{run}"  # TensorBoard looks for this word
    suffix = {"log": ".log", "masks": ".zip"}.get(kind, ".npz")
    return f"run-{run}-{kind}{suffix}"


@router.get("/{run}/logs", response_class=PlainTextResponse)
def logs(
    project: Project,
    run: RunId,
    lines: Annotated[int, Query(ge=1, le=10_000, description="how many, at most")] = 200,
    attempt: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="of this attempt, which left no result")
    ] = None,
) -> PlainTextResponse:
    """The last lines of a run's log: what its worker told last, the file that it left, or of its last attempt."""
    with transaction() as session:
        found = known_run(session, project, run)
        if attempt is not None:
            text = _of_attempt(views.attempt_log(session, run, attempt), f"attempt {attempt} of this run left no log")
        elif (told := (found.progress or {}).get("log")) is not None:
            text = told
        elif kept := scores.files(session, views.source(found)).get("log"):
            text = _file(kept)
        else:
            text = _of_attempt(views.attempt_log(session, run, None), "this run has no log: it has not begun")
    return PlainTextResponse("".join(text.splitlines(keepends=True)[-lines:]))


def _of_attempt(log: str | None, otherwise: str) -> str:
    if log is None:
        raise Problem(404, f"{otherwise}, or it was lost; see its attempts")
    return log


def _file(sha256: str) -> str:
    try:
        with artifacts.held(sha256) as path:
            return path.read_text(errors="replace")
    except (FileNotFoundError, DataError):
        raise Problem(410, "the log was lost from the artifact store") from None


def known_run(session: Session, project: int, run: int) -> Run:
    """The project's run, or a 404; 410 where it was deleted."""
    found = views.run(session, project, run)
    if found is None and (lost := deleted_runs(session, project, [run])):
        raise gone(lost[run])
    if found is None:
        raise not_found("run", run)
    return found


def read_detail(session: Session, project: int, run: int) -> RunDetail:
    """The run with everything that happened to it, or a 404."""
    found = known_run(session, project, run)
    told = standing(session, found)
    bare = without_maps(session, [views.source(found)]).get(views.source(found))
    detail = RunDetail.of(
        found,
        attempts=[AttemptOut.model_validate(one) for one in views.attempts(session, run)],
        events=[EventOut.model_validate(one) for one in views.events(session, run)],
        artifacts=[ArtifactOut.model_validate(one) for one in views.artifacts(session, views.source(found))],
        waits=told.waits,
        next=told.next,
        resumed_elsewhere=resumed_elsewhere(session, [run]).get(run),
        retries=list(views.retries(session, run)),
        disk=RunDiskOut.of(usage.of_run(session, found), bare),
    )
    assert isinstance(detail, RunDetail)
    return detail


def change(request: Request, run: int, move: Callable[[Session, int, int, str | None], Run | None]) -> RunOut:
    """Move a run in a transaction of its own; 404 where there is none, 409 where the move is not allowed."""
    with transaction() as session:
        found = move(session, caller_of(request).project, run, request.state.actor)
        if found is None:
            raise not_found("run", run)
        session.flush()
        session.refresh(found)
        moved = RunOut.of(found)
    crash_point("wished")
    request.app.state.upkeep.wake()
    return moved
