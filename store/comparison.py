"""The comparison of runs: settings that differ, scores under a profile, and what may be said about them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from liverseg_core.spec import ExperimentSpec
from store import cautions, hardware, pinned, results
from store.datasets import manifest_of
from store.entries import FOLD, Entry, grouped, walk
from store.measure import Measure
from store.models import Dataset, Epoch, Run
from store.results import Result
from store.rows import Column, Comparison, Row, Statistics
from store.views import shown_part, source

TABLE_5 = ("training.optimizer", "training.batch_size", "data.image_size", "model.filters", "training.learning_rate")
"""The study's own parameter columns, always shown; other settings are shown where rows differ."""

OVERVIEW = "overview"
STUDYS = (OVERVIEW, "paper-2019", "paper-2019-fig4")
"""Profiles that show the study's own scores."""


def compare(
    session: Session,
    project_id: int,
    run_ids: Sequence[int],
    profile: str = OVERVIEW,
    level: str | None = None,
    baseline: int | None = None,
    tables: Sequence[str] = (),
    column: str | None = None,
) -> Comparison:
    """Compare runs in the order given; ids that the project does not have are left out (the caller checks).

    Args:
        session: an open session.
        project_id: whose runs.
        run_ids: the runs; those that differ in their seed alone, and folds of one set, are taken together.
        profile: key of ``liverseg_core.profiles.PROFILES``.
        level: one of the profile's levels; None: its first.
        baseline: a run among them; every row scored on the same slices is tested against its row, by subject.
        tables: names of printed tables whose rows to pin at the foot.
        column: what the tests are about; None: the profile's lesion Dice.

    Raises:
        InputError: no such profile, level, column or table, or the baseline is not among the runs.
    """
    measure = Measure.of(profile, level)
    tested = measure.column(column)
    if column is not None and baseline is None:
        raise InputError("column", "says what the statistics are about, and they need a baseline; give one", column)
    runs = _runs(session, project_id, run_ids)
    datasets = _datasets(session, runs)
    split = _sides(runs, datasets)
    entries = _entries(session, runs, split, measure)
    chosen = _chosen(entries, baseline)
    shown = _parameters([entry for _, entry in walk(entries) if entry.what == "run"])
    misleading = _misleading(measure, entries)
    printed = pinned.printed(session, project_id, tables, measure)
    rows = _rows(session, entries, measure, shown, split, datasets)
    if chosen is not None:
        _differ(rows, entries, chosen)
    return Comparison(
        profile=profile,
        level=measure.level,
        about=measure.profile.about,
        comparable=len({entry.scope() for entry in entries if entry.members}) < 2,
        parameters=shown,
        columns=_columns(measure, misleading),
        rows=rows,
        references=pinned.references(entries),
        printed=printed,
        statistics=_statistics(chosen, entries, measure, tested),
        warnings=[*cautions.warnings(entries), *_column_warnings(measure, misleading), *_unseen(tables, printed)],
        overrides=cautions.overrides(run for entry in entries for run in entry.runs),
        notes=cautions.notes(
            entries,
            split,
            elsewhere=hardware.resumed_elsewhere(session, [run.id for run in runs]),
            baseline=chosen,
            paper=profile in STUDYS,
        ),
    )


def _runs(session: Session, project_id: int, run_ids: Sequence[int]) -> list[Run]:
    query = select(Run).where(Run.project_id == project_id, Run.id.in_(run_ids))
    known = {run.id: run for run in session.scalars(query)}
    return [known[wanted] for wanted in dict.fromkeys(run_ids) if wanted in known]


def _datasets(session: Session, runs: Sequence[Run]) -> dict[int, Dataset]:
    wanted = {run.dataset_id for run in runs}
    return {one.id: one for one in session.scalars(select(Dataset).where(Dataset.id.in_(wanted)))}


