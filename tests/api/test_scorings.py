"""Scores without training, over HTTP: reference predictors and finished runs under other options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from store import scores
from store.database import transaction
from store.endings import Ending
from store.models import Run
from store.queue import Work
from store.references import PREDICTORS
from tests.factories import slice_score, tiny_spec


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


@pytest.mark.parametrize("path", ["/v1/references", "/v1/experiments"])
def test_who_asks_for_reference_runs_is_named_in_their_first_events(
    member: Callable[..., httpx.Client], archive: Path, path: str
):
    client = member("liver")
    assert client.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 201
    assert client.post(path, json={"spec": tiny_spec()}).status_code == 201
    references = client.get("/v1/runs?kind=reference").json()["runs"]
    assert len(references) == len(PREDICTORS)
    for run in references:
        events = client.get(f"/v1/runs/{run['id']}").json()["events"]
        assert [(event["move"], event["actor"]) for event in events] == [("submit", "liver-write")]


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
    assert web.post("/v1/rescores", json=body, headers=headers).status_code == 200  # as of a submission
    before = [count_rows()[table] for table in ("experiments", "runs", "run_events")]
    assert web.post("/v1/rescores", json=body, headers=headers).json() == first
    other = web.post("/v1/rescores", json=body | {"evaluation": {"min_lesion": 4}}, headers=headers)
    assert (other.status_code, other.json()["errors"][0]["path"]) == (422, "Idempotency-Key")
    assert [count_rows()[table] for table in ("experiments", "runs", "run_events")] == before


def test_the_image_page_of_a_reference_predictor_has_no_prediction_to_draw(
    web: httpx.Client, phantom: dict[str, Any], claim: Callable[[], Work]
):
    (run, *_) = web.post("/v1/references", json={"spec": tiny_spec()}).json()["runs"]
    work = claim()
    assert work.claim.run_id == run["id"]
    wanted = [e for e in work.manifest.slices if e.part != "train"]
    with transaction() as session:
        rows = [slice_score(e.part, e.scan, e.slice) for e in wanted]
        scores.finish(session, work.claim, rows, {}, None, Ending(exit_code=0))
    page = web.get(f"/runs/{run['id']}/images/{wanted[0].part}/{wanted[0].key}", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "keeps no probability maps" in page.text
    assert "figure.png" not in page.text


def test_facts_of_an_older_evaluation_are_not_mixed_with_counts_of_today_s(
    web: httpx.Client, finished: Callable[..., int]
):
    run = finished()
    with transaction() as session:
        session.get_one(Run, run).evaluation_hash = "0" * 64  # as an earlier EVALUATION_VERSION made it
    (anew,) = web.post("/v1/rescores", json={"runs": [run], "evaluation": {"min_lesion": 4}}).json()["runs"]
    assert anew["kind"] == "evaluate"
