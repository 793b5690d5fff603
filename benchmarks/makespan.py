"""How long a study of eight runs takes, from its submission to its table, beside the study's own way.

    python benchmarks/makespan.py            a subset of the slices, about a quarter of an hour on 2 idle cores
    python benchmarks/makespan.py --full     every slice, hours

The study's own way: a fresh process for each run, one after the other; tf.data that decodes PNG files anew in each
epoch, ``model.fit`` with validation, then a prediction of each val slice. Ours: ``liverseg up`` with nothing in its
caches, one submission over HTTP, until all runs have succeeded and their scores are in the ledger. Network, loss,
optimizer and data are the same. The ways are measured one after the other, ``--rounds`` times in turn.

Also: how long it takes from one run's ``succeeded`` to the next run's training call in the same slot, and on to the
end of its first step, which includes tracing the graph; and how long the finished study takes when it is submitted
again, which must train nothing.
Slices: LIVERSEG_STUDY_DIR/liver_ct where it is, else a drawn phantom.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, throw_away_home
from targets import mention, tell
from training import prepare, study_model, tf_data

from api.client import Client
from api.commands.up import free_port

RUNS, EPOCHS, BATCH = 8, 10, 32


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every slice instead of a subset")
    parser.add_argument("--slices", type=int, nargs=2, default=(192, 64), metavar=("TRAIN", "VAL"))
    parser.add_argument("--slots", type=int, nargs="+", default=[2], help="runs at the same time, of ours")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return study_run(options.child)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, val = prepare(folder, {} if options.full else dict(zip(("train", "val"), options.slices, strict=True)))
        print(
            f"{RUNS} runs of {EPOCHS} epochs: {train} train, {val} val slices, 256 pixels, 4 filters, batch {BATCH}"
        )
        report(folder, options.slots, options.rounds)
    return None


def report(folder: Path, slots: list[int], rounds: int) -> None:
    theirs: list[float] = []
    ours: dict[int, list[float]] = {count: [] for count in slots}
    for _ in range(rounds):
        theirs.append(study(folder))
        mention("the study's own way", theirs[-1], "s")
        for count in slots:
            seconds, gaps, again = service(folder, count)
            ours[count].append(seconds)
            mention(
                f"liverseg with {count} slots", seconds, "s", f"{seconds / theirs[-1]:.3f} of the study's own way"
            )
            report_gaps(count, gaps)
            tell("resubmit", again, f"{RUNS} runs, each with the result of the one before")
    best = min(median(values) for values in ours.values())
    tell("makespan", best / median(theirs), f"medians of {rounds}: {best:.0f} s, {median(theirs):.0f} s")


def report_gaps(slots: int, gaps: list[tuple[float, float]]) -> None:
    called, stepped = zip(*gaps, strict=True)
    tell("gap", max(called), f"{slots} slots, n {len(gaps)}, median {median(called):.2f} s")
    mention("from `succeeded` to the end of its first step", max(stepped), "s", f"median {median(stepped):.2f} s")


# --- the study's own way ------------------------------------------------------------------------------------------


def study(folder: Path) -> float:
    began = time.monotonic()
    for _ in range(RUNS):
        command = [sys.executable, __file__, "--child", folder]
        variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(command, env=variables, check=True, capture_output=True)
    return time.monotonic() - began


def study_run(folder: Path) -> None:
    """Train, validate after each epoch, predict; with oneDNN, which TensorFlow leaves off on some processors."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    options = argparse.Namespace(folder=folder, batch=BATCH)
    model = study_model()
    val = tf_data(options, "val")
    model.fit(tf_data(options), validation_data=val, epochs=EPOCHS, shuffle=False, verbose=0)  # the data do that
    model.predict(val, verbose=0)
    model.save_weights(folder / "study.weights.h5")


# --- ours ---------------------------------------------------------------------------------------------------------


def service(folder: Path, slots: int) -> tuple[float, list[tuple[float, float]], float]:
    """Seconds from the submission to the last score, the gaps between two runs of a slot, :func:`resubmitted`."""
    with throw_away_home(), up(slots) as client:
        client.import_dataset(folder / "data", "slices")
        began = time.monotonic()
        made = client.submit(submission())
        wanted = [run["id"] for run in made["runs"]]
        finished(client, wanted)
        seconds = time.monotonic() - began
        return seconds, list(gaps_of(client, wanted)), resubmitted(client, wanted)


def finished(client: Client, runs: list[int]) -> None:
    """Wait until all of them have succeeded."""
    wanted = set(runs)
    while not wanted <= {run["id"] for run in client.runs(state="succeeded", limit=500)}:
        if broken := [*client.runs(state="failed"), *client.runs(state="dead")]:
            sys.exit(f"run {broken[0]['id']} did not succeed:\n{client.logs(broken[0]['id'])}")
        time.sleep(0.1)


def resubmitted(client: Client, done: list[int]) -> float:
    """Seconds until the finished study, submitted again, has been answered with every result; nothing was trained."""
    began = time.monotonic()
    made = client.submit(submission())
    seconds = time.monotonic() - began
    assert [run["reused_from"] for run in made["runs"]] == done, made["runs"]
    details = [client.run(run["id"]) for run in made["runs"]]
    assert all(run["state"] == "succeeded" and not run["attempts"] for run in details), details
    return seconds


def submission() -> dict[str, Any]:
    training = {"epochs": EPOCHS, "batch_size": BATCH, "early_stopping": {"patience": None}}
    return {
        "spec": {"name": "makespan", "dataset": {"id": "slices", "split": {"override": "as in the study"}}}
        | {"training": training},
        "seeds": list(range(RUNS)),
    }


@contextmanager
def up(slots: int) -> Iterator[Client]:
    """``liverseg up`` on the home of this process."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "api.commands.main",
        "up",
        "--port",
        str(free_port()),
        "--slots",
        str(slots),
    ]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout
        try:
            with Client(process.stdout.readline().split()[3]) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)


def gaps_of(client: Client, runs: list[int]) -> Iterator[tuple[float, float]]:
    """Of each run but the first of a slot: from the end of the one before it to its training call and first step."""
    told = sorted((times_of(client, run) for run in runs), key=lambda one: one["training"])
    ends = sorted(one["succeeded"] for one in told)
    for before, one in zip(ends, told[len(told) - len(ends) + _slots_of(told) :], strict=False):
        yield one["training"] - before, one["stepped"] - before


def _slots_of(told: list[dict[str, float]]) -> int:
    """How many ran at the same time: those that began before the first had ended."""
    first = min(one["succeeded"] for one in told)
    return sum(one["training"] < first for one in told)


def times_of(client: Client, run: int) -> dict[str, float]:
    """When a run called its training, had done its first step, and had succeeded, by this machine's clock."""
    lines = client.logs(run).splitlines()
    detail = client.run(run)
    ended = next(event["at"] for event in detail["events"] if event["state"] == "succeeded")
    said = {
        words: _time(line)
        for line in lines
        for words in ("training", "first step done")
        if line[24:].startswith(words)
    }
    return {
        "training": said["training"],
        "stepped": said["first step done"],
        "succeeded": datetime.fromisoformat(ended).timestamp(),
    }


def _time(line: str) -> float:
    return datetime.fromisoformat(line[:23] + "+00:00").timestamp()


if __name__ == "__main__":
    main()
