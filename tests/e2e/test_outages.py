"""A server that is away for minutes: nothing that was accepted is lost, and no curve has a gap.

``make outages`` stops Valkey for five minutes and Postgres for two, under the settings that people have, and prints
what happened; ``make test`` does the same in seconds.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store import bundled, views
from store.database import transaction
from store.models import StepLosses
from store.settings import settings
from store.states import FINAL
from tests import factories, processes
from tests.api.conftest import serving
from tests.conftest import SERVERS, TEST_SETTINGS
from worker.position import Position

pytestmark = pytest.mark.timeout(3600)

LONG = "LIVERSEG_OUTAGES" in os.environ
VALKEY_S, POSTGRES_S = (300, 120) if LONG else (20, 8)
PAGE = {"accept": "text/html"}
VALUES = ("loss", "dice", "val_loss", "val_dice", "learning_rate")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tells what happened, where somebody asked for it."""

    def told(line: str) -> None:
        if LONG:
            with capsys.disabled():
                print(f"  {line}", flush=True)  # noqa: T201

    return told


@pytest.fixture
def web(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """The API and a worker, each a process, with a data set."""
    if LONG:
        for name in TEST_SETTINGS:
            monkeypatch.delenv(name)
        settings.cache_clear()
    factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)
    with ExitStack() as stack:
        url = stack.enter_context(serving(database))
        # Celery's client looks for its broker every 30 s at most: a worker that gives it less would end in vain.
        patience = {} if LONG else {"LIVERSEG_REANNOUNCE_S": "20"}
        stack.enter_context(processes.worker(tmp_path / "worker.log", **patience))
        yield stack.enter_context(httpx.Client(base_url=url, timeout=60))
    monkeypatch.undo()
    settings.cache_clear()


def spec(epochs: int) -> dict[str, Any]:
    training = {"batch_size": 4, "epochs": epochs, "early_stopping": {"patience": None}}
    return factories.tiny_spec(data={"image_size": 64}, training=training)


