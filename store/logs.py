"""How processes log: plain text as always, or with ``LIVERSEG_LOG_FORMAT=json`` one JSON object a line on stderr.

A line tells which request, run, attempt and worker it is about, wherever in the code it is written: whoever takes up
a request or an attempt says so once, with :func:`about`.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from store.settings import settings

_about: ContextVar[dict[str, Any]] = ContextVar("about")


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Lines that this thread or task writes inside the block carry ``ids`` beside those of blocks around it."""
    token = _about.set(_about.get({}) | ids)
    try:
        yield
    finally:
        _about.reset(token)


def as_json() -> bool:
    """Whether lines are JSON."""
    return settings().log_format == "json"


def configure(process: str, level: int | str = logging.INFO) -> None:
    """Let everything that is logged in this process be JSON, if that is wanted; else change nothing.

    Args:
        process: what this process is, told in every line: ``api`` or ``worker``.
        level: the least that is told, of ours and of libraries.
    """
    if not as_json():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(process))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell the address of every request it sends


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (ISO 8601, UTC), level, logger, process, message, ids and, if any, trace."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            **_about.get({}),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
