"""The form for an experiment: made from the schema, previewed, submitted, and refused in words beside its fields."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api import specs
from liverseg_core.spec import ExperimentSpec
from tests.api.test_pages import HTML, page, rows
from tests.conftest import Browser
from tests.factories import tiny_spec

TINY = {
    "dataset.id": "phantom",
    "data.image_size": "32",
    "model.filters": "2",
    "model.depth": "2",
    "training.batch_size": "4",
    "training.epochs": "2",
}


def post(web: httpx.Client, action: str, **texts: str) -> httpx.Response:
    return web.post("/submit", data={**TINY, "action": action, **texts}, headers=HTML)


def test_every_field_of_a_spec_is_in_the_form(web: httpx.Client, phantom: dict[str, Any]):
    html = page(web, "/submit")
    for one in specs.fields():
        assert f'name="{one.path}"' in html
    assert "<option>phantom</option>" in html


def test_texts_and_values_turn_into_each_other():
    spec = tiny_spec(
        training={"learning_rate": 5e-4, "early_stopping": {"patience": None}},
        data={"image_size": 32, "augmentation": "right-angles"},
        notes="no, really: yes",
        tags=["a b", "c"],
    )
    spec["dataset"]["exclude"] = {"scans": [0, 1], "slices": ["8_12"]}
    parsed = ExperimentSpec.parse(spec).model_dump(mode="json")
    for one in specs.fields():
        value: Any = parsed
        for step in one.path.split("."):
            value = value[step]
        again = one.value_of(one.text_of(value)) if one.text_of(value) or one.is_text else one.default
        assert again == value, one.path


def test_a_preview_says_what_it_would_do_and_writes_nothing(
    web: httpx.Client, phantom: dict[str, Any], count_rows: Callable[[], dict[str, int]]
):
    before = count_rows()
    answer = post(web, "preview", vary="training.learning_rate=0.001,0.0005\nmodel.filters = 2,3", seeds="2")
    assert answer.status_code == 200
    # 2 rates x 2 filters x 2 seeds
    assert "8 runs, 0 done already; how long that takes is not known" in answer.text
    assert len([row for row in rows(answer.text) if "training.learning_rate" in row or "model.filters" in row]) == 8
    assert "training.learning_rate=0.001,0.0005" in answer.text  # the form keeps what was written
    assert count_rows() == before


def test_a_preview_tells_time_and_memory_from_runs_like_it(
    web: httpx.Client, submit: Callable[..., list[int]], finished: Callable[..., int]
):
    from tests.store import ledger

    run = finished()
    # Two epochs of 6 s and 12 s of everything else; the new run may take five: 5 x 6 + 12 = 42 s.
    ledger.execute("UPDATE epochs SET seconds = 6")
    ledger.execute("UPDATE attempts SET ended_at = started_at + interval '24 s', peak_memory_mb = 1234")
    sections = ledger.run(run).spec
    texts = {one.path: one.text_of(_value(sections, one.path)) for one in specs.fields() if one.path != "name"}
    texts |= {"training.epochs": "5", "action": "preview"}
    answer = web.post("/submit", data={k: v for k, v in texts.items() if v}, headers=HTML)
    assert "1 run, 0 done already; at most 42 s, up to 1,234 MiB of memory." in answer.text
    body = {"spec": {**tiny_spec(), "training": {**tiny_spec()["training"], "epochs": 5}}}
    plan = web.post("/v1/experiments?dry_run=true", json=body).json()
    assert (plan["seconds"], plan["unknown"], plan["memory_mb"]) == (42, 0, 1234)


def _value(spec: dict[str, Any], path: str) -> Any:
    for step in path.split("."):
        spec = spec[step]
    return spec


def test_submitting_makes_the_experiment_once(web: httpx.Client, phantom: dict[str, Any]):
    texts = {
        "name": "by hand",
        "tags": "first, second",
        "training.learning_rate": "5e-4",
        "seeds": "3,4",
        "key": "k1",
    }
    first, again = (post(web, "submit", **texts) for _ in range(2))  # somebody clicks twice
    assert (first.status_code, again.status_code) == (303, 303)
    assert first.headers["location"] == again.headers["location"] == "/?experiment=1"
    runs = web.get("/v1/runs?experiment=1").json()["runs"]
    assert [run["spec"]["training"]["seed"] for run in runs] == [4, 3]
    assert {run["spec"]["training"]["learning_rate"] for run in runs} == {0.0005}
    assert {tuple(run["tags"]) for run in runs} == {("first", "second")}
    assert web.get("/v1/experiments/1").json()["submission"]["spec"]["training"] == {
        "batch_size": 4, "epochs": 2, "learning_rate": 0.0005}  # fmt: skip


def test_a_form_that_was_submitted_is_changed_and_submitted_again(web: httpx.Client, phantom: dict[str, Any]):
    """Somebody goes back in the browser, which shows the form as it was."""
    post(web, "submit", key="k1")
    answer = post(web, "submit", key="k1", **{"training.learning_rate": "0.01"})
    assert answer.status_code == 422
    assert "submit it again to make another" in answer.text
    key = re.search(r'name="key" value="([^"]+)"', answer.text)
    assert key
    assert key[1] != "k1"
    assert post(web, "submit", key=key[1], **{"training.learning_rate": "0.01"}).status_code == 303


@pytest.mark.parametrize(
    ("texts", "path", "words"),
    [
        ({"training.learning_rate": "fast"}, "training.learning_rate", "valid number"),
        ({"training.epochs": "0"}, "training.epochs", "greater than or equal to 1"),
        ({"training.learning_rate": "[1"}, "training.learning_rate", "is no YAML"),
        ({"dataset.id": "nope"}, "dataset.id", "liverseg dataset list"),
        ({"dataset.id": ""}, "dataset.id", ""),
        ({"dataset.exclude.slices": "8-12"}, "dataset.exclude.slices", ""),
        ({"seeds": "many"}, "seeds", "how many repeats"),
        ({"folds": "0"}, "folds", ""),
        ({"vary": "training.epochs"}, "vary", "PATH=VALUE"),
        ({"vary": "training.epochz=1,2"}, "vary", "no such field"),
        ({"data.image_size": "33"}, "spec", "divisible by 4"),
    ],
)
@pytest.mark.parametrize("action", ["preview", "submit"])
def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_lost(
    web: httpx.Client,
    phantom: dict[str, Any],
    count_rows: Callable[[], dict[str, int]],
    action: str,
    texts: dict[str, str],
    path: str,
    words: str,
):
    before = count_rows()
    answer = post(web, action, name="keep me", **texts)
    assert answer.status_code == 422
    assert 'value="keep me"' in answer.text
    told = re.search(r'<div class="warning" role="alert">(.*?)</div>', answer.text, re.DOTALL)
    assert told
    assert path in told[1]
    assert words in told[1]
    if path != "spec":  # which is of no single field
        assert f'id="problem-{path}"' in answer.text
        field = re.search(rf'id="{re.escape(path)}"[^>]* aria-invalid="true" aria-describedby="([^"]+)"', answer.text)
        assert field is not None
        assert field[1].split()[0] == f"problem-{path}"
        assert [one for one in field[1].split() if f'id="{one}"' not in answer.text] == []
    assert count_rows() == before


def test_a_run_is_cloned_and_edited(web: httpx.Client, submit: Callable[..., list[int]]):
    training = {"epochs": 7, "batch_size": 4, "learning_rate": 0.005, "early_stopping": {"patience": None}}
    (run,) = submit(spec={"name": "first", "training": training})
    html = page(web, f"/submit?run={run}")
    shown = {"training.epochs": "7", "training.learning_rate": "0.005", "training.early_stopping.patience": "null"}
    for path, text in {"name": "first", **shown}.items():
        assert f'name="{path}" id="{path}" value="{text}"' in html
    assert f'href="/submit?run={run}"' in page(web, f"/runs/{run}")
    assert web.get("/submit?run=99", headers=HTML).status_code == 404


def test_who_may_read_only_cannot_submit(member: Callable[..., httpx.Client]):
    reader = member("liver", "read")
    assert "may read only" in reader.get("/submit", headers=HTML).text
    assert reader.post("/submit", data={"action": "preview"}, headers=HTML).status_code == 403


@pytest.mark.browser
def test_from_the_form_to_the_runs_in_a_browser(web: httpx.Client, phantom: dict[str, Any], browser: Browser):
    tab, complaints = browser.tab(viewport={"width": 390, "height": 800})
    tab.goto(f"{str(web.base_url).rstrip('/')}/submit")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.select_option("select[name='dataset.id']", "phantom")
    tab.fill("input[name='training.epochs']", "0")
    tab.click("button[value='preview']")
    tab.wait_for_selector("[aria-invalid=true]")
    tab.fill("input[name='training.epochs']", "2")
    tab.fill("input[name='training.batch_size']", "4")
    tab.fill("textarea[name='vary']", "training.learning_rate=0.001,0.0005")
    tab.click("button[value='preview']")
    tab.wait_for_selector("#plan")
    assert "2 runs, 0 done already" in tab.inner_text("#plan")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.click("button[value='submit']")
    tab.wait_for_selector("h1:has-text('Runs of experiment 1')")
    assert [one for one in complaints if "422" not in one] == []
