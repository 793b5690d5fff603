import numpy as np
import pytest
import tensorflow as tf

from liverseg_core.backend import keras
from liverseg_core.losses import EPSILON, TverskyLoss, grey, lesion, liver, loss_for, study_dice
from liverseg_core.spec import TrainingOptions

LOSSES = ("dice", "lesion-dice", "dice-cross-entropy", "lesion-dice-cross-entropy", "tversky", "focal-tversky")
HEADS = ("grey-sigmoid", "softmax")
EVERY = [(name, head) for name in LOSSES for head in HEADS]
BATCH_OR_SAMPLES = pytest.mark.parametrize("batch", [True, False], ids=["of the batch", "of each sample"])


def as_batch(*values):
    return np.array(values, dtype=np.float32).reshape(len(values), 1, -1, 1)


def as_tensor(array):
    return keras.ops.convert_to_tensor(array)


def drawn(head, samples=4, size=6, dtype=np.float64, seed=0):
    """Truth and prediction as a network of that head has them; grey truth has interpolated edges."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, (samples, size, size))
    if head == "softmax":
        p = draw.gamma(1.0, size=(samples, size, size, 3)) + 0.01
        return np.eye(3, dtype=dtype)[labels], (p / p.sum(-1, keepdims=True)).astype(dtype)
    y = np.array([0, 127 / 255, 1])[labels][..., None]
    y[:, ::2] *= draw.uniform(0.5, 1, y[:, ::2].shape)
    return y.astype(dtype), draw.uniform(0.02, 0.98, y.shape).astype(dtype)


def chosen(name, head, **options):
    return loss_for(TrainingOptions(loss=name, **options), head)


def gradient(loss, y, p):
    p = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = loss(y, p)
    return tape.gradient(value, p).numpy()


# --- the second implementation: NumPy, one pixel after another, from the definitions --------------------------------


def classes(pixel):
    """(background, parenchyma, lesion) of one pixel."""
    if len(pixel) == 3:
        return pixel
    v = pixel[0]
    return max(0, 1 - 2 * v), 1 - abs(2 * v - 1), max(0, 2 * v - 1)


def entropy(y, p):
    if len(y) == 1:
        y, p = (1 - y[0], y[0]), (1 - p[0], p[0])
    return -sum(a * np.log(b) for a, b in zip(y, p, strict=True))


def plain_dice(pairs):
    both = sum(a * b for a, b in pairs)
    return (2 * both + 1) / (sum(a**2 for a, _ in pairs) + sum(b**2 for _, b in pairs) + 1)


def plain_tversky(pairs, alpha=0.3, beta=0.7):
    tp = sum(a * b for a, b in pairs)
    fp = sum((1 - a) * b for a, b in pairs)
    fn = sum(a * (1 - b) for a, b in pairs)
    return (tp + 1) / (tp + alpha * fp + beta * fn + 1)


def plain_loss(name, y, p, batch=True):
    if not batch:
        return np.mean([plain_loss(name, y[[place]], p[[place]]) for place in range(len(y))])
    pixels = list(zip(y.reshape(-1, y.shape[-1]), p.reshape(-1, p.shape[-1]), strict=True))
    lesions = [(classes(a)[2], classes(b)[2]) for a, b in pixels]
    livers = [(sum(classes(a)[1:]), sum(classes(b)[1:])) for a, b in pixels]
    greys = [(a @ [0, 127 / 255, 1], b @ [0, 127 / 255, 1]) if len(a) == 3 else (a[0], b[0]) for a, b in pixels]
    cross_entropy = np.mean([entropy(a, b) for a, b in pixels])
    return {
        "dice": 1 - plain_dice(greys),
        "lesion-dice": 1 - plain_dice(lesions),
        "dice-cross-entropy": cross_entropy + 1 - (plain_dice(livers) + plain_dice(lesions)) / 2,
        "lesion-dice-cross-entropy": cross_entropy + 1 - plain_dice(lesions),
        "tversky": 1 - plain_tversky(lesions),
        "focal-tversky": (1 - plain_tversky(lesions)) ** (3 / 4),
    }[name]


@BATCH_OR_SAMPLES
@pytest.mark.parametrize(("name", "head"), EVERY)
def test_every_loss_agrees_with_a_second_implementation(name, head, batch):
    y, p = drawn(head)
    assert float(chosen(name, head, batch_dice=batch)(y, as_tensor(p))) == pytest.approx(
        plain_loss(name, y, p, batch), rel=1e-12
    )


@BATCH_OR_SAMPLES
@pytest.mark.parametrize(("name", "head"), EVERY)
def test_gradients_agree_with_finite_differences_of_the_second_implementation(name, head, batch):
    y, p = drawn(head, samples=2, size=3)
    found, step = gradient(chosen(name, head, batch_dice=batch), y, p), 1e-6
    for place in np.ndindex(p.shape):
        above, below = p.copy(), p.copy()
        above[place] += step
        below[place] -= step
        slope = (plain_loss(name, y, above, batch) - plain_loss(name, y, below, batch)) / (2 * step)
        assert found[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@BATCH_OR_SAMPLES
@pytest.mark.parametrize(("name", "head"), EVERY)
def test_sums_add_up_and_their_slopes_give_the_gradient_of_the_whole(name, head, batch):
    """Two unequal pieces in float32, as a scan that does not fit the memory is trained; their mean would be off."""
    loss, (y, p) = chosen(name, head, batch_dice=batch), drawn(head, samples=7, size=16, dtype=np.float32)
    pieces = [slice(0, 5), slice(5, 7)]
    sums = sum(loss.sums(y[piece], as_tensor(p[piece])).numpy() for piece in pieces)
    assert sums.shape == (loss.size,)
    assert float(loss.value(as_tensor(sums))) == pytest.approx(float(loss(y, as_tensor(p))), rel=1e-5)
    slopes = loss.slopes(sums)
    assert slopes.dtype == np.float64
    weighted = [
        gradient(lambda a, b: keras.ops.sum(slopes.astype(np.float32) * loss.sums(a, b)), y[piece], p[piece])
        for piece in pieces
    ]
    whole = gradient(loss, y, p)
    assert np.abs(np.concatenate(weighted) - whole).max() < 1e-5 * np.abs(whole).max()


@BATCH_OR_SAMPLES
@pytest.mark.parametrize(("name", "head"), EVERY)
def test_slopes_are_the_derivatives_of_the_value(name, head, batch):
    loss, (y, p) = chosen(name, head, batch_dice=batch), drawn(head)
    sums = tf.constant(loss.sums(y, as_tensor(p)).numpy())
    with tf.GradientTape() as tape:
        tape.watch(sums)
        value = loss.value(sums)
    assert loss.slopes(sums.numpy()) == pytest.approx(tape.gradient(value, sums).numpy(), rel=1e-12)


@BATCH_OR_SAMPLES
@pytest.mark.parametrize(("name", "head"), EVERY)
def test_nothing_breaks_where_outputs_are_exactly_0_or_1(name, head, batch):
    y, _ = drawn("softmax", dtype=np.float32)
    if head == "grey-sigmoid":
        y = grey(y)
    loss = chosen(name, head, batch_dice=batch)
    for p in (np.zeros_like(y), np.ones_like(y), np.roll(y, 1, -2).round(), y):
        value, slopes = float(loss(y, as_tensor(p))), loss.slopes(loss.sums(y, as_tensor(p)).numpy())
        assert np.isfinite(value)
        assert np.isfinite(slopes).all()
        assert np.isfinite(gradient(loss, y, p)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_softmax_costs_next_to_nothing_and_a_wrong_one_more(name):
    """The focal loss stays at its floor (1e-7)^(3/4) = 5.6e-6."""
    y, p = drawn("softmax", dtype=np.float32)
    loss = chosen(name, "softmax")
    assert float(loss(y, as_tensor(y))) == pytest.approx(0, abs=1e-5)
    assert float(loss(y, as_tensor(p))) > 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_whole_labels_may_come_as_whole_numbers(name):
    y, p = drawn("softmax", dtype=np.float32)
    loss = chosen(name, "softmax")
    assert float(loss(y.astype(np.uint8), as_tensor(p))) == float(loss(y, as_tensor(p)))


# --- worked by hand -------------------------------------------------------------------------------------------


def test_the_study_s_dice():
    """sum yp = .5 + 0 + .25 = .75; sum y^2 = 1.25, sum p^2 = .75: (1.5 + 1) / (1.25 + .75 + 1) = 5/6."""
    y, p = as_batch([1.0, 0.0, 0.5]), as_tensor(as_batch([0.5, 0.5, 0.5]))
    assert float(study_dice(y, p)) == pytest.approx(5 / 6)
    assert float(chosen("dice", "grey-sigmoid")(y, p)) == pytest.approx(1 / 6)


def test_sums_run_over_the_whole_batch_not_slice_by_slice():
    """One slice of three ones met, one missed: 7/10 together, but 1 and 1/4 one by one, mean 5/8."""
    y, p = as_batch([1, 1, 1], [1, 1, 1]), as_tensor(as_batch([1, 1, 1], [0, 0, 0]))
    assert float(study_dice(y, p)) == pytest.approx((2 * 3 + 1) / (6 + 3 + 1))
    assert [float(study_dice(y[[n]], p[n : n + 1])) for n in (0, 1)] == [1, 0.25]


def test_an_empty_prediction_of_an_empty_truth_is_perfect():
    nothing = as_batch([0, 0])
    assert float(study_dice(nothing, as_tensor(nothing))) == 1
    for name in ("lesion-dice", "tversky"):
        assert float(chosen(name, "grey-sigmoid")(nothing, as_tensor(nothing))) == pytest.approx(0, abs=2e-7)


def test_perfect_soft_values_score_one():
    y = as_batch([0, 0.498, 1])
    assert float(study_dice(y, as_tensor(y))) == pytest.approx(1)


def test_dice_of_softmax_is_taken_on_expected_grey_values():
    """Two pixels, truth parenchyma and lesion, prediction half and half of both: grey .749 against .498 and 1."""
    y = np.array([[0, 1, 0], [0, 0, 1]], np.float32).reshape(1, 1, 2, 3)
    p = np.array([[0, 0.5, 0.5]] * 2, np.float32).reshape(1, 1, 2, 3)
    truth, shade = 127 / 255, (127 / 255 + 1) / 2
    assert grey(y).ravel() == pytest.approx([truth, 1])
    expected = (2 * (truth * shade + shade) + 1) / (truth**2 + 1 + 2 * shade**2 + 1)
    assert float(study_dice(y, as_tensor(p))) == pytest.approx(expected)


def test_memberships_of_grey_values():
    v = as_tensor(as_batch([0, 0.25, 0.5, 0.75, 1]))
    assert keras.ops.convert_to_numpy(liver(v)).ravel().tolist() == [0, 0.5, 1, 1, 1]
    assert keras.ops.convert_to_numpy(lesion(v)).ravel().tolist() == [0, 0, 0, 0.5, 1]
    assert grey(v) is v


def test_tversky_by_hand():
    """Lesion truth 1 1 0 0, prediction .5 1 .25 0: TP 1.5, FP .25, FN .5.

    Wrong = .3 * .25 + .7 * .5 = .425, so 1 - TI = .425 / (1.5 + .425 + 1) = .145299; to the power of 3/4: .235340.
    """
    y = np.array([[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32).reshape(1, 2, 2, 3)
    p = np.array([[0.5, 0, 0.5], [0, 0, 1], [0.5, 0.25, 0.25], [1, 0, 0]], np.float32).reshape(1, 2, 2, 3)
    loss = TverskyLoss(0.3, 0.7)
    assert loss.sums(y, as_tensor(p)).numpy().tolist() == [1.5, 0.25, 0.5]
    assert float(loss(y, as_tensor(p))) == pytest.approx(0.145299, abs=1e-6)
    assert float(TverskyLoss(0.3, 0.7, 4 / 3)(y, as_tensor(p))) == pytest.approx(0.235340, abs=1e-6)


def test_tversky_with_equal_weights_of_one_half_is_dice_of_whole_pixels():
    """2 TP / (2 TP + FP + FN); smoothed by 1 above and below TP, that is 2 + 2 in Dice's terms."""
    y, p = as_batch([1, 1, 1, 0, 0]), as_batch([1, 1, 0, 1, 0])
    assert float(TverskyLoss(0.5, 0.5)(y, as_tensor(p))) == pytest.approx(1 - (4 + 2) / (4 + 1 + 1 + 2))


