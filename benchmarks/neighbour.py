"""MLflow beside liverseg on this machine, through the same client over HTTP.

    python benchmarks/neighbour.py

MLflow is installed once, into ``.bench/mlflow``; it runs as ``mlflow server`` starts it, on its own default store,
liverseg as ``liverseg up --no-worker`` does, with its bundled Postgres and Valkey. Both stores write through to the
disk at each commit. What is asked for in turn, first of the one, then of the other; lists and searches one by one,
each after the other server's work has taken the caches, and then ten in a row, as pages that renew themselves ask:

- ready: from the command to the first request that is answered, with the folder of an earlier start;
- create: 1,000 runs of 8 settings each, one after another (MLflow: ``runs/create`` and ``runs/log-batch``; liverseg:
  ``POST /v1/experiments``), and as people make them in liverseg, as one grid;
- list: all of 1,000 runs, in one page, each with its name, state, times and 8 settings, which is what MLflow answers;
- found: all of them, by a word that is in every name; search: those with a word that is in few names;
- memory: the proportional set size of all processes, after all of that.
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from api.commands.up import free_port
from store import bundled
from store.database import engine
from store.settings import settings

sys.path.insert(0, str(Path(__file__).parent))
from machine import add_dataset, machine, throw_away_home
from server import milliseconds
from targets import mention, tell

ROOT = Path(__file__).parent.parent
VERSION = "mlflow==3.17.2"
RUNS, CHUNKS, REPEATS, STARTS = 1000, 4, 10, 3
WORD = "rate 7"
"""In the names of a few runs of each."""

GIVE_UP_S = 120


def settings_of(number: int) -> dict[str, Any]:
    """Eight settings that no other number has."""
    return {
        "optimizer": "adam",
        "batch_size": 2 ** (1 + number % 5),
        "image_size": 256,
        "filters": 2 ** (2 + number % 3),
        "learning_rate": 1e-4 * (1 + number),
        "epochs": 30,
        "loss": "dice",
        "seed": number,
    }


class MLflow:
    """Its server with its own default store."""

    name = "MLflow"
    ready = "/health"

    def __init__(self, python: Path, folder: Path) -> None:
        self._python, self.folder, self._experiment = python, folder, "0"

    def command(self, port: int) -> list[str]:
        return [str(self._python.with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]

    def create(self, client: httpx.Client, number: int) -> None:
        body = {"experiment_id": self._experiment, "run_name": f"rate {number}", "start_time": number}
        made = self._ask(client, "runs/create", body)["run"]["info"]["run_id"]
        params = [{"key": key, "value": str(value)} for key, value in settings_of(number).items()]
        self._ask(client, "runs/log-batch", {"run_id": made, "params": params})

    def runs(self, client: httpx.Client, word: str) -> int:
        body: dict[str, Any] = {"experiment_ids": [self._experiment], "max_results": RUNS}
        if word:
            body["filter"] = f"attributes.run_name LIKE '%{word}%'"
        return len(self._ask(client, "runs/search", body)["runs"])

    def _ask(self, client: httpx.Client, path: str, body: Mapping[str, Any]) -> Any:
        answer = client.post(f"/api/2.0/mlflow/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


FIELDS = (
    "name,state,created_at,started_at,finished_at,training.optimizer,training.batch_size,data.image_size,model.filters,"
    "training.learning_rate,training.epochs,training.loss,training.seed"
)
"""What MLflow's answer holds of each run."""


class Liverseg:
    """``liverseg up`` without a worker."""

    name = "liverseg"
    ready = "/readyz"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-P", "-m", "api.commands.main", "up", "--no-worker", "--port", str(port)]

    def create(self, client: httpx.Client, number: int) -> None:
        one = settings_of(number)
        spec = {
            "name": f"rate {number}",
            "dataset": {"id": "bench"},
            "data": {"image_size": one.pop("image_size")},
            "model": {"filters": one.pop("filters")},
            "training": one,
        }
        answer = client.post("/v1/experiments", json={"spec": spec})
        assert answer.status_code == 201, answer.text

    def grid(self, client: httpx.Client, first: int) -> None:
        """All of them in one request."""
        spec = {"name": "grid", "dataset": {"id": "bench"}}
        variants = [{"training.learning_rate": 1e-4 * (first + number)} for number in range(RUNS // 5)]
        answer = client.post("/v1/experiments", json={"spec": spec, "variants": variants, "seeds": list(range(5))})
        assert answer.status_code == 201, answer.text
        assert len(answer.json()["runs"]) == RUNS

    def runs(self, client: httpx.Client, word: str, fields: str | None = FIELDS) -> int:
        found, asked = (
            0,
            {"limit": RUNS, **({"name": word} if word else {}), **({"fields": fields} if fields else {})},
        )
        while True:
            answer = client.get("/v1/runs", params=asked)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += len(page["runs"])
            if not page["next"]:
                return found
            asked["before"] = page["runs"][-1]["id"]


@contextmanager
def running(server: MLflow | Liverseg) -> Iterator[tuple[psutil.Process, httpx.Client, float]]:
    """Its process, a client, and the seconds until it was ready."""
    port = free_port()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "LIVERSEG_RATE": "0", "LIVERSEG_HOME": str(server.folder)}
    began = time.perf_counter()
    with (server.folder / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            server.command(port),
            cwd=server.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **quiet},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while not answers(client, server.ready):
                if process.poll() is not None or time.perf_counter() - began > GIVE_UP_S:
                    raise RuntimeError(f"{server.name} does not come up, see {server.folder / 'bench.log'}")
                time.sleep(0.01)
            yield psutil.Process(process.pid), client, time.perf_counter() - began
    finally:
        every = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        psutil.wait_procs(every, 30)  # else they take time from what is measured next


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def megabytes(process: psutil.Process) -> tuple[float, int]:
    """Proportional set size of the process and all below it, and how many they are."""
    every = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in every) / 2**20, len(every)


