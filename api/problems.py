"""Every refusal as an RFC 9457 problem document, or as a page for a browser; never a trace."""

import logging
import math
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from api import render
from liverseg_core.errors import InputError, shorten
from store import artifacts, tokens
from store.database import is_outage, took_too_long
from store.deleted import sentence
from store.models import Deletion
from store.states import IllegalMove

log = logging.getLogger(__name__)

RETRY_AFTER_S = "5"
UNION_TAG = re.compile(r"(constrained-|list\[|literal\[|enum$)")
"""What pydantic puts into a path to say which member of a union it tried."""

SECRET = re.compile(rf"{tokens.PREFIX}[A-Za-z0-9_-]{{20,}}")

NO_SUCH_ADDRESS = "there is nothing at this address; what there is stands at /docs"
UNEXPECTED = (
    "something unexpected went wrong; the log of the API says what (of `liverseg up`: logs/api.log in LIVERSEG_HOME)"
)
NO_SUCH_FIELD = "no such field here; remove it, or see the fields at /docs"


class Problem(HTTPException):
    """A refusal; ``extra`` joins the document as further members."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[dict[str, Any]] = (),
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = list(errors)
        self.extra = extra


def refused(path: str, message: str, received: Any = None) -> Problem:
    """422: the value at ``path`` cannot be used."""
    return Problem(422, f"{path}: {message}", [error_at(path, message, received)])


def not_found(what: str, received: Any) -> Problem:
    """404: the project has no such thing."""
    return Problem(404, f"there is no such {what}", [error_at(what, f"there is no such {what}", received)])


def gone(*lost: Deletion) -> Problem:
    """410: the project had these runs, and somebody deleted them."""
    told = [sentence(one) for one in lost]
    runs = [error_at("run", text, one.run_id) for one, text in zip(lost, told, strict=True)]
    return Problem(410, "; ".join(told[:20]), runs)


def error_at(path: str, message: str, received: Any = None) -> dict[str, Any]:
    return {"path": _text(path), "message": _text(message), "received": shown(received)}


def shown(value: Any) -> Any:
    """``value`` where JSON can hold it and it is short, else its shortened ``repr``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and len(value) <= 200:
        return _text(value)
    return _text(shorten(value))


def document(problem: Problem) -> dict[str, Any]:
    """The members of RFC 9457 and those that belong to this problem."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": _text(problem.detail),
        "errors": problem.errors,
        **problem.extra,
    }


def answer(request: Request, problem: Problem) -> Response:
    """The response that tells ``problem``: a page where a browser asked for a page."""
    body = document(problem)
    if render.is_page(request):
        return render.page(request, "problem.html", problem.status_code, problem.headers, problem=body)
    return JSONResponse(body, problem.status_code, problem.headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Turn every exception that reaches the edge into a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InputError, _input)
    app.add_exception_handler(IllegalMove, _illegal)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolTimeout, _database)
    app.add_exception_handler(artifacts.Away, _away)
    app.add_exception_handler(Exception, _unexpected)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return answer(request, error)
    headers = dict(error.headers) if error.headers else None
    detail = NO_SUCH_ADDRESS if error.status_code == 404 else error.detail
    return answer(request, Problem(error.status_code, detail, headers=headers))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_from_pydantic(one) for one in error.errors()]
    first = errors[0]
    return answer(request, Problem(422, f"{first['path']}: {first['message']}", errors))


def _from_pydantic(one: dict[str, Any]) -> dict[str, Any]:
    place, *inside = one["loc"]
    if one["type"] == "json_invalid":
        reason = one.get("ctx", {}).get("error", "")
        return error_at("body", f"is no valid JSON ({reason} at character {inside[0]}); correct it there")
    message = NO_SUCH_FIELD if one["type"] == "extra_forbidden" else str(one["msg"]).removeprefix("Value error, ")
    path = ".".join(str(part) for part in inside if not UNION_TAG.match(str(part)))
    return error_at(path or str(place), message, one.get("input"))


async def _input(request: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    return answer(request, refused(error.path, error.problem, error.received))


async def _illegal(request: Request, error: Exception) -> Response:
    assert isinstance(error, IllegalMove)
    return answer(request, Problem(409, str(error), state=str(error.state)))


async def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError | PoolTimeout)
    return answer(request, of_database(request, error))


def of_database(request: Request, error: DBAPIError | PoolTimeout) -> Problem:
    """What to say when the database did not do as asked; its own words go to the log alone."""
    if took_too_long(error):
        log.warning("%s %s took too long", request.method, request.url.path)
        return Problem(
            503, "the database took too long; ask for less at once", headers={"Retry-After": RETRY_AFTER_S}
        )
    if isinstance(error, PoolTimeout):
        log.warning("every connection to the database is in use")
        detail = "every connection to the database is in use; come again in a few seconds"
        return Problem(503, detail, headers={"Retry-After": RETRY_AFTER_S})
    if not is_outage(error):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem(500, UNEXPECTED)
    log.warning("the database is away: %s", error)
    # A connection lost during COMMIT leaves open whether it was done.
    detail = "the database does not answer; look again in a few seconds, or repeat with the same Idempotency-Key"
    return Problem(503, detail, headers={"Retry-After": RETRY_AFTER_S})


async def _away(request: Request, error: Exception) -> Response:
    """The store of the files does not answer, is not mounted, or cannot be written to."""
    log.warning("%s %s: %s", request.method, request.url.path, error)
    detail = "the store of the files cannot be used now; nothing was stored, come again in a few seconds"
    return answer(request, Problem(503, detail, headers={"Retry-After": RETRY_AFTER_S}))


async def _unexpected(request: Request, _: Exception) -> Response:
    """The server logs the trace; nothing of it leaves. This answer comes from outside the guard."""
    response = answer(request, Problem(500, UNEXPECTED))
    response.headers.update(render.HEADERS)
    return response


def _text(value: str) -> str:
    """Without lone surrogates, which no UTF-8 response can hold, and without tokens, wherever they came in."""
    return SECRET.sub(tokens.PREFIX + "...", value.encode("utf-8", "backslashreplace").decode())
