"""What a reader must know before believing a comparison."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from liverseg_core.data.manifest import Manifest, fold_subjects, select
from liverseg_core.spec import FOLD_KINDS, DatasetChoice
from store.datasets import manifest_of
from store.entries import Entry, factors, walk
from store.models import Dataset, Run
from store.words import named_runs

ON_TEST = "Scores are on the test part."
ON_VAL = "Scores are on the val part, which early stopping also used; they do not measure generalisation."
ON_SPARED_VAL = (
    "Scores are on the val part. It chose no epoch, but where settings were chosen by it, they do not measure "
    "generalisation."
)

PAPER_SPLIT = "paper split (very likely the same person on both sides)"
SUBJECT_LEVEL = "subject-level"
SCAN_LEVEL = "scan-level: nobody said who the subjects are"

SOFTMAX = (
    "Runs with the softmax head are scored under paper-2019 with their labels as 0, .5 and .999, since they have no "
    "grey value: {runs}."
)

ELSEWHERE = (
    "{runs}: resumed on different hardware, so these scores may differ slightly from those of a training that "
    "nothing interrupted."
)

SEEDS = "Rows over several seeds show mean and standard deviation (n - 1) over the seeds; no best seed is picked."

NO_REFERENCES = (
    "Reference predictors ({missing}) have no scores with the slices, subjects, image size and lesion rules of "
    "{runs}, so nothing shows there {untold}."
)
UNTOLD = {
    "empty": "whether a row has collapsed",
    "liver-as-lesion": "whether a column scores the whole liver as lesion high",
    "perfect": "whether a column scores a perfect prediction low",
}
"""Reference predictor -> what nobody can tell without it."""

MOST = 8
"""How many pairs of rows are told to differ in several settings, before the rest is only counted."""


@dataclass(frozen=True)
class Sides:
    """Who is where in one run's split."""

    both: Mapping[str, tuple[str, ...]]
    """Part (``val``, ``test``) -> subjects with scans in train and there."""
    people_hash: str
    """Identity of the slices together with who is who."""
    folding: int
    """Subjects that folds are made of: those of train and val."""
    assumed: bool
    scored: Mapping[str, tuple[int, ...]]
    """Part (``val``, ``test``) -> its scans."""
    people: frozenset[str]
    """Subjects of the part that is shown: test where there is one, of a fold those held out."""


def sides(manifest: Manifest, choice: DatasetChoice) -> Sides:
    """Which subjects are trained on and scored, and which scans each part holds."""
    chosen = select(manifest, choice)
    scans = {part: sorted({manifest.slices[index].scan for index in indices}) for part, indices in chosen.items()}
    seen = {manifest.subjects[scan] for scan in scans["train"]}
    scored = {part: tuple(scans[part]) for part in ("val", "test") if scans[part]}
    people = {part: {manifest.subjects[scan] for scan in those} for part, those in scored.items()}
    shown = "val" if choice.split.kind in FOLD_KINDS or "test" not in people else "test"
    return Sides(
        both={part: tuple(sorted(seen & there)) for part, there in people.items()},
        people_hash=manifest.people_hash,
        folding=len(fold_subjects(manifest)),
        assumed=manifest.subjects_assumed,
        scored=scored,
        people=frozenset(people[shown]),
    )


def fewest_subjects(asked: Iterable[tuple[Dataset, DatasetChoice]]) -> int:
    """Over how many subjects the runs can be compared; folds of one set count together, of several sets the least."""
    people: dict[str, set[str]] = {}
    seen: dict[str, Sides] = {}
    for dataset, choice in asked:
        key = f"{dataset.content_hash} {choice.model_dump_json(exclude={'id'})}"
        if key not in seen:
            seen[key] = sides(manifest_of(dataset), choice)
            whole = choice.model_dump_json(exclude={"id": True, "split": {"fold"}})
            people.setdefault(f"{dataset.content_hash} {whole}", set()).update(seen[key].people)
    return min(map(len, people.values()))


def warnings(entries: Sequence[Entry]) -> list[str]:
    """What makes rows incomparable, and what is not there."""
    found = [*_scopes(entries), *_incomplete(entries)]
    unscored = [entry.ids[0] for entry in entries if not entry.members]
    if unscored:
        found.append(f"Without scores (yet): {named_runs(unscored)}.")
    return found


def notes(
    entries: Sequence[Entry],
    split: Mapping[int, Sides],
    *,
    elsewhere: Collection[int],
    baseline: Entry | None,
    paper: bool,
) -> list[str]:
    """What the scores are.

    Args:
        entries: the rows.
        split: run id -> its sides.
        elsewhere: the runs that were resumed on different hardware.
        baseline: the row that others are compared with.
        paper: whether the study's columns are shown.
    """
    found = _parts(entries)
    found += [*_on_both_sides(entries, split), *_pools(entries, split), *_repeats(entries)]
    softmax = [run for entry in entries if entry.settings.get("model.head") == "softmax" for run in entry.ids]
    if paper and softmax:
        found.append(SOFTMAX.format(runs=named_runs(softmax)))
    moved = [run for entry in entries for run in entry.ids if run in elsewhere]
    if moved:
        found.append(ELSEWHERE.format(runs=named_runs(moved).capitalize()))
    return [*found, *_without_references(entries), *_several_factors(entries, baseline)]