def installed() -> Path:
    """The Python of an environment that holds MLflow; made where there is none."""
    python = ROOT / ".bench" / "mlflow" / "bin" / "python"
    if not python.with_name("mlflow").exists():
        print(f"installing {VERSION} into {python.parent.parent}")
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", VERSION]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return python


def prepare(home: Path) -> None:
    """A data set that specs can name, in the folder that ``liverseg up`` uses."""
    postgres = bundled.start_postgres(home)
    try:
        add_dataset()
        engine().dispose()
    finally:
        postgres.stop()


def alternating(
    work: Callable[[int], None], other: Callable[[int], None], passes: int, each: int = 1
) -> tuple[list[float], ...]:
    """Milliseconds of the two, in turn, ``each`` times in a row."""
    found: tuple[list[float], list[float]] = [], []
    for number in range(passes):
        for one, taken in zip((work, other), found, strict=True):
            taken += [milliseconds(lambda one=one, number=number: one(number)) for _ in range(each)]
    return found


def starts(servers: tuple[MLflow, Liverseg]) -> None:
    """Median seconds until ready; the first start of each, which makes its database, apart."""
    taken: dict[str, list[float]] = {server.name: [] for server in servers}
    for _, server in itertools.product(range(1 + STARTS), servers):
        with running(server) as (_, _, seconds):
            taken[server.name].append(seconds)
    theirs, ours = (taken[server.name] for server in servers)
    told = [f"{one.name} {statistics.median(taken[one.name][1:]):.1f} s" for one in servers]
    first = [f"{one.name} {taken[one.name][0]:.1f} s" for one in servers]
    ratio = statistics.median(theirs[1:]) / statistics.median(ours[1:])
    tell("beside_ready", ratio, f"{', '.join(told)}, medians of {STARTS}; at the very first start {', '.join(first)}")


def compared(servers: tuple[MLflow, Liverseg]) -> None:
    theirs, ours = servers
    with running(theirs) as (their_process, their_client, _), running(ours) as (our_process, our_client, _):

        def create(server: MLflow | Liverseg, client: httpx.Client, chunk: int) -> None:
            for number in range(chunk * RUNS // CHUNKS, (chunk + 1) * RUNS // CHUNKS):
                server.create(client, number)

        one, two = alternating(
            lambda chunk: create(theirs, their_client, chunk), lambda chunk: create(ours, our_client, chunk), CHUNKS
        )
        per_run = [f"{sum(times) / RUNS:.1f} ms" for times in (one, two)]
        tell("beside_create", sum(one) / sum(two), f"a run: MLflow {per_run[0]}, liverseg {per_run[1]}")
        made = sum(one)

        for key, word in (("beside_list", ""), ("beside_found", "rate"), ("beside_search", WORD)):
            counts = [server.runs(client, word) for server, client in ((theirs, their_client), (ours, our_client))]
            assert counts[0] == counts[1] == (counts[0] if word == WORD else RUNS), counts
            ask = (
                lambda _, word=word: theirs.runs(their_client, word) and None,
                lambda _, word=word: ours.runs(our_client, word) and None,
            )
            middle = [statistics.median(times) for times in alternating(*ask, REPEATS)]
            told = f"{counts[0]:,} runs: MLflow {middle[0]:,.0f} ms, liverseg {middle[1]:,.1f} ms"
            tell(key, middle[0] / middle[1], f"{told}, medians of {REPEATS}")
            row = [statistics.median(times) for times in alternating(*ask, CHUNKS, REPEATS)]
            told = f"MLflow {row[0]:,.0f} ms, {row[0] / row[1]:.1f} times; medians of {CHUNKS} times {REPEATS}"
            mention(f"the same, {REPEATS} in a row, liverseg", row[1], "ms", told)
            whole = statistics.median(
                milliseconds(lambda word=word: ours.runs(our_client, word, None) and None) for _ in range(REPEATS)
            )
            mention(
                "the same with whole specs, defaults included, liverseg",
                whole,
                "ms",
                f"{middle[0] / whole:.1f} times",
            )

        sizes = [megabytes(process) for process in (their_process, our_process)]
        told = [
            f"{server.name} {size:,.0f} MiB in {count}" for server, (size, count) in zip(servers, sizes, strict=True)
        ]
        tell("beside_memory", sizes[0][0] / sizes[1][0], f"{', '.join(told)} processes")
        grid = milliseconds(lambda: ours.grid(our_client, 5000))
        mention(
            f"{RUNS:,} runs as one grid, liverseg",
            grid,
            "ms",
            f"MLflow, which has no grids, {made / grid:,.0f} times",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of an environment that has MLflow already")
    chosen = parser.parse_args()
    print(machine())
    python = chosen.python.absolute() if chosen.python else installed()
    with tempfile.TemporaryDirectory(prefix="mlflow-", dir="/tmp") as folder, throw_away_home() as home:
        settings.cache_clear()
        servers = MLflow(python, Path(folder)), Liverseg(home)
        starts(servers)
        prepare(home)
        compared(servers)


if __name__ == "__main__":
    main()