def test_the_spec_s_weights_reach_the_loss():
    y, p = as_batch([1, 1, 0, 0]), as_tensor(as_batch([1, 0, 0, 0]))
    harsh = chosen("tversky", "grey-sigmoid", tversky_alpha=0.0, tversky_beta=1.0)
    mild = chosen("tversky", "grey-sigmoid", tversky_alpha=1.0, tversky_beta=0.0)
    assert float(harsh(y, p)) == pytest.approx(1 / 3)  # one missed: 1 / (1 + 1 + 1)
    assert float(mild(y, p)) == pytest.approx(EPSILON)  # none invented: the floor
    focal = chosen("focal-tversky", "grey-sigmoid", tversky_alpha=0.0, tversky_beta=1.0, focal_gamma=2.0)
    assert float(focal(y, p)) == pytest.approx(3**-0.5)


def test_cross_entropy_by_hand():
    """Softmax: mean of ln 2 and ln 4 is 1.5 ln 2, plus a lesion part of 1 - (0 + 1) / (0 + .25 + 0 + 1) = .2."""
    y = np.array([[1, 0, 0], [0, 1, 0]], np.float32).reshape(1, 1, 2, 3)
    p = np.array([[0.5, 0.5, 0], [0.25, 0.25, 0.5]], np.float32).reshape(1, 1, 2, 3)
    assert float(chosen("lesion-dice-cross-entropy", "softmax")(y, as_tensor(p))) == pytest.approx(
        1.5 * np.log(2) + 0.2
    )


def test_losses_serve_a_compiled_model():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1, activation="softmax")])
    loss = chosen("dice-cross-entropy", "softmax")
    model.compile("sgd", loss=loss)
    y, _ = drawn("softmax", size=4, dtype=np.float32)
    p = model.predict_on_batch(y[..., :1])
    assert float(model.test_on_batch(y[..., :1], y)) == pytest.approx(float(loss(y, as_tensor(p))), rel=1e-6)
