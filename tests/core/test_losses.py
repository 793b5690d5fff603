import numpy as np
import pytest

from liverseg_core.losses import dice, dice_loss


def as_batch(*values):
    return np.array(values, dtype=np.float32).reshape(len(values), 1, -1, 1)


def test_worked_by_hand():
    """sum yp = .5 + 0 + .25 = .75; sum y^2 = 1.25, sum p^2 = .75: (1.5 + 1) / (1.25 + .75 + 1) = 5/6."""
    y, p = as_batch([1.0, 0.0, 0.5]), as_batch([0.5, 0.5, 0.5])
    assert float(dice(y, p)) == pytest.approx(5 / 6)
    assert float(dice_loss(y, p)) == pytest.approx(1 / 6)


def test_sums_run_over_the_whole_batch_not_slice_by_slice():
    """Slice 1: y = p = 1. Slice 2: y = 1, p = 0. Together (2 + 1) / (2 + 1 + 1) = 3/4; the slices' mean is also
    1 and 1/2, so 3/4 only by chance: with y = 2 slices of 3 ones the two differ.
    """
    y, p = as_batch([1, 1, 1], [1, 1, 1]), as_batch([1, 1, 1], [0, 0, 0])
    assert float(dice(y, p)) == pytest.approx((2 * 3 + 1) / (6 + 3 + 1))
    slices = [(2 * 3 + 1) / (3 + 3 + 1), (0 + 1) / (3 + 0 + 1)]
    assert float(dice(y, p)) != pytest.approx(np.mean(slices))


def test_an_empty_prediction_of_an_empty_truth_is_perfect():
    assert float(dice(as_batch([0, 0]), as_batch([0, 0]))) == 1


def test_perfect_soft_values_score_one():
    y = as_batch([0, 0.498, 1])
    assert float(dice(y, y)) == pytest.approx(1)
