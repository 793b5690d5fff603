"""Scores without training, over HTTP: reference predictors and finished runs under other options."""

from collections.abc import Callable
from typing import Any

import httpx

from store.references import PREDICTORS
from tests.factories import tiny_spec


def test_a_submission_brings_the_reference_predictors_and_no_list_shows_them(
    web: httpx.Client, phantom: dict[str, Any]
):
    made = web.post("/v1/experiments", json={"spec": tiny_spec(), "seeds": 2}).json()
    assert [run["kind"] for run in made["runs"]] == ["train", "train"]
    assert [run["id"] for run in web.get("/v1/runs").json()["runs"]] == [2, 1]
    assert [one["id"] for one in web.get("/v1/experiments").json()["experiments"]] == [made["id"]]
    references = web.get("/v1/runs?kind=reference").json()["runs"]
    assert [run["predictor"] for run in reversed(references)] == list(PREDICTORS)
    web.post("/v1/experiments", json={"spec": tiny_spec(training={"batch_size": 2}), "seeds": 2})
    assert len(web.get("/v1/runs?kind=reference").json()["runs"]) == len(PREDICTORS)


def test_floors_can_be_asked_for_before_anyone_trains(web: httpx.Client, phantom: dict[str, Any]):
    answer = web.post("/v1/references", json={"spec": tiny_spec()})
    assert (answer.status_code, len(answer.json()["runs"])) == (201, len(PREDICTORS))
    assert web.post("/v1/references", json={"spec": tiny_spec()}).json()["runs"] == []
    refused = web.post("/v1/references", json={"spec": tiny_spec("nowhere")})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "dataset.id")


def test_finished_runs_are_scored_under_other_options(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    made = web.post("/v1/rescores", json={"runs": [run], "evaluation": {"min_lesion": 4}})
    assert made.status_code == 201
    (anew,) = made.json()["runs"]
    assert (anew["kind"], anew["state"], anew["scored_from"]) == ("rescore", "queued", run)
    assert anew["spec"]["evaluation"]["min_lesion"] == 4
    assert anew["training_hash"] == web.get(f"/v1/runs/{run}").json()["training_hash"]


def test_what_cannot_be_scored_anew_is_refused_and_nothing_written(
    web: httpx.Client, finished: Callable[..., int], count_rows: Callable[[], dict[str, int]]
):
    run = finished()
    before = count_rows()
    for body, path in (
        ({"runs": [], "evaluation": {}}, "runs"),
        ({"runs": [run + 99], "evaluation": {"min_lesion": 4}}, "runs"),
        ({"runs": [run], "evaluation": {"min_lesion": -4}}, "evaluation.min_lesion"),
        ({"runs": [run], "evaluation": {"treshold": 0.5}}, "evaluation.treshold"),
        ({"runs": [run], "evaluation": {"threshold": 1.0}}, "evaluation.threshold"),
        ({"runs": [run], "evaluation": {}, "more": 1}, "more"),
    ):
        answer = web.post("/v1/rescores", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert count_rows() == before


def test_one_key_is_one_rescoring(web: httpx.Client, finished: Callable[..., int], count_rows: Any):
    body, headers = {"runs": [finished()], "evaluation": {"min_lesion": 3}}, {"Idempotency-Key": "k"}
    first = web.post("/v1/rescores", json=body, headers=headers).json()
    before = [count_rows()[table] for table in ("experiments", "runs", "run_events")]
    assert web.post("/v1/rescores", json=body, headers=headers).json() == first
    other = web.post("/v1/rescores", json=body | {"evaluation": {"min_lesion": 4}}, headers=headers)
    assert (other.status_code, other.json()["errors"][0]["path"]) == (422, "Idempotency-Key")
    assert [count_rows()[table] for table in ("experiments", "runs", "run_events")] == before
