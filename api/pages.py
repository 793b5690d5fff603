"""Pages for people: runs, one run, data sets, and what the API takes. They work without scripts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from api import render, tables
from api.callers import Project, caller_of
from api.dataset_schemas import DatasetOut
from api.parameters import Before, RunId, SomeExperiment
from api.routes.runs import change, known_run, read_detail
from api.schemas import RunDetail, RunOut, changed_settings, next_page
from liverseg_core.spec import ExperimentSpec
from store import datasets, scores, views, wishes
from store.database import transaction
from store.models import Run
from store.standing import standing
from store.states import FINAL, State, target

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50
WORST = 12

SomeState = Annotated[State | Literal[""], Query()]
SomeName = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]


BUTTONS = {
    "pause": "Pause this run",
    "resume": "Resume this run",
    "requeue": "Queue it again",
    "cancel": "Cancel this run",
}
"""Moves that a person can ask for on a run's page, and what the button says."""


@dataclass(frozen=True)
class Standing:
    """A run in the list: how far it is (0..1, None where that says nothing) and in words."""

    run: RunOut
    share: float | None
    words: str


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
        standing = [_standing(session, run) for run in found]
        counts = views.counts_by_state(session, project)
    asked = {"state": wanted.state, "experiment": wanted.experiment, "name": wanted.name, "before": wanted.before}
    kept = {key: str(value) for key, value in asked.items() if value}
    return render.page(
        request,
        template,
        standing=standing,
        counts={str(state): counts[state] for state in State if counts.get(state)},
        kept=kept,
        query=urlencode(kept),
        without_state=urlencode({key: value for key, value in kept.items() if key not in ("state", "before")}),
        older=_older(kept, next_page(found, PAGE_SIZE)),
    )


def _older(kept: dict[str, str], before: int | None) -> str | None:
    return urlencode({**kept, "before": before}) if before else None


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
        rate, left = told["images_per_second"], render.duration(told["seconds_left"])
        words = f"epoch {told['epoch']} of {run.epochs_total} · {rate:.0f} images/s · at most {left} left"
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
        source = views.source(known_run(session, project, run))
        epochs = list(views.epochs(session, source))
        worst = scores.images(session, source, sort="lesion_dice", limit=WORST)
    spec = ExperimentSpec.parse(detail.spec)
    changed = changed_settings(spec)
    others = {path: value for path, value in spec.settings().items() if path not in changed}
    return render.page(
        request, "run.html", epochs=epochs, worst=worst, changed=changed, others=others, **_now(request, detail)
    )


@router.get("/fragments/runs/{run}")
def run_fragment(request: Request, project: Project, run: RunId) -> Response:
    """What moves on the page of a live run; once the run has ended, the whole page is loaded anew."""
    with transaction() as session:
        detail = read_detail(session, project, run)
    headers = {"HX-Refresh": "true"} if detail.state in FINAL else {}
    return render.page(request, "_run.html", headers=headers, **_now(request, detail))


def _now(request: Request, run: RunDetail) -> dict[str, Any]:
    share, words = progress(run)
    moves = BUTTONS if caller_of(request).may_write else ()
    may = [move for move in moves if target(move, State(run.state)) and run.wish != move]
    live = run.state not in FINAL
    return {"run": run, "share": share, "words": run.waits or words, "may": may, "buttons": BUTTONS, "live": live}


@router.post("/runs/{run}/cancel")
def cancel(request: Request, run: RunId) -> Response:
    """The page's button; the guard has checked where the request comes from."""
    change(request, run, wishes.cancel)
    return RedirectResponse(f"/runs/{run}", status_code=303)


@router.post("/runs/{run}/pause")
def pause(request: Request, run: RunId) -> Response:
    """The page's button."""
    change(request, run, wishes.pause)
    return RedirectResponse(f"/runs/{run}", status_code=303)


@router.post("/runs/{run}/resume")
def resume(request: Request, run: RunId) -> Response:
    """The page's button for a paused run."""
    change(request, run, wishes.resume)
    return RedirectResponse(f"/runs/{run}", status_code=303)


@router.post("/runs/{run}/requeue")
def requeue(request: Request, run: RunId) -> Response:
    """The page's button for a dead run."""
    change(request, run, wishes.requeue)
    return RedirectResponse(f"/runs/{run}", status_code=303)


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
    schema = ExperimentSpec.model_json_schema()
    return render.page(request, "docs.html", operations=operations, fields=list(spec_fields(schema, schema)))


def spec_fields(node: dict[str, Any], root: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """Path, type, default and description of every field below ``node`` of a JSON Schema."""
    for name, field in node["properties"].items():
        inner = root["$defs"].get(field.get("$ref", "").rpartition("/")[2])
        if inner:
            yield from spec_fields(inner, root, f"{prefix}{name}.")
        else:
            required = name in node.get("required", ())
            default = "required" if required else tables.setting(field.get("default"))
            about = field.get("description", "")
            yield {"path": prefix + name, "type": _type(field), "default": default or "empty", "about": about}


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " | ".join(_type(one) for one in field[several])
    if "$ref" in field:
        return "section " + str(field["$ref"]).rpartition("/")[2]
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]:,}" for bound, sign in bounds.items() if bound in field]
    return ", ".join([str(field.get("type", "")), *limits])
