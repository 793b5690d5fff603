"""What was tried to make a training step faster on the CPU, each beside the way it is done.

    python benchmarks/variants.py                    about a quarter of an hour on 2 idle cores
    python benchmarks/variants.py --only xla nchw    the default and these
    python benchmarks/variants.py --profile          which operations a step spends its time in

Training as a worker does it (own loop, cache, deterministic) at f = 4, 256 x 256, batch 32, with one thing changed
each time; each in a process of its own, the variants taking turns, the first epoch of each not counted. A variant
that cannot run says why.
Slices: LIVERSEG_STUDY_DIR/liver_ct where it is, else a drawn phantom.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from targets import mention
from training import SIZE, Quiet, measure, options_of, ours, peak_mb, prepare

DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """``about`` says what differs; ``around`` the environment, ``change`` is called before anything is built.

    Attributes:
        training: differs in the spec's section of that name.
        threads: of each process; None: TensorFlow's choice, all cores.
        at_once: processes side by side; their rates add up.
        pinned: each of them on cores of its own.
        fused: steps in one call into TensorFlow.
    """

    about: str
    around: dict[str, str] = field(default_factory=dict)
    change: Callable[[], None] = lambda: None
    training: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    at_once: int = 1
    pinned: bool = False
    fused: int = 0


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = options_of(__doc__, [*VARIANTS, PROFILE])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--profile", action="store_true", help="the operations of a step instead")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(profile(options) if options.child == PROFILE else trained(options)))
        return None
    from machine import machine

    print(machine())
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        train, _ = prepare(options.folder, dict(zip(("train", "val"), options.slices, strict=True)))
        print(f"{train} train slices, batch {options.batch}")
        ours(options)  # builds the cache
        if options.profile:
            return report_profile(measure(PROFILE, options, __file__))
        report(measured(options, [DEFAULT, *(name for name in options.only if name != DEFAULT)]))
    return None


def measured(options: argparse.Namespace, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names:
            one = together(name, options)
            found[name].append(one)
            told = one.get("refused") or f"{one['images_per_second']:7.1f}   last loss {one['loss']:.4f}"
            print(f"  round {turn + 1}  {name:14} {told}")
    return found


def together(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All processes of a variant, as if they were one."""
    variant = VARIANTS[name]
    with ThreadPoolExecutor(variant.at_once) as threads:
        around = [{**variant.around, "BENCH_NUMBER": str(number)} for number in range(variant.at_once)]
        every = list(threads.map(lambda one: measure(name, options, __file__, **one), around))
    rate = sum(one["images_per_second"] for one in every)
    return {**every[0], "images_per_second": rate, "peak_mb": sum(one["peak_mb"] for one in every)}


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    rates = {name: median(one["images_per_second"] for one in every) for name, every in found.items()}
    print(f"\nimages/s   (load {os.getloadavg()[0]:.1f})")
    for name, every in found.items():
        about = VARIANTS[name].about
        if refused := every[0].get("refused"):
            print(f"{name:14} {about}: {refused}")
            continue
        told = f"{rates[name] / rates[DEFAULT]:.2f} of the default, first epoch {every[-1]['first_s']:.1f} s"
        mention(f"{name:14} {about}", rates[name], "images/s", f"{told}, peak {every[-1]['peak_mb']:.0f} MB")


def report_profile(found: dict[str, Any]) -> None:
    step = found["step_ms"]
    print(f"a step takes {step:.0f} ms; of its operations, on all threads together:")
    for name, milliseconds in found["operations"][:20]:
        mention(name, milliseconds, "ms", f"{milliseconds / found['all_ms']:.1%}")
    mention("all of them", found["all_ms"], "ms", f"{found['all_ms'] / step:.2f} threads busy on average")


# --- children -----------------------------------------------------------------------------------------------------


