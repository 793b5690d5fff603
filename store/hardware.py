"""Which runs were resumed on different hardware, so that their results may differ in their bits."""

from collections.abc import Collection
from itertools import groupby
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

RESUMED_ELSEWHERE = text("""
    WITH RECURSIVE line AS (
        SELECT id AS run, id AS source FROM runs WHERE id = ANY(:runs)
        UNION
        SELECT line.run, coalesce(runs.reused_from, runs.scored_from) FROM line JOIN runs ON runs.id = line.source
        WHERE coalesce(runs.reused_from, runs.scored_from) IS NOT NULL
    )
    SELECT line.run, a.run_id AS source, a.number, a.resumed_from, a.provenance
    FROM line JOIN attempts a ON a.run_id = line.source
    WHERE a.provenance ? 'changed_from' AND (a.outcome IN ('running', 'succeeded') OR EXISTS (
        SELECT 1 FROM epochs e WHERE e.run_id = a.run_id AND e.attempt = a.number AND e.archived_at IS NULL))
    ORDER BY 1, 2, 3""")
"""Attempts that a run's result hangs on: its own and those of the run whose result or weights it uses.

One that left no epoch that still counts left nothing.
"""


def resumed_elsewhere(session: Session, run_ids: Collection[int]) -> dict[int, str]:
    """Those of the runs that were, or whose result comes from one that was, each with a sentence about it."""
    rows = session.execute(RESUMED_ELSEWHERE, {"runs": list(run_ids)})
    return {
        run: f"Resumed on different hardware: {', '.join(map(_told, attempts))}."
        for run, attempts in groupby(rows, key=lambda row: row.run)
    }


def _told(row: Row[Any]) -> str:
    whose = "" if row.source == row.run else f"run {row.source}, "
    return f"{whose}attempt {row.number} after epoch {row.resumed_from} ({changes(row.provenance)})"


def changes(provenance: dict[str, Any] | None) -> str:
    """``processor A, then B; threads 1, then 2``: from the checkpoint's machine to the attempt's; empty: equal."""
    now = provenance or {}
    before: dict[str, str] = now.get("changed_from", {})
    return "; ".join(f"{name} {value}, then {now[name]}" for name, value in before.items())
