"""How near training is to what this machine can multiply: images/s beside the limit of its matrix products.

    python benchmarks/ceiling.py             about a minute on 2 idle cores

A convolution is a product of matrices: patches [places, k k in] times kernel [k k in, out], and so are its two
gradients. The rate of ``tf.matmul`` in float32 is measured before and after a training of f = 4, 256 x 256, batch 32;
the better one counts. The limit is as if all operations of an image, forward and backward, ran at the rate of the
best large square product, and as if nothing else (bias, ReLU, pooling, concatenation, loss, Adam) took any time.

oneDNN computes as many channels at once as a vector holds, 16 with AVX-512 and 8 with AVX2, whether the layer has so
many or not; so the limit is told too with every layer's channels filled up to whole vectors.

The convolutions' own products, one by one with their patches there already, are far slower than that: so few
channels leave little to compute for each number read. A convolution that reads its input in place reads it once and
not k k times, so this is no limit but what the plain way of lowering to products would give.

Operations are counted by hand from the layers' shapes; TensorFlow's profiler must count the same.
Slices: LIVERSEG_STUDY_DIR/liver_ct where it is, else a drawn phantom.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from targets import mention
from training import FILTERS, SIZE, measure, options_of, prepare

from liverseg_core.spec import ModelOptions
from liverseg_core.weights import network_shapes

SQUARES = (1024, 2048, 3072)
ROWS = 2**18
"""The most places of one product: rates hardly change beyond, and memory would."""

Product = tuple[int, int, int]
"""(m, k, n): [m, k] times [k, n]."""


@dataclass(frozen=True)
class Convolution:
    """Of one image: ``side`` x ``side`` places, each a patch of ``window`` pixels of ``channels`` to ``given``."""

    name: str
    side: int
    window: int
    channels: int
    given: int

    @property
    def received(self) -> int:
        """Numbers of a patch."""
        return self.window * self.channels

    @property
    def flop(self) -> int:
        """Multiplications and additions on the way forward."""
        return 2 * self.side**2 * self.received * self.given

    def products(self, batch: int) -> list[Product]:
        """Forward, by the kernel, by the input; the image itself needs no gradient."""
        places = batch * self.side**2
        forward, by_kernel = (places, self.received, self.given), (self.received, places, self.given)
        by_input = (places, self.given * self.window, self.channels)
        return [forward, by_kernel] if self.name == "encoder1_conv1" else [forward, by_kernel, by_input]


def convolutions(options: ModelOptions, size: int) -> Iterator[Convolution]:
    """Those of the U-Net for images of ``size`` pixels a side, in order."""
    for name, shape in network_shapes(options):
        layer, _, weight = name.partition("/")
        if weight == "kernel":
            height, width, received, given = shape
            yield Convolution(layer, size >> _level(layer, options.depth), height * width, received, given)


def _level(layer: str, depth: int) -> int:
    """How often the image was halved before it."""
    found = re.match(r"(?:encoder|decoder)(\d+)", layer)
    return int(found[1]) - 1 if found else depth if layer.startswith("bottom") else 0


def flop_of(product: Product, vector: int = 1) -> int:
    """Multiplications and additions, with the columns, which are channels, filled up to whole vectors."""
    m, k, n = product
    return 2 * m * k * -(-n // vector) * vector


def step_flop(options: ModelOptions, size: int, batch: int, vector: int = 1) -> int:
    """Of one training step, convolutions alone."""
    return sum(flop_of(one, vector) for layer in convolutions(options, size) for one in layer.products(batch))


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    options = options_of(__doc__, CHILDREN).parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return
    from machine import machine

    print(machine())
    flop = step_flop(ModelOptions(filters=FILTERS), SIZE, options.batch) / options.batch
    layers = list(convolutions(ModelOptions(filters=FILTERS), SIZE))
    forward = sum(layer.flop for layer in layers)
    print(f"an image: {forward / 1e6:.1f} MFLOP forward, {flop / 1e6:.1f} in training")
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        prepare(options.folder, dict(zip(("train", "val"), options.slices, strict=True)))
        # The graph as it is traced, with the image's own gradient, which is pruned before it runs.
        counted = measure("count", options, __file__)["flop"] / options.batch - layers[0].flop
        print(f"TensorFlow's profiler counts {counted / 1e6:.1f} in training")
        assert counted == flop, (counted, flop)
        products = [measure("products", options, __file__)]
        rates = [measure("ours", options)["images_per_second"] for _ in range(options.rounds)]
        products.append(measure("products", options, __file__))
    report(flop, products, rates)


def report(flop: float, products: list[dict[str, Any]], rates: list[float]) -> None:
    ours = median(rates)
    mention("training", ours, "images/s", f"median of {len(rates)}, {ours * flop / 1e9:.1f} GFLOP/s")
    square = max(one["square"] for one in products)
    own = min(one["seconds"] for one in products)
    for vector in (16, 8):
        filled = step_flop(ModelOptions(filters=FILTERS), SIZE, 1, vector)
        images = square * 1e9 / filled
        told = f"{filled / 1e6:.0f} MFLOP an image, of which training reaches {ours / images:.1%}"
        mention(f"limit in whole vectors of {vector}", images, "images/s", told)
    for what, rate in (("best large square product", square), ("products of the convolutions", flop / own / 1e9)):
        images = rate * 1e9 / flop
        mention(
            what, rate, "GFLOP/s", f"{images:.0f} images/s at this rate; training reaches {ours / images:.1%} of it"
        )
    kinds = (f"{kind} {rate:.1f}" for kind, rate in products[-1]["kinds"].items())
    print(f"by their kind, GFLOP/s: {', '.join(kinds)}")


# --- children -----------------------------------------------------------------------------------------------------


def measure_products(options: argparse.Namespace) -> dict[str, Any]:
    """GFLOP/s of the best square, and the seconds of one image's products, each taken at its best of five."""
    import liverseg_core.backend  # noqa: F401 - it says what training says to TensorFlow

    square = max(flop_of((n, n, n)) / seconds_of((n, n, n)) for n in SQUARES) / 1e9
    seconds, flop = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    for layer in convolutions(ModelOptions(filters=FILTERS), SIZE):
        for kind, product in zip(KINDS, layer.products(options.batch), strict=False):
            held = tuple(min(n, ROWS) for n in product)
            seconds[kind] += seconds_of(held) * flop_of(product) / flop_of(held)
            flop[kind] += flop_of(product)
    rates = {kind: flop[kind] / seconds[kind] / 1e9 for kind in KINDS}
    return {"square": square, "seconds": sum(seconds.values()) / options.batch, "kinds": rates}


KINDS = ("forward", "by the kernel", "by the input")


def seconds_of(product: Product) -> float:
    """Of one product, at its best of five; a matrix of few rows and many places comes transposed, as in training."""
    import tensorflow as tf

    m, k, n = product
    turned = k > m
    a, b = tf.random.normal((k, m) if turned else (m, k)), tf.random.normal((k, n))
    multiply = tf.function(lambda a, b: tf.reduce_sum(tf.matmul(a, b, transpose_a=turned)[0, 0]))
    return min(_timed(lambda: float(multiply(a, b))) for _ in range(6))


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def count(options: argparse.Namespace) -> dict[str, Any]:
    """Floating-point operations of the convolutions of a step, as TensorFlow's profiler counts them."""
    import tensorflow as tf
    from training import study_model

    model = study_model()
    image = tf.TensorSpec((options.batch, SIZE, SIZE, 1))

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    profiler = tf.compat.v1.profiler
    wanted = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    wanted = wanted.with_accounted_types(["Conv2D.*"]).with_empty_output().build()
    found = profiler.profile(step.get_concrete_function(image, image).graph, cmd="op", options=wanted)
    return {"flop": found.total_float_ops}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"products": measure_products, "count": count}


if __name__ == "__main__":
    main()
