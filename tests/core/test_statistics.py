"""Statistics against enumeration, SciPy and numbers worked by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from liverseg_core import statistics


def enumerated(differences):
    """P by listing every assignment of signs."""
    kept = np.array([one for one in differences if one])
    ranks = scipy.stats.rankdata(np.abs(kept))
    observed, middle = ranks[kept > 0].sum(), ranks.sum() / 2
    sums = [ranks[list(chosen)].sum() for chosen in itertools.product([False, True], repeat=len(kept))]
    return np.mean([abs(one - middle) >= abs(observed - middle) - 1e-9 for one in sums])


@pytest.mark.parametrize("seed", range(40))
def test_p_is_the_share_of_signs_as_extreme_ties_and_zeros_included(seed):
    random = np.random.default_rng(seed)
    differences = [*random.integers(-4, 5, random.integers(1, 10)).tolist(), 1]
    found = statistics.signed_rank(differences)
    assert found.p == pytest.approx(enumerated(differences), abs=1e-12)
    assert (found.used, found.zeros) == (len(differences) - differences.count(0), differences.count(0))


@pytest.mark.parametrize("subjects", [1, 3, 6, 12, 40])
def test_p_without_ties_is_scipys(subjects):
    differences = np.random.default_rng(subjects).normal(0.3, 1, subjects)
    expected = scipy.stats.wilcoxon(differences, method="exact").pvalue
    assert statistics.signed_rank(differences).p == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    # ranks 1, 2.5, 2.5, 4; W+ = 7.5, W- = 2.5: effect 5/10. Of 16 sums as far from 5 as 7.5 is: 0, 1, 2.5
    # (twice) and their mirrors.
    found = statistics.signed_rank([0.1, -0.2, 0.2, 0.3, 0.0])
    assert (found.used, found.zeros, found.effect) == (4, 1, 0.5)
    assert found.p == pytest.approx(enumerated([1, -2, 2, 3]))
    assert found.p == 8 / 16


def test_rounding_noise_is_a_tie_and_no_difference():
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert statistics.signed_rank([0.3 - 0.2, 0.1 - 0.2, 0.1 + 0.2 - 0.3]) == statistics.SignedRank(2, 1, 1.0, 0.0)


def test_nothing_to_tell_apart():
    assert statistics.signed_rank([0.0, 0.0]) == statistics.SignedRank(0, 2, 1.0, None)
    assert statistics.signed_rank([]) == statistics.SignedRank(0, 0, 1.0, None)


@pytest.mark.parametrize(("subjects", "p"), [(0, 1), (1, 1), (3, 0.25), (5, 0.0625), (6, 0.03125), (11, 2**-10)])
def test_the_smallest_p_is_reached_when_all_agree(subjects, p):
    assert statistics.smallest_p(subjects) == p
    assert statistics.signed_rank([-1.5 - one for one in range(subjects)]).p == pytest.approx(p)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 -> 4 * .005, 3 * .01, 2 * .03, max(.06, .04)
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([0.2]) == [0.2]
    assert statistics.holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni():
    """Brute force: a hypothesis is adjusted to the worst Bonferroni p of all families that it is in (Marcus 1976)."""
    random = np.random.default_rng(7)
    for size in range(1, 7):
        for _ in range(20):
            p = random.choice([1e-6, 0.004, 0.01, 0.01, 0.03, 0.2, 0.9, 1.0], size).tolist()
            families = [one for count in range(1, size + 1) for one in itertools.combinations(range(size), count)]
            worst = [
                max(min(1.0, len(one) * min(p[place] for place in one)) for one in families if number in one)
                for number in range(size)
            ]
            assert statistics.holm(p) == pytest.approx(worst)


def test_an_interval_comes_back_with_its_seed_and_not_with_another():
    draws = [[0.1], [0.2, 0.25], [0.4], [-0.1], [0.3]]
    assert statistics.bootstrap_interval(draws, seed=1) == statistics.bootstrap_interval(draws, seed=1)
    assert statistics.bootstrap_interval(draws, seed=1) != statistics.bootstrap_interval(draws, seed=2)


def test_the_interval_is_scipys():
    values = np.random.default_rng(3).normal(0.2, 0.1, 12)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    ours = statistics.bootstrap_interval([[value] for value in values])
    assert ours == pytest.approx(theirs.confidence_interval, abs=2e-3)


def test_five_equal_subjects_have_no_spread_and_four_no_interval():
    assert statistics.bootstrap_interval([[0.5]] * 5) == (0.5, 0.5)
    assert statistics.bootstrap_interval([[0.5]] * 4) is None


def test_scans_within_a_subject_widen_the_interval():
    # the same subject means, but half the subjects' values lie apart by scan
    low, high = statistics.bootstrap_interval([[0.0]] * 5)
    wide_low, wide_high = statistics.bootstrap_interval([[-1.0, 1.0]] * 5)
    assert wide_low < low == high < wide_high


def test_redrawn_scans_are_scored_once_each_and_with_repeats():
    asked = []

    def value(scans):
        asked.append(scans)
        return None if scans == (7, 7) else float(sum(scans))

    found = statistics.redraw([7, 9], value)
    assert sorted(asked) == [(7, 7), (7, 9), (9, 9)]
    assert set(found) == {16.0, 18.0}
    assert len(found) < statistics.REDRAWS  # those without a value are left out
    assert statistics.redraw([4], lambda scans: 0.5) == [0.5]
