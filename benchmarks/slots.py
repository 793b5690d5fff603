"""What memory a slot takes at its peak, beside what a worker will count for it, and images/s with one and two slots.

    python benchmarks/slots.py                              about a quarter of an hour on 2 idle cores
    python benchmarks/slots.py --slices 32 8 --shapes 4x256x32           whether it works

``liverseg up`` with one slot, then with two, each slot with its share of the cores as by default; in turn for each
shape as many runs as slots, from the claim to their scores. Told of each shape:

- peak: the largest resident size of a trainer, as its supervisor reads it (VmHWM) and the ledger keeps it;
- its share: the largest proportional set size (PSS), where what processes have in common counts once;
- all: the largest sum of PSS over all trainers at one time, the one that waits for the next run included;
- expected: what a worker counts for the next run of this shape. It claims a run only where so much is left.

Slices: LIVERSEG_STUDY_DIR/liver_ct where it is, else a drawn phantom.
"""

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, throw_away_home
from makespan import finished, up
from targets import mention
from training import prepare

from api.client import Client

LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class Shape:
    filters: int
    size: int
    batch: int

    @classmethod
    def of(cls, text: str) -> "Shape":
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"f = {self.filters}, {self.size} px, batch {self.batch}"

    def spec(self, epochs: int) -> dict[str, Any]:
        return {
            "name": str(self),
            "dataset": {"id": "slices", "split": {"override": "as in the study"}},
            "data": {"image_size": self.size},
            "model": {"filters": self.filters},
            "training": {"epochs": epochs, "batch_size": self.batch, "early_stopping": {"patience": None}},
        }


SHAPES = [Shape(4, 256, 32), Shape(4, 256, 64), Shape(8, 256, 32), Shape(8, 256, 64), Shape(4, 512, 4)]


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs=2, default=(128, 16), metavar=("TRAIN", "VAL"))
    parser.add_argument("--epochs", type=int, default=3, help="the first, which traces, is not counted")
    parser.add_argument("--shapes", type=Shape.of, nargs="+", default=SHAPES, help="FILTERSxSIZExBATCH")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, val = prepare(folder, dict(zip(("train", "val"), options.slices, strict=True)))
        print(
            f"{train} train, {val} val slices, {options.epochs} epochs, {psutil.virtual_memory().total >> 20:,} MiB"
        )
        for count in options.slots:
            with throw_away_home(), up(count) as client:
                client.import_dataset(folder / "data", "slices")
                for shape in options.shapes:
                    report(client, shape, count, options.epochs)


def report(client: Client, shape: Shape, slots: int, epochs: int) -> None:
    submission = {"spec": shape.spec(epochs), "seeds": list(range(slots))}
    with watched() as shares:
        runs = [run["id"] for run in client.submit(submission)["runs"]]
        finished(client, runs)
    peaks = [client.run(run)["attempts"][-1]["peak_memory_mb"] for run in runs]
    paces = [median(epoch["images_per_second"] for epoch in client.epochs(run)[1:]) for run in runs]
    # Another seed is another run, which was not trained.
    expected = client.submit({**submission, "seeds": [slots]}, dry_run=True)["memory_mb"]
    told = f"a slot {' and '.join(f'{pace:.1f}' for pace in paces)}; peak {max(peaks):,} MiB, "
    told += f"its share {shares.one:,.0f}, all {shares.all:,.0f}, expected {expected:,}"
    mention(f"{shape}, slots {slots}", sum(paces), "images/s", told)


@dataclass
class Shares:
    """The largest PSS that was seen, MiB: of one trainer, and of all at one time."""

    one: float = 0
    all: float = 0

    def look(self) -> None:
        found = list(_shares())
        self.one, self.all = max([self.one, *found]), max(self.all, sum(found))


def _shares() -> Iterator[float]:
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "worker.trainer" in process.cmdline():
                yield process.memory_full_info().pss / 2**20
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


@contextmanager
def watched() -> Iterator[Shares]:
    """The shares of all trainers below this process until the block ends."""
    found, done = Shares(), threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_EVERY_S):
            found.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
