"""The study's 2-D U-Net and its relatives."""

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import batch_normalization, computing_in, keras
from liverseg_core.spec import ModelOptions, Precision

ops = keras.ops

MAX_GROUPS = 8
"""The most groups of a group normalization."""


class HeNormal:
    """He-normal start drawn by NumPy: the same numbers under every Keras backend, and nothing to compile.

    Normal with standard deviation sqrt(2 / fan_in), redrawn beyond two standard deviations and widened so that
    the deviation holds after the cut, as ``keras.initializers.HeNormal`` does (He et al. 2015).

    Args:
        key: entropy of the draw, e.g. (number of the layer, seed).
    """

    CUT = 0.87962566103423978
    """Standard deviation of a unit normal cut at +-2."""

    def __init__(self, *key: int) -> None:
        self.key = key

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> NDArray[np.float32]:
        draw = np.random.default_rng(self.key)
        values = draw.standard_normal(shape)
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = draw.standard_normal(np.count_nonzero(beyond))
        fan_in = np.prod(shape[:-1])
        start: NDArray[np.float32] = (values * np.sqrt(2 / fan_in) / self.CUT).astype(dtype or np.float32)
        return start


class Orthogonal:
    """Orthogonal start drawn by NumPy: kernel [..., channels out] with orthonormal columns or rows.

    The factor Q of a normal draw, signs fixed by R, as ``keras.initializers.Orthogonal`` does (Saxe et al. 2014).

    Args:
        key: entropy of the draw, e.g. (number of the layer, seed).
    """

    def __init__(self, *key: int) -> None:
        self.key = key

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> NDArray[np.float32]:
        rows, columns = int(np.prod(shape[:-1])), shape[-1]
        draw = np.random.default_rng(self.key).standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(draw)
        q = q * np.sign(np.diag(r))
        start: NDArray[np.float32] = (q if rows >= columns else q.T).reshape(shape).astype(dtype or np.float32)
        return start


def build_network(
    image_size: int | None, options: ModelOptions, seed: int = 0, precision: Precision = "float32"
) -> keras.Model:
    """The network that ``options`` describe: [B, S, S, window] grey in 0..1 to [B, S, S, channels] in 0..1.

    ``image_size`` None: of any S that is divisible by subpixel * 2**depth; not for convlstm-unet.

    ``depth`` encoder blocks of two 3x3 convolutions (``filters``, doubled at each) and 2x2 max-pooling; dropout
    after the last of them (its output is both skip connection and pooled input) and after the bottom block.
    Decoder: nearest 2x up-sampling, a 2x2 convolution, concatenation (skip first), two 3x3 convolutions. All ReLU,
    'same' padding.

    - Head grey-sigmoid, as in the study: a 3x3 convolution to 2 channels, then 1x1 to 1 with sigmoid.
    - Head softmax: 1x1 to 3 channels with softmax (background, parenchyma, lesion), without the bottleneck of 2.
    - Normalization: between each convolution, the last one excepted, and its ReLU; :func:`_normalization` says how.
    - Network unet-2.5d: the window's slices are channels of the first convolution; with window 1 it is the U-Net.
    - Network convlstm-unet: the same encoder and bottom for each slice of the window, then a convolutional LSTM
      (3x3, Shi et al. 2015) from the first slice to the last, whose final state is decoded; skip connections come
      from the middle slice.
    - Subpixel r: the network sees [S/r, S/r, r * r * window], and the head gives r * r channels for each of its own,
      arranged as [S, S] before the activation (sub-pixel convolution, Shi et al. 2016). With 1 nothing changes.
    - Precision: what the layers compute in; the last one (its activation too) computes in float32 from what it gets.

    The layer names and their order are those of :func:`liverseg_core.weights.network_shapes`. The same seed gives the
    same start and the same dropout draws. About one seed in three starts the study's network with both channels of
    the last block pushing every pixel the same way; such a run learns next to nothing for 30 epochs, here as in the
    study.
    """
    with computing_in(precision):
        layers = _Layers(seed, options.normalization)
        image = keras.Input((image_size, image_size, options.window), name="image")
        if options.network == "convlstm-unet":
            x, skips = _encode(layers, _gathered(_as_batch(image), options.subpixel), options)
            x = layers.memory(_as_sequence(x, options.window), "bottom_lstm")
            skips = [_as_sequence(skip, options.window)[:, options.window // 2] for skip in skips]
        else:
            x, skips = _encode(layers, _gathered(image, options.subpixel), options)
        x = layers.dropout(x, "bottom_dropout", options.dropout)
        return keras.Model(image, _head(layers, _decode(layers, x, skips, options.filters), options), name="unet")


def _encode(layers: "_Layers", x: Any, options: ModelOptions) -> tuple[Any, list[Any]]:
    """Output of the bottom block, and the skip connections from the finest to the coarsest."""
    skips = []
    for level in range(options.depth):
        x = layers.block(x, f"encoder{level + 1}", options.filters * 2**level)
        if level == options.depth - 1:
            x = layers.dropout(x, f"encoder{level + 1}_dropout", options.dropout)
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"encoder{level + 1}_pool")(x)
    return layers.block(x, "bottom", options.filters * 2**options.depth), skips


def _decode(layers: "_Layers", x: Any, skips: list[Any], filters: int) -> Any:
    for level in reversed(range(len(skips))):
        x = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"decoder{level + 1}_double")(x)
        x = layers.convolution(x, f"decoder{level + 1}_up", filters * 2**level, size=2)
        x = keras.layers.Concatenate(name=f"decoder{level + 1}_join")([skips[level], x])
        x = layers.block(x, f"decoder{level + 1}", filters * 2**level)
    return x


