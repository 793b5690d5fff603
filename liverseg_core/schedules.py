"""How the learning rate goes from step to step: a pure function of the step, so that a resumed run continues it."""

import math

from liverseg_core.spec import TrainingOptions


def learning_rate(options: TrainingOptions, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Warm-up rises evenly and reaches the full rate at its last step. With t going from 0 at the first step after it
    to 1 at the last step of the last epoch, as if nothing stopped early:

    - cosine: final + (1 - final) (1 + cos(pi t)) / 2 of ``training.learning_rate`` (Loshchilov and Hutter 2017);
    - exponential: final^t of it;
    - step: a tenth of it after half of the epochs, warm-up included, a hundredth after three quarters.

    Args:
        options: ``learning_rate``, ``epochs`` and ``schedule`` are used.
        step: from 0, counted over all epochs.
        steps_per_epoch: steps of one epoch.
    """
    schedule, full = options.schedule, options.learning_rate
    warmup, steps = schedule.warmup * steps_per_epoch, options.epochs * steps_per_epoch
    if step < warmup:
        return full * (step + 1) / warmup
    t = (step - warmup) / max(1, steps - 1 - warmup)
    match schedule.kind:
        case "cosine":
            return full * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * t)) / 2)
        case "exponential":
            return full * float(schedule.final**t)
        case "step":
            return full * (1, 1, 0.1, 0.01)[4 * step // steps]
        case _:
            return full
