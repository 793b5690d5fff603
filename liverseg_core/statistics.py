"""Whether two experiments differ, over people: signed ranks, several comparisons at once, intervals. NumPy only.

The unit of inference is the subject, never the slice: slices of one person are no independent witnesses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SUBJECTS = 5
"""Below this many subjects no interval is given."""

REFUSAL = f"below {MIN_SUBJECTS} subjects no interval; the dots are shown"

ALPHA = 0.05

RESAMPLES = 10_000
REDRAWS = 200
"""How often the scans of a subject that has several are redrawn for the bootstrap."""

DECIMALS = 12
"""Differences are rounded to this, so that rounding noise neither breaks a tie nor makes a zero count."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of paired differences.

    Attributes:
        used: differences that are not zero; only these have a sign (Wilcoxon's own rule).
        zeros: differences that are.
        p: exact two-sided p in 0..1; 1 where nothing is left.
        effect: matched-pairs rank-biserial correlation, -1..1; positive where differences are; None where
            nothing is left.
    """

    used: int
    zeros: int
    p: float
    effect: float | None


def smallest_p(subjects: int) -> float:
    """The smallest two-sided p that so many pairs can reach: 2^(1-n), when all differences have one sign."""
    return min(1.0, 2.0 ** (1 - subjects))


def reach(subjects: int) -> str:
    """The smallest p that a comparison over so many subjects can give, in words."""
    people = f"{subjects} subject{'s' * (subjects != 1)}"
    least = smallest_p(subjects)
    verdict = f", so no difference can reach p < {ALPHA}" if least >= ALPHA else ""
    return f"With {people} the smallest two-sided p that a paired comparison can reach is {least:.3g}{verdict}."


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's test, exact with and without ties: all 2^n signs of the ranks at hand count as equally likely.

    (``scipy.stats.wilcoxon(method="exact")`` takes the distribution of untied ranks, which is wrong where
    differences tie; without ties both agree.) Zeros are left out and counted. Effect: (W+ - W-) / (W+ + W-),
    Kerby 2014.

    Example: [1, 2, 3] -> p = 2/8, effect 1.
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), DECIMALS)
    signed = rounded[rounded != 0]
    zeros = len(rounded) - len(signed)
    if not len(signed):
        return SignedRank(0, zeros, 1.0, None)
    ranks = _doubled_ranks(np.abs(signed))
    total, positive = int(ranks.sum()), int(ranks[signed > 0].sum())
    chances = _sums_of_subsets(ranks)
    as_far = np.abs(2 * np.arange(total + 1) - total) >= abs(2 * positive - total)
    p = min(1.0, float(chances[as_far].sum()))
    return SignedRank(len(signed), zeros, p, (2 * positive - total) / total)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of one family adjusted after Holm (1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than the one before it, at most 1.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def redraw(scans: Sequence[int], value: Callable[[tuple[int, ...]], float | None], seed: int = 0) -> list[float]:
    """What a subject would have scored with its scans redrawn; one value where it has one scan.

    Args:
        scans: scan numbers of one subject.
        value: the score over some scans, repeats included, rising; None where nothing can be said.
        seed: of the draws.
    """
    if len(scans) == 1:
        draws = [tuple(scans)]
    else:
        chosen = np.random.default_rng(seed).choice(np.asarray(scans), (REDRAWS, len(scans)))
        draws = [tuple(sorted(row)) for row in chosen.tolist()]
    known = {draw: value(draw) for draw in set(draws)}
    return [found for draw in draws if (found := known[draw]) is not None]


def bootstrap_interval(
    draws: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of a mean over subjects, resampling subjects and then their scans.

    Args:
        draws: for each subject its values under redrawn scans (:func:`redraw`).
        seed: the same seed gives the same interval.
        resamples: how many times subjects are drawn.
        confidence: share of resamples inside.

    Returns:
        Low and high, or None below ``MIN_SUBJECTS`` subjects (say :data:`REFUSAL` then).
    """
    if len(draws) < MIN_SUBJECTS:
        return None
    random = np.random.default_rng(seed)
    lengths = np.array([len(one) for one in draws])
    table = np.array([np.resize(one, lengths.max()) for one in draws])
    who = random.integers(0, len(draws), (resamples, len(draws)))
    which = random.integers(0, lengths[who])
    means = table[who, which].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail)).tolist()
    return low, high


def _doubled_ranks(sizes: Floats) -> NDArray[np.int64]:
    """Twice the ranks from 1; equal sizes share the mean of theirs, so doubled they are whole."""
    rising = np.sort(sizes)
    ranks: NDArray[np.int64] = np.searchsorted(rising, sizes, "left") + np.searchsorted(rising, sizes, "right") + 1
    return ranks


def _sums_of_subsets(ranks: NDArray[np.int64]) -> Floats:
    """Chance of each sum 0..total when every rank is in it or not with even chance."""
    chances = np.ones(1)
    for rank in ranks.tolist():
        grown = np.zeros(len(chances) + rank)
        grown[: len(chances)] += chances / 2
        grown[rank:] += chances / 2
        chances = grown
    return chances
