"""Templates: the environment, its filters, and how a page is answered."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from starlette.templating import Jinja2Templates

from api import tables
from api.tables import duration, size
from store.words import named_runs

HERE = Path(__file__).parent
STATIC = HERE / "static"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer; the policy lets pages run nothing but the scripts in ``static``."""


def is_page(request: Request) -> bool:
    """Whether the answer should be a page: a browser asks, and not for a path of the API."""
    wants = "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    return wants and not request.url.path.startswith("/v1/")


def page(
    request: Request, name: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> Response:
    """The template ``name``; pages hold live facts, so nobody may keep them."""
    degraded = request.app.state.upkeep.degraded
    told = {
        "Cache-Control": "no-store",
        "Liverseg-Degraded": str(degraded).lower(),
    }  # for a page that is open already
    return _templates.TemplateResponse(
        request, name, {**values, "degraded": degraded}, status, {**told, **(headers or {})}
    )


def when(moment: datetime | None) -> str:
    """A time in UTC to the second; empty for None."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def elapsed(start: datetime | None, end: datetime | None) -> str:
    """From ``start`` to ``end``, or to now; empty where nothing began."""
    return duration(((end or datetime.now(UTC)) - start).total_seconds()) if start else ""


def coded(text: str) -> Markup:
    """What stands between double backticks, as docstrings have it, as code."""
    return Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text))))  # nosec B704  # noqa: S704 - escaped


def _environment() -> Environment:
    # Only what exists may be shown: a misspelt name is an error, not an empty place.
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    made.trim_blocks = made.lstrip_blocks = True
    made.filters.update(duration=duration, when=when, size=size, percent=tables.percent, fraction=tables.fraction)
    made.filters.update(setting=tables.setting, label=tables.label, heading=tables.heading, named=tables.named)
    made.filters.update(
        in_unit=tables.in_unit,
        difference=tables.difference,
        counted=tables.counted,
        taken_over=tables.taken_over,
        epochs=tables.epochs,
        contrast=tables.contrast,
        remarks=tables.remarks,
        shared=tables.shared,
        dot=tables.dot,
    )
    made.filters.update(named_runs=named_runs, zip=zip, coded=coded)
    made.globals.update(elapsed=elapsed)
    return made


_templates = Jinja2Templates(env=_environment())
