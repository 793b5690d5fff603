"""Pages for people: runs, one run, data sets, and what the API takes. They work without scripts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from api import render, specs, tables
from api.callers import Project, caller_of
from api.dataset_schemas import DatasetOut
from api.overlay_page import MOST_RUNS, address
from api.parameters import Before, RunId, SomeExperiment
from api.routes.runs import known_run, read_detail
from api.schemas import RunDetail, RunOut, changed_settings, next_page
from liverseg_core.spec import ExperimentSpec
from store import datasets, results, scores, tiles, views
from store.changes import Position
from store.comparison import OVERVIEW
from store.database import transaction
from store.measure import Measure
from store.models import Epoch, Run
from store.run_settings import described
from store.standing import standing
from store.states import FINAL, RETRIED, State, target
from store.tokens import Scope

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50
WORST = 12
MOST_APART = 4

SomeState = Annotated[State | Literal[""], Query()]
SomeName = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]


BUTTONS = {
    "pause": "Pause this run",
    "resume": "Resume this run",
    "requeue": "Queue it again",
    "retry": "Try it again as another run",
    "cancel": "Cancel this run",
}
"""Moves that a person can ask for on a run's page, and what the button says."""


@dataclass(frozen=True)
class Standing:
    """A run in the list: how far it is (0..1, None where that says nothing) and in words.

    ``apart``: settings in which it differs from the listed runs of its experiment that are named like it.
    """

    run: RunOut
    share: float | None
    words: str
    apart: Sequence[tuple[str, Any]] = ()


# ---- runs ----------------------------------------------------------------------------------------------------


@router.get("/")
def runs_page(
    request: Request,
    state: SomeState = "",
    experiment: SomeExperiment = None,
    name: SomeName = "",
    before: Before = None,
) -> Response:
    """The newest runs; the table renews itself where scripts run."""
    return _runs(
        request, "runs.html", views.RunFilter(State(state) if state else None, experiment, name, before=before)
    )


@router.get("/fragments/runs")
def runs_fragment(
    request: Request,
    state: SomeState = "",
    experiment: SomeExperiment = None,
    name: SomeName = "",
    before: Before = None,
) -> Response:
    """The table of :func:`runs_page` alone."""
    return _runs(
        request, "_runs.html", views.RunFilter(State(state) if state else None, experiment, name, before=before)
    )


def _runs(request: Request, template: str, wanted: views.RunFilter) -> Response:
    project = caller_of(request).project
    with transaction() as session:
        found = list(views.runs(session, project, wanted, PAGE_SIZE))
        apart = _told_apart(found)
        standing = [replace(_standing(session, run), apart=apart.get(run.id, ())) for run in found]
        counts = views.counts_by_state(session, project, wanted)
        newer = views.newer(session, project, wanted, PAGE_SIZE) if wanted.before else None
    asked = {"state": wanted.state, "experiment": wanted.experiment, "name": wanted.name, "before": wanted.before}
    kept = {key: str(value) for key, value in asked.items() if value}
    return render.page(
        request,
        template,
        standing=standing,
        may_write=caller_of(request).may_write,
        counts={str(state): counts[state] for state in State if counts.get(state)},
        kept=kept,
        query=urlencode(kept),
        without_state=urlencode({key: value for key, value in kept.items() if key not in ("state", "before")}),
        newer=_query(kept, before=newer) if wanted.before else None,
        older=_query(kept, before=older) if (older := next_page(found, PAGE_SIZE)) else None,
    )


def _told_apart(runs: Sequence[Run]) -> dict[int, list[tuple[str, Any]]]:
    """Of each run that shares its experiment and name with another one the first settings that differ among them."""
    alike: defaultdict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in runs:
        alike[run.experiment_id, run.name].append(run)
    found = {}
    for group in alike.values():
        settings = [described(run).settings for run in group] if len(group) > 1 else []
        every = {text for one in settings for text in one.texts}
        differing = {path for one in settings for path, _ in every - one.texts}
        for run, one in zip(group, settings, strict=False):
            found[run.id] = [(path, value) for path, value in one.items() if path in differing][:MOST_APART]
    return found


def _query(kept: dict[str, str], **changes: int | None) -> str:
    return urlencode({key: value for key, value in {**kept, **changes}.items() if value})


def _standing(session: Session, run: Run) -> Standing:
    out = RunOut.of(run)
    if run.state == State.QUEUED:
        return Standing(out, None, standing(session, run).waits or "")
    return Standing(out, *progress(out))


def progress(run: RunOut) -> tuple[float | None, str]:
    """How far a run is, 0..1, and in words; from what its worker told last."""
    told = run.progress or {}
    if run.state == State.RUNNING and "epoch" in told:
        done = told["epoch"] - 1 + told["step"] / max(1, told["steps"])
        words = f"epoch {told['epoch']} of {run.epochs_total}"
        if "seconds_left" in told:
            rate, left = tables.speed(told["images_per_second"]), tables.duration(told["seconds_left"])
            words += f" · {rate} images/s · at most {left} left"
        return done / run.epochs_total, words
    return None, _ended(run) if run.state in FINAL else str(told.get("phase", "starting"))


