"""How soon a dead worker's run goes on, and how soon a cancel is obeyed: real workers, real signals, real settings.

    python benchmarks/recovery.py [--kills 5] [--cancels 30]

A worker that trains is killed with everything below it, just after a heartbeat, which is the worst moment: its lease
has just been renewed. Another worker stands idle. Heartbeat and lease are those of the promise, 10 s and 30 s.
Cancels come at a random moment of a training, under the settings as they are shipped. What is shown is what the API
answers. Takes about ten minutes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from sqlalchemy import select

from api.client import Client
from api.commands.up import free_port
from liverseg_core.phantom import draw_phantom
from store.database import transaction
from store.models import Run
from worker.position import LAYOUT, Position

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, throw_away_home
from targets import percentile, tell

PROMISED = {"LIVERSEG_HEARTBEAT_S": "10", "LIVERSEG_LEASE_S": "30"}

SPEC = {
    "dataset": {"id": "phantom"},
    "data": {"image_size": 64},
    "model": {"filters": 2, "depth": 2},
    "training": {"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}},
}
"""Trains for ever, about ten steps an epoch, every epoch with a checkpoint."""


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--cancels", type=int, default=30)
    options = parser.parse_args()
    print(machine())
    if options.kills:
        report_kills(options.kills)
    if options.cancels:
        report_cancels(options.cancels)


def report_kills(count: int) -> None:
    with up(PROMISED) as (client, home):
        times = list(kills(client, home, count))
    for key, values in zip(("shown", "claimed", "stepping"), zip(*times, strict=True), strict=True):
        tell(key, max(values), f"heartbeat 10 s, lease 30 s; n {count}, {spread(values)}")


def report_cancels(count: int) -> None:
    with up({}) as (client, home), worker(home, slots=len(os.sched_getaffinity(0))):
        times = list(cancels(client, home, count))
    tell("cancel", percentile(times, 99), f"as shipped; n {count}, p50 {median(times):.1f}, {spread(times)}")


def spread(values: Any) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


@contextmanager
def up(variables: dict[str, str]) -> Iterator[tuple[Client, Path]]:
    """Servers and API on a home of their own, with a drawn data set; no worker."""
    before = dict(os.environ)
    with throw_away_home() as home:
        for name in [name for name in os.environ if name.startswith("LIVERSEG_") and name != "LIVERSEG_HOME"]:
            del os.environ[name]
        os.environ.update(variables)
        command = [sys.executable, "-P", "-m", "api.commands.main", "up", "--port", str(free_port()), "--no-worker"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                with Client(process.stdout.readline().split()[3]) as client, tempfile.TemporaryDirectory() as folder:
                    draw_phantom(Path(folder), subjects=4, slices=16, size=64, seed=0)
                    client.import_dataset(Path(folder), "phantom")
                    yield client, home
            finally:
                process.send_signal(signal.SIGINT)
    os.environ.clear()
    os.environ.update(before)


@contextmanager
def worker(home: Path, slots: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    process = start_worker(home, slots)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def start_worker(home: Path, slots: int = 1) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "worker.command", "start", "--slots", str(slots), "--log-level", "WARNING"]
    with (home / "logs" / "bench-worker.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kills(client: Client, home: Path, count: int) -> Iterator[tuple[float, float, float]]:
    """Seconds from each SIGKILL until the worker is shown as dead, its run claimed again, and its first step done."""
    workers = [start_worker(home)]
    try:
        for _ in range(count):
            run = submit(client)  # a run each: three losses would make it dead
            until(lambda run=run: stepping(home, run, 1))
            busy, idle = workers[-1], start_worker(home)
            workers.append(idle)
            until(lambda idle=idle: name_of(idle) in alive(client))
            after_a_heartbeat(run)
            killed = time.monotonic()
            kill_tree(busy)
            yield tuple(moments(client, home, run, name_of(busy), killed))
            client.cancel(run)
            until(lambda run=run: client.run(run)["state"] == "cancelled")
    finally:
        for one in workers:
            if one.poll() is None:
                kill_tree(one)


def moments(client: Client, home: Path, run: int, name: str, killed: float) -> list[float]:
    ready: list[Callable[[], object]] = [
        lambda: outcomes(client, run)[0] == "lost" and name not in alive(client),
        lambda: len(outcomes(client, run)) > 1,
        lambda: stepping(home, run, 2),
    ]
    found: dict[int, float] = {}
    while len(found) < len(ready):
        for place, look in enumerate(ready):
            if place not in found and look():
                found[place] = time.monotonic() - killed
        time.sleep(0.1)
        assert time.monotonic() - killed < 300, client.run(run)["message"]
    return [found[place] for place in range(len(ready))]


def cancels(client: Client, home: Path, count: int) -> Iterator[float]:
    """Seconds from each request until the run is shown as cancelled; as many at a time as there are slots."""
    dice = random.Random(0)
    slots = len(os.sched_getaffinity(0))
    for _ in range(-(-count // slots)):
        running = [submit(client) for _ in range(slots)]
        for run in running:
            until(lambda run=run: stepping(home, run, 1))
        for run in running:
            time.sleep(dice.uniform(0.5, 3))
            asked = time.monotonic()
            client.cancel(run)
            until(lambda run=run: client.run(run)["state"] == "cancelled")
            yield time.monotonic() - asked


SEEDS = iter(range(10**6))


def submit(client: Client) -> int:
    spec = {**SPEC, "training": {**SPEC["training"], "seed": next(SEEDS)}}
    return int(client.submit({"spec": spec, "references": False})["runs"][0]["id"])


def stepping(home: Path, run: int, attempt: int) -> bool:
    """Whether the trainer of this attempt has done a step, by the bytes that it shares with its supervisor."""
    path = home / "checkpoints" / str(run) / f"attempt-{attempt}" / "position"
    if not path.exists() or path.stat().st_size != LAYOUT.size:
        return False
    return "step" in Position(path).place()


def outcomes(client: Client, run: int) -> list[str]:
    return [one["outcome"] for one in client.run(run)["attempts"]]


def name_of(process: "subprocess.Popen[bytes]") -> str:
    return f"{os.uname().nodename}:{process.pid}"


def alive(client: Client) -> set[str]:
    return {one["name"] for one in client.workers() if one["alive"]}


def after_a_heartbeat(run: int) -> None:
    """Wait until the lease of the run has just been renewed."""

    def lease() -> Any:
        with transaction() as session:
            return session.scalar(select(Run.lease_until).where(Run.id == run))

    before = lease()
    until(lambda: lease() != before)


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the worker and everything below it at once, as a power cut would."""
    top = psutil.Process(process.pid)
    for one in [*top.children(recursive=True), top]:
        one.kill()
    process.wait()


def until(ready: Callable[[], object], timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
