"""The API process: its start, its memory, and what submitting and being let in cost through HTTP.

    python benchmarks/server.py

A throw-away home with the bundled Postgres and Valkey, the API as it is shipped (one of its threads announces what
is submitted), one client that sends one request after another.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select

from store import tokens
from store.database import transaction
from store.models import DEFAULT_PROJECT, Announcement

sys.path.insert(0, str(Path(__file__).parent))
from machine import durability, ledger, machine
from targets import mention, p95, tell

STARTS, ROUNDS, SUBMITS, GRIDS, TOKENS = 5, 3, 200, 3, 300

LEARNING_RATES = [0.001 * step for step in range(1, 11)]
BATCH_SIZES = list(range(1, 11))


def main() -> None:
    print(machine())
    with ledger():
        print(durability())
        seconds, cpu, megabytes = zip(*(start() for _ in range(STARTS)), strict=True)
        with served() as url, httpx.Client(base_url=url, timeout=60) as client:
            singles = sorted((submits(client) for _ in range(ROUNDS)), key=p95)
            grid = sorted(grids(client))
            calm()
            anonymous = [milliseconds(lambda: get(client)) for _ in range(TOKENS)]
            asked, recalled = with_tokens(client)
    single = singles[ROUNDS // 2]
    tell(
        "submit",
        p95(single),
        f"n {SUBMITS}, median {statistics.median(single):.1f}, worst {max(single):.1f}; "
        f"of three: {p95(singles[0]):.1f} to {p95(singles[-1]):.1f}",
    )
    tell("grid", grid[GRIDS // 2], f"of three: {grid[0]:.0f} to {grid[-1]:.0f}")
    tell(
        "request",
        p95(asked) - p95(anonymous),
        f"n {TOKENS} tokens, each asked for in the ledger; medians {statistics.median(asked):.2f} with, "
        f"{statistics.median(recalled):.2f} within 2 s, {statistics.median(anonymous):.2f} without",
    )
    mention(
        f"ready, median of {STARTS} starts",
        statistics.median(seconds),
        "s",
        f"{min(seconds):.2f} to {max(seconds):.2f}, of which {statistics.median(cpu):.2f} of CPU time",
    )
    mention("resident memory after 200 requests", max(megabytes), "MiB")


def start() -> tuple[float, float, float]:
    """Seconds until ``/readyz`` says 200, CPU seconds until then, and MiB after some work."""
    began = time.perf_counter()
    with serving() as (process, url):
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        seconds = time.perf_counter() - began
        used = psutil.Process(process.pid).cpu_times()
        for path in ("/", "/v1/runs", "/docs", "/openapi.json") * 50:
            httpx.get(url + path).raise_for_status()
        megabytes = psutil.Process(process.pid).memory_info().rss / 2**20
    return seconds, used.user + used.system, megabytes


@contextmanager
def serving() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The API process and its address."""
    command = [sys.executable, "-m", "api.serve", "--port", "0"]
    variables = {**os.environ, "LIVERSEG_RATE": "0"}  # one client asks as fast as it is answered
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextmanager
def served() -> Iterator[str]:
    with serving() as (_, url):
        yield url


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


SEEDS = itertools.count(1)


def submits(client: httpx.Client) -> list[float]:
    """Milliseconds of each submission of one run; the first ones, which warm up, are left out."""

    def once() -> None:
        spec = {"dataset": {"id": "bench"}, "training": {"seed": next(SEEDS)}}
        assert len(post(client, {"spec": spec})["runs"]) == 1

    return [milliseconds(once) for _ in range(20 + SUBMITS)][20:]


def grids(client: httpx.Client) -> Iterator[float]:
    """Milliseconds of each submission of 10 learning rates x 10 batch sizes x 10 seeds."""
    for _ in range(GRIDS):
        seeds = [next(SEEDS) for _ in range(10)]
        axes = {"training.learning_rate": LEARNING_RATES, "training.batch_size": BATCH_SIZES, "training.seed": seeds}
        body = {"spec": {"dataset": {"id": "bench"}}, "grid": axes}
        made: list[Any] = []
        calm()
        yield milliseconds(lambda body=body, made=made: made.append(post(client, body)))
        assert len(made[0]["runs"]) == 1000


def calm() -> None:
    """Wait until everything is announced, which the API does beside answering."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with transaction() as session:
            if session.scalar(select(func.count()).select_from(Announcement)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the API has not announced what was submitted for a minute")


def post(client: httpx.Client, body: dict[str, Any]) -> Any:
    answer = client.post("/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def get(client: httpx.Client, secret: str = "") -> None:
    client.get("/v1/profiles", headers={"Authorization": f"Bearer {secret}"} if secret else {}).raise_for_status()


def with_tokens(client: httpx.Client) -> tuple[list[float], list[float]]:
    """Milliseconds of a request with a token that the ledger is asked for, and of one with a token just seen."""
    with transaction() as session:
        made = [tokens.issue(session, DEFAULT_PROJECT, f"t{n}", tokens.Scope.READ, "local") for n in range(TOKENS)]
    secrets = [secret for _, secret in made]
    for secret in secrets:
        get(client, secret)  # writes that it was used, once a minute
    time.sleep(2.1)  # longer than an answer of the ledger is believed
    asked, recalled = [], []
    for secret in secrets:
        asked.append(milliseconds(lambda secret=secret: get(client, secret)))
        recalled.append(milliseconds(lambda secret=secret: get(client, secret)))
    return asked, recalled


if __name__ == "__main__":
    main()
