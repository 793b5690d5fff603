import numpy as np
import pytest

from liverseg_core.backend import batch_normalization, compile_model, keras, prepare_backend
from liverseg_core.losses import loss_for
from liverseg_core.networks import HeNormal, Orthogonal, build_network
from liverseg_core.spec import ExperimentSpec, ModelOptions
from liverseg_core.weights import network_shapes

SMALL = ModelOptions(filters=2, depth=2)
NETWORKS = (("unet", 1), ("unet-2.5d", 1), ("unet-2.5d", 5), ("convlstm-unet", 3))
EVERY = [
    ModelOptions(network=network, window=window, head=head, normalization=normalization, filters=2, depth=2)
    for network, window in NETWORKS
    for head in ("grey-sigmoid", "softmax")
    for normalization in ("none", "batch", "group", "instance")
] + [
    ModelOptions(network=network, window=window, head=head, filters=2, depth=2, subpixel=subpixel)
    for network, window in NETWORKS
    for head, subpixel in (("grey-sigmoid", 2), ("softmax", 4))
]


def small(**options):
    return ModelOptions(**({"filters": 2, "depth": 2} | options))


def noise(window=1, size=16, samples=3, seed=0):
    return np.random.default_rng(seed).random((samples, size, size, window), dtype=np.float32)


def layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize(("filters", "parameters"), [(4, 121_725), (8, 485_813)])
def test_the_study_s_parameter_counts(filters, parameters):
    assert build_network(64, ModelOptions(filters=filters)).count_params() == parameters


@pytest.mark.parametrize(("filters", "depth"), [(4, 4), (3, 1), (2, 3)])
def test_weights_have_the_names_shapes_and_order_of_the_weights_format(filters, depth):
    model_options = ModelOptions(filters=filters, depth=depth)
    model = build_network(32, model_options)
    assert [(weight.path, tuple(weight.shape)) for weight in model.weights] == network_shapes(model_options)


@pytest.mark.parametrize(
    "options", EVERY, ids=lambda o: f"{o.network}-{o.window}-{o.head}-{o.normalization}-{o.subpixel}"
)
def test_every_network_has_its_shapes_and_the_weights_of_the_format(options):
    model = build_network(16, options)
    assert [(weight.path, tuple(weight.shape)) for weight in model.weights] == network_shapes(options)
    assert model.input_shape == (None, 16, 16, options.window)
    assert model.output_shape == (None, 16, 16, 3 if options.head == "softmax" else 1)


@pytest.mark.parametrize("head", ["grey-sigmoid", "softmax"])
@pytest.mark.parametrize("image_size", [32, None])
def test_subpixels_are_gathered_and_spread_again(head, image_size):
    """Against the plain network on slices whose squares were made channels by NumPy, and spread by NumPy."""
    side, images = 2, noise(window=3, size=32)
    options = small(network="unet-2.5d", window=3, head=head, subpixel=side)
    model = build_network(image_size, options, seed=4)
    gathered = np.stack(
        [images[:, row::side, column::side] for row in range(side) for column in range(side)], axis=3
    ).reshape(3, 16, 16, -1)
    inner = keras.Model(model.get_layer("image_gather").output, model.get_layer("output").output)
    logits = inner.predict_on_batch(gathered).reshape(3, 16, 16, side**2, -1)
    expected = np.zeros((3, 32, 32, logits.shape[-1]), np.float32)
    for number in range(side**2):
        expected[:, number // side :: side, number % side :: side] = logits[:, :, :, number]
    expected = np.exp(expected)
    expected = expected / (1 + expected) if head == "grey-sigmoid" else expected / expected.sum(-1, keepdims=True)
    assert expected.std() > 1e-3
    assert model.predict_on_batch(images) == pytest.approx(expected, abs=1e-6)


def test_softmax_gives_three_probabilities_that_sum_to_one():
    p = build_network(16, small(head="softmax")).predict_on_batch(noise())
    assert p.min() > 0
    assert p.sum(-1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("options", [small(), small(head="softmax", normalization="group")])
def test_a_window_of_one_slice_is_the_two_dimensional_network(options):
    plain = build_network(16, options, seed=4)
    window = build_network(16, options.model_copy(update={"network": "unet-2.5d"}), seed=4)
    images = noise()
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), window.get_weights(), strict=True))
    assert np.array_equal(plain.predict_on_batch(images), window.predict_on_batch(images))


def test_a_wider_window_sees_its_neighbours():
    """With its kernels for the neighbours at zero it is the two-dimensional network of the middle slice."""
    plain = build_network(16, small(), seed=4)
    window = build_network(16, small(network="unet-2.5d", window=3), seed=4)
    kernel, *others = plain.get_weights()
    wide = np.zeros((3, 3, 3, 2), np.float32)
    wide[:, :, 1:2] = kernel
    window.set_weights([wide, *others])
    images = noise(3)
    assert window.predict_on_batch(images) == pytest.approx(plain.predict_on_batch(images[..., 1:2]), abs=1e-6)
    wide[:, :, 0] = 1
    window.set_weights([wide, *others])
    assert not np.allclose(window.predict_on_batch(images), plain.predict_on_batch(images[..., 1:2]), atol=1e-3)


@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
def test_the_order_of_the_neighbours_changes_the_output_of_the_lstm_network(normalization):
    """The middle slice stays where it is, so nothing but the order of the others differs."""
    model = build_network(16, small(network="convlstm-unet", window=5, normalization=normalization))
    images = noise(5)
    first = model.predict_on_batch(images)
    for order in ((1, 0, 2, 3, 4), (0, 1, 2, 4, 3), (4, 3, 2, 1, 0)):
        assert np.abs(first - model.predict_on_batch(images[..., list(order)])).max() > 1e-4
    assert np.array_equal(first, model.predict_on_batch(images))


