"""The OpenAPI document: what FastAPI derives from the routes, with refusals and tokens as they really are."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.security import OPEN

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "A refusal as RFC 9457 tells it; some have further members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message", "received"],
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}, "received": {}},
                "additionalProperties": False,
            },
        },
    },
}

_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "refused: the request cannot be answered", "content": _CONTENT},
    503: {"description": "the database or what else is needed is away or busy; try again", "content": _CONTENT},
}
"""Of every operation."""

SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "a token, as `liverseg token create` prints it"},
    "password": {"type": "http", "scheme": "basic", "description": "any user name, with a token as the password"},
}


def install(app: FastAPI) -> None:
    """Let ``app.openapi()`` give the whole document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way of extending it


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = made["components"]
    components["schemas"]["Problem"] = PROBLEM
    components["securitySchemes"] = SCHEMES
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    made["security"] = [{"token": []}, {"password": []}]
    for path in OPEN:
        for operation in made["paths"][path].values():
            operation["security"] = []
    return made
