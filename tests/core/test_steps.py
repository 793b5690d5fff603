"""A batch computed in pieces takes the step of the whole batch."""

import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from liverseg_core import checkpoints, steps
from liverseg_core.backend import prepare_backend
from liverseg_core.losses import loss_for, study_dice
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec
from liverseg_core.steps import PieceSteps, steps_for

RATE = 1024.0
"""So large that rounding of the weights does not hide a small gradient; a power of two, so that it rounds nothing."""


def pieces_model(loss, dropout=0.5, head="softmax", batch_dice=True):
    chosen = ExperimentSpec.parse(
        {
            "dataset": {"id": "tiny"},
            "training": {"optimizer": "sgd", "loss": loss, "batch_dice": batch_dice},
            "model": {"filters": 2, "depth": 1, "head": head, "normalization": "group", "dropout": dropout},
            "data": {"image_size": 32, "batch_by": "scan"},
        }
    )
    prepare_backend(chosen)
    model = build_network(32, chosen.model, seed=4)
    return model, steps_for(model, chosen), loss_for(chosen.training, head)


def pieces_of_batch(tiny, head, size=4, n=11):
    _, cache = tiny
    y = cache.masks[:n][..., None]
    if head == "softmax":
        y = np.eye(3, dtype=np.float32)[np.digitize(y[..., 0], [1 / 3, 2 / 3])]
    return [(cache.images[:n][k : k + size][..., None], y[k : k + size]) for k in range(0, n, size)]


def step_of(model, steps, batch):
    """The gradient, from what one step of gradient descent takes off the weights; and the measures."""
    model.optimizer.learning_rate = RATE
    before = checkpoints.values_of(model.trainable_variables)
    measured = steps.train(iter(batch * 2), len(batch))
    after = checkpoints.values_of(model.trainable_variables)
    return [(one - other) / RATE for one, other in zip(before, after, strict=True)], measured


def whole_gradient(model, loss, batch):
    """Gradient of the whole batch in one tape, each piece drawing its dropout in turn."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        p = tf.concat([model(x, training=True) for x, _ in batch], 0)
        value = loss(tf.concat([y for _, y in batch], 0), p)
    return [g.numpy() for g in tape.gradient(value, [v.value for v in model.trainable_variables])], float(value), p


def closest(found, expected):
    """Largest difference relative to the whole gradient's length."""
    length = np.sqrt(sum((g**2).sum() for g in expected))
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)) / length


@pytest.mark.parametrize(
    ("loss_name", "head", "batch_dice"),
    [
        ("dice", "grey-sigmoid", True),
        ("lesion-dice-cross-entropy", "softmax", True),
        ("lesion-dice-cross-entropy", "softmax", False),
        ("focal-tversky", "softmax", True),
    ],
)
def test_the_gradient_in_pieces_is_that_of_the_whole(tiny, loss_name, head, batch_dice):
    model, stepper, loss = pieces_model(loss_name, head=head, batch_dice=batch_dice)
    assert isinstance(stepper, PieceSteps)
    batch = pieces_of_batch(tiny, head)
    states = checkpoints.values_of(checkpoints.random_states(model))
    expected, value, p = whole_gradient(model, loss, batch)
    for generator, state in zip(checkpoints.random_states(model), states, strict=True):
        generator.assign(state)
    found, (measured, study_loss) = step_of(model, stepper, batch)
    assert closest(found, expected) < 1e-5
    assert measured == pytest.approx(value, rel=1e-5)
    y = np.concatenate([y for _, y in batch])
    assert study_loss == pytest.approx(1 - float(study_dice(y, p)), rel=1e-5)


def test_without_dropout_pieces_of_any_size_give_the_step_of_one_batch(tiny):
    found = []
    for size in (11, 4, 1):
        model, stepper, _ = pieces_model("lesion-dice-cross-entropy", dropout=0.0)
        batch = pieces_of_batch(tiny, "softmax", size)
        found.append(step_of(model, stepper, batch)[0])
    assert closest(found[1], found[0]) < 1e-5
    assert closest(found[2], found[0]) < 1e-5


def test_other_dropout_draws_in_the_second_pass_would_show(tiny, monkeypatch):
    """Shows that the tests above can fail."""
    model, stepper, loss = pieces_model("lesion-dice-cross-entropy")
    batch = pieces_of_batch(tiny, "softmax", 11)
    states = checkpoints.values_of(checkpoints.random_states(model))
    expected, _, _ = whole_gradient(model, loss, batch)
    for generator, state in zip(checkpoints.random_states(model), states, strict=True):
        generator.assign(state)
    monkeypatch.setattr(steps.checkpoints, "random_states", lambda model: [])
    assert closest(step_of(model, stepper, batch)[0], expected) > 1e-3


def test_no_more_than_a_piece_is_held_at_once(tiny):
    """Pieces are weakly watched: when the next is asked for, none but the last one may be alive."""
    _, stepper, _ = pieces_model("dice")
    watches, most = [], []

    class Watched(np.ndarray):
        pass

    def pieces():
        for x, y in pieces_of_batch(tiny, "softmax", 1, n=10) * 2:
            most.append(sum(watch() is not None for watch in watches))
            watched = x.copy().view(Watched)
            watches.append(weakref.ref(watched))
            yield watched, y

    stepper.train(pieces(), 10)
    assert len(most) == 20
    assert max(most) <= 2


JAX = """
import json
import jax
import numpy as np
from liverseg_core.backend import keras
from tests.core.test_steps import closest, pieces_model, step_of

random = np.random.default_rng(0)
x = random.random((4, 32, 32, 1), np.float32)
y = np.eye(3, dtype=np.float32)[random.integers(0, 3, (4, 32, 32))]


def whole(model, loss):
    fixed = [variable.value for variable in model.non_trainable_variables]
    value = lambda trainable: loss(y, model.stateless_call(trainable, fixed, x, training=True)[0])
    return jax.jit(jax.grad(value))([variable.value for variable in model.trainable_variables])


def apart(size, dropout):
    model, stepper, loss = pieces_model("lesion-dice-cross-entropy", dropout)
    expected = [np.asarray(gradient) for gradient in whole(model, loss)]
    found, _ = step_of(model, stepper, [(x[k : k + size], y[k : k + size]) for k in range(0, 4, size)])
    return float(closest(found, expected))


print(json.dumps([keras.backend.backend(), apart(2, 0.0), apart(4, 0.5)]))
"""


def test_jax_takes_the_same_step_in_pieces(tmp_path):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "error:__array__", "-c", JAX]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    backend, pieces, dropped = json.loads(done.stdout.splitlines()[-1])
    assert backend == "jax"
    assert pieces < 1e-5
    assert dropped < 1e-5  # the second pass draws as the first did
