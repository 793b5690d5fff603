import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from liverseg_core.data.archive import pack_folder
from liverseg_core.phantom import draw_phantom
from liverseg_core.spec import ExperimentSpec
from tests.factories import tiny_spec

Count = Callable[[], dict[str, int]]


@pytest.fixture
def people(web: httpx.Client, tmp_path: Path) -> dict[str, Any]:
    """The phantom, with one person told to be in train and val."""
    draw_phantom(tmp_path / "people", subjects=4, slices=4, size=32)
    subjects = {"0": "A", "1": "B", "2": "A", "3": "C"}
    (tmp_path / "people" / "subjects.json").write_text(json.dumps(subjects))
    pack_folder(tmp_path / "people", tmp_path / "people.zip")
    answer = web.post("/v1/datasets?name=people", content=(tmp_path / "people.zip").read_bytes())
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_grid_becomes_runs_in_the_order_of_its_cells(web: httpx.Client, phantom: dict[str, Any], count_rows: Count):
    body = {
        "spec": tiny_spec(name="sweep"),
        "grid": {"training.learning_rate": [0.001, 0.005]},
        "seeds": 2,
        "references": False,
    }
    answer = web.post("/v1/experiments", json=body)
    assert answer.status_code == 201
    made = answer.json()
    chosen = [(run["spec"]["training"]["learning_rate"], run["spec"]["training"]["seed"]) for run in made["runs"]]
    assert chosen == [(0.001, 0), (0.001, 1), (0.005, 0), (0.005, 1)]
    first = made["runs"][0]
    assert first["experiment"] == made["id"]
    assert (first["state"], first["kind"], first["dataset"], first["epochs_total"]) == (
        "queued",
        "train",
        "phantom",
        2,
    )
    assert (first["progress"], first["best_epoch"], first["started_at"], first["crashes"]) == (None, None, None, 0)
    spec = ExperimentSpec.parse(tiny_spec())
    assert first["training_hash"] == spec.training_hash(phantom["content_hash"])
    assert count_rows()["runs"] == 4


def test_a_dry_run_tells_and_writes_nothing(web: httpx.Client, finished: Callable[..., int], count_rows: Count):
    run, before = finished(), count_rows()
    body = {"spec": tiny_spec(), "grid": {"training.learning_rate": [0.001, 0.002]}}
    answer = web.post("/v1/experiments?dry_run=true", json=body)
    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["count"], plan["reused"]) == (2, 1)
    assert (plan["subjects"], plan["smallest_p"]) == (1, 1)  # the phantom's test part shows one person
    assert plan["reach"].startswith("With 1 subject the smallest")
    assert [one["reused_from"] for one in plan["runs"]] == [run, None]
    assert plan["runs"][1]["settings"] == {
        "dataset.id": "phantom",
        "data.image_size": 32,
        "model.filters": 2,
        "model.depth": 2,
        "training.learning_rate": 0.002,
        "training.batch_size": 4,
        "training.epochs": 2,
    }
    assert count_rows() | {"outbox": 0} == before | {"outbox": 0}


def test_a_leak_is_refused_by_name_and_told_when_overridden(
    web: httpx.Client, count_rows: Count, people: dict[str, Any]
):
    told = people["leaks"]
    assert told == ["subject A lies in train (scan 0) and in val (scan 2)"]
    spec = tiny_spec(name="leaky") | {"dataset": {"id": "people"}}
    before = count_rows()
    answer = web.post("/v1/experiments", json={"spec": spec})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "dataset.split"
    assert told[0] in error["message"]
    assert count_rows() == before
    spec["dataset"]["split"] = {"override": "a test"}
    plan = web.post("/v1/experiments?dry_run=true", json={"spec": spec}).json()
    assert [run["leaks"] for run in plan["runs"]] == [told]


