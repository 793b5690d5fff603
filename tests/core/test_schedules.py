import pytest

from liverseg_core.schedules import learning_rate
from liverseg_core.spec import TrainingOptions


def rates(steps, epochs, **schedule):
    options = TrainingOptions(learning_rate=0.1, epochs=epochs, schedule=schedule)
    return [learning_rate(options, step, steps) for step in range(steps * epochs)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [0.1] * 8),
        ({"kind": "step"}, [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ({"kind": "exponential"}, [0.1 * 10 ** (-2 * k / 7) for k in range(8)]),
        ({"warmup": 1}, [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ({"kind": "step", "warmup": 1}, [0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ({"warmup": 4}, [0.1 * k / 8 for k in range(1, 9)]),
    ],
)
def test_rates_of_four_epochs_of_two_steps(schedule, expected):
    assert rates(2, 4, **schedule) == pytest.approx(expected)


def test_cosine_by_hand():
    # 5 steps: cos 0, pi/4, pi/2, 3pi/4, pi; from 0.1 down to 0.1 * 0.2.
    expected = [0.1, 0.02 + 0.08 * (1 + 0.5**0.5) / 2, 0.06, 0.02 + 0.08 * (1 - 0.5**0.5) / 2, 0.02]
    assert rates(5, 1, kind="cosine", final=0.2) == pytest.approx(expected)
    warm = rates(5, 2, kind="cosine", final=0.2, warmup=1)
    assert warm == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, *expected])


def test_one_step_alone_takes_the_full_rate():
    assert rates(1, 1, kind="cosine") == [0.1]
    assert rates(1, 2, kind="exponential", warmup=1) == [0.1, 0.1]


def test_the_default_is_the_very_number_of_the_spec():
    assert learning_rate(TrainingOptions(), 77, 34) == 0.001
