"""The study's 2-D U-Net."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.spec import ModelOptions


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


def build_network(image_size: int, options: ModelOptions, seed: int = 0) -> keras.Model:
    """The study's U-Net: [B, S, S, 1] grey in 0..1 to [B, S, S, 1] sigmoid in 0..1.

    ``depth`` encoder blocks of two 3x3 convolutions (``filters``, doubled at each) and 2x2 max-pooling; dropout
    after the last of them (its output is both skip connection and pooled input) and after the bottom block.
    Decoder: nearest 2x up-sampling, a 2x2 convolution, concatenation (skip first), two 3x3 convolutions; the last
    block adds a 3x3 convolution to 2 channels, then 1x1 to 1 with sigmoid. All others ReLU, 'same' padding.

    The layer names and their order are those of :func:`liverseg_core.weights.network_shapes`. The same seed gives the
    same start and the same dropout draws. About one seed in three starts with both channels of the last block
    pushing every pixel the same way; such a run learns next to nothing for 30 epochs, here as in the study.
    """
    filters, depth, dropout = options.filters, options.depth, options.dropout
    layers = _Layers(seed)
    x = image = keras.Input((image_size, image_size, 1), name="image")
    skips = []
    for level in range(depth):
        x = layers.block(x, f"encoder{level + 1}", filters * 2**level)
        if level == depth - 1:
            x = layers.dropout(x, f"encoder{level + 1}_dropout", dropout)
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"encoder{level + 1}_pool")(x)
    x = layers.dropout(layers.block(x, "bottom", filters * 2**depth), "bottom_dropout", dropout)
    for level in reversed(range(depth)):
        x = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"decoder{level + 1}_double")(x)
        x = layers.convolution(x, f"decoder{level + 1}_up", filters * 2**level, size=2)
        x = keras.layers.Concatenate(name=f"decoder{level + 1}_join")([skips[level], x])
        x = layers.block(x, f"decoder{level + 1}", filters * 2**level)
    x = layers.convolution(x, "decoder1_conv3", 2)
    return keras.Model(image, layers.convolution(x, "output", 1, size=1, activation="sigmoid"), name="unet")


class _Layers:
    """Makes layers whose random draws follow from the seed and from how many were made before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.made = 0

    def convolution(self, x: Any, name: str, filters: int, size: int = 3, activation: str = "relu") -> Any:
        self.made += 1
        start = HeNormal(self.made, self.seed)
        layer = keras.layers.Conv2D(
            filters, size, padding="same", activation=activation, kernel_initializer=start, name=name
        )
        return layer(x)

    def block(self, x: Any, name: str, filters: int) -> Any:
        return self.convolution(self.convolution(x, f"{name}_conv1", filters), f"{name}_conv2", filters)

    def dropout(self, x: Any, name: str, rate: float) -> Any:
        self.made += 1
        own_seed = int(np.random.SeedSequence((self.seed, self.made)).generate_state(1)[0] >> 1)
        return keras.layers.Dropout(rate, seed=own_seed, name=name)(x)
