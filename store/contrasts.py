"""Rows against a baseline, paired by subject."""

from collections.abc import Mapping, Sequence
from functools import partial

from liverseg_core.statistics import (
    MIN_SUBJECTS,
    REFUSAL,
    RESAMPLES,
    bootstrap_interval,
    holm,
    reach,
    redraw,
    signed_rank,
    smallest_p,
)
from store.entries import Entry
from store.facts import of_scans
from store.measure import Measure
from store.results import Result
from store.rows import Contrast, Pair, Statistics
from store.words import named_runs, told_apart

METHOD = (
    "The unit is the subject, never the slice. p: exact two-sided Wilcoxon signed-rank test of the differences by "
    "subject, zeros left out; Holm: adjusted over all rows compared; effect: rank-biserial correlation, -1 to 1, "
    f"positive where the row scores more than the baseline; interval: 95 % of {RESAMPLES:,} bootstrap resamples of "
    "subjects, then of their scans, of the mean difference."
)


def against(baseline: Entry, entries: Sequence[Entry], measure: Measure, column: str) -> Statistics:
    """Every entry but the baseline that was scored on the baseline's slices, in order.

    ``column`` is a key of the measure's profile; each subject's slices are pooled, whatever the level of the table.
    """
    others = [entry for entry in entries if entry is not baseline and entry.members]
    fair = [entry for entry in others if baseline.members and entry.scope() == baseline.scope()]
    before = measure.by_subject(baseline, column) if fair else {}
    titles = dict(
        zip(map(id, entries), told_apart([one.title for one in entries], [one.ids for one in entries]), strict=True)
    )
    found = [_contrast(titles[id(entry)], baseline, before, entry, measure, column) for entry in fair]
    for contrast, p in zip(found, holm([one.p for one in found]), strict=True):
        contrast.p_holm = p
    told = {one.key: one for one in measure.profile.columns}[column]
    return Statistics(
        baseline=titles[id(baseline)],
        runs=baseline.ids,
        column=column,
        label=told.label,
        unit=told.unit,
        contrasts=found,
        notes=_limits(baseline, found),
        skipped=_skipped(baseline, {titles[id(entry)]: entry.ids for entry in others if entry not in fair}),
    )


def _contrast(
    title: str, baseline: Entry, before: Mapping[str, float | None], entry: Entry, measure: Measure, column: str
) -> Contrast:
    after = measure.by_subject(entry, column)
    pairs, without = [], []
    for subject, first in before.items():
        second = after[subject]
        if first is None or second is None:
            without.append(subject)
        else:
            pairs.append(Pair(subject=subject, baseline=first, value=second, difference=second - first))
    differences = [pair.difference for pair in pairs]
    won, lost = _score(differences, next(one.better for one in measure.profile.columns if one.key == column))
    test = signed_rank(differences)
    return Contrast(
        name=title,
        runs=entry.ids,
        subjects=len(pairs),
        won=won,
        lost=lost,
        zeros=test.zeros,
        without=without,
        mean_difference=sum(differences) / len(pairs) if pairs else None,
        p=test.p,
        p_holm=test.p,
        effect=test.effect,
        interval=_interval(baseline, entry, measure, column, [pair.subject for pair in pairs]),
        smallest_p=smallest_p(len(pairs)),
        pairs=pairs,
    )


def _score(differences: Sequence[float], better: str | None) -> tuple[int | None, int | None]:
    """For how many the row is better, and for how many it is worse."""
    if better is None:
        return None, None
    higher, lower = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    return (higher, lower) if better == "higher" else (lower, higher)


def _interval(
    baseline: Entry, entry: Entry, measure: Measure, column: str, subjects: Sequence[str]
) -> tuple[float, float] | None:
    """None below five subjects."""
    if len(subjects) < MIN_SUBJECTS:
        return None
    draws = []
    for subject in subjects:
        facts = baseline.members[0].facts
        scans = sorted(set(facts.scan[facts.subject == subject].tolist()))
        draws.append(redraw(scans, lambda drawn: _difference(baseline, entry, measure, column, drawn)))
    return bootstrap_interval(draws)


def _difference(baseline: Entry, entry: Entry, measure: Measure, column: str, scans: Sequence[int]) -> float | None:
    """Between the two over some scans of one subject."""
    values = [_over(one, measure, column, scans) for one in (entry, baseline)]
    return None if values[0] is None or values[1] is None else values[0] - values[1]


def _over(entry: Entry, measure: Measure, column: str, scans: Sequence[int]) -> float | None:
    members = tuple(Result(measure, partial(of_scans, one.facts, scans)) for one in entry.members)
    (value,) = measure.by_subject(entry.scored_as(members), column).values()
    return value


def _limits(baseline: Entry, found: Sequence[Contrast]) -> list[str]:
    """What this design can and cannot show."""
    if not baseline.members:
        return ["The baseline has no scores (yet), so nothing can be compared with it."]
    notes = [METHOD] if found else ["There is no other row to compare with the baseline."]
    fewest = min((one.subjects for one in found), default=0)
    if found:
        notes.append(reach(fewest))
    if found and fewest < MIN_SUBJECTS:
        notes.append(f"Interval: {REFUSAL}.")
    return notes


def _skipped(baseline: Entry, unfair: Mapping[str, Sequence[int]]) -> list[str]:
    if not baseline.members:
        return []
    return [
        f"{title} ({named_runs(runs)}): no statistics, it was not scored on the slices that the baseline was scored "
        "on."
        for title, runs in unfair.items()
    ]
