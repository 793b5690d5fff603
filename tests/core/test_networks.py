import numpy as np
import pytest

from liverseg_core.networks import HeNormal, build_network
from liverseg_core.spec import ModelOptions
from liverseg_core.weights import network_shapes

SMALL = ModelOptions(filters=2, depth=2)


@pytest.mark.parametrize(("filters", "parameters"), [(4, 121_725), (8, 485_813)])
def test_the_study_s_parameter_counts(filters, parameters):
    assert build_network(64, ModelOptions(filters=filters)).count_params() == parameters


@pytest.mark.parametrize(("filters", "depth"), [(4, 4), (3, 1), (2, 3)])
def test_weights_have_the_names_shapes_and_order_of_the_weights_format(filters, depth):
    model_options = ModelOptions(filters=filters, depth=depth)
    model = build_network(32, model_options)
    assert [(weight.path, tuple(weight.shape)) for weight in model.weights] == network_shapes(model_options)


def test_one_sigmoid_channel_of_the_same_size():
    images = np.linspace(0, 1, 2 * 32 * 32, dtype=np.float32).reshape(2, 32, 32, 1)
    p = build_network(32, SMALL).predict_on_batch(images)
    assert p.shape == (2, 32, 32, 1)
    assert 0 < p.min() < p.max() < 1


def test_skips_come_first_in_every_join():
    model = build_network(32, SMALL)
    joined = [layer.input for layer in model.layers if layer.name.endswith("_join")]
    assert [[tensor._keras_history.operation.name for tensor in pair] for pair in joined] == [
        ["encoder2_dropout", "decoder2_up"],
        ["encoder1_conv2", "decoder1_up"],
    ]


def test_the_same_seed_gives_the_same_start():
    one, same, other = (build_network(32, SMALL, seed=seed).get_weights() for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one[::2], other[::2], strict=True))


def test_the_same_seed_gives_the_same_dropout_draws_and_two_layers_differ():
    def states(seed):
        model = build_network(32, SMALL, seed=seed)
        return [int(variable.numpy()[0]) for variable in model.non_trainable_variables]

    assert states(5) == states(5)
    assert len({*states(5), *states(6)}) == 4


def test_he_normal_has_its_deviation_and_its_cut():
    """fan_in = 3 * 3 * 32 = 288: deviation sqrt(2 / 288) = 1/12, cut at 2 / 0.8796 of it."""
    values = HeNormal(0)((3, 3, 32, 2000))
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(1 / 12, rel=0.005)
    assert abs(values.mean()) < 0.001
    assert np.abs(values).max() == pytest.approx(2 / 0.87962566 / 12, rel=1e-3)


def test_the_default_start_never_changes():
    """Golden values: the same spec must go on giving the same weights, or TRAINING_VERSION must rise."""
    first, *_, last, bias = build_network(64, ModelOptions()).get_weights()
    assert first.ravel()[:3] == pytest.approx([0.1852037, 0.4403174, 0.1770862], abs=1e-6)
    assert last.ravel() == pytest.approx([-2.1885042, 1.3124483], abs=1e-6)
    assert bias.tolist() == [0]


def test_the_default_start_can_move_pixels_both_ways(tiny):
    """Else the run would be lost from the start: 0 or 1 below."""
    p = build_network(32, ModelOptions()).predict_on_batch(tiny[1].images[..., None])
    assert 0.02 < (p < 0.5).mean() < 0.98
    assert 0.02 < (p > 0.5).mean() < 0.98
