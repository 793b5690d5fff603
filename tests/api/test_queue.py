"""The queue over HTTP and as a page, putting runs first, editing them, and asking something of several at once."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from store import verify
from store.database import transaction
from store.queue import Work
from tests.api.conftest import Command
from tests.api.test_live import focused, renewal
from tests.api.test_pages import HTML, page, rows
from tests.conftest import Browser

Submit = Callable[..., list[int]]


def waiting(web: httpx.Client) -> list[int]:
    (pool,) = web.get("/v1/queue").json()["pools"]
    assert [one["position"] for one in pool["waiting"]] == list(range(1, len(pool["waiting"]) + 1))
    return [one["run"] for one in pool["waiting"]]


def moves(web: httpx.Client, run: int) -> list[tuple[str, str | None]]:
    return [(one["move"], one["detail"]) for one in web.get(f"/v1/runs/{run}").json()["events"]]


def invariants_hold() -> bool:
    with transaction() as session:
        return all(one.holds for one in verify.verify(session, files=False))


def test_what_is_put_first_is_taken_first(web: httpx.Client, submit: Submit, claim: Callable[[], Work]):
    runs = submit(seeds=3)
    assert waiting(web) == runs
    answer = web.post(f"/v1/runs/{runs[2]}/first")
    assert (answer.status_code, answer.json()["priority"]) == (200, 1)
    assert waiting(web) == [runs[2], runs[0], runs[1]]
    assert web.post(f"/v1/runs/{runs[2]}/first").json()["priority"] == 1  # twice is once
    assert web.post(f"/v1/runs/{runs[1]}/first").json()["priority"] == 2
    assert claim().claim.run_id == runs[1]
    assert moves(web, runs[2]) == [("submit", None), ("edit", "priority: 0 → 1")]
    assert invariants_hold()


def test_what_does_not_wait_cannot_be_put_first(web: httpx.Client, submit: Submit, claim: Callable[[], Work]):
    (run,) = submit()
    claim()
    answer = web.post(f"/v1/runs/{run}/first")
    assert (answer.status_code, answer.json()["state"]) == (409, "running")
    assert (
        answer.json()["detail"] == f"run {run} is running, so it cannot be put first; only a queued or paused run can"
    )


def test_name_notes_tags_and_priority_are_edited_and_told(web: httpx.Client, submit: Submit):
    (run,) = submit(spec={"name": "old", "tags": ["a"]})
    changed = {"name": "new", "tags": ["b", "c"], "priority": -3}
    answer = web.patch(f"/v1/runs/{run}", json={**changed, "notes": ""})  # it has no notes: no change
    assert {name: answer.json()[name] for name in changed} == changed
    assert moves(web, run)[1:] == [("edit", "name: old → new; tags: a → b, c; priority: 0 → -3")]
    assert web.patch(f"/v1/runs/{run}", json=changed).status_code == 200
    assert len(moves(web, run)) == 2
    assert web.get("/v1/runs?name=new").json()["runs"][0]["id"] == run
    assert invariants_hold()


def test_a_run_that_has_ended_keeps_its_priority(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    assert web.patch(f"/v1/runs/{run}", json={"notes": "see table 6"}).json()["notes"] == "see table 6"
    answer = web.patch(f"/v1/runs/{run}", json={"priority": 1})
    assert (answer.status_code, answer.json()["state"]) == (409, "succeeded")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": "x" * 201}, "name"),
        ({"tags": [""]}, "tags.0"),
        ({"priority": 10**6 + 1}, "priority"),
        ({"priority": True}, "priority"),
        ({"state": "succeeded"}, "state"),
        ({"notes": "\0"}, "notes"),
        ({"name": None}, "name"),
    ],
)
def test_what_cannot_be_edited_so_is_refused(
    web: httpx.Client, submit: Submit, count_rows: Callable[[], dict[str, int]], body: dict[str, Any], path: str
):
    (run,) = submit()
    before = count_rows()
    answer = web.patch(f"/v1/runs/{run}", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert count_rows() == before


def test_an_edit_between_a_loss_and_a_return_changes_neither(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work]
):
    from store import endings, queue

    (run,) = submit()
    held = claim().claim
    with transaction() as session:
        session.get_one(queue.Run, run).lease_until = queue.seconds_from_now(-1)
    with transaction() as session:
        endings.reap(session, 30, 3)
    web.patch(f"/v1/runs/{run}", json={"notes": "its worker is away"})
    with transaction() as session:
        assert queue.heartbeat(session, held, 60) == "running"  # taken up again
    assert invariants_hold()


def test_the_page_shows_what_waits_and_who_works(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work], worker_there: None
):
    runs = submit(spec={"name": "<b>fast</b>"}, seeds=3)
    claim()
    html = page(web, "/queue")
    assert "1 slot on workers that take runs · 1 running · 2 waiting" in html
    assert "<b>fast" not in html
    told = rows(html)
    assert f"{runs[0]} &lt;b&gt;fast&lt;/b&gt; running not known" in told
    assert f"1 {runs[1]} &lt;b&gt;fast&lt;/b&gt; queued not known not known" in told
    assert any(row.startswith("host-1:1 default 1 of 1 2 there") for row in told)


def test_an_empty_queue_says_how_to_get_a_worker(web: httpx.Client):
    assert "liverseg-worker start" in page(web, "/queue")


def test_several_runs_are_asked_at_once(web: httpx.Client, submit: Submit):
    runs = submit(seeds=4)
    origin = {"referer": f"{str(web.base_url).rstrip('/')}/queue"}
    answer = web.post("/runs/first", data={"runs": [runs[3], runs[1]]}, headers=origin)
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue")
    assert waiting(web) == [runs[3], runs[1], runs[0], runs[2]]  # in the order of the table
    assert web.post("/runs/cancel", data={"runs": runs[:2]}).headers["location"] == "/"
    assert web.post("/runs/pause", data={"runs": [runs[2]]}).status_code == 303
    states = {one["id"]: one["state"] for one in web.get("/v1/runs").json()["runs"]}
    assert states == {runs[0]: "cancelled", runs[1]: "cancelled", runs[2]: "paused", runs[3]: "queued"}


def test_what_is_refused_of_several_is_told_and_the_rest_is_done(web: httpx.Client, submit: Submit):
    first, second = submit(seeds=2)
    web.post(f"/v1/runs/{first}/cancel")
    answer = web.post("/runs/pause", data={"runs": [first, second]}, headers=HTML)
    assert answer.status_code == 409
    assert f"run {first} is cancelled, so it cannot be paused" in answer.text
    assert web.get(f"/v1/runs/{second}").json()["state"] == "paused"


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/runs/pause", {}, 422),
        ("/runs/pause", {"runs": "x"}, 422),
        ("/runs/pause", {"runs": "77"}, 404),
        ("/runs/pause", {"runs": [str(n) for n in range(1, 502)]}, 422),
        ("/runs/explode", {"runs": "1"}, 422),
    ],
)
def test_what_cannot_be_asked_of_several_is_refused(
    web: httpx.Client, submit: Submit, path: str, data: dict[str, Any], status: int
):
    (run,) = submit()
    assert web.post(path, data=data).status_code == status
    assert web.get(f"/v1/runs/{run}").json()["state"] == "queued"


def test_a_form_from_elsewhere_leads_nowhere_else(web: httpx.Client, submit: Submit):
    (run,) = submit()
    for referer in ("http://evil.example/queue", "//evil.example", "javascript:alert(1)", "\\x"):
        answer = web.post("/runs/pause", data={"runs": [run]}, headers={"referer": referer})
        assert answer.headers["location"] == f"/runs/{run}"


@pytest.mark.parametrize("body", [b"runs=%ff", b"\xff", b"&".join(b"a=1" for _ in range(1001))])
def test_a_body_that_is_no_form_is_refused(web: httpx.Client, submit: Submit, body: bytes):
    submit()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert web.post("/runs/pause", content=body, headers=headers).status_code == 400
    assert web.post("/runs/pause", content=body, headers={"content-type": "text/plain"}).status_code == 415


def test_by_command(web: httpx.Client, submit: Submit, liverseg: Command):
    runs = submit(seeds=3)
    assert "queued" in liverseg("first", runs[2], runs[1]).output
    assert waiting(web) == [runs[2], runs[1], runs[0]]
    liverseg("edit", runs[0], "--name", "again", "--tag", "x", "--priority", 9)
    run = web.get(f"/v1/runs/{runs[0]}").json()
    assert (run["name"], run["tags"], run["priority"]) == ("again", ["x"], 9)
    liverseg("edit", runs[0], "--no-tags")
    assert web.get(f"/v1/runs/{runs[0]}").json()["tags"] == []
    assert "nothing to change" in liverseg("edit", runs[0], code=2).output


@pytest.mark.browser
def test_runs_are_put_first_from_the_page(web: httpx.Client, submit: Submit, browser: Browser):
    runs = submit(seeds=3)
    tab, complaints = browser.tab(viewport={"width": 390, "height": 800})
    tab.goto(f"{str(web.base_url).rstrip('/')}/queue")
    tab.check(f"input[value='{runs[2]}']")
    tab.click("text=Put selected first")
    tab.wait_for_selector("h1:has-text('Queue and workers')")
    assert waiting(web) == [runs[2], runs[0], runs[1]]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert complaints == []


@pytest.mark.browser
def test_a_queue_that_renews_itself_keeps_what_is_selected_and_focused(
    web: httpx.Client, submit: Submit, browser: Browser
):
    runs = submit(seeds=3)
    tab, complaints = browser.tab()
    tab.goto(f"{str(web.base_url).rstrip('/')}/queue")
    tab.check(f"input[value='{runs[1]}']")
    tab.focus(f".name a[href='/runs/{runs[2]}']")
    with renewal(tab, "queue"):
        pass
    assert [tab.is_checked(f"input[value='{run}']") for run in runs] == [False, True, False]
    assert focused(tab) == ["A", f"/runs/{runs[2]}", "unnamed"]
    tab.focus("text=Pause selected")
    with renewal(tab, "queue"):
        pass
    assert focused(tab) == ["BUTTON", None, "Pause selected"]
    assert complaints == []