def test_folds_become_runs_and_the_number_of_subjects_is_the_data_sets_own(
    web: httpx.Client, phantom: dict[str, Any]
):
    answer = web.post("/v1/experiments", json={"spec": tiny_spec(), "folds": "subject"})
    assert answer.status_code == 201, answer.text
    splits = [run["spec"]["dataset"]["split"] for run in answer.json()["runs"]]
    dealt = {phantom["subjects"][str(scan)] for scan in range(3)}  # of four subjects the last one tests
    assert [(split["kind"], split["fold"]) for split in splits] == [
        ("leave-one-subject-out", fold) for fold in range(len(dealt))
    ]
    refused = web.post("/v1/experiments", json={"spec": tiny_spec(), "folds": 9})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "dataset.split.folds")


def test_an_equal_finished_run_is_reused_unless_told_not_to(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    reused = web.post("/v1/experiments", json={"spec": tiny_spec()}).json()["runs"][0]
    assert (reused["state"], reused["reused_from"]) == ("succeeded", run)
    anew = web.post("/v1/experiments", json={"spec": tiny_spec(), "reuse": False}).json()["runs"][0]
    assert (anew["state"], anew["reused_from"]) == ("queued", None)
    epochs = web.get(f"/v1/runs/{reused['id']}/epochs").json()["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    left = web.get(f"/v1/runs/{reused['id']}/artifacts").json()["artifacts"]
    assert [file["kind"] for file in left] == ["log", "weights"]


def test_the_same_key_and_body_give_one_experiment(web: httpx.Client, phantom: dict[str, Any], count_rows: Count):
    def send(**changes: Any):
        body = {"spec": tiny_spec(name="once", **changes), "references": False}
        return web.post("/v1/experiments", json=body, headers={"Idempotency-Key": "k1"})

    first, second = send(), send()
    assert (first.status_code, second.status_code) == (201, 200)
    assert [run["id"] for run in first.json()["runs"]] == [run["id"] for run in second.json()["runs"]]
    assert first.json()["id"] == second.json()["id"]
    other = send(model={"filters": 3, "depth": 2})
    assert other.status_code == 422
    (error,) = other.json()["errors"]
    assert (error["path"], error["received"]) == ("Idempotency-Key", "k1")
    assert count_rows()["experiments"] == 1


def test_fifty_identical_requests_at_once_make_one_experiment(
    web: httpx.Client, phantom: dict[str, Any], count_rows: Count
):
    gate = threading.Barrier(50)

    def send(_: int) -> tuple[int, int]:
        gate.wait()
        body = {"spec": tiny_spec(), "seeds": 2, "references": False}
        answer = web.post("/v1/experiments", json=body, headers={"Idempotency-Key": "together"})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert sorted(status for status, _ in answers) == [200] * 49 + [201]
    assert len({experiment for _, experiment in answers}) == 1
    rows = count_rows()
    assert (rows["experiments"], rows["runs"], rows["run_events"]) == (1, 2, 2)


def test_experiments_are_listed_newest_first_in_pages(web: httpx.Client, submit: Callable[..., list[int]]):
    for _ in range(3):
        submit()
    first = web.get("/v1/experiments?limit=2").json()
    assert [one["id"] for one in first["experiments"]] == [3, 2]
    rest = web.get(f"/v1/experiments?limit=2&before={first['next']}").json()
    assert ([one["id"] for one in rest["experiments"]], rest["next"]) == ([1], None)


def test_one_experiment_tells_what_was_sent(web: httpx.Client, submit: Callable[..., list[int]]):
    runs = submit(seeds=[5, 7])
    found = web.get("/v1/experiments/1").json()
    assert found["submission"]["seeds"] == [5, 7]
    assert [run["id"] for run in found["runs"]] == runs


def test_an_unknown_experiment_is_not_found(web: httpx.Client):
    answer = web.get("/v1/experiments/77")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [
        {"path": "experiment", "message": "there is no such experiment", "received": 77}
    ]