def test_samples_of_the_lstm_network_do_not_mix():
    model = build_network(16, small(network="convlstm-unet", window=3, normalization="instance"))
    images = noise(3)
    together = model.predict_on_batch(images)
    for n in range(len(images)):  # in batches of one size, so that sums are taken in one order
        others = noise(3, seed=1)
        others[n] = images[n]
        assert model.predict_on_batch(others)[n] == pytest.approx(together[n], abs=1e-6)
        assert not np.array_equal(model.predict_on_batch(others)[n - 1], together[n - 1])


def test_the_lstm_network_takes_its_skips_from_the_middle_slice():
    """With the bottom silenced nothing but the middle slice is left."""
    model = build_network(16, small(network="convlstm-unet", window=3))
    values = [
        np.zeros_like(value) if weight.path.startswith("bottom_lstm") else value
        for weight, value in zip(model.weights, model.get_weights(), strict=True)
    ]
    model.set_weights(values)
    images = noise(3)
    first = model.predict_on_batch(images)
    for place, same in ((0, True), (1, False), (2, True)):
        changed = images.copy()
        changed[..., place] = noise(seed=1)[..., 0]
        assert np.array_equal(first, model.predict_on_batch(changed)) is same


@pytest.mark.parametrize(
    ("normalization", "axes"), [("batch", (0, 1, 2)), ("group", (1, 2, 4)), ("instance", (1, 2))]
)
def test_normalization_comes_between_every_convolution_but_the_last_and_its_relu(normalization, axes):
    model = build_network(16, small(filters=4, normalization=normalization))
    convolutions = [layer.name for layer in layers(model, keras.layers.Conv2D)]
    assert [layer.name for layer in layers(model, keras.layers.ReLU)] == [f"{n}_relu" for n in convolutions[:-1]]
    x, normalized = (
        keras.Model(model.input, model.get_layer(name).output)(noise(), training=True).numpy()
        for name in ("encoder2_conv1", "encoder2_conv1_norm")
    )
    if normalization == "group":
        x = x.reshape(*x.shape[:3], 4, 2)  # eight channels, so four groups of two
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    assert normalized == pytest.approx(expected.reshape(normalized.shape), abs=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 1), (12, 2), (16, 8), (64, 8)])
def test_groups_divide_the_channels_into_two_or_more_each_and_are_eight_at_most(channels, groups):
    model = build_network(16, ModelOptions(filters=channels, depth=1, normalization="group"))
    layer = model.get_layer("encoder1_conv1_norm")
    assert layer.groups == groups
    assert channels % groups == 0


def test_training_moves_the_statistics_of_batch_normalization():
    model = build_network(16, small(normalization="batch"))
    model.compile("sgd", loss="mse", jit_compile=False)
    model.train_on_batch(noise(), noise())
    moved = [weight.numpy() for weight in model.weights if weight.path.endswith("moving_variance")]
    assert len(moved) == 2 * 2 + 2 + 2 * 3 + 1
    assert all((values != 1).all() for values in moved)


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_normalization_gives_what_keras_gives(training):
    x = np.random.default_rng(2).normal(3, 2, (2, 3, 5, 4)).astype(np.float32)
    fused, plain = batch_normalization(0.9, "fused"), keras.layers.BatchNormalization(momentum=0.9)
    draw = np.random.default_rng(3)
    start = [draw.uniform(0.5, 2, 4).astype(np.float32) for _ in range(4)]
    for layer in (fused, plain):
        layer.build(x.shape)
        layer.set_weights(start)
    assert np.asarray(fused(x, training=training)) == pytest.approx(np.asarray(plain(x, training=training)), abs=1e-5)
    for one, other in zip(fused.get_weights(), plain.get_weights(), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_lstm_network_trains_to_the_same_bits_under_determinism():
    spec = ExperimentSpec.parse(
        {
            "dataset": {"id": "noise"},
            "data": {"image_size": 16},
            "model": {"network": "convlstm-unet", "window": 3, "normalization": "batch", "filters": 2, "depth": 1},
        }
    )

    def trained(steps):
        prepare_backend(spec)
        model = build_network(16, spec.model, seed=2)
        compile_model(model, spec, loss_for(spec.training, spec.model.head))
        for step in range(steps):
            model.train_on_batch(noise(3, seed=step), noise(seed=step))
        return model.get_weights()

    start, one, other = trained(0), trained(2), trained(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(start, one, strict=True))


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


def test_the_orthogonal_start_has_orthonormal_rows_or_columns():
    values = Orthogonal(3, 1)((3, 3, 4, 16))
    assert values.dtype == np.float32
    flat = values.reshape(36, 16)
    assert flat.T @ flat == pytest.approx(np.eye(16), abs=1e-6)
    wide = Orthogonal(3, 1)((1, 1, 2, 8)).reshape(2, 8)
    assert wide @ wide.T == pytest.approx(np.eye(2), abs=1e-6)
    assert np.array_equal(values, Orthogonal(3, 1)((3, 3, 4, 16)))
    assert not np.array_equal(values, Orthogonal(3, 2)((3, 3, 4, 16)))


def test_the_start_of_the_lstm_follows_from_the_seed_alone():
    options = small(network="convlstm-unet", window=3)
    one, same, other = (build_network(16, options, seed=seed).get_layer("bottom_lstm") for seed in (5, 5, 6))
    for a, b, c in zip(one.get_weights()[:2], same.get_weights()[:2], other.get_weights()[:2], strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)
    states = [int(layer.cell.seed_generator.state.numpy()[0]) for layer in (one, same, other)]
    assert states[0] == states[1] != states[2]


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
