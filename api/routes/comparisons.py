"""Runs side by side, as Table 6."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api import tables
from api.parameters import Runs, SomeExperiment, run_ids
from api.problems import Problem, error_at, not_found, refused
from store import views
from store.comparison import Comparison, compare
from store.database import transaction
from store.models import DEFAULT_PROJECT

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])

Format = Annotated[Literal["json", "csv", "md"], Query(description="csv and md are answered as text")]


@router.get("", response_model=Comparison)
def read(runs: Runs = None, experiment: SomeExperiment = None, format: Format = "json") -> Response:  # noqa: A002
    """Compare the runs given, in that order, or every run of an experiment."""
    with transaction() as session:
        found = choose(session, runs, experiment)
    if format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="comparison.csv"'}
        return Response(tables.to_csv(found), media_type="text/csv; charset=utf-8", headers=headers)
    if format == "md":
        return Response(tables.to_markdown(found), media_type="text/markdown; charset=utf-8")
    return JSONResponse(found.model_dump(mode="json"))


def choose(session: Session, runs: list[str] | None, experiment: int | None) -> Comparison:
    """The comparison that was asked for.

    Raises:
        Problem: neither or both of runs and experiment are given (422), or something is not there (404).
    """
    if (runs is None) == (experiment is None):
        raise refused("runs", "give either runs=1,2,3 or experiment=ID", ",".join(runs or []) or None)
    ids = run_ids(runs) if runs is not None else _of_experiment(session, experiment or 0)
    unknown = sorted(set(ids) - views.known(session, DEFAULT_PROJECT, ids))
    if unknown:
        listed = ", ".join(map(str, unknown[:20]))
        raise Problem(404, f"there are no such runs: {listed}", [error_at("runs", "no such runs", unknown)])
    masks = sorted(views.of_kind(session, ids, "predict"))
    if masks:
        raise refused("runs", "made masks for unlabelled slices, so they have no scores; leave them out", masks)
    return compare(session, DEFAULT_PROJECT, ids)


def _of_experiment(session: Session, experiment: int) -> list[int]:
    if views.experiment(session, DEFAULT_PROJECT, experiment) is None:
        raise not_found("experiment", experiment)
    return [run.id for run in views.experiment_runs(session, experiment)]
