"""What Prometheus reads: numbers of real attempts, the same from every API process, and of requests by template."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from api.metrics import Everywhere
from store import bundled, endings, presence, queue, vitals
from store.database import engine, looking, transaction
from store.endings import Ending
from store.vitals import HELD_S, MOST_POOLS, OTHERS
from tests import processes
from tests.api.conftest import serving
from tests.conftest import broker_client

Submit = Callable[..., list[int]]
Samples = dict[tuple[str, ...], float]


def read(client: httpx.Client) -> Samples:
    """Every sample by its name and its labels' values, as Prometheus' own parser reads them."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def counted(client: httpx.Client, **wanted: float) -> Samples:
    """Once moves are old enough to be counted; ``wanted``: claims, or an outcome or state, by its word."""

    def found() -> Samples | None:
        samples = read(client)
        words = {name[-1].removeprefix("liverseg_"): value for name, value in samples.items() if "total" in name[0]}
        return samples if words | wanted == words else None

    return processes.wait_for(f"{wanted} to be counted", found, HELD_S + 15)


@pytest.fixture
def fresh(database: Path, api_url: str) -> Any:
    """A second API process, whose counts begin with this test's ledger."""
    with serving(database) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_what_waits_and_works(web: httpx.Client, submit: Submit, claim: Callable[[], Any], worker_there: None):
    submit(seeds=[1, 2, 3])
    held = claim()
    with transaction() as session:
        queue.heartbeat(session, held.claim, 60, {"phase": "training", "images_per_second": 12.5})
        late = {"run": held.claim.run_id + 1}
        session.connection().exec_driver_sql(
            "UPDATE runs SET created_at = created_at - interval '1 hour' WHERE id = %(run)s", late
        )
    found = processes.wait_for("a new look", lambda: _of_run(read(web)), 10)
    assert found["liverseg_queue_runs", "default"] == 2
    assert 3600 <= found["liverseg_queue_age_seconds", "default"] < 3700
    assert found["liverseg_running_runs", "default"] == 1
    assert found["liverseg_slots", "default"] == 1
    assert found["liverseg_training_images_per_second", "default"] == 12.5
    assert found["liverseg_workers", "default", "ready"] == 1
    assert found["liverseg_ledger_up",] == found["liverseg_broker_up",] == 1
    connections = [found["liverseg_database_connections", use] for use in ("busy", "idle")]
    assert 1 <= sum(connections) <= 30
    assert 0 < found["liverseg_disk_free_bytes",] <= found["liverseg_disk_bytes",]
    assert found["process_resident_memory_bytes",] > 1e6


def _of_run(samples: Samples) -> Samples | None:
    return samples if samples.get(("liverseg_training_images_per_second", "default")) else None


def test_a_run_that_was_given_back_waits_since_then(web: httpx.Client, submit: Submit, claim: Callable[[], Any]):
    submit()
    with transaction() as session:
        session.connection().exec_driver_sql("UPDATE runs SET created_at = created_at - interval '1 hour'")
    with transaction() as session:
        endings.release(session, claim().claim, Ending())
    with looking() as connection:
        assert 0 <= vitals.vitals(connection).pools["default"].queue_age_s < 60


def test_a_worker_that_was_asked_to_leave_offers_no_slot(worker_there: None):
    with transaction() as session:
        presence.ask_to_leave(session, "host-1:1", presence.Leave.FINISH, 60)
    with looking() as connection:
        found = vitals.vitals(connection).pools["default"]
    assert (found.draining, found.ready, found.slots) == (1, 0, 0)


def test_attempts_are_counted_by_how_they_ended(
    fresh: httpx.Client, submit: Submit, claim: Callable[[], Any], finished: Callable[..., int]
):
    finished()
    submit(seeds=[1, 2, 3, 4, 5])
    with transaction() as session:
        endings.crash(session, claim().claim, Ending(-9), max_crashes=1)
        endings.fail(session, claim().claim, "bad-input", Ending(1))
        endings.release(session, claim().claim, Ending())
    with transaction() as session:
        lost = claim().claim
        session.connection().exec_driver_sql(
            "UPDATE runs SET lease_until = now() - interval '1 s' WHERE state = 'running'"
        )
    processes.wait_for("the reaper", lambda: processes.get_run(lost.run_id).state == "queued", 20)
    found = counted(fresh, claims_total=5, succeeded=1, failed=1, crashed=1, preempted=1, lost=1, dead=1, cancelled=0)
    outcomes = {name[1]: value for name, value in found.items() if name[0] == "liverseg_attempts_ended_total"}
    assert outcomes == {"succeeded": 1, "failed": 1, "crashed": 1, "preempted": 1, "lost": 1, "cancelled": 0}
    ended = {name[1]: value for name, value in found.items() if name[0] == "liverseg_runs_ended_total"}
    assert ended == {"succeeded": 1, "failed": 1, "dead": 1, "cancelled": 0}


def test_another_process_tells_the_same_counts_and_what_came_meanwhile_once(
    database: Path, fresh: httpx.Client, finished: Callable[..., int]
):
    finished()
    counted(fresh, claims_total=1, succeeded=1)
    finished()
    counted(fresh, claims_total=2, succeeded=2)
    with serving(database) as url, httpx.Client(base_url=url, timeout=60) as other:
        counted(other, claims_total=2, succeeded=2)
    assert read(fresh)["liverseg_claims_total",] == 2


