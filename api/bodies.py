"""What the OpenAPI document says of bodies that are no JSON."""

from typing import Any

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