def _head(layers: "_Layers", x: Any, options: ModelOptions) -> Any:
    within, activation = options.subpixel**2, "softmax" if options.head == "softmax" else "sigmoid"
    if options.head == "grey-sigmoid":
        x = layers.convolution(x, "decoder1_conv3", 2 * within)
    channels = within * (3 if options.head == "softmax" else 1)
    if within == 1:
        return layers.output(x, channels, activation)
    x = _Spread(options.subpixel, name="output_spread", dtype="float32")(layers.output(x, channels, "linear"))
    return keras.layers.Activation(activation, name="output_activation", dtype="float32")(x)


def _gathered(image: Any, side: int) -> Any:
    return image if side == 1 else _Gather(side, name="image_gather")(image)


class _Gather(keras.layers.Layer):  # type: ignore[misc]
    """Squares of ``side`` pixels as channels of one place: [B, h, w, c] to [B, h/side, w/side, side * side * c]."""

    def __init__(self, side: int, name: str, dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.side = side

    def call(self, x: Any) -> Any:
        side, (_, height, width, channels) = self.side, ops.shape(x)
        x = ops.reshape(x, (-1, height // side, side, width // side, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height // side, width // side, side * side * channels))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shape[0], *(n and n // self.side for n in shape[1:3]), shape[3] * self.side**2)


class _Spread(_Gather):
    """Undo :class:`_Gather`: [B, h, w, side * side * c] to [B, h * side, w * side, c]."""

    def call(self, x: Any) -> Any:
        side, (_, height, width, channels) = self.side, ops.shape(x)
        x = ops.reshape(x, (-1, height, width, side, side, channels // side**2))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * side, width * side, channels // side**2))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shape[0], *(n and n * self.side for n in shape[1:3]), shape[3] // self.side**2)


def _as_batch(image: Any) -> Any:
    """Every slice of [B, S, S, window] as a sample of its own, [B * window, S, S, 1]."""
    return ops.reshape(ops.transpose(image, (0, 3, 1, 2)), (-1, *image.shape[1:3], 1))


def _as_sequence(x: Any, window: int) -> Any:
    """Undo :func:`_as_batch`: [B * window, h, w, channels] to [B, window, h, w, channels]."""
    return ops.reshape(x, (-1, window, *x.shape[1:]))


def _normalization(kind: str, channels: int, name: str) -> keras.layers.Layer:
    """Normalization to mean 0 and variance 1, then a learned scale and shift for each channel.

    Batch: over batch and pixels, in evaluation by running means that follow within some ten steps. Group: over the
    pixels of at most eight groups of at least two channels. Instance: over the pixels of each channel.
    """
    if kind == "batch":
        return batch_normalization(momentum=0.9, name=name)
    groups = channels if kind == "instance" else max(1, gcd(channels, 2 * MAX_GROUPS) // 2)
    return keras.layers.GroupNormalization(groups, name=name)


class _Layers:
    """Makes layers whose random draws follow from the seed and from how many were made before."""

    def __init__(self, seed: int, normalization: str) -> None:
        self.seed = seed
        self.normalization = normalization
        self.made = 0

    def convolution(self, x: Any, name: str, filters: int, size: int = 3) -> Any:
        """Convolution, normalization if any, ReLU."""
        if self.normalization == "none":
            return self._convolution(x, name, filters, size, "relu")
        x = self._convolution(x, name, filters, size, "linear")
        x = _normalization(self.normalization, filters, f"{name}_norm")(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    def output(self, x: Any, channels: int, activation: str) -> Any:
        return self._convolution(x, "output", channels, 1, activation, "float32")

    def _convolution(
        self, x: Any, name: str, filters: int, size: int, activation: str, dtype: str | None = None
    ) -> Any:
        self.made += 1
        start = HeNormal(self.made, self.seed)
        layer = keras.layers.Conv2D(
            filters, size, padding="same", activation=activation, kernel_initializer=start, name=name, dtype=dtype
        )
        return layer(x)

    def block(self, x: Any, name: str, filters: int) -> Any:
        return self.convolution(self.convolution(x, f"{name}_conv1", filters), f"{name}_conv2", filters)

    def memory(self, x: Any, name: str) -> Any:
        """Final state of a convolutional LSTM over [B, window, h, w, channels], as many channels."""
        self.made += 1
        layer = keras.layers.ConvLSTM2D(
            x.shape[-1],
            3,
            padding="same",
            kernel_initializer=HeNormal(self.made, self.seed),
            recurrent_initializer=Orthogonal(self.made, self.seed, 1),
            seed=self._own_seed(),
            name=name,
        )
        return layer(x)

    def dropout(self, x: Any, name: str, rate: float) -> Any:
        self.made += 1
        return keras.layers.Dropout(rate, seed=self._own_seed(), name=name)(x)

    def _own_seed(self) -> int:
        return int(np.random.SeedSequence((self.seed, self.made)).generate_state(1)[0] >> 1)