def submit(web: httpx.Client, epochs: int) -> int:
    body = {"spec": spec(epochs), "references": False, "reuse": False}
    answer = web.post("/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["runs"][0]["id"])


def states(web: httpx.Client, runs: list[int]) -> list[str]:
    answers = [web.get(f"/v1/runs/{run}") for run in runs]
    assert {one.status_code for one in answers} <= {200, 503}, [one.text for one in answers]
    # A database that has just come back may be too slow for one question; who asks comes again.
    return [one.json()["state"] if one.status_code == 200 else "not told" for one in answers]


def all_end(web: httpx.Client, runs: list[int]) -> None:
    processes.wait_for(f"runs {runs} to end", lambda: set(states(web, runs)) <= set(FINAL), timeout=900)


def degraded(web: httpx.Client) -> tuple[bool, bool]:
    """What the health says, and what a page shows."""
    page = web.get("/", headers=PAGE)
    shown = 'class="degraded" role="status">' in page.text
    assert (page.headers["liverseg-degraded"] == "true") == shown
    return web.get("/readyz").json()["degraded"], shown


def stop(name: str) -> float:
    SERVERS[name].stop()
    return time.monotonic()


def attempts(run: int) -> list[str]:
    with transaction() as session:
        return [one.outcome for one in views.attempts(session, run)]


def test_valkey_is_away(web: httpx.Client, database: Path, tmp_path: Path, say: Callable[[str], None]) -> None:
    """Submits are accepted, running attempts finish, and everything completes after its return."""
    runs = [submit(web, 40)]
    processes.wait_for_epoch(runs[0], 2)
    processes.trainer().suspend()  # so that it is running still when the next one is submitted
    since = stop("valkey")
    runs.append(submit(web, 3))  # taken up by the worker that is awake, when its first run has ended
    processes.trainer().resume()
    all_end(web, runs)
    log = tmp_path / "worker.log"
    processes.wait_for("the worker to have nothing to do", lambda: "succeeded in" in log.read_text())
    say(f"Valkey away: {len(runs)} attempts finished, the last {time.monotonic() - since:.0f} s into the outage")
    late = [submit(web, 2) for _ in range(3 if LONG else 2)]  # nobody can be told of these
    processes.wait_for("the health and the pages to say so", lambda: degraded(web) == (True, True))
    while time.monotonic() - since < VALKEY_S:
        late += [submit(web, 2)] if LONG and len(late) < 6 else []
        time.sleep(min(10, VALKEY_S / 20))
    waiting = states(web, late)
    say(f"{1 + len(late)} submits accepted during the outage of {time.monotonic() - since:.0f} s; {waiting}")
    assert waiting == ["queued"] * len(late)
    SERVERS["valkey"] = bundled.start_valkey(database)
    back = time.monotonic()
    all_end(web, late)
    say(f"all {len(runs) + len(late)} had ended {time.monotonic() - back:.1f} s after its return")
    assert [attempts(run) for run in runs + late] == [["succeeded"]] * len(runs + late)
    processes.wait_for("the health and the pages to be well", lambda: degraded(web) == (False, False))
    processes.assert_ledger_holds()


def test_postgres_is_away(web: httpx.Client, database: Path, tmp_path: Path, say: Callable[[str], None]) -> None:
    """In mid-training: training goes on, no epoch is lost, and the curve is that of a run that was left alone."""
    epochs = enough_epochs(web)
    run = submit(web, epochs)
    processes.wait_for_epoch(run, 3)
    position = Position(database / "checkpoints" / str(run) / "attempt-1" / "position")
    before = len(curve(run))
    since, left_at = stop("postgres"), place(position)
    found_at, answers = left_at, [told_to_come_again(web)]
    while time.monotonic() - since < POSTGRES_S or (found_at[0] - 1 <= before and time.monotonic() - since < 300):
        time.sleep(POSTGRES_S / 20)
        answers.append(told_to_come_again(web))
        found_at = max(found_at, place(position))
    away = time.monotonic() - since
    say(f"Postgres away for {away:.0f} s: the trainer went from (epoch, step) {left_at} to {found_at}")
    say(f"{3 * len(answers)} requests, each answered 503 with Retry-After")
    assert found_at > left_at
    SERVERS["postgres"] = bundled.start_postgres(database)
    back = time.monotonic()
    all_end_after(web, run)
    say(f"ended {time.monotonic() - back:.1f} s after its return")
    during = found_at[0] - 1 - before
    numbers = [one["epoch"] for one in curve(run)]
    gap = numbers != list(range(1, epochs + 1))
    after = len(numbers) - before - during
    say(f"epochs: {before} before, {during} during, {after} after; gap: {'yes' if gap else 'no'}")
    assert during > 0
    assert not gap
    assert step_counts(run) == step_counts(run)[:1] * epochs
    assert attempts(run) == ["succeeded"]
    assert processes.get_run(run).crashes == 0
    processes.assert_ledger_holds()

    twin = submit(web, epochs)
    all_end(web, [twin])
    same = sum(one == other for one, other in zip(curve(run), curve(twin), strict=True))
    say(f"{same} of {epochs} epochs equal those of an uninterrupted twin to the last bit")
    assert curve(run) == curve(twin)
    assert losses(run) == losses(twin)
    assert scored(run) == scored(twin)


def enough_epochs(web: httpx.Client) -> int:
    """So many that training outlasts the outage on this machine, now."""
    trial = submit(web, 8)
    all_end(web, [trial])
    with transaction() as session:
        seconds = sorted(one.seconds for one in views.epochs(session, trial))
    return 10 + math.ceil(1.5 * POSTGRES_S / seconds[len(seconds) // 4])


def place(position: Position) -> tuple[int, int]:
    """Epoch and step that the trainer is at; (0, 0) where it does not train."""
    _, epoch, step, _ = position.read()
    return epoch, step


def told_to_come_again(web: httpx.Client) -> int:
    """Everything but the liveness is answered 503, with the time to come again; no words of the database."""
    for answer in (web.get("/v1/runs"), web.post("/v1/experiments", json={"spec": spec(2)})):
        assert answer.status_code == 503, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["status"] == 503
    page = web.get("/", headers=PAGE)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (503, "text/html")
    assert int(page.headers["retry-after"]) > 0
    assert "the database does not answer" in page.text
    assert "psycopg" not in page.text
    assert web.get("/readyz").json()["database"] is False
    assert web.get("/healthz").status_code == 200
    return page.status_code


def all_end_after(web: httpx.Client, run: int) -> None:
    processes.wait_for("the API to be ready again", lambda: web.get("/readyz").status_code == 200)
    all_end(web, [run])


def curve(run: int) -> list[dict[str, Any]]:
    """The live epochs, floats by their bits."""
    with transaction() as session:
        found = views.epochs(session, run)
        return [{"epoch": one.epoch, **{name: getattr(one, name).hex() for name in VALUES}} for one in found]


def losses(run: int) -> dict[int, list[str]]:
    """Epoch -> loss of each step, by its bits."""
    found: dict[int, list[str]] = {}
    with transaction() as session:
        rows = session.query(StepLosses).filter_by(run_id=run, archived_at=None)
        for row in rows.order_by(StepLosses.epoch, StepLosses.first):
            kept = found.setdefault(row.epoch, [])
            assert row.first == len(kept) + 1  # no step is missing, and none is there twice
            kept += [loss.hex() for loss in row.losses]
    return found


def step_counts(run: int) -> list[int]:
    return [len(steps) for steps in losses(run).values()]


def scored(run: int) -> list[tuple[Any, ...]]:
    with transaction() as session:
        rows = session.execute(
            text("SELECT to_jsonb(s) - 'run_id' FROM slice_scores s WHERE run_id = :run ORDER BY part, scan, slice"),
            {"run": run},
        )
        return [tuple(row) for row in rows]
