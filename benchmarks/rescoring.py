"""How long it takes to score 20 finished runs anew: from the request until the last one has succeeded.

    python benchmarks/rescoring.py [--runs 20] [--slots 2]

The real thing: a throw-away home with Postgres, Valkey, the API and a worker, 500 drawn slices of 512 pixels, and
probability maps of 256 pixels, which all runs share. The four reference runs that the new options need are scored
within the same time.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from api.client import Client
from api.commands.up import free_port
from liverseg_core.data.manifest import Manifest
from liverseg_core.data.png import MASK_VALUES, write_png
from liverseg_core.metrics import SoftFacts
from liverseg_core.scoring import rescore
from liverseg_core.spec import EvaluationOptions
from liverseg_core.submission import Submission
from store import artifacts, experiments, queue, scores
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine
from scoring import draw, write_maps
from targets import mention, tell

RUNS = 20
OPTIONS = {"min_lesion": 20}

SPEC = {
    "dataset": {"id": "drawn"},
    "model": {"head": "softmax"},
    "training": {"loss": "dice-cross-entropy", "batch_size": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(machine())
    home = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    os.environ["LIVERSEG_HOME"] = str(home)
    for name in ("LIVERSEG_DATABASE_URL", "LIVERSEG_BROKER_URL", "LIVERSEG_POOL", "LIVERSEG_URL"):
        os.environ.pop(name, None)
    command = [sys.executable, "-P", "-m", "api.commands.main", "up", "--port", str(free_port()), "--no-worker"]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
            assert up.stdout
            url = up.stdout.readline().split()[3]
            try:
                measure(url, home, options.runs, options.slots)
            finally:
                up.send_signal(signal.SIGINT)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def measure(url: str, home: Path, runs: int, slots: int) -> None:
    with Client(url) as client:
        ids = finished_runs(client, home, runs)
        worker = [
            sys.executable,
            "-P",
            "-m",
            "worker.command",
            "start",
            "--slots",
            str(slots),
            "--log-level",
            "WARNING",
        ]
        with subprocess.Popen(worker) as process:
            try:
                settle(client)
                start = time.monotonic()
                made = client.rescore(ids, OPTIONS)["id"]
                while {run["state"] for run in client.runs(experiment=made)} & {"queued", "running"}:
                    time.sleep(0.1)
                seconds = time.monotonic() - start
                assert {run["state"] for run in client.runs(experiment=made)} == {"succeeded"}
            finally:
                process.terminate()
        remark = f"with {slots} slots, from the request to the last one's end"
        if runs == RUNS:
            tell("rescoring", seconds, remark)
        else:
            mention(f"{runs} runs of 500 slices scored anew", seconds, "s", remark)


def finished_runs(client: Client, home: Path, runs: int) -> list[int]:
    """Runs with scores and maps, written as a worker writes them, without training."""
    drawn, labels = draw()
    folder, maps = home / "drawn", home / "maps.npz"
    write_slices(folder, drawn, labels)
    client.import_dataset(folder, "drawn")
    shutil.rmtree(folder)
    write_maps(maps, drawn, labels, "softmax")
    soft = {("val", one.scan, one.slice): SoftFacts(0, 0, 0, 0, 0, 0, (0,) * 9) for one in drawn.slices}
    rows, lesions = rescore(drawn, labels, maps, {"val": range(len(labels))}, soft, EvaluationOptions())
    with transaction() as session:
        wanted = Submission(spec=SPEC, seeds=list(range(runs)))
        experiments.submit(session, DEFAULT_PROJECT, wanted)
    stored = {"probabilities": artifacts.put(maps)}
    ids = []
    for _ in range(runs):
        with transaction() as session:
            work = queue.claim(session, "default", "bench", "bench", 300)
            assert work is not None
            scores.finish(session, work.claim, rows, stored, 1, Ending(0), lesions)
            ids.append(work.claim.run_id)
    return ids


def write_slices(folder: Path, drawn: Manifest, labels: np.ndarray) -> None:
    """The drawn slices as val, and one of them as the train part that a data set must have."""
    grey = np.array(MASK_VALUES, np.uint8)
    for part, places in (("train", [0]), ("val", range(len(labels)))):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for place in places:
            name = "0_0.png" if part == "train" else f"{drawn.slices[place].key}.png"
            mask = labels[place] if part == "val" else np.roll(labels[place], 9)  # no pixels on both sides
            mask = grey[mask]
            for kind, pixels in (("images", mask // 2 + place % 100), ("masks", mask)):
                (folder / part / kind / name).write_bytes(write_png(pixels))


def settle(client: Client) -> None:
    """Wait until the worker works: it has scored the references of the plain options, and built its cache."""
    made = [run["id"] for run in client.references(SPEC)]
    while any(client.run(run)["state"] != "succeeded" for run in made):
        time.sleep(0.1)


if __name__ == "__main__":
    main()