def trained(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of the epochs after the first."""
    variant = VARIANTS[options.child]
    if variant.pinned:
        own = sorted(os.sched_getaffinity(0))[int(os.environ["BENCH_NUMBER"]) :: variant.at_once]
        os.sched_setaffinity(0, own or os.sched_getaffinity(0))
    variant.change()
    try:
        losses, seconds = epochs(options, variant)
    except Exception as error:  # what TensorFlow refuses, it refuses in many classes
        return {"images_per_second": 0, "peak_mb": 0, "refused": " ".join(str(error).split())[:300]}
    first, *later = seconds
    rate = options.slices_of_epoch / median(later)
    return {"images_per_second": rate, "loss": losses[-1], "first_s": first, "peak_mb": peak_mb()}


def epochs(options: argparse.Namespace, variant: Variant) -> tuple[list[float], list[float]]:
    """Loss and seconds of each epoch's training."""
    whole = training_of(options, variant)
    options.slices_of_epoch = whole.train_part.samples
    if variant.fused:
        return fused_epochs(options, whole, variant.fused)
    with tempfile.TemporaryDirectory() as workdir:
        whole.folder = Path(workdir)
        whole.run()
    trained = [(record.loss, whole.train_part.samples / record.images_per_second) for record in whole.history]
    losses, seconds = zip(*trained, strict=True)
    return list(losses), list(seconds)


def training_of(options: argparse.Namespace, variant: Variant) -> Any:
    """The worker's own training, ready for its first epoch."""
    from liverseg_core import training

    spec, manifest, cache = ours(options)
    changed = spec.model_dump(mode="json")
    changed["training"] |= variant.training
    spec = type(spec).parse(changed)
    training.prepare_backend(spec, variant.threads)
    return training._Training(spec, manifest, cache, options.folder / "work", Quiet())


def fused_epochs(options: argparse.Namespace, whole: Any, count: int) -> tuple[list[float], list[float]]:
    """``count`` steps in each call into TensorFlow, which therefore runs no Python between them."""
    import numpy as np
    import tensorflow as tf

    model, part = whole.model, whole.train_part
    variables, count = model.trainable_variables, min(count, part.steps)

    @tf.function
    def steps(images: Any, masks: Any) -> Any:
        losses = []
        for number in range(count):
            with tf.GradientTape() as tape:
                loss = model.loss(masks[number], model(images[number], training=True))
            gradient = tape.gradient(loss, [variable.value for variable in variables])
            model.optimizer.apply(gradient, variables)
            losses.append(loss)
        return tf.stack(losses)

    losses, seconds = [], []
    for epoch in range(1, options.epochs + 1):
        start, found = time.monotonic(), []
        for first in range(0, part.steps - count + 1, count):
            pieces = [part.piece(epoch, first + number) for number in range(count)]
            found.append(np.asarray(steps(*(np.stack(kind) for kind in zip(*pieces, strict=True)))))
        taken = time.monotonic() - start
        losses.append(float(np.mean(found)))
        seconds.append(taken * part.steps / (part.steps // count * count))
    return losses, seconds


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each kind of operation in a step, from TensorFlow's trace of three."""
    import tensorflow as tf

    whole = training_of(options, VARIANTS[DEFAULT])
    batch = whole.train_part.piece(1, 0)
    for _ in range(2):
        whole.model.train_on_batch(*batch)
    logs, start = options.folder / "trace", time.monotonic()
    tf.profiler.experimental.start(str(logs))
    for _ in range(STEPS):
        whole.model.train_on_batch(*batch)
    step_ms = 1000 * (time.monotonic() - start) / STEPS
    tf.profiler.experimental.stop()
    taken: Counter[str] = Counter()
    for name, milliseconds in operations(next(logs.rglob("*.xplane.pb"))):
        taken[name] += milliseconds / STEPS
    return {"step_ms": step_ms, "all_ms": sum(taken.values()), "operations": taken.most_common()}


def operations(trace: Path) -> Iterator[tuple[str, float]]:
    """(kind, ms) of every operation that TensorFlow's executor ran; a kind is e.g. ``_FusedConv2D``."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    for plane in space.planes:
        names = {number: one.name for number, one in plane.event_metadata.items()}
        for event in (one for line in plane.lines for one in line.events):
            # "layer/operation:Kind"; what calls functions, and the executor itself, are called otherwise.
            if kind := re.fullmatch(r"[^:]+:(_?[A-Z]\w*)", names[event.metadata_id]):
                yield kind[1], event.duration_ps / 1e9


def xla() -> None:
    """Keras compiles nothing by XLA where operations must be deterministic, and only warns."""
    from liverseg_core import steps
    from liverseg_core.backend import OPTIMIZERS

    def compile_with_xla(model: Any, spec: Any, loss: Any, metrics: Any = ()) -> None:
        optimizer = OPTIMIZERS[spec.training.optimizer](learning_rate=spec.training.learning_rate)
        model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics), jit_compile=True)
        optimizer.build(model.trainable_variables)
        assert model.jit_compile, "Keras took XLA back"

    steps.compile_model = compile_with_xla


def channels_first() -> None:
    """The network on [B, C, S, S]; at its ends the one channel changes its place."""
    from liverseg_core import networks

    layers, encode, head = networks.keras.layers, networks._encode, networks._head
    networks.keras.config.set_image_data_format("channels_first")
    layers.Concatenate = partial(layers.Concatenate, axis=1)
    networks._encode = lambda made, x, options: encode(made, layers.Reshape((1, SIZE, SIZE))(x), options)
    networks._head = lambda made, x, options: layers.Reshape((SIZE, SIZE, 1))(head(made, x, options))


def one_at_a_time() -> None:
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)


PROFILE, STEPS = "profile", 3
HALF = max(1, len(os.sched_getaffinity(0)) // 2)
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
VARIANTS = {
    DEFAULT: Variant("as a worker trains, on all cores"),
    "no-onednn": Variant("without oneDNN", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "avx2": Variant("oneDNN with vectors of 8, not 16", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "bfloat16-dnn": Variant("oneDNN may multiply in bfloat16", {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}),
    "one-thread": Variant("one thread", threads=1),
    "inter-1": Variant("one operation at a time, on all cores", ONEDNN, one_at_a_time),
    "twice-threads": Variant("twice as many threads as cores", threads=2 * len(os.sched_getaffinity(0))),
    "two-free": Variant("two processes, of half as many threads", threads=HALF, at_once=2),
    "two-pinned": Variant("the same, each on half of the cores", threads=HALF, at_once=2, pinned=True),
    "xla": Variant("compiled by XLA, not deterministic", change=xla, training={"deterministic": False}),
    "nchw": Variant("channels first", change=channels_first),
    "bfloat16": Variant("mixed bfloat16", training={"precision": "mixed_bfloat16"}),
    "fused-3": Variant("three steps in a call", fused=3),
    "free-order": Variant("not deterministic", training={"deterministic": False}),
    "kept-memory": Variant("freed memory is kept by malloc", KEPT),
    "huge-pages": Variant("malloc asks for huge pages", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "kept-huge": Variant("both", {**KEPT, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
}


if __name__ == "__main__":
    main()
