"""Readiness, outages, and what the process loads."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import psycopg
import pytest

from store import bundled
from store.settings import settings
from tests import processes
from tests.api.conftest import serving
from tests.conftest import only_reading
from tests.factories import tiny_spec


def test_alive_and_ready(web: httpx.Client):
    assert web.get("/healthz").json() == {"alive": True}
    answer = web.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "database": True, "schema": True, "broker": True, "degraded": False}


def test_without_the_broker_it_is_degraded(services: Path, tmp_path: Path):
    nowhere = f"redis+socket://{tmp_path}/nothing.sock"
    with serving(services, LIVERSEG_BROKER_URL=nowhere) as url:
        answer = httpx.get(f"{url}/readyz", timeout=30)
        assert answer.status_code == 200
        assert answer.json() | {"broker": False, "degraded": True} == answer.json()
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 200


def test_a_broker_that_does_not_answer_keeps_no_load_balancer_waiting(services: Path):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        serving(services, LIVERSEG_BROKER_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as url,
    ):
        for _ in range(5):  # within what the check of a container waits; its sender waits five seconds
            answer = httpx.get(f"{url}/readyz", timeout=4)
            assert (answer.status_code, answer.json()["degraded"]) == (200, True)


@pytest.fixture(scope="module")
def lonely(services: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API whose database is away."""
    nowhere = f"postgresql://app@/liverseg?host={tmp_path_factory.mktemp('no')}"
    with serving(services, LIVERSEG_DATABASE_URL=nowhere) as url:
        yield url


def test_without_the_database_it_is_not_ready(lonely: str):
    answer = httpx.get(f"{lonely}/readyz", timeout=30)
    assert (answer.status_code, answer.json()["database"]) == (503, False)
    assert httpx.get(f"{lonely}/healthz", timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/runs"), ("POST", "/v1/experiments"), ("GET", "/v1/runs/1")]
)
def test_without_the_database_one_is_told_to_come_again(lonely: str, method: str, path: str):
    body = {"spec": tiny_spec()} if method == "POST" else None
    answer = httpx.request(method, lonely + path, json=body, timeout=30)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    assert "psycopg" not in answer.text


def test_with_every_connection_in_use_one_is_told_to_come_again(database: Path):
    """Sixty requests at once, of which thirty get a connection and wait: no hang, no 500, and then all is well."""
    with serving(database, LIVERSEG_RATE="0") as url, ThreadPoolExecutor(60) as many:
        url_of = f"{url}/v1/runs"
        with psycopg.connect(bundled.database_url(database)) as connection:
            connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            asked = [many.submit(httpx.get, url_of, timeout=120) for _ in range(60)]
            first = next(as_completed(asked)).result()
            assert (first.status_code, first.headers["content-type"]) == (503, "application/problem+json")
            assert int(first.headers["retry-after"]) > 0
            assert "every connection to the database is in use" in first.json()["detail"]
        assert {one.result().status_code for one in asked} == {200, 503}
        asked = [many.submit(httpx.get, url_of, timeout=120) for _ in range(60)]
        assert {one.result().status_code for one in asked} == {200}


def test_while_postgres_only_reads_pages_are_there_and_writes_come_again(
    web: httpx.Client, database: Path, submit: Callable[..., list[int]], count_rows: Callable[[], dict[str, int]]
):
    (run,) = submit()
    before = count_rows()
    with only_reading(database):
        answer = web.post("/v1/experiments", json={"spec": tiny_spec()})
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
        assert web.get(f"/v1/runs/{run}").json()["state"] == "queued"
        assert web.get("/", headers={"accept": "text/html"}).status_code == 200
        assert count_rows() == before
    processes.wait_for(
        "writes again",
        lambda: web.post("/v1/experiments", json={"spec": tiny_spec(), "references": False}).status_code == 201,
    )


def test_while_the_artifact_folder_is_away_an_import_is_told_to_come_again(
    web: httpx.Client, archive: Path, count_rows: Callable[[], dict[str, int]]
):
    folder = settings().artifacts
    kept, before = folder.with_name("artifacts-elsewhere"), count_rows()
    folder.mkdir(exist_ok=True)
    folder.rename(kept)
    folder.touch()
    try:
        answer = web.post("/v1/datasets?name=phantom", content=archive.read_bytes())
    finally:
        folder.unlink()
        kept.rename(folder)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 0
    assert str(folder) not in answer.text
    assert count_rows() == before
    assert web.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 201


def test_an_empty_database_is_not_ready(services: Path):
    empty = bundled.database_url(services).replace("/liverseg?", "/empty?")
    with psycopg.connect(bundled.database_url(services), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    try:
        with serving(services, LIVERSEG_DATABASE_URL=empty) as url:
            answer = httpx.get(f"{url}/readyz", timeout=30)
            assert (answer.status_code, answer.json()["database"], answer.json()["schema"]) == (503, True, False)
    finally:
        with psycopg.connect(bundled.database_url(services), autocommit=True) as connection:
            connection.execute("DROP DATABASE empty WITH (FORCE)")


def test_the_app_loads_nothing_heavy():
    code = "import json, sys; from api.app import create_app; create_app(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "fastapi" in loaded
    assert not loaded & {"tensorflow", "keras", "jax", "torch", "h5py", "PIL", "numpy", "scipy", "sklearn"}