def _without_references(entries: Sequence[Entry]) -> list[str]:
    """Which reference predictors are missing beside which runs, and what cannot be told for want of them."""
    lacking: dict[tuple[str, ...], list[int]] = {}
    for _, entry in walk(entries):
        missing = tuple(name for name in UNTOLD if name not in entry.references)
        if entry.what == "run" and entry.members and missing:
            lacking.setdefault(missing, []).extend(entry.ids)
    return [
        NO_REFERENCES.format(
            missing=", ".join(name.replace("-", " ") for name in missing),
            runs=named_runs(runs),
            untold=" or ".join(UNTOLD[name] for name in missing),
        )
        for missing, runs in lacking.items()
    ]


def _parts(entries: Sequence[Entry]) -> list[str]:
    """What a reader must know about each part that was scored."""
    found = [ON_TEST] if any(entry.part == "test" for entry in entries) else []
    on_val = [entry.settings for entry in entries if entry.part == "val"]
    if on_val:
        found.append(ON_SPARED_VAL if all(map(_spares_val, on_val)) else ON_VAL)
    return found


def _spares_val(settings: Mapping[str, Any]) -> bool:
    """Whether training neither stopped by the val part nor chose its epoch by it."""
    kept = settings.get("training.early_stopping.restore")
    return kept == "last" and settings.get("training.early_stopping.patience") is None


def override(run: Run) -> str:
    """Why its split may have a person or a picture on both sides, as it was written; empty where nothing was."""
    return str(run.spec["dataset"].get("split", {}).get("override", "")).strip()


def overrides(runs: Iterable[Run]) -> list[str]:
    """Every written override of a split, with the runs that it touches."""
    touched: dict[str, list[int]] = {}
    for run in runs:
        if written := override(run):
            touched.setdefault(written, []).append(run.id)
    return [f"{named_runs(runs).capitalize()}: split override: {written}" for written, runs in touched.items()]


def _scopes(entries: Sequence[Entry]) -> list[str]:
    """More than one content, part or set of slices makes rows incomparable."""
    scopes: dict[tuple[str, str, str], list[int]] = {}
    sizes = {}
    for entry in entries:
        scope = entry.scope()
        if scope is not None:
            scopes.setdefault(scope, []).extend(entry.ids)
            sizes[scope] = entry.members[0].scope.slices
    if len(scopes) < 2:
        return []
    told = "; ".join(f"{named_runs(runs)} on {sizes[scope]:,} of {scope[1]}" for scope, runs in scopes.items())
    return [
        f"These runs were not scored on the same slices of the same people; their scores cannot be compared: {told}."
    ]


def _incomplete(entries: Sequence[Entry]) -> list[str]:
    """Folds that stand alone are no row of the same table."""
    alone = [
        entry.ids[0]
        for entry in entries
        if entry.what == "run" and entry.settings.get("dataset.split.kind") in FOLD_KINDS and entry.members
    ]
    return (
        [f"{named_runs(alone).capitalize()}: one fold alone; its other folds are not in this table."] if alone else []
    )


def _on_both_sides(entries: Sequence[Entry], split: Mapping[int, Sides]) -> list[str]:
    parts = {run: entry.part for entry in entries if entry.part for run in entry.ids}
    both = {run: split[run].both.get(part, ()) for run, part in parts.items()}
    mixed = [run for run, people in both.items() if people]
    found = []
    if mixed:
        people = sorted({person for run in mixed for person in both[run]})
        found.append(
            f"{named_runs(mixed).capitalize()}: {PAPER_SPLIT}. Subjects on both sides: {', '.join(people)}. "
            "These scores say nothing about new people."
        )
    if any(split[run].assumed for run in parts):
        found.append(
            "Nobody said who the subjects are, so each scan counts as its own; one person may be on both sides."
        )
    return found


def _pools(entries: Sequence[Entry], split: Mapping[int, Sides]) -> list[str]:
    found = []
    for _, entry in walk(entries):
        if entry.what == "folds":
            kind = entry.settings["dataset.split.kind"]
            level = SCAN_LEVEL if any(split[run].assumed for run in entry.ids) else SUBJECT_LEVEL
            found.append(
                f"{named_runs(entry.ids).capitalize()}: folds of one set, {kind} ({level}); their row pools the "
                f"held-out slices of {len(entry.inside)} folds, each scored by the run that had not seen it."
            )
    return found


def _repeats(entries: Sequence[Entry]) -> list[str]:
    return [SEEDS] if any(entry.what == "seeds" for entry in entries) else []


def _several_factors(entries: Sequence[Entry], baseline: Entry | None) -> list[str]:
    """Rows that differ from the baseline, or from the first row, in more than one setting."""
    if not entries:
        return []
    first = baseline or entries[0]
    found = []
    for entry in entries:
        differing = factors(first, entry)
        if len(differing) > 1:
            found.append(
                f"{named_runs(entry.ids).capitalize()} and {named_runs(first.ids)} differ in {len(differing)} "
                f"settings at once ({', '.join(differing)}), so no difference belongs to one of them."
            )
    more = [f"So do {len(found) - MOST} more rows."] if len(found) > MOST else []
    return found[:MOST] + more
