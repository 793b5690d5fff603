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
    """One slice of three ones met, one missed: 7/10 together, but 1 and 1/4 one by one, mean 5/8."""
    y, p = as_batch([1, 1, 1], [1, 1, 1]), as_batch([1, 1, 1], [0, 0, 0])
    assert float(dice(y, p)) == pytest.approx((2 * 3 + 1) / (6 + 3 + 1))
    assert [float(dice(y[[n]], p[[n]])) for n in (0, 1)] == [1, 0.25]


def test_an_empty_prediction_of_an_empty_truth_is_perfect():
    assert float(dice(as_batch([0, 0]), as_batch([0, 0]))) == 1


def test_perfect_soft_values_score_one():
    y = as_batch([0, 0.498, 1])
    assert float(dice(y, y)) == pytest.approx(1)
