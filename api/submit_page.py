"""The form for an experiment, made from the spec's own schema, with a preview of what submitting it would do."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from api import render, specs
from api.callers import Project, caller_of
from api.forms import Posted
from api.parameters import LARGEST_ID
from api.plan_schemas import PlanOut
from api.problems import Problem
from api.routes.experiments import enter, planned
from api.routes.runs import known_run
from api.schemas import SubmitBody
from api.specs import Field
from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import set_path
from store import datasets
from store.database import transaction

router = APIRouter(include_in_schema=False)

OPEN = ("", "dataset", "training")
"""Sections of the form that are open at first; others fold unless something in them differs from its default."""

PLANNED = 200
"""Rows of the preview; a grid may give thousands."""

SomeRun = Annotated[int | None, Query(ge=1, le=LARGEST_ID)]
SomeDataset = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]


@dataclass
class Filled:
    """What stands in the form: texts by path, and what is wrong with them."""

    texts: dict[str, str]
    problems: dict[str, str] = field(default_factory=dict)
    key: str = ""
    plan: PlanOut | None = None


@router.get("/submit")
def submit_page(request: Request, project: Project, run: SomeRun = None, dataset: SomeDataset = "") -> Response:
    """An empty form; with ``run`` it holds that run's settings."""
    texts = {"dataset.id": dataset}
    if run is not None:
        with transaction() as session:
            spec = ExperimentSpec.parse(known_run(session, project, run).spec)
        texts = _texts_of(spec)
    return _form(request, project, Filled(texts), origin=run)


@router.post("/submit")
def submit(request: Request, project: Project, form: Posted) -> Response:
    """Show what it would do, or do it; what is wrong is said beside its field."""
    if not caller_of(request).may_write:
        raise Problem(403, "this token may read only; submitting needs one that may write")
    texts = {name: text for name, text in form.texts().items() if name not in ("action", "key")}
    filled = Filled(texts, key=form.one("key"))
    try:
        body = SubmitBody.model_validate(_body(filled.texts))
        if form.one("action") == "submit":
            done, _ = enter(request, project, body, filled.key or None)
            return RedirectResponse(f"/?experiment={done.id}", status_code=303)
        filled.plan = planned(project, body)
    except SpecError as error:
        if error.path == "Idempotency-Key":  # somebody went back and changed it
            filled.key = ""
            error = SpecError("form", "was submitted already with other settings; submit it again to make another")
        _tell(filled, error.path, str(error).removeprefix(f"{error.path}: "))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            _tell(filled, ".".join(map(str, one["loc"])), str(one["msg"]))
    return _form(request, project, filled, status=422 if filled.problems else 200)


def _form(request: Request, project: int, filled: Filled, status: int = 200, origin: int | None = None) -> Response:
    with transaction() as session:
        names = [one.name for one in datasets.listed(session, project)]
    return render.page(
        request,
        "submit.html",
        status,
        sections=_sections(filled),
        filled=filled,
        elsewhere=filled.problems.keys() - _known(),
        datasets=names,
        origin=origin,
        key=filled.key or str(uuid.uuid4()),
        planned=PLANNED,
        may=caller_of(request).may_write,
    )


def _known() -> set[str]:
    """Every field of the form by its name."""
    return {"seeds", "folds", "vary", *(one.path for one in specs.fields())}


def _tell(filled: Filled, path: str, told: str) -> None:
    """Put what is wrong at ``path`` to the field it was written in: an entry's to its list, an axis's to ``vary``.

    Words of commands, ``--seeds``, stand for the fields that are read like them.
    """
    place = path.removeprefix("spec.").removeprefix("--")
    known, steps = _known(), place.split(".")
    whole = (".".join(steps[:many]) for many in range(len(steps), 0, -1))
    field = next((one for one in whole if one in known), None)
    if field is None and (path.startswith("grid") or place in filled.texts.get("vary", "")):
        field, told = "vary", f"{place.removeprefix('grid.')}: {told}"
    filled.problems[field or place] = told


def _sections(filled: Filled) -> list[tuple[str, list[Field], bool]]:
    """Sections in the spec's order: name, fields, whether it is open."""
    found: dict[str, list[Field]] = {}
    for one in specs.fields():
        found.setdefault(one.section, []).append(one)
    return [(name, some, name in OPEN or any(_differs(one, filled) for one in some)) for name, some in found.items()]


def _differs(one: Field, filled: Filled) -> bool:
    text = filled.texts.get(one.path, "")
    return one.path in filled.problems or text not in ("", one.text_of(one.default))


def _texts_of(spec: ExperimentSpec) -> dict[str, str]:
    """The form's texts of a run's spec; what is at its default stays empty."""
    values: dict[str, Any] = spec.model_dump(mode="json")
    texts = {}
    for one in specs.fields():
        value = values
        for step in one.path.split("."):
            value = value[step]
        if one.required or value != one.default:
            texts[one.path] = one.text_of(value)
    return texts


def _body(texts: Mapping[str, str]) -> dict[str, Any]:
    """The submission that the form describes; fields that are empty or at their default are left out.

    Raises:
        SpecError: a field, ``seeds``, ``folds`` or a line of ``vary`` cannot be read.
    """
    spec: dict[str, Any] = {}
    for one in specs.fields():
        text = texts.get(one.path, "")
        if text and text != one.text_of(one.default):
            set_path(spec, one.path, one.value_of(text))
    spec.setdefault("dataset", {}).setdefault("id", "")
    body: dict[str, Any] = {"spec": spec}
    for line in filter(str.strip, texts.get("vary", "").splitlines()):
        _vary(body, line)
    if texts.get("seeds"):
        body["seeds"] = specs.parse_seeds(texts["seeds"])
    if texts.get("folds"):
        body["folds"] = specs.parse_folds(texts["folds"])
    if texts.get("again") == "true":
        body["reuse"] = False
    return body


def _vary(body: dict[str, Any], line: str) -> None:
    """Add an axis of the grid.

    Raises:
        SpecError: told as of the field ``vary``.
    """
    try:
        specs.change(body, [], [line])
    except SpecError as error:
        raise SpecError("vary", error.problem, error.received) from None
