"""Bodies: what the OpenAPI document says of those that are no JSON, and large ones that are."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""Of operations whose body is a file; it is read as it is, whatever its media type says."""


def answers(*media: str) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer beside JSON."""
    return {200: {"content": {one: {"schema": {"type": "string", "format": "binary"}} for one in media}}}


def as_json(found: BaseModel) -> Response:
    """As JSONResponse would, without plain dicts in between: tables of a hundred runs are hundreds of kilobytes."""
    return Response(found.model_dump_json(), media_type="application/json")
