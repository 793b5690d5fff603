"""How Postgres answers the four questions asked most, on a filled ledger: python benchmarks/plans.py --runs 10000

Each question is asked as the API asks it; its statement that takes longest is then explained. ``benchmarks/pages.py
--plans FILE`` writes the same of its largest ledger.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from store import bundled, comparison, matrix, schema, views
from store.database import engine, snapshot
from store.models import DEFAULT_PROJECT, Run
from store.settings import settings

sys.path.insert(0, str(Path(__file__).parent))
from filling import fill
from machine import machine, throw_away_home

Question = Callable[[Session, list[int]], object]
Statement = tuple[float, str, Any]
"""Seconds, SQL, parameters."""

QUESTIONS: dict[str, Question] = {
    "A list of runs, from the middle": lambda session, ids: views.runs(
        session, DEFAULT_PROJECT, views.RunFilter(before=ids[0] // 2), 50
    ),
    "A search for runs that finds nothing": lambda session, _: views.runs(
        session, DEFAULT_PROJECT, views.RunFilter(name="nowhere"), 50
    ),
    "A comparison of 100 runs": lambda session, ids: comparison.compare(
        session, DEFAULT_PROJECT, ids[:100], "modern", baseline=ids[0]
    ),
    "500 images by 50 runs": lambda session, ids: matrix.matrix(
        session, DEFAULT_PROJECT, matrix.Asked(ids[:50]), limit=500
    ),
}

LONGEST = 600
"""Characters of a statement or of a line of a plan that are shown; lists of columns and ids are long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    chosen = parser.parse_args()
    with throw_away_home() as home:
        settings.cache_clear()
        postgres = bundled.start_postgres(home)
        try:
            schema.upgrade()
            fill(chosen.runs)
            print(plans(chosen.runs))
        finally:
            postgres.stop()


def plans(runs: int) -> str:
    """The plans as a page of Markdown, on the ledger of this process, which holds so many runs."""
    heading = (
        f"# Query plans\n\nWhat Postgres does for the four questions asked most, on a ledger of {runs:,} runs of 500 "
        "images, written by\n`benchmarks/pages.py --plans`. Of each question the statement that takes longest, with "
        "its plan after a first run.\n"
    )
    where = "\n".join(f"    {line}" for line in machine().splitlines())
    return "\n".join([heading, where, *(_section(name, question) for name, question in QUESTIONS.items())]) + "\n"


def _section(name: str, question: Question) -> str:
    with snapshot() as session:
        ended = select(Run.id).where(Run.state == "succeeded", Run.kind == "train").order_by(Run.id.desc()).limit(100)
        ids = list(session.scalars(ended))
        question(session, ids)
        with _heard() as statements:
            question(session, ids)
        seconds, sql, parameters = max(statements, key=lambda one: one[0])
        explain = f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY OFF) {sql}"
        plan = [line for (line,) in session.connection().exec_driver_sql(explain, parameters)]
    told = f"{len(statements)} statements; the longest takes {1000 * seconds:.1f} ms:"
    return f"\n## {name}\n\n{told}\n\n```sql\n{_short(sql)}\n```\n\n```\n" + "\n".join(map(_short, plan)) + "\n```"


@contextmanager
def _heard() -> Iterator[list[Statement]]:
    """The statements sent meanwhile."""
    found: list[Statement] = []
    begun: list[float] = []

    def before(*_: Any) -> None:
        begun.append(time.perf_counter())

    def after(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        found.append((time.perf_counter() - begun.pop(), sql, parameters))

    event.listen(engine(), "before_cursor_execute", before)
    event.listen(engine(), "after_cursor_execute", after)
    try:
        yield found
    finally:
        event.remove(engine(), "before_cursor_execute", before)
        event.remove(engine(), "after_cursor_execute", after)


def _short(text: str) -> str:
    """Without the middle of long lists."""
    text = re.sub(r"((?:[%(\w).:']+, ){3})(?:[%(\w).:']+, ){5,}", r"\1..., ", text)
    text = re.sub(r"((?:\d+,){3})(?:\d+,){5,}", r"\1...,", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


if __name__ == "__main__":
    main()