def test_announcements_that_were_made_again_are_counted_by_whoever_made_them(
    database: Path, web: httpx.Client, fresh: httpx.Client, submit: Submit
):
    def republished() -> float:
        return sum(read(one)["liverseg_upkeep_republished_total",] for one in (web, fresh))

    (run,) = submit()
    processes.all_announced()
    before = republished()

    def lost_and_counted() -> bool:
        """Lost each time anew: an API of other tests may be the one that made the last one up."""
        with transaction() as session:
            session.connection().exec_driver_sql("UPDATE runs SET announced_at = announced_at - interval '1 hour'")
        broker_client(database).flushall()
        return republished() > before

    processes.wait_for("one of the two to make the announcement again", lost_and_counted, 60)
    counted_here = republished() - before
    assert counted_here <= processes.get_run(run).announcements - 1  # each once


def test_requests_are_counted_by_template_and_status_never_by_id(fresh: httpx.Client):
    for run in range(1, 30):
        assert fresh.get(f"/v1/runs/{run}").status_code == 404
        assert fresh.get(f"/nowhere/{run}").status_code == 404
    assert fresh.get("/static/style.css").status_code == 200
    assert fresh.request("PROPFIND", "/v1/runs").status_code == 405  # of WebDAV; nothing here knows it
    found = read(fresh)
    name = "liverseg_http_request_seconds_count"
    assert found[name, "GET", "/v1/runs/{run}", "404"] == 29
    assert found[name, "GET", "(none)", "404"] == 29
    assert found[name, "GET", "/static", "200"] == 1
    assert found["liverseg_http_request_seconds_sum", "GET", "/v1/runs/{run}", "404"] > 0
    assert found[name, "(other)", "/v1/runs", "405"] == 1
    assert not [labels for labels in found if "PROPFIND" in labels]
    assert not [
        labels for labels in found for label in labels[1:] if any(ch.isdigit() for ch in label) and "/1" in label
    ]


def test_any_token_may_read_and_nobody_without(enter: Callable[[str], httpx.Client], member: Callable[..., Any]):
    assert ("liverseg_ledger_up",) in read(member("watchers", "read"))
    assert enter("wrong").get("/metrics").status_code == 401
    admin_less = httpx.get(f"{enter('x').base_url}/metrics", timeout=60)
    assert admin_less.status_code == 401
    assert "liverseg_" not in admin_less.text


def test_without_its_database_a_process_still_tells_of_itself(services: Path, tmp_path: Path):
    nowhere = f"postgresql://app@/liverseg?host={tmp_path}"
    token = "a-token-that-needs-no-database-at-all"
    with serving(services, LIVERSEG_DATABASE_URL=nowhere, LIVERSEG_TOKEN=token) as url:
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            found = read(client)
    assert found["liverseg_ledger_up",] == 0
    assert ("process_cpu_seconds_total",) in found
    assert not [name for name in found if name[0].startswith(("liverseg_queue", "liverseg_claims"))]


def test_pools_have_a_bound(database: Path):
    """Their names come from whoever submits."""
    with transaction() as session:
        for number in range(MOST_POOLS + 20):
            name = f"w{number}"
            presence.here(session, presence.Presence(name, "host", f"pool-{number}", 2, 1, "1"))
    with looking() as connection:
        pools = vitals.vitals(connection).pools
    assert len(pools) == MOST_POOLS + 1
    assert pools[OTHERS].slots == 40
    assert sum(one.ready for one in pools.values()) == MOST_POOLS + 20


def test_every_number_says_whether_it_is_of_one_process_or_of_all(web: httpx.Client):
    families = list(text_string_to_metric_families(web.get("/metrics").text))
    ours = [one for one in families if one.name.startswith("liverseg_")]
    assert len(ours) > 15
    assert [one.name for one in ours if not one.documentation.startswith(("This process: ", "Everywhere: "))] == []


def test_a_look_into_a_long_queue_takes_little(database: Path, submit: Submit):
    """Ten thousand waiting runs: by what Postgres does for it, since seconds would tell how busy this machine is."""
    submit()
    with psycopg.connect(bundled.database_url(database), autocommit=True) as connection:
        columns = (
            "project_id, experiment_id, dataset_id, kind, name, tags, notes, spec, training_hash, evaluation_hash, \
state, pool"
        )
        connection.execute(
            f"INSERT INTO runs ({columns}) SELECT {columns} FROM runs, generate_series(1, 10000) WHERE id = 1"
        )
        connection.execute("ANALYZE runs")
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        asked.append((statement, values))

    event.listen(engine(), "after_cursor_execute", note)
    try:
        families = {one.name: one for one in Everywhere().collect()}
    finally:
        event.remove(engine(), "after_cursor_execute", note)
    assert families["liverseg_queue_runs"].samples[0].value == 10_001
    with looking() as connection:
        explained = [
            connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values).scalar_one()
            for statement, values in asked
        ]
        pages = connection.exec_driver_sql("SELECT pg_relation_size('runs') / 8192").scalar_one()
    plans = [one["Plan"] for (one,) in explained]
    assert sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans) < 1.5 * pages  # read once
    assert sum(rows_of(plan) for plan in plans) < 5 * 10_001
    assert sum(plan["Actual Rows"] for plan in plans) < 20  # what comes to this process


def rows_of(plan: dict[str, Any]) -> float:
    """Rows that the steps of a plan gave or dropped, together."""
    dropped = sum(value for name, value in plan.items() if name.startswith("Rows Removed by"))
    own = (plan["Actual Rows"] + dropped) * plan["Actual Loops"]
    return own + sum(rows_of(step) for step in plan.get("Plans", ()))