def _entries(
    session: Session, runs: Sequence[Run], split: Mapping[int, cautions.Sides], measure: Measure
) -> list[Entry]:
    """The runs in order, folds and seeds taken together."""
    scored = results.read(session, runs, measure)
    references = pinned.found(session, runs, split, measure)
    imported = _imported(session, runs)
    return grouped(
        [
            replace(
                _entry(run, split[run.id].people_hash, scored[run.id], references[run.id]),
                imported=run.id in imported,
            )
            for run in runs
        ]
    )


def _imported(session: Session, runs: Sequence[Run]) -> set[int]:
    """The runs whose weights came from elsewhere, so that nobody knows their seeds: those, or scored from those."""
    roots = {run.id: run for run in runs}
    while older := {one: run for one, run in roots.items() if run.scored_from is not None}:
        for one, run in older.items():
            roots[one] = session.get_one(Run, run.scored_from)
    return {one for one, run in roots.items() if run.kind == "evaluate"}


def _entry(run: Run, content: str, scored: dict[str, Result], references: dict[str, dict[str, Result]]) -> Entry:
    part = shown_part(run, scored)
    return Entry(
        what="run",
        name=run.name,
        runs=(run,),
        settings=_settings(json.dumps(run.spec)),
        content=content,
        part=part,
        members=(scored[part],) if part else (),
        references={name: parts[part] for name, parts in references.items() if part in parts},
    )


@lru_cache(2048)  # a page is asked for again and again, and a spec never changes
def _settings(spec: str) -> Mapping[str, Any]:
    return ExperimentSpec.parse(json.loads(spec)).settings()


def _sides(runs: Sequence[Run], datasets: Mapping[int, Dataset]) -> dict[int, cautions.Sides]:
    """Run id -> who is on which side of its split; every different split of a data set is looked at once."""
    manifests = {one.id: manifest_of(one) for one in datasets.values()}
    known: dict[tuple[int, str], cautions.Sides] = {}
    found = {}
    for run in runs:
        key = run.dataset_id, json.dumps(run.spec["dataset"], sort_keys=True)
        if key not in known:
            known[key] = cautions.sides(manifests[run.dataset_id], ExperimentSpec.parse(run.spec).dataset)
        found[run.id] = known[key]
    return found


def _chosen(entries: Sequence[Entry], baseline: int | None) -> Entry | None:
    """The row that holds the baseline: its own, or that of its seeds or folds."""
    if baseline is None:
        return None
    for entry in entries:
        if baseline in entry.ids:
            return entry
    raise InputError("baseline", "must be one of the runs compared", baseline)


def _parameters(runs: Sequence[Entry]) -> list[str]:
    """The study's columns, then every other setting in which the rows differ."""
    every = dict.fromkeys(path for one in runs for path in one.settings)
    hidden = {*TABLE_5, "dataset.id", "dataset.split.override"}
    # By their texts: 1 and true are two settings, and lists cannot be put in a set.
    differing = [
        path for path in every if path not in hidden and len({repr(one.settings.get(path)) for one in runs}) > 1
    ]
    return [*TABLE_5, *differing]


def _rows(
    session: Session,
    entries: Sequence[Entry],
    measure: Measure,
    shown: Sequence[str],
    split: Mapping[int, cautions.Sides],
    datasets: Mapping[int, Dataset],
) -> list[Row]:
    every = walk(entries)
    runs = [entry.runs[0] for _, entry in every if entry.what == "run"]
    epochs, best = _epochs(session, runs)
    rows = []
    for depth, entry in every:
        first = entry.runs[0]
        row = scored_row(entry, measure, shown)
        row.depth, row.runs, row.dataset = depth, entry.ids, datasets[first.dataset_id].name
        row.collapsed = measure.collapsed(entry)
        row.override = "; ".join(dict.fromkeys(filter(None, map(cautions.override, entry.runs))))
        if entry.what == "run":
            row.run, row.state, row.kind, row.reused_from = first.id, first.state, first.kind, first.reused_from
            row.epochs, row.best_epoch = epochs.get(source(first)), best[first.id]
        else:
            row.size, row.expected = len(entry.inside), _expected(entry, split)
        rows.append(row)
    return rows


