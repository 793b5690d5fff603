"""What decides how much runs cost, and what memory they took, so that one is begun only where runs like it fit."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.orm import Session

from store.models import Peak, Run

COSTLY = {
    "dataset": ("id", "exclude", "split"),
    "data": ("image_size", "crop", "augmentation", "batch_by", "sampling"),
    "model": ("network", "window", "filters", "depth", "dropout", "head", "normalization", "subpixel"),
    "training": ("batch_size", "deterministic"),
    "evaluation": ("flips", "largest_component"),
}
"""Settings that decide how long an epoch and the scoring take, and how much memory."""


def cost_key(kind: str, spec: Mapping[str, Any]) -> str:
    """What runs must have in common for one to tell what the other takes."""
    kept = {section: {name: spec[section].get(name) for name in names} for section, names in COSTLY.items()}
    if (precision := spec["training"].get("precision", "float32")) != "float32":
        kept["training"]["precision"] = precision  # it came later: what was learnt before under this key still counts
    return json.dumps([kind, kept], sort_keys=True)


def cost(run: Mapping[str, Any]) -> str:
    """What is kept of :func:`cost_key` with each run."""
    return hashlib.sha256(cost_key(run["kind"], run["spec"]).encode()).hexdigest()[:16]


LEARN = text("""
    INSERT INTO peaks (cost, memory_mb) SELECT cost, :memory_mb FROM runs WHERE id = :run AND cost IS NOT NULL
    ON CONFLICT (cost) DO UPDATE SET memory_mb = greatest(
        excluded.memory_mb, CASE WHEN :whole THEN peaks.memory_mb * 9 / 10 ELSE peaks.memory_mb END)""")


def learn(session: Session, run_id: int, memory_mb: int | None, *, whole: bool) -> None:
    """Keep the largest resident memory of an attempt that has ended, MiB.

    Each attempt that went through to its end (``whole``) takes a tenth off what was the most before, so that one run
    on a strange day is forgotten after some; one that ended early says only how much is needed at least.
    """
    if memory_mb is not None:
        session.execute(LEARN, {"run": run_id, "memory_mb": memory_mb, "whole": whole})


def expected() -> Select[int]:
    """What runs like it took, MiB, to stand in a query over runs; no row: nobody knows."""
    return select(Peak.memory_mb).where(Peak.cost == Run.cost)


def known(session: Session, costs: Collection[str | None]) -> dict[str | None, int]:
    """Cost -> memory, MiB, of those that are known."""
    rows = session.execute(select(Peak.cost, Peak.memory_mb).where(Peak.cost.in_(costs)))
    return dict(rows.all())
