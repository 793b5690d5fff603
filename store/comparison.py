"""The comparison of runs: settings that differ, scores under a profile, and what may be said about them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError
from store import cautions, hardware, pinned, results
from store.database import among
from store.datasets import manifest_of
from store.entries import FOLD, WORDS, Entry, grouped, walk
from store.measure import Measure
from store.models import Dataset, Epoch, Run
from store.results import Result
from store.rows import Column, Comparison, Row, Statistics
from store.run_settings import Described, described
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
    said = {run.id: described(run) for run in runs}
    datasets = _datasets(session, runs)
    split = _sides(runs, said, datasets)
    entries = _entries(session, runs, said, split, measure)
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
    query = select(Run).where(Run.project_id == project_id, among(Run.id, run_ids))
    known = {run.id: run for run in session.scalars(query)}
    return [known[wanted] for wanted in dict.fromkeys(run_ids) if wanted in known]


def _datasets(session: Session, runs: Sequence[Run]) -> dict[int, Dataset]:
    wanted = {run.dataset_id for run in runs}
    return {one.id: one for one in session.scalars(select(Dataset).where(among(Dataset.id, wanted)))}


def _entries(
    session: Session,
    runs: Sequence[Run],
    said: Mapping[int, Described],
    split: Mapping[int, cautions.Sides],
    measure: Measure,
) -> list[Entry]:
    """The runs in order, folds and seeds taken together."""
    scored = results.read(session, runs, measure)
    references = pinned.found(session, runs, said, split, measure)
    imported = _imported(session, runs)
    return grouped(
        [
            _entry(
                run,
                said[run.id],
                content=split[run.id].people_hash,
                scored=scored[run.id],
                references=references[run.id],
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


def _entry(
    run: Run,
    said: Described,
    *,
    content: str,
    scored: dict[str, Result],
    references: dict[str, dict[str, Result]],
    imported: bool,
) -> Entry:
    part = shown_part(run, scored)
    return Entry(
        what="run",
        name=run.name,
        runs=(run,),
        settings=said.settings,
        content=content,
        part=part,
        members=(scored[part],) if part else (),
        references={name: parts[part] for name, parts in references.items() if part in parts},
        imported=imported,
    )


def _sides(
    runs: Sequence[Run], said: Mapping[int, Described], datasets: Mapping[int, Dataset]
) -> dict[int, cautions.Sides]:
    """Run id -> who is on which side of its split; every different split of a data set is looked at once."""
    manifests = {one.id: manifest_of(one) for one in datasets.values()}
    known: dict[tuple[int, str], cautions.Sides] = {}
    found = {}
    for run in runs:
        key = run.dataset_id, said[run.id].dataset
        if key not in known:
            known[key] = cautions.sides(manifests[run.dataset_id], said[run.id].choice)
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
    if not runs:
        return [*TABLE_5]
    every: dict[str, Any] = {}
    for one in runs:
        every.update(one.settings)
    texts = [one.settings.texts for one in runs]
    unlike = {path for path, _ in frozenset.union(*texts) - frozenset.intersection(*texts)}
    unlike -= {*TABLE_5, *WORDS}
    differing = [path for path in every if path in unlike and len({repr(one.settings.get(path)) for one in runs}) > 1]
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
        told: dict[str, Any] = {
            "depth": depth,
            "runs": entry.ids,
            "dataset": datasets[first.dataset_id].name,
            "collapsed": measure.collapsed(entry),
            "override": "; ".join(dict.fromkeys(filter(None, map(cautions.override, entry.runs)))),
        }
        if entry.what == "run":
            told |= {"run": first.id, "state": first.state, "kind": first.kind, "reused_from": first.reused_from}
            told |= {"epochs": epochs.get(source(first)), "best_epoch": best[first.id]}
        else:
            told |= {"size": len(entry.inside), "expected": _expected(entry, split)}
        rows.append(scored_row(entry, measure, shown, **told))
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


def scored_row(entry: Entry, measure: Measure, shown: Sequence[str], **told: Any) -> Row:
    """The row of an entry as far as its facts go; ``shown``: the settings to name, ``told``: its other fields."""
    scored = measure.scored(entry)
    inside = entry.inside[0] if entry.inside else entry
    apart = {"seeds": "training.seed", "folds": FOLD}.get(entry.what)
    if scored:
        scope = entry.members[0].scope
        told |= {"slices": scope.slices, "scans": scope.scans, "subjects": scope.subjects}
        told |= {"scores": scored.scores, "counts": scored.counts, "deviations": scored.deviations}
    return Row(
        what=entry.what,
        name=entry.name,
        settings={path: inside.settings.get(path) for path in shown if path != apart},
        part=entry.part,
        notes=[],
        **told,
    )


def _expected(entry: Entry, split: Mapping[int, cautions.Sides]) -> int | None:
    """How many folds the set has."""
    if entry.what != "folds":
        return None
    return entry.settings.get("dataset.split.folds") or split[entry.ids[0]].folding


def _epochs(session: Session, runs: Sequence[Run]) -> tuple[dict[int, int], dict[int, int | None]]:
    """The last epoch by the run that trained it; the best epoch by run, a reused run's from its original."""
    sources = {source(run): run for run in runs}
    last = (
        select(Epoch.run_id, func.max(Epoch.epoch))
        .where(among(Epoch.run_id, sources), Epoch.archived_at.is_(None))
        .group_by(Epoch.run_id)
    )
    best = {run.id: run.best_epoch for run in runs}
    if elsewhere := sources.keys() - best.keys():
        best |= dict(session.execute(select(Run.id, Run.best_epoch).where(among(Run.id, elsewhere))).all())
    return dict(session.execute(last).all()), {run.id: best[source(run)] for run in runs}


def _statistics(chosen: Entry | None, entries: Sequence[Entry], measure: Measure, column: str) -> Statistics | None:
    if chosen is None:
        return None
    from store.contrasts import against  # NumPy is loaded by those who ask for statistics

    return against(chosen, entries, measure, column)


def _misleading(measure: Measure, entries: Sequence[Entry]) -> dict[str, str]:
    """Column -> what is wrong with it, by the first references that show it."""
    found: dict[str, str] = {}
    # Most rows have the same references.
    every = {tuple(map(id, entry.references.values())): entry.references for entry in entries}
    for references in every.values():
        found = {**measure.misleading(references), **found}
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
