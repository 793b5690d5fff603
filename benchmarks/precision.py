"""Whether a network trains and predicts faster in 16 bits on this device.

    python benchmarks/precision.py               two networks, a few minutes on 2 idle cores
    python benchmarks/precision.py --float16     also what is refused on processors

Steps of each precision in turn, in one process, on the same noise; the ratio is the median over pairs.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine
from targets import mention

from liverseg_core.backend import device, prepare_backend
from liverseg_core.networks import build_network
from liverseg_core.spec import ExperimentSpec
from liverseg_core.steps import steps_for

SIZE, PREDICTED = 256, 16
NETWORKS: dict[str, dict[str, Any]] = {
    "the study's network": {},
    "8 filters, batch normalization": {"filters": 8, "normalization": "batch"},
}


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, help="[default: as many as there are cores]")
    parser.add_argument("--float16", action="store_true", help="mixed_float16 too")
    options = parser.parse_args()
    print(machine())
    print(f"{device()}, {SIZE} pixels, batch {options.batch}")
    precisions = ["float32", "mixed_bfloat16"] + ["mixed_float16"] * options.float16
    for name, model in NETWORKS.items():
        report(name, measure(model, precisions, options))


def measure(
    model: dict[str, Any], precisions: list[str], options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """Precision -> seconds of each step and of each prediction."""
    random = np.random.default_rng(0)
    x = random.random((options.batch, SIZE, SIZE, 1), np.float32)
    y = np.round(x)
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for precision in precisions:
        spec = ExperimentSpec.parse({"dataset": {"id": "x"}, "model": model, "training": {"precision": precision}})
        if not works:
            prepare_backend(spec, options.threads)
        network = build_network(SIZE, spec.model, 0, spec.training.precision)
        steps = steps_for(network, spec)
        works[precision] = (
            lambda steps=steps: steps.train(iter([(x, y)]), 1),
            lambda network=network: network.predict_on_batch(x[:PREDICTED]),
        )
    found: dict[str, list[list[float]]] = {precision: [[], []] for precision in precisions}
    for turn in range(options.rounds + 1):  # the first, which traces, is not counted
        for precision in precisions[:: (1, -1)[turn % 2]]:
            for seconds, work in zip(found[precision], works[precision], strict=True):
                start = time.monotonic()
                work()
                seconds += [time.monotonic() - start] * (turn > 0)
    return found


def report(name: str, found: dict[str, list[list[float]]]) -> None:
    usual = found.pop("float32")
    for precision, taken in found.items():
        for what, before, after in zip(("a step", "a prediction"), usual, taken, strict=True):
            ratio = median(one / other for one, other in zip(after, before, strict=True))
            mention(f"{name}, {what} in {precision}", ratio, "times float32's", f"n {len(after)}")


if __name__ == "__main__":
    main()
