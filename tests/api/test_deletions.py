"""Disk use and deletion over HTTP, on pages and by command; what was deleted is told by everything that names it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from store import artifacts, tidy
from store.database import transaction
from store.models import Artifact, Run
from store.settings import settings
from store.states import State
from tests import factories, processes
from tests.api.conftest import Command
from tests.api.test_pages import HTML, page, rows

Finished = Callable[..., int]
WEIGHTS = len(b"weights of a run")
"""Of the fixture `finished`, which stores this as weights and as log."""


@pytest.fixture(autouse=True)
def clean(database: Path):
    """Files of other tests would be counted and swept."""
    for name in ("artifacts", "checkpoints", "cache", "scratch"):
        shutil.rmtree(database / name, ignore_errors=True)


def keep_maps(run: int, tmp_path: Path, content: bytes = b"maps") -> str:
    """Give a run probability maps; their hash."""
    (tmp_path / "maps").write_bytes(content)
    stored = artifacts.put(tmp_path / "maps")
    with transaction() as session:
        session.add(Artifact(run_id=run, attempt=1, kind="probabilities", sha256=stored.sha256, bytes=stored.bytes))
    return stored.sha256


def keep_checkpoints(run: int) -> None:
    """Give a run a checkpoint of five bytes, and make it a dead one: nobody tidies up after those."""
    with transaction() as session:
        session.get_one(Run, run).state = State.DEAD
    folder = settings().checkpoints / str(run) / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "epoch-00002.npz").write_bytes(b"12345")


def age() -> None:
    for path in settings().artifacts.rglob("*"):
        os.utime(path, (time.time() - 7200, time.time() - 7200))


def bulk(web: httpx.Client, dry_run: bool = False, **body: Any) -> Any:
    answer = web.post(f"/v1/deletions?dry_run={str(dry_run).lower()}", json={"what": "run", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_dry_run_changes_nothing_and_says_what_the_deed_does(
    web: httpx.Client, finished: Finished, tmp_path: Path, count_rows: Callable[[], dict[str, int]]
):
    run = finished(spec={"name": "one"})
    keep_maps(run, tmp_path)
    keep_checkpoints(run)
    processes.wait_for("its announcement to be sent", lambda: count_rows()["outbox"] == 0)
    before = count_rows()
    for path in (f"/v1/runs/{run}", f"/v1/runs/{run}?what=files"):
        assert web.delete(f"{path}{'&' if '?' in path else '?'}dry_run=true").json()["dry_run"] is True
    told = bulk(web, dry_run=True, runs=[run])
    assert count_rows() == before
    assert [one["name"] for one in told["runs"]] == ["one"]
    # The same bytes are weights and log, so they are one file.
    assert told["frees"] == WEIGHTS + len(b"maps") + 5
    age()
    done = bulk(web, runs=[run])
    assert {**told, "dry_run": False} == done
    after = count_rows()
    gone = {table: before[table] - after[table] for table in told["rows"]}
    assert gone == told["rows"]
    assert after["deletions"] == 1
    processes.wait_for("the files to go", lambda: not [*settings().artifacts.glob("*/*")][1:])  # the data set's zip
    processes.wait_for("the checkpoints to go", lambda: not (settings().checkpoints / str(run)).exists())


def test_files_are_removed_soon_after_they_are_old_enough(web: httpx.Client, finished: Finished, tmp_path: Path):
    run = finished()
    sha256 = keep_maps(run, tmp_path)
    age()
    assert web.delete(f"/v1/runs/{run}?what=files").status_code == 200
    processes.wait_for("the maps to go", lambda: not artifacts.locate(sha256).exists())
    found = web.get(f"/v1/runs/{run}").json()
    assert {one["kind"] for one in found["artifacts"]} == {"log", "weights"}
    assert f"The maps and checkpoints of run {run} were deleted on" in found["disk"]["deleted"]
    assert "by local" in found["disk"]["deleted"]
    assert web.get(f"/v1/runs/{run}/images").json()["images"]
    gone = web.get(f"/v1/runs/{run}/figures/worst.png")
    assert (gone.status_code, "were deleted on" in gone.json()["detail"]) == (410, True)
    (anew,) = web.post("/v1/rescores", json={"runs": [run], "evaluation": {"min_lesion": 4}}).json()["runs"]
    assert (anew["kind"], anew["scored_from"]) == ("evaluate", run)
    plan = web.post("/v1/experiments?dry_run=true", json={"spec": {**found["spec"], "evaluation": {"flips": False}}})
    assert plan.json()["runs"][0]["reused_from"] == run


def test_what_was_deleted_is_told_by_every_address_that_names_it(web: httpx.Client, finished: Finished):
    run, other = finished(spec={"name": "lost"}), finished(spec={"name": "kept"})
    experiment = web.get(f"/v1/runs/{run}").json()["experiment"]
    assert web.delete(f"/v1/runs/{run}").status_code == 200
    for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/images", f"/v1/comparisons?runs={run}",
                 f"/v1/comparisons?experiment={experiment}", f"/v1/runs/{run}/artifacts/weights"):  # fmt: skip
        answer = web.get(path)
        assert answer.status_code == 410, path
        assert f"Run {run} (lost) was deleted on" in answer.json()["detail"]
    assert web.delete(f"/v1/runs/{run}").status_code == 410
    assert web.post("/v1/deletions", json={"what": "run", "runs": [run]}).status_code == 410
    refused = web.post("/v1/rescores", json={"runs": [run], "evaluation": {"min_lesion": 4}})
    assert f"Run {run} (lost) was deleted on" in refused.json()["detail"]
    live = web.get(f"/v1/comparisons?runs={run},{other}").json()
    assert [row["name"] for row in live["rows"]] == ["kept"]
    assert live["warnings"][0].startswith(f"Run {run} (lost) was deleted on")
    assert f"Run {run} (lost) was deleted on" in page(web, f"/comparisons?runs={run},{other}")
    assert "was deleted on" in web.get(f"/runs/{run}", headers=HTML).text


def test_an_experiment_says_which_of_its_runs_are_gone(web: httpx.Client, submit: Callable[..., list[int]]):
    first, second = submit(seeds=2)
    for run in (first, second):
        assert web.post(f"/v1/runs/{run}/cancel").status_code == 200
    told = bulk(web, runs=[first])
    assert told["experiments"] == []
    found = web.get("/v1/comparisons?experiment=1").json()
    assert [row["run"] for row in found["rows"]] == [second]
    assert found["warnings"][0].startswith(f"Run {first} was deleted on")
    assert bulk(web, experiment=1)["experiments"] == [1]
    assert web.get("/v1/experiments/1").status_code == 404


def test_one_run_that_stays_is_409_and_several_say_why(
    web: httpx.Client, finished: Finished, submit: Callable[..., list[int]]
):
    run = finished()
    (showing,) = submit()
    (waiting,) = submit(reuse=False)
    refused = web.delete(f"/v1/runs/{run}")
    assert refused.status_code == 409
    assert f"run {showing} shows its result; delete it too, in the same request" in refused.json()["detail"]
    assert web.delete(f"/v1/runs/{waiting}").json()["detail"].endswith("is queued; cancel it first")
    told = bulk(web, runs=[run, showing, waiting])
    assert sorted(one["run"] for one in told["runs"]) == [run, showing]
    assert [(one["run"], one["why"]) for one in told["stays"]] == [(waiting, "is queued; cancel it first")]
    audit = web.get("/v1/deletions").json()["deletions"]
    assert sorted((one["run"], one["what"], one["actor"]) for one in audit) == [
        (run, "run", "local"), (showing, "run", "local")
    ]  # fmt: skip
    assert [one["run"] for one in web.get("/v1/deletions?limit=1").json()["deletions"]] == [audit[0]["run"]]
    assert web.get(f"/v1/deletions?limit=1&before={audit[0]['id']}").json()["deletions"] == audit[1:]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"what": "run"}, "name runs, or give"),
        ({"what": "run", "runs": [1], "tag": "x"}, "name runs, or give"),
        ({"what": "all", "runs": [1]}, "what"),
        ({"what": "run", "runs": []}, "runs"),
        ({"what": "run", "older_than_days": -1}, "older_than_days"),
        ({"what": "run", "experiment": "1"}, "experiment"),
        ({"what": "run", "runs": [1], "more": 1}, "more"),
    ],
)
def test_a_deletion_that_names_nothing_or_too_much_is_refused(web: httpx.Client, body: dict[str, Any], told: str):
    answer = web.post("/v1/deletions", json=body)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_nobody_deletes_from_another_site(web: httpx.Client, finished: Finished):
    run = finished()
    for method, path in (("DELETE", f"/v1/runs/{run}"), ("POST", f"/runs/{run}/deletion?what=run"),
                         ("DELETE", "/v1/datasets/phantom"), ("POST", "/comparisons/freeze?runs=1")):  # fmt: skip
        assert web.request(method, path, headers={"origin": "https://evil.example"}).status_code == 403, path
        assert web.request(method, path, headers={"sec-fetch-site": "cross-site"}).status_code == 403, path
    assert web.get(f"/v1/runs/{run}").status_code == 200


def test_a_data_set_stays_while_runs_refer_to_it(web: httpx.Client, finished: Finished):
    run = finished()
    assert web.post("/v1/references", json={"spec": web.get(f"/v1/runs/{run}").json()["spec"]}).status_code == 201
    refused = web.delete("/v1/datasets/phantom")
    assert (refused.status_code, f"run {run} refers to it" in refused.json()["detail"]) == (409, True)
    web.delete(f"/v1/runs/{run}")
    references = [one["id"] for one in web.get("/v1/runs?kind=reference").json()["runs"]]
    # Its reference predictors wait to be scored.
    assert "reference predictors (runs 2, 3, 4, 5) are not scored yet" in web.delete("/v1/datasets/phantom").text
    for one in references:
        web.post(f"/v1/runs/{one}/cancel")
    told = web.delete("/v1/datasets/phantom?dry_run=true").json()
    assert sorted(told["references"]) == sorted(references)
    assert told["frees"] > 1000
    age()
    assert web.delete("/v1/datasets/phantom").json() == {**told, "dry_run": False}
    assert web.get("/v1/datasets").json()["datasets"] == []
    processes.wait_for("its zip to go", lambda: not [*settings().artifacts.glob("*/*")])


# ---- pages ---------------------------------------------------------------------------------------------------


def test_the_page_says_what_goes_before_it_goes(web: httpx.Client, finished: Finished, tmp_path: Path):
    run = finished(spec={"name": "one"})
    keep_maps(run, tmp_path, b"m" * 2048)
    keep_checkpoints(run)
    html = page(web, f"/runs/{run}")
    assert f'href="/runs/{run}/deletion?what=run"' in html
    assert "checkpoints 5 bytes" in rows(html)
    asked = page(web, f"/runs/{run}/deletion?what=files")
    assert "probabilities 2.0 KiB 2.0 KiB" in rows(asked)
    answer = web.post(f"/runs/{run}/deletion?what=files")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run}")
    html = page(web, f"/runs/{run}")
    assert f"The maps and checkpoints of run {run} (one) were deleted on" in html
    assert "figures/worst.png" not in html
    asked = page(web, f"/runs/{run}/deletion?what=run")
    assert "It is the last run of experiment" in asked
    answer = web.post(f"/runs/{run}/deletion?what=run")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert web.get(f"/v1/runs/{run}").status_code == 410


def test_the_page_of_a_run_that_stays_says_why(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    html = page(web, f"/runs/{run}/deletion?what=run")
    assert f"Run {run} cannot be deleted: it is queued; cancel it first." in html
    assert "<form" not in html
    assert "Delete this run" not in page(web, f"/runs/{run}")
    assert web.post(f"/runs/{run}/deletion?what=run").status_code == 409


# ---- commands ------------------------------------------------------------------------------------------------


def test_commands_say_first_and_do_with_yes(
    liverseg: Command, web: httpx.Client, finished: Finished, submit: Callable[..., list[int]], tmp_path: Path
):
    run, other = finished(spec={"name": "one", "tags": ["old"]}), finished(spec={"name": "two"})
    keep_maps(run, tmp_path, b"m" * 2048)
    told = liverseg("disk").stdout
    assert "probabilities     2.0 KiB" in told
    assert "Largest runs" in told
    assert "deleting the run frees 2.0 KiB" in liverseg("disk", run).stdout
    assert "deleting it frees 2.0 KiB" in liverseg("show", run).stdout
    said = liverseg("delete", run, "--files").stdout
    assert f"runs {run} would go and free 2.0 KiB; nothing was deleted, --yes does it" in said
    assert liverseg("delete", run, "--files", "--yes").stdout.startswith("Kind")
    assert "were deleted on" in liverseg("rescore", run, "--set", "min_lesion=4").output
    (anew,) = web.get("/v1/runs?limit=1").json()["runs"]
    said = liverseg("delete", "--tag", "old", "--older-than", "0d", code=1).stdout
    assert f"stays: run {run} one: run {anew['id']} was scored from it; delete it too, in the same request" in said
    web.post(f"/v1/runs/{anew['id']}/cancel")
    assert f"runs {anew['id']}, {run} deleted" in liverseg("delete", run, anew["id"], "--yes").stdout
    assert "nothing to delete" in liverseg("delete", "--tag", "old").stdout
    assert web.get(f"/v1/runs/{other}").status_code == 200
    lines = liverseg("deletions").stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["run", "run", "files"]
    assert "run 2" in liverseg("dataset", "delete", "phantom", code=1).output
    liverseg("delete", other, "--yes")
    assert "are not scored yet" in liverseg("dataset", "delete", "phantom", code=1).output
    factories.dismiss_references()
    assert "nothing was deleted" in liverseg("dataset", "delete", "phantom").stdout
    assert "deleted; frees" in liverseg("dataset", "delete", "phantom", "--yes").stdout
    for words in (["delete"], ["delete", "1", "--tag", "x"], ["delete", "--older-than", "soon"]):
        liverseg(*words, code=2)


def test_the_sweep_finds_what_a_crash_left(liverseg: Command, finished: Finished, tmp_path: Path):
    finished()
    (tmp_path / "left").write_bytes(b"whose worker died")
    place = artifacts.locate(artifacts.put(tmp_path / "left").sha256)
    assert "nothing is left over" in liverseg("sweep").stdout
    old = time.time() - 2 * tidy.ORPHAN_S
    os.utime(place, (old, old))
    assert str(place) in liverseg("sweep").stdout
    assert place.exists()
    assert "removed 1, 17 bytes" in liverseg("sweep", "--yes").stdout
    assert not place.exists()
    liverseg("verify")
