"""Logs as JSON, from real processes: every line of them, with the ids it is about; as text unless asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from store.database import transaction
from tests import factories, processes
from tests.api.conftest import serving

JSON = {"LIVERSEG_LOG_FORMAT": "json"}


def lines(log: Path) -> list[dict[str, Any]]:
    """Every line; one that is no JSON object fails."""
    return [json.loads(line) for line in log.read_text().splitlines()]


@contextmanager
def worker_in_json(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker and what it writes to stderr; its farewell, which Celery says on stdout, is no part of the log."""
    command = [sys.executable, "-m", "worker.command", "start", "--threads", "1"]
    with log.open("ab") as err:
        worker = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True, env=os.environ | JSON
        )
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(30)


@pytest.fixture
def home(database: Path, tmp_path: Path) -> Path:
    (database / "test-api.log").unlink(missing_ok=True)
    factories.import_phantom(tmp_path)
    return database


def test_lines_tell_which_request_run_and_attempt_they_are_about(home: Path, tmp_path: Path) -> None:
    body = {"spec": factories.tiny_spec(), "references": False}
    with (
        serving(home, **JSON) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        worker_in_json(tmp_path / "worker.log") as worker,
    ):
        made = client.post("/v1/experiments", json=body, headers={"X-Request-ID": "mine-1"})
        assert made.headers["x-request-id"] == "mine-1"
        own = client.get("/v1/runs/99", headers={"X-Request-ID": "no good\tid"}).headers["x-request-id"]
        run = made.json()["runs"][0]["id"]
        assert processes.wait_for_end(run).state == "succeeded"
    api, told = lines(home / "test-api.log"), lines(tmp_path / "worker.log")
    by_request = {one["request"]: one for one in api if one["message"] == "request"}
    first = by_request["mine-1"]
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/experiments", 201)
    assert (first["level"], first["process"], first["actor"]) == ("info", "api", "local")
    assert by_request[own]["route"] == "/v1/runs/{run}"
    about = [one for one in told if one.get("run") == run]
    assert [one["message"] for one in about][:1] == [f"run {run}: attempt 1 begins"]
    assert about[-1]["message"] == f"run {run}: attempt 1 ended"
    assert {(one["attempt"], one["worker"].rpartition(":")[2]) for one in about} == {(1, str(worker.pid))}
    assert {one["process"] for one in told} == {"worker"}
    assert any("run" not in one for one in told)  # Celery's own


def test_the_upkeep_tells_which_runs_it_took_back_and_errors_their_trace(home: Path) -> None:
    with serving(home, **JSON) as url, httpx.Client(base_url=url, timeout=60) as client:
        (run,) = client.post("/v1/experiments", json={"spec": factories.tiny_spec(), "references": False}).json()[
            "runs"
        ]
        processes.claim(lease_s=0.1)
        processes.wait_for("the reaper", lambda: processes.get_run(run["id"]).state == "queued", 30)
        with transaction() as session:
            session.connection().exec_driver_sql("ALTER TABLE printed_tables RENAME TO gone")
        try:
            table = {"files": [{"name": "x", "text": "Name  Loss\nx  3.6%\n"}]}
            broken = client.post("/v1/tables?name=x", json=table)
        finally:
            with transaction() as session:
                session.connection().exec_driver_sql("ALTER TABLE gone RENAME TO printed_tables")
        assert broken.status_code == 500
    found = lines(home / "test-api.log")
    (taken,) = [one for one in found if one.get("runs")]
    assert (taken["runs"], taken["level"], taken["logger"]) == ([run["id"]], "warning", "store.upkeep")
    (error,) = [one for one in found if "trace" in one]
    assert error["request"] == broken.headers["x-request-id"]
    assert "UndefinedTable" in error["trace"]


def test_text_is_what_it_was(home: Path, tmp_path: Path) -> None:
    with serving(home) as url, processes.worker(tmp_path / "worker.log"):
        body = {"spec": factories.tiny_spec(), "references": False}
        (run,) = httpx.post(f"{url}/v1/experiments", json=body, timeout=60).json()["runs"]
        assert processes.wait_for_end(run["id"]).state == "succeeded"
    assert (home / "test-api.log").read_text() == ""
    text = (tmp_path / "worker.log").read_text()
    assert f"INFO/MainProcess] run {run['id']}: attempt 1 begins" in text
    assert not any(line.startswith("{") for line in text.splitlines())
