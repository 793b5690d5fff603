"""Forms of pages: what a browser posts, as texts by name."""

from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from api.problems import Problem

MEDIA = "application/x-www-form-urlencoded"
MOST_FIELDS = 1_000


class Form:
    """The posted fields; a name may come several times."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str) -> str:
        """The last value of a field without white space around it; empty where there is none."""
        return self._values.get(name, [""])[-1].strip()

    def texts(self) -> Mapping[str, str]:
        return {name: self.one(name) for name in self._values}


async def _posted(request: Request) -> Form:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if body and media != MEDIA:
        raise Problem(415, f"the body must be {MEDIA}, as browsers post forms")
    try:
        text = body.decode("ascii")
        return Form(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS))
    except ValueError:
        raise Problem(400, "the body is no form that can be read") from None


Posted = Annotated[Form, Depends(_posted)]
