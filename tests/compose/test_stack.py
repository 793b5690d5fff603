"""The compose file, run for real: a study goes on when a worker and an API node are killed.

``make test-compose`` runs it and prints what happened; the first time it makes images, for half an hour and more.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import Client
from liverseg_core.phantom import draw_phantom
from store.states import FINAL
from tests import factories
from tests.compose import stand_ins
from tests.compose.engine import NoEngine, find
from tests.compose.stack import LONG_RUNNING, Stack
from tests.processes import wait_for

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        "LIVERSEG_COMPOSE" not in os.environ, reason="builds images and starts containers: make test-compose"
    ),
]

LARGEST_API_MB = 400
Json = dict[str, Any]


def say(line: str) -> None:
    print(f"  {line}", flush=True)  # noqa: T201 - who runs this wants to see what happens


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    try:
        engine = find()
    except NoEngine as missing:
        pytest.skip(str(missing))
    say(engine.run("--version").strip() + (", images of a registry" if engine.has_registry else ", stand-ins"))
    if not engine.has_registry:
        stand_ins.make(engine, say)
    stack, since = Stack(engine), time.monotonic()
    stack.build()
    say(f"images built in {time.monotonic() - since:.0f} s")
    try:
        since = time.monotonic()
        stack.up()
        say(f"all healthy {time.monotonic() - since:.0f} s after `compose up`: {', '.join(stack.listed())}")
        yield stack
    finally:
        stack.down()
    assert stack.listed("--all") == []
    say("taken down; nothing is left")


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, stack.token) as client:
        yield client


@pytest.fixture(scope="module")
def dataset(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("phantom") / "drawn"
    draw_phantom(folder, subjects=8, slices=24, size=128, seed=0)
    sent: list[int] = []
    since = time.monotonic()
    client.import_dataset(folder, "drawn", progress=lambda so_far, _: sent.append(so_far))
    say(f"a data set of {sent[-1] / 1e6:.1f} MB went through the proxy in {time.monotonic() - since:.1f} s")
    return "drawn"


def submit(client: Client, dataset: str, epochs: int, **rest: Any) -> Json:
    training = {"batch_size": 4, "epochs": epochs, "early_stopping": {"patience": None}}
    spec = factories.tiny_spec(dataset, data={"image_size": 64}, model={"filters": 4}, training=training)
    return client.submit({"spec": spec, **rest})


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_containers_have_no_root_no_capabilities_and_no_file_system_to_write_to(stack: Stack, service: str) -> None:
    for name in stack.containers(service):
        status = stack.inside(name, "cat", "/proc/1/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in facts["Uid"].split()
        assert (int(facts["CapEff"], 16), facts["NoNewPrivs"]) == (0, "1")
        if service != "postgres":
            assert not stack.engine.can("exec", "--user", "0", name, "touch", "/written")


def test_the_image_of_the_api_is_small_and_has_no_tensorflow(stack: Stack) -> None:
    sizes = {image: int(stack.engine.run("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
             for image in ("liverseg-api", "liverseg-worker", stand_ins.PYTHON)}  # fmt: skip
    say("image sizes: " + ", ".join(f"{image} {size:.0f} MB" for image, size in sizes.items()))
    assert sizes["liverseg-api"] < LARGEST_API_MB
    looks = "import importlib.util as u; print([n for n in ('tensorflow', 'keras') if u.find_spec(n)])"
    assert stack.inside(stack.containers("api")[0], "python", "-c", looks) == "[]"
    assert stack.inside(stack.containers("worker")[0], "python", "-c", looks) == "['tensorflow', 'keras']"


def test_nothing_is_missed_that_the_image_of_the_api_leaves_out(
    stack: Stack, client: Client, dataset: str, tmp_path: Path
) -> None:
    assert client.check_dataset(dataset)["similarity"]["compared"] == 28  # SciPy's images, pairs of 8 scans
    picture = client.figure(f"datasets/{dataset}/figures/histogram.png", tmp_path / "histogram.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    loads = "import h5py, obstore, liverseg_core.scoring, scipy.sparse.csgraph"
    assert stack.inside(stack.containers("api")[0], "python", "-c", loads) == ""


def test_only_the_proxy_is_reached_and_it_asks_for_the_token(stack: Stack) -> None:
    assert httpx.get(f"{stack.url}/readyz").json()["ready"]
    assert httpx.get(f"{stack.url}/v1/runs").status_code == 401
    published = {name: stack.engine.run("port", name).split() for name in stack.listed()}
    assert [name for name, ports in published.items() if ports] == stack.containers("proxy")


def test_events_pass_the_proxy_as_they_happen(stack: Stack, client: Client, dataset: str) -> None:
    headers = {"Authorization": f"Bearer {stack.token}"}
    with httpx.stream("GET", f"{stack.url}/v1/events", params={"after": "0"}, headers=headers, timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: begin"
        sent = time.monotonic()
        experiment = submit(client, dataset, 1, references=False)
        answered = time.monotonic()
        told = next(json.loads(line.partition(":")[2]) for line in lines if '"run"' in line)
        delay = time.monotonic() - answered
    assert told["run"] == experiment["runs"][0]["id"]
    say(f"a submission was answered after {answered - sent:.1f} s, a stream of events told of it {delay:.1f} s later")
    assert delay < 5  # gathered up, it would come with the stream's end, after a minute
    wait_for_success(client, [told["run"]])


def test_a_study_goes_on_when_a_worker_and_an_api_node_are_killed(stack: Stack, client: Client, dataset: str) -> None:
    study = submit(client, dataset, 40, grid={"training.learning_rate": [0.001, 0.002]})
    runs = [run["id"] for run in study["runs"]]
    for run in runs:
        wait_for(f"epoch 2 of run {run}", lambda run=run: len(client.epochs(run)) >= 2)
    hosts = [attempts(client, run)[0]["host"] for run in runs]
    say(f"runs {runs} train on the hosts {hosts}")
    assert len(set(hosts)) == 2

    epochs, since = len(client.epochs(runs[0])), time.monotonic()
    kill(stack, stack.on_host(hosts[0]), f"in epoch {epochs + 1} of run {runs[0]}")
    with reading(stack) as answers:
        time.sleep(2)
        kill(stack, stack.containers("api")[0], "while runs are read ten times a second")
        late = submit(client, dataset, 2, references=False)["runs"][0]["id"]  # a node is away
        time.sleep(8)
    told = f"{len(answers)} reads, statuses {sorted({status for status, _ in answers})}"
    say(f"{told}, the slowest {max(seconds for _, seconds in answers):.2f} s")
    assert {status for status, _ in answers} == {200}

    wait_for(f"another attempt at run {runs[0]}", lambda: len(attempts(client, runs[0])) == 2)
    say(f"run {runs[0]} was taken up {time.monotonic() - since:.0f} s after the kill")
    wait_for_success(client, [*runs, late])
    first, second = attempts(client, runs[0])
    say(f"run {runs[0]}: {first['outcome']} on {first['host']}, {second['outcome']} on {second['host']}")
    assert (first["outcome"], second["outcome"]) == ("lost", "succeeded")
    assert second["host"] != first["host"]
    assert 2 <= second["resumed_from"] <= 40
    assert [one["epoch"] for one in client.epochs(runs[0])] == list(range(1, 41))
    assert [one["outcome"] for one in attempts(client, runs[1])] == ["succeeded"]
    show_comparison(stack, client, study["id"], runs)


def test_every_invariant_of_the_ledger_holds(stack: Stack) -> None:
    for line in stack.inside(stack.containers("api")[0], "liverseg", "verify", "--files").splitlines():
        say(line)


def test_a_killed_node_that_is_started_again_gets_requests_again(stack: Stack) -> None:
    gone = [name for name in stack.listed("--all") if "api" in name and name not in stack.containers("api")]
    for name in gone:
        stack.engine.run("start", name)
    stack.wait_until_healthy("api", "proxy")
    for name in set(stack.containers("api")) - set(gone):
        kill(stack, name, f"so that only {gone} can answer")
    assert wait_for("an answer", lambda: httpx.get(f"{stack.url}/healthz").status_code == 200, 30)


def kill(stack: Stack, container: str, when: str) -> None:
    stack.kill(container)
    say(f"killed {container} {when}")


def attempts(client: Client, run: int) -> list[Json]:
    found: list[Json] = client.run(run)["attempts"]
    return found


def wait_for_success(client: Client, runs: list[int]) -> None:
    def states() -> list[str]:
        return [client.run(run)["state"] for run in runs]

    wait_for(f"runs {runs} to end", lambda: set(states()) <= set(FINAL), 900)
    assert set(states()) == {"succeeded"}


@contextmanager
def reading(stack: Stack) -> Iterator[list[tuple[int, float]]]:
    """Reads ten times a second while the block runs, without trying anything again: (status, seconds) of each."""
    answers: list[tuple[int, float]] = []
    over = threading.Event()

    def read() -> None:
        with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.token}"}, timeout=30) as web:
            while not over.wait(0.1):
                since = time.monotonic()
                answers.append((web.get("/v1/runs").status_code, time.monotonic() - since))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def show_comparison(stack: Stack, client: Client, experiment: int, runs: list[int]) -> None:
    """The table as people read it, through the proxy; every row has its scores."""
    command = [str(Path(sys.executable).parent / "liverseg"), "compare", "--experiment", str(experiment)]
    surroundings = {"LIVERSEG_URL": stack.url, "LIVERSEG_TOKEN": stack.token, "COLUMNS": "160"}
    done = subprocess.run(command, env=os.environ | surroundings, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        say(line)
    rows = client.compare(experiment=experiment)["rows"]
    assert [row["run"] for row in rows if row["run"] in runs] == runs
