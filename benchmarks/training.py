"""How fast training is: the study's own way, written anew, beside this project's, in one run.

    python benchmarks/training.py            96 train slices, a few minutes on 2 idle cores
    python benchmarks/training.py --full     every slice

The study's way is tf.data (decode PNG, bilinear resize, / 255, shuffle, batch, prefetch) and ``model.fit``, once as
TensorFlow comes and once with oneDNN switched on; ours is the cache and the own loop, deterministic as by default.
Network, loss, optimizer and data are the same. Each measurement runs in a process of its own, in alternation.
Slices: LIVERSEG_STUDY_DIR/liver_ct where it is, else a drawn phantom.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from targets import tell

SIZE, FILTERS = 256, 4
WAYS = {"fit": {"TF_ENABLE_ONEDNN_OPTS": ""}, "fit + oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1"}, "ours": {}}


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.child:
            print(json.dumps(CHILDREN[options.child](options)))
            return
        options.folder = folder
        train, val = prepare(folder, options.slices)
        print(f"{train} train and {val} val slices, {SIZE} pixels, {FILTERS} filters, batch {options.batch}")
        report_cost_of_decoding(options)
        report_training(options)
        report_checkpoints(options)
        report_evaluation(options)


def parse() -> argparse.Namespace:
    parser = options_of(__doc__, CHILDREN)
    parser.add_argument("--full", action="store_true", help="every slice instead of a subset")
    options = parser.parse_args()
    options.slices = {} if options.full else dict(zip(("train", "val"), options.slices, strict=True))
    return options


def options_of(doc: str | None, children: Iterable[str]) -> argparse.ArgumentParser:
    """What every script takes that measures trainings, each in a child process of its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs=2, default=(96, 16), metavar=("TRAIN", "VAL"))
    parser.add_argument("--rounds", type=int, default=2, help="how often each way is measured")
    parser.add_argument("--epochs", type=int, default=3, help="the first, which traces, is not counted")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--child", choices=list(children), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def prepare(folder: Path, slices: dict[str, int]) -> tuple[int, int]:
    """Copy or draw the slices, pack them as the product does; how many train and val slices there are."""
    from liverseg_core.data.archive import pack_folder
    from liverseg_core.phantom import draw_phantom

    study = Path(os.environ.get("LIVERSEG_STUDY_DIR", "absent")) / "liver_ct"
    if not study.is_dir():
        study = folder / "drawn"
        draw_phantom(study, subjects=12, slices=40, size=512, seed=0)
    found = []
    for part in ("train", "val"):
        names = sorted(path.name for path in (study / part / "images").glob("*.png"))
        wanted = slices.get(part, len(names))
        names = names[:: max(1, len(names) // wanted)][:wanted]
        for kind in ("images", "masks"):
            (folder / "data" / part / kind).mkdir(parents=True)
            for name in names:
                shutil.copy(study / part / kind / name, folder / "data" / part / kind)
        found.append(len(names))
    pack_folder(folder / "data", folder / "data.zip")
    return found[0], found[1]


def measure(
    what: str, options: argparse.Namespace, script: str = __file__, python: str | Path = sys.executable, **around: str
) -> dict[str, Any]:
    """What a child process of ``script`` prints; ``around`` is added to its environment, an empty value removes."""
    command = [python, script, "--child", what, "--folder", options.folder]
    command += ["--epochs", str(options.epochs), "--batch", str(options.batch)]
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parent.parent)}
    variables = {name: value for name, value in {**variables, **around}.items() if value}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report_cost_of_decoding(options: argparse.Namespace) -> None:
    found = measure("decode", options)
    print(f"\nmaking batches, images/s: tf.data decode and resize {found['tf_data']:.0f}, cache {found['cache']:.0f}")
    print(f"building the cache once: {found['build_s']:.1f} s")


def report_training(options: argparse.Namespace) -> None:
    print(f"\ntraining, images/s, median of the epochs after the first   (load {os.getloadavg()[0]:.1f})")
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, float] = {}
    for turn in range(options.rounds):
        for way, environment in WAYS.items():
            found = measure("ours" if way == "ours" else "fit", options, **environment)
            rates[way].append(found["images_per_second"])
            memory[way] = max(memory.get(way, 0), found["peak_mb"])
            print(f"  round {turn + 1}  {way:14} {found['images_per_second']:7.1f}   last loss {found['loss']:.4f}")
    for way, values in rates.items():
        ratio = median(rates["ours"]) / median(values)
        print(f"  {way:14} median {median(values):7.1f}   ours / this {ratio:.2f}   peak {memory[way]:.0f} MB")


def report_checkpoints(options: argparse.Namespace) -> None:
    """One after each epoch, which is the only interval there is; within the same run, so that load hits both."""
    found = measure("checkpoints", options)
    each, share = found["booking_s"] / found["count"], found["booking_s"] / found["training_s"]
    print(
        f"\n{found['count']} checkpoints of {found['megabytes']:.1f} MB: {each:.3f} s each (copy, write, fsync, hash)"
    )
    tell("checkpoints", 100 * share, f"{found['training_s']:.1f} s of training, {found['slices']} slices an epoch")


def report_evaluation(options: argparse.Namespace) -> None:
    found = measure("evaluate", options)
    print(f"\nscoring 500 slices at {SIZE}: {found['seconds']:.1f} s, peak {found['peak_mb']:.0f} MB")


# --- children ---------------------------------------------------------------------------------------------------