def _ended(run: RunOut) -> str:
    if run.reused_from:
        return f"result of run {run.reused_from}, which had the same settings"
    if run.state == State.SUCCEEDED:
        return f"best epoch {run.best_epoch}" if run.best_epoch else "scored"
    return run.message or run.reason or ""


# ---- one run -------------------------------------------------------------------------------------------------


@router.get("/runs/{run}")
def run_page(request: Request, project: Project, run: RunId) -> Response:
    """Everything about a run."""
    with transaction() as session:
        detail = read_detail(session, project, run)
        found = known_run(session, project, run)
        source, beside = views.source(found), tiles.siblings(session, found, MOST_RUNS)
        epochs = list(views.epochs(session, source))
        part = scores.shown_part(session, found)
        worst = scores.images(session, source, part=part, sort="lesion_dice", limit=WORST)
        scored = _scored(session, found, part)
    spec = ExperimentSpec.parse(detail.spec)
    changed = changed_settings(spec)
    others = {path: value for path, value in spec.settings().items() if path not in changed}
    return render.page(
        request,
        "run.html",
        epochs=epochs,
        worst=worst,
        part=part,
        beside=beside,
        address=address,
        changed=changed,
        others=others,
        deletable=_deletable(request, detail),
        after=_seen(detail, epochs),
        **_now(request, detail, scored),
    )


HEADLINES = {"pooled_lesion_dice": "Lesion Dice, pooled", "pooled_liver_dice": "Liver Dice, pooled"}
"""Scores of the overview that the page of a run begins with."""


def _scored(session: Session, run: Run, part: str | None) -> dict[str, str]:
    """What the run scored on ``part``, in percent; nothing where it was not scored."""
    if part is None or run.state != State.SUCCEEDED:
        return {}
    found = results.read(session, [run], Measure.of(OVERVIEW, None))[run.id]
    return {f"{told} ({part})": tables.percent(found[part].scores[key].value) for key, told in HEADLINES.items()}


def _seen(run: RunDetail, epochs: Sequence[Epoch]) -> Position:
    """From where the page follows the run."""
    last = epochs[-1] if epochs else None
    return Position(run.events[-1].id, last.attempt if last else 0, last.epoch if last else 0)


@router.get("/fragments/runs/{run}")
def run_fragment(request: Request, project: Project, run: RunId) -> Response:
    """What moves on the page of a live run; once the run has ended, the whole page is loaded anew."""
    with transaction() as session:
        detail = read_detail(session, project, run)
    headers = {"HX-Refresh": "true"} if detail.state in FINAL else {}
    return render.page(request, "_run.html", headers=headers, **_now(request, detail))


@router.get("/fragments/runs/{run}/epochs")
def epochs_fragment(request: Request, project: Project, run: RunId) -> Response:
    """The table of a live run's epochs, which is long, so it is asked for when there is another one."""
    with transaction() as session:
        found = known_run(session, project, run)
        epochs = list(views.epochs(session, views.source(found)))
        live = found.state not in FINAL
    return render.page(request, "_epochs.html", run=found, epochs=epochs, live=live)


def _deletable(request: Request, run: RunDetail) -> str:
    """How much of the run the caller may delete: ``run``, ``files`` or nothing."""
    caller = caller_of(request)
    if run.state not in FINAL or not caller.may_write:
        return ""
    return "run" if caller.scope >= Scope.ADMIN else "files"


def _can(move: str, run: RunDetail) -> bool:
    return run.state in RETRIED if move == "retry" else target(move, State(run.state)) is not None


def _now(request: Request, run: RunDetail, scored: Mapping[str, str] | None = None) -> dict[str, Any]:
    share, words = progress(run)
    moves = BUTTONS if caller_of(request).may_write else ()
    may = [move for move in moves if _can(move, run) and run.wish != move]
    live = run.state not in FINAL
    return {
        "run": run,
        "share": share,
        "words": run.waits or words,
        "may": may,
        "buttons": BUTTONS,
        "live": live,
        "scored": scored or {},
    }


# ---- data sets and documentation -----------------------------------------------------------------------------


@router.get("/datasets")
def datasets_page(request: Request, project: Project) -> Response:
    """What has been imported."""
    with transaction() as session:
        found = [DatasetOut.of(one) for one in datasets.listed(session, project)]
    return render.page(request, "datasets.html", datasets=found)


@router.get("/docs")
def docs_page(request: Request) -> Response:
    """Every operation and every field of a spec, from the code itself."""
    paths = request.app.openapi()["paths"]
    operations = [(verb.upper(), path, one) for path, verbs in paths.items() for verb, one in verbs.items()]
    return render.page(request, "docs.html", operations=operations, fields=specs.fields())