def _differ(rows: Sequence[Row], entries: Sequence[Entry], baseline: Entry) -> None:
    """Give rows scored on the baseline's slices their differences to it; ``rows`` are those of the entries walked."""
    paired = [(entry, row) for (_, entry), row in zip(walk(entries), rows, strict=True)]
    before = next(row.scores for entry, row in paired if entry is baseline)
    for entry, row in paired:
        if entry is baseline or not before or not row.scores or entry.scope() != baseline.scope():
            continue
        pairs = {key: (before[key], after) for key, after in row.scores.items()}
        row.differences = {
            key: None if first is None or second is None else second - first for key, (first, second) in pairs.items()
        }


def scored_row(entry: Entry, measure: Measure, shown: Sequence[str]) -> Row:
    """The row of an entry as far as its facts go; ``shown``: the settings to name."""
    scored = measure.scored(entry)
    inside = entry.inside[0] if entry.inside else entry
    apart = {"seeds": "training.seed", "folds": FOLD}.get(entry.what)
    row = Row(
        what=entry.what,
        name=entry.name,
        settings={path: inside.settings.get(path) for path in shown if path != apart},
        part=entry.part,
    )
    if scored:
        scope = entry.members[0].scope
        row.slices, row.scans, row.subjects = scope.slices, scope.scans, scope.subjects
        row.scores, row.counts, row.deviations = scored.scores, scored.counts, scored.deviations
    return row


def _expected(entry: Entry, split: Mapping[int, cautions.Sides]) -> int | None:
    """How many folds the set has."""
    if entry.what != "folds":
        return None
    return entry.settings.get("dataset.split.folds") or split[entry.ids[0]].folding


def _epochs(session: Session, runs: Sequence[Run]) -> tuple[dict[int, int], dict[int, int | None]]:
    """The last epoch by the run that trained it; the best epoch by run, a reused run's from its original."""
    sources = {source(run) for run in runs}
    last = (
        select(Epoch.run_id, func.max(Epoch.epoch))
        .where(Epoch.run_id.in_(sources), Epoch.archived_at.is_(None))
        .group_by(Epoch.run_id)
    )
    best = select(Run.id, Run.best_epoch).where(Run.id.in_(sources))
    originals = dict(session.execute(best).all())
    return dict(session.execute(last).all()), {run.id: originals[source(run)] for run in runs}


def _statistics(chosen: Entry | None, entries: Sequence[Entry], measure: Measure, column: str) -> Statistics | None:
    if chosen is None:
        return None
    from store.contrasts import against  # NumPy is loaded by those who ask for statistics

    return against(chosen, entries, measure, column)


def _misleading(measure: Measure, entries: Sequence[Entry]) -> dict[str, str]:
    """Column -> what is wrong with it, by the first references that show it."""
    found: dict[str, str] = {}
    for entry in entries:
        found = {**measure.misleading(entry.references), **found}
    return found


def _unseen(tables: Sequence[str], printed: Sequence[Row]) -> list[str]:
    missing = [name for name in dict.fromkeys(tables) if name not in {row.table for row in printed}]
    return [f"Printed table {name} has no column of this profile, so it is not shown." for name in missing]


def _columns(measure: Measure, misleading: dict[str, str]) -> list[Column]:
    found = [Column.model_validate(one) for one in measure.profile.columns]
    return [one.model_copy(update={"warning": misleading.get(one.key)}) for one in found]


def _column_warnings(measure: Measure, misleading: dict[str, str]) -> list[str]:
    labels = {column.key: column.label for column in measure.profile.columns}
    return [f"{labels[key]} cannot rank runs: here {told}." for key, told in misleading.items()]
