"""Rows pinned at the foot of a comparison: reference predictors and printed tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import printed as printed_tables
from store import results
from store.cautions import Sides
from store.entries import Entry
from store.measure import Measure
from store.models import Run
from store.references import MATTERING, reference_hash
from store.results import Result
from store.rows import Row
from store.run_settings import Described
from store.states import State

DECIDING = ("data.image_size", *(f"evaluation.{option}" for option in MATTERING))
"""Settings that change what a reference predictor scores."""

Scored = dict[str, dict[str, Result]]
"""Predictor -> part -> what it scored."""


def found(
    session: Session,
    runs: Sequence[Run],
    said: Mapping[int, Described],
    split: Mapping[int, Sides],
    measure: Measure,
) -> dict[int, Scored]:
    """Run id -> the reference predictors scored on the same slices, subjects, network size and lesion rules."""
    from liverseg_core.references import PREDICTORS

    known_hashes: dict[tuple[int, int, str], dict[str, str]] = {}
    wanted = {}
    for run in runs:
        sides, size, rules = split[run.id], run.spec["data"]["image_size"], run.spec.get("evaluation", {})
        key = id(sides), size, said[run.id].evaluation
        if key not in known_hashes:
            known_hashes[key] = {
                name: reference_hash(name, sides.people_hash, size, sides.scored, rules) for name in PREDICTORS
            }
        wanted[run.id] = known_hashes[key]
    hashes = {one for hashes in wanted.values() for one in hashes.values()}
    query = select(Run).where(
        Run.project_id.in_({run.project_id for run in runs}),
        Run.kind == "reference",
        Run.state == State.SUCCEEDED,
        Run.training_hash == any_(literal(list(hashes), ARRAY(Text))),
    )
    known = {run.training_hash: run for run in session.scalars(query.order_by(Run.id.desc()))}
    scored = results.read(session, list(known.values()), measure)
    return {
        run: {name: scored[known[one].id] for name, one in hashes.items() if one in known}
        for run, hashes in wanted.items()
    }


def references(entries: Sequence[Entry]) -> list[Row]:
    """A row a predictor for each set of slices and network size among the entries."""
    rows, seen = [], set()
    for entry in entries:
        key = entry.scope(), *(entry.settings.get(path) for path in DECIDING)
        if key in seen:
            continue
        seen.add(key)
        rows += [_reference(entry, name) for name in entry.references]
    return rows


def _reference(entry: Entry, name: str) -> Row:
    scored = entry.references[name]
    return Row(
        what="reference",
        name=name.replace("-", " "),
        settings={path: entry.settings.get(path) for path in DECIDING},
        part=entry.part,
        slices=scored.scope.slices,
        scans=scored.scope.scans,
        subjects=scored.scope.subjects,
        scores=scored.scores.numbers,
        counts=scored.scores.counts,
    )


def printed(session: Session, project_id: int, names: Sequence[str], measure: Measure) -> list[Row]:
    """The rows of printed tables, in the order asked for; their percent become fractions.

    Scores that are no columns of the profile are left out, and with them rows that have no others.

    Raises:
        InputError: there is no such table.
    """
    if not names:
        return []
    known = {table.name: table.content for table in printed_tables.listed(session, project_id)}
    rows = []
    for name in dict.fromkeys(names):
        if name not in known:
            there = ", ".join(known) or "none yet, see `liverseg table import`"
            raise InputError("tables", f"there is no such printed table; there are: {there}", name)
        rows += [_printed(name, row, known[name]["notes"], measure) for row in known[name]["rows"]]
    return [row for row in rows if row.scores]


def _printed(table: str, row: Mapping[str, Any], notes: Sequence[Mapping[str, Any]], measure: Measure) -> Row:
    columns = {column.key for column in measure.profile.columns}
    return Row(
        what="printed",
        name=row["name"],
        table=table,
        settings=row["parameters"],
        scores={key: percent / 100 for key, percent in row["scores"].items() if key in columns},
        notes=[note["message"] for note in notes if row["name"] in note["rows"]],
    )