def tf_data(options: argparse.Namespace, part: str = "train") -> Any:
    """The study's input pipeline; it shuffles what it trains on and drops an incomplete last batch of it."""
    import tensorflow as tf

    def read(kind: str, name: Any) -> Any:
        path = tf.strings.join([str(options.folder / "data" / part / kind), name], separator="/")
        pixels = tf.io.decode_png(tf.io.read_file(path), channels=1)
        return tf.image.resize(pixels, (SIZE, SIZE)) / 255

    names = sorted(path.name for path in (options.folder / "data" / part / "images").iterdir())
    data, trains = tf.data.Dataset.from_tensor_slices(names), part == "train"
    data = data.shuffle(len(names)) if trains else data
    data = data.map(lambda name: (read("images", name), read("masks", name)), num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(options.batch, drop_remainder=trains).prefetch(tf.data.AUTOTUNE)


def ours(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    from liverseg_core.data.archive import read_archive
    from liverseg_core.data.cache import open_cache
    from liverseg_core.spec import ExperimentSpec

    manifest = read_archive(options.folder / "data.zip")
    cache = open_cache(options.folder / "data.zip", manifest, SIZE, options.folder / "cache")
    training = {"epochs": options.epochs, "batch_size": options.batch, "early_stopping": {"patience": None}}
    return ExperimentSpec.parse({"dataset": {"id": "benchmark"}, "training": training}), manifest, cache


def fit(options: argparse.Namespace) -> dict[str, Any]:
    import keras  # before our own modules, which switch oneDNN on

    marks: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_begin=lambda *_: marks.append(time.monotonic()),
        on_epoch_end=lambda *_: marks.append(time.monotonic()),
    )
    data = tf_data(options)
    history = study_model().fit(data, epochs=options.epochs, callbacks=[clock], verbose=0)
    seconds = median(end - start for start, end in pairwise(marks[1:]))
    rate = len(data) * options.batch / seconds
    return {"images_per_second": rate, "loss": history.history["loss"][-1], "peak_mb": peak_mb()}


def study_model() -> Any:
    from liverseg_core.backend import keras
    from liverseg_core.losses import DiceLoss, grey
    from liverseg_core.networks import build_network
    from liverseg_core.spec import ModelOptions

    model = build_network(SIZE, ModelOptions(filters=FILTERS))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=DiceLoss(grey), jit_compile=False)
    return model


class Quiet:
    """Keeps the epochs, and hashes their checkpoints as a trainer does."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.bytes = 0

    def phase(self, name: str) -> None: ...

    def resumed_elsewhere(self, changed_from: dict[str, str]) -> None: ...

    def resumed_within(self, epoch: int, losses: Any) -> None: ...

    def step(self, *numbers: float) -> None: ...

    def epoch(self, record: Any, checkpoint: Path) -> None:
        self.records.append(record)
        with checkpoint.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        self.bytes = checkpoint.stat().st_size

    def should_stop(self) -> bool:
        return False


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    from liverseg_core.training import prepare_backend, run_experiment

    spec, manifest, cache = ours(options)
    prepare_backend(spec)
    events = Quiet()
    with tempfile.TemporaryDirectory() as workdir:
        run_experiment(spec, manifest, cache, Path(workdir), events)
    rate = median(record.images_per_second for record in events.records[1:])
    return {"images_per_second": rate, "loss": events.records[-1].loss, "peak_mb": peak_mb()}


def checkpoints(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a whole training, and of it from the end of an epoch's validation to its being told."""
    from liverseg_core import training
    from liverseg_core.data.manifest import select

    spec, manifest, cache = ours(options)
    training.prepare_backend(spec)
    events, booking, finish = Quiet(), [], training._Training._finish

    def timed(self: Any, record: Any) -> None:
        start = time.monotonic()
        finish(self, record)
        booking.append(time.monotonic() - start)

    training._Training._finish = timed
    with tempfile.TemporaryDirectory(dir=options.folder) as workdir:
        whole = training._Training(spec, manifest, cache, Path(workdir), events)
        start = time.monotonic()
        whole.run()
        training_s = time.monotonic() - start
    slices = len(select(manifest, spec.dataset)["train"])
    told = {"count": len(booking), "booking_s": sum(booking), "training_s": training_s, "slices": slices}
    return {**told, "megabytes": events.bytes / 1e6}


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from liverseg_core.evaluation import evaluate
    from liverseg_core.training import prepare_backend

    spec, manifest, cache = ours(options)
    prepare_backend(spec)
    model = study_model()
    again = [n % len(manifest.slices) for n in range(500)]
    entries = tuple(replace(manifest.slices[index], scan=n) for n, index in enumerate(again))
    many = replace(manifest, slices=entries)
    pixels = replace(cache, images=cache.images[again], masks=cache.masks[again], labels=cache.labels[again])
    start = time.monotonic()
    evaluate(model, spec, many, pixels, {"val": range(500)}, options.folder / "maps.npz")
    return {"seconds": time.monotonic() - start, "peak_mb": peak_mb()}


def decode(options: argparse.Namespace) -> dict[str, Any]:
    from liverseg_core.data.manifest import select
    from liverseg_core.data.sampling import TrainPart

    start = time.monotonic()
    spec, manifest, cache = ours(options)
    build_s = time.monotonic() - start
    part = TrainPart(spec, manifest, cache, select(manifest, spec.dataset)["train"])
    cached = rate(lambda: [part.piece(1, step) for step in range(part.steps)], part.samples)
    data = tf_data(options)
    decoded = rate(lambda: [None for _ in data], part.samples)
    return {"build_s": build_s, "cache": cached, "tf_data": decoded, "peak_mb": peak_mb()}


def rate(work: Any, images: int) -> float:
    work()
    start = time.monotonic()
    work()
    return images / (time.monotonic() - start)


CHILDREN = {"fit": fit, "ours": run_ours, "checkpoints": checkpoints, "evaluate": evaluate, "decode": decode}


if __name__ == "__main__":
    main()
