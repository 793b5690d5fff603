"""What routes take: checked types, and the refusal of anything they do not take."""

from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.routing import APIRoute

from api.problems import Problem, error_at, refused

LARGEST_ID = 2**63 - 1

RunId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="id of a run")]
ExperimentId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="id of an experiment")]
Limit = Annotated[int, Query(ge=1, le=1000, description="most items to return")]
Before = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="only items with a smaller id")]
SomeExperiment = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="id of an experiment")]
Runs = Annotated[list[str] | None, Query(description="ids of runs, such as 1,2,3")]

MAX_COMPARED = 10_000
REPEATABLE = ("runs", "tables")


async def only_known(request: Request) -> None:
    """Refuse query parameters that the route does not take, or takes once and received twice."""
    route = request.scope.get("route")
    assert isinstance(route, APIRoute)
    known = {field.alias: field for field in route.dependant.query_params}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            message = f"no such parameter; this address takes: {takes}"
            raise Problem(422, f"{name}: {message}", [error_at(name, message, values[-1])])
        if len(values) > 1 and name not in REPEATABLE:
            raise refused(name, "is given more than once; keep one", values)


def run_ids(given: list[str]) -> list[int]:
    """The ids in ``["1,2", "3"]``, each once, in order.

    Raises:
        Problem: something else than ids, or too many of them.
    """
    words = [word for one in given for word in one.split(",")]
    if not all(word.isascii() and word.isdecimal() and 0 < len(word) < 19 for word in words):
        raise refused("runs", "must be ids of runs with commas between, such as 1,2,3", ",".join(given))
    if len(words) > MAX_COMPARED:
        raise refused("runs", f"are more than {MAX_COMPARED:,} runs; ask for fewer", len(words))
    return list(dict.fromkeys(map(int, words)))
