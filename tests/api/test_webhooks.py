"""Webhooks over HTTP and by command, to real receivers, and the page that says how to check a signature."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store import courier, endings, receivers
from store.database import transaction
from store.endings import Ending
from tests import processes
from tests.api.conftest import Command, serving
from tests.receiver import Receiver

Json = dict[str, Any]
Member = Callable[..., httpx.Client]

DOCS = Path(__file__).parents[2] / "docs" / "webhooks.md"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def add(client: httpx.Client, url: str, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/webhooks", json={"url": url, **fields}, headers=headers)


def got(receiver: Receiver, count: int) -> None:
    processes.wait_for(f"{count} messages", lambda: len(receiver.got) >= count, 20)


# ---- making, listing, switching, removing --------------------------------------------------------------------


def test_a_secret_is_shown_once(web: httpx.Client):
    made = add(web, "https://example.org/hook")
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    answer = made.json()
    secret = answer.pop("secret")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)  # 32 bytes
    assert web.get("/v1/webhooks").json() == {"webhooks": [answer], "next": None}
    detail = web.get(f"/v1/webhooks/{answer['id']}").json()
    assert detail == {**answer, "waiting": 0, "deliveries": []}
    assert (answer["url"], answer["active"], answer["created_by"]) == ("https://example.org/hook", True, "local")
    assert answer["events"] == ["experiment.ended", "run.ended"]
    assert answer["states"] == ["cancelled", "dead", "failed", "succeeded"]


def test_one_key_is_one_webhook(web: httpx.Client):
    first, second = (add(web, "https://example.org/hook", "today") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()  # whose answer was lost learns the secret all the same
    # In another order, and a word twice, it is the same request.
    words = {"events": ["run.ended", "experiment.ended"], "states": ["dead", "failed", "dead"]}
    many = [add(web, "https://example.org/hook", "other", **{**words, "states": one}) for one in (
        ["dead", "failed"], ["failed", "dead", "dead"]
    )]  # fmt: skip
    assert [one.status_code for one in many] == [201, 200]
    refused = add(web, "https://example.org/another", "today")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "Idempotency-Key"
    assert len(web.get("/v1/webhooks").json()["webhooks"]) == 2


def test_webhooks_come_in_pages(web: httpx.Client):
    for name in "abc":
        add(web, f"https://example.org/{name}")
    first = web.get("/v1/webhooks?limit=2").json()
    second = web.get(f"/v1/webhooks?limit=2&before={first['next']}").json()
    assert [one["url"][-1] for one in (*first["webhooks"], *second["webhooks"])] == ["c", "b", "a"]
    assert second["next"] is None


BAD = {
    "no address": ({}, "url"),
    "a number": ({"url": 3}, "url"),
    "no scheme": ({"url": "example.org"}, "url"),
    "another scheme": ({"url": "file:///etc/passwd"}, "url"),
    "a space": ({"url": "http://example.org/a b"}, "url"),
    "too long": ({"url": "http://example.org/" + "x" * 2000}, "url"),
    "a password": ({"url": "http://anna:canary-pw@example.org/"}, "url"),
    "this machine": ({"url": "http://127.0.0.2/"}, "url"),
    "this machine, otherwise": ({"url": "http://[::1]:8421/v1/runs"}, "url"),
    "a provider's metadata": ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
    "a private network": ({"url": "http://10.0.0.1/"}, "url"),
    "unknown event": ({"url": "http://8.8.8.8/", "events": ["run.begun"]}, "events.0"),
    "no event": ({"url": "http://8.8.8.8/", "events": []}, "events"),
    "a state that is no end": ({"url": "http://8.8.8.8/", "states": ["running"]}, "states.0"),
    "its own secret": ({"url": "http://8.8.8.8/", "secret": "mine"}, "secret"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_what_cannot_be_a_webhook(web: httpx.Client, count_rows: Callable[[], Json], case: str):
    body, path = BAD[case]
    before = count_rows()
    refused = web.post("/v1/webhooks", json=body)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["path"] == path
    assert "canary-pw" not in refused.text
    assert count_rows() == before


def test_what_is_not_there(web: httpx.Client):
    answers = [
        web.get("/v1/webhooks/9"),
        web.patch("/v1/webhooks/9", json={"active": True}),
        web.delete("/v1/webhooks/9"),
        web.post("/v1/webhooks/9/test"),
    ]
    assert [(one.status_code, one.json()["errors"][0]["path"]) for one in answers] == [(404, "webhook")] * 4


# ---- what is sent --------------------------------------------------------------------------------------------


def test_whoever_wants_to_is_told_of_a_run(web: httpx.Client, finished: Callable[..., int], receiver: Receiver):
    made = add(web, receiver.url).json()
    run = finished()
    got(receiver, 2)
    ended, over = receiver.got
    assert (ended.content["type"], over.content["type"]) == ("run.ended", "experiment.ended")
    assert ended.data["run"] == run
    assert ended.data["scores"]["part"] == "test"
    assert all(one.is_signed_with(made["secret"]) for one in receiver.got)
    # What the link names is the run, wherever the API says that it is.
    path = ended.data["link"].removeprefix("http://127.0.0.1:8421")
    assert web.get(path, headers={"accept": "text/html"}).status_code == 200
    path = over.data["link"].removeprefix("http://127.0.0.1:8421")
    assert web.get(path, headers={"accept": "text/html"}).status_code == 200
    row = web.get("/v1/comparisons", params={"runs": run}).json()["rows"][0]
    assert {key: ended.data["scores"][key] for key in row["scores"]} == row["scores"]
    detail = processes.wait_for("both to be noted", lambda: _done(web, made["id"], 2), 10)
    assert [(one["event"], one["attempts"], one["status"], one["error"]) for one in detail["deliveries"]] == [
        ("experiment.ended", 1, 200, None),
        ("run.ended", 1, 200, None),
    ]
    assert [one["message"] for one in detail["deliveries"]] == [over.id, ended.id]


def _done(client: httpx.Client, webhook: int, count: int) -> Json | None:
    found = client.get(f"/v1/webhooks/{webhook}").json()
    done = [one for one in found["deliveries"] if one["done_at"]]
    return found if len(done) == count and found["waiting"] == 0 else None


def test_two_nodes_send_each_message_once(
    database: Path, web: httpx.Client, submit: Callable[..., list[int]], receiver: Receiver
):
    with serving(database) as url, httpx.Client(base_url=url, timeout=30) as other:
        add(web, receiver.url, events=["run.ended"])
        runs = submit(seeds=12)
        for run in runs:
            assert (web, other)[run % 2].post(f"/v1/runs/{run}/cancel").status_code == 200
        made = web.get("/v1/webhooks").json()["webhooks"][0]["id"]
        processes.wait_for("all to be taken", lambda: _done(other, made, 12), 30)
    assert [one.data["run"] for one in receiver.got] == runs
    assert len({one.id for one in receiver.got}) == 12


def test_while_it_is_off_nothing_is_sent(web: httpx.Client, submit: Callable[..., list[int]], receiver: Receiver):
    made = add(web, receiver.url, events=["run.ended"]).json()
    path = f"/v1/webhooks/{made['id']}"
    off = web.patch(path, json={"active": False}).json()
    assert (off["active"], off["off_by"], off["off_reason"]) == (False, "local", None)
    first, second = submit(seeds=2)
    web.post(f"/v1/runs/{first}/cancel")
    test = web.post(f"{path}/test").json()  # but for tests
    assert (test["event"], test["status"], test["error"]) == ("test", 200, None)
    assert web.patch(path, json={"active": True}).json()["active"]
    web.post(f"/v1/runs/{second}/cancel")
    got(receiver, 2)
    assert [one.content["type"] for one in receiver.got] == ["test", "run.ended"]
    assert receiver.got[1].data["run"] == second


def test_a_removed_webhook_is_gone(web: httpx.Client, submit: Callable[..., list[int]], receiver: Receiver):
    kept = add(web, receiver.url, events=["run.ended"]).json()
    made = add(web, receiver.url, events=["run.ended"]).json()
    gone = web.delete(f"/v1/webhooks/{made['id']}")
    assert gone.status_code == 200
    assert web.get(f"/v1/webhooks/{made['id']}").status_code == 404
    (run,) = submit()
    web.post(f"/v1/runs/{run}/cancel")
    processes.wait_for("the other one's message", lambda: _done(web, kept["id"], 1), 20)
    assert len(receiver.got) == 1
    assert receiver.got[0].is_signed_with(kept["secret"])


# ---- tests of a webhook --------------------------------------------------------------------------------------


def test_a_test_says_what_became_of_it(web: httpx.Client, receiver: Receiver):
    made = add(web, receiver.url).json()
    path = f"/v1/webhooks/{made['id']}/test"
    assert web.post(path).json()["status"] == 200
    (test,) = receiver.got
    assert test.is_signed_with(made["secret"])
    assert test.content["type"] == "test"
    assert test.data == {"webhook": made["id"], "project": "default", "asked_by": "local"}
    receiver.status, receiver.location = 307, "http://127.0.0.1:1/"
    assert web.post(path).json()["error"] == "answered 307; redirects are not followed"
    receiver.stop()
    assert web.post(path).json()["error"] == "cannot be reached (Connection refused)"
    kept = web.get(f"/v1/webhooks/{made['id']}").json()
    assert [one["status"] for one in kept["deliveries"]] == [None, 307, 200]
    assert (kept["waiting"], kept["failures"]) == (0, 0)  # nothing is tried again, and it says nothing of the others


def test_slow_tests_keep_no_requests_waiting(web: httpx.Client, receiver: Receiver):
    made = add(web, receiver.url).json()

    def ask(_: int) -> int:
        return web.post(f"/v1/webhooks/{made['id']}/test").status_code

    for _ in range(5):
        receiver.hold()
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(ask, one) for one in range(8)]
            processes.wait_for("four answers", lambda: sum(one.done() for one in asked) >= 4, 60)  # noqa: B023
            early = [one.result() for one in asked if one.done()]
            assert web.get("/v1/runs").status_code == 200
            took = time.monotonic() - began
            receiver.go_on()
        if took > receivers.SEND_S / 2:
            continue  # this machine is so slow that receivers may have been given up, and others asked
        assert early == [409] * 4
        assert sorted(one.result() for one in asked) == [200] * 4 + [409] * 4
        return
    raise AssertionError("nine requests took longer than two seconds, five times")


# ---- who may -------------------------------------------------------------------------------------------------


def test_another_project_sees_and_hears_nothing(member: Member, receiver: Receiver):
    a, b = member("a"), member("b")
    made = add(a, receiver.url).json()
    path = f"/v1/webhooks/{made['id']}"
    answers = [b.get(path), b.patch(path, json={"active": False}), b.delete(path), b.post(f"{path}/test")]
    assert [one.status_code for one in answers] == [404] * 4
    assert b.get("/v1/webhooks").json()["webhooks"] == []
    assert add(b, receiver.url, "key").status_code == add(a, receiver.url, "key").status_code == 201
    assert receiver.got == []
    assert a.get(path).json()["created_by"] == "a-write"


def test_who_reads_may_look_and_change_nothing(member: Member, receiver: Receiver):
    made = add(member("a"), receiver.url).json()
    reader, path = member("a", "read"), f"/v1/webhooks/{made['id']}"
    assert reader.get(path).status_code == 200
    assert made["secret"] not in reader.get(path).text
    answers = [
        add(reader, receiver.url),
        reader.patch(path, json={"active": False}),
        reader.delete(path),
        reader.post(f"{path}/test"),
    ]
    assert [one.status_code for one in answers] == [403] * 4
    assert receiver.got == []


# ---- by command ----------------------------------------------------------------------------------------------


def test_webhooks_by_command(liverseg: Command, receiver: Receiver, dead: int):
    made = liverseg("webhook", "add", receiver.url, "--event", "run.ended", "--state", "failed", "--state", "dead")
    secret = made.stdout.strip()
    assert "\n" not in secret  # alone, so that SECRET=$(liverseg webhook add ...) works
    assert made.stderr == f"webhook 1: {receiver.url}\n"
    assert liverseg("webhook", "test", "1").output == "webhook 1: answered 200\n"
    assert receiver.got[0].is_signed_with(secret)
    receiver.status = 500
    assert "webhook 1: answered 500" in liverseg("webhook", "test", "1", code=1).output
    listed = liverseg("webhook", "list").output.splitlines()
    assert re.split(r" {2,}", listed[1].strip())[:5] == ["1", receiver.url, "run.ended", "dead, failed", "yes"]
    shown = liverseg("webhook", "show", "1").output
    assert re.search(r"^told of +run\.ended$", shown, re.MULTILINE)
    assert "answered 500" in shown
    assert secret not in listed[1] + shown
    assert liverseg("webhook", "switch", "1", "off").output == "webhook 1: off\n"
    assert not json.loads(liverseg("webhook", "show", "1", "--json").output)["active"]
    assert json.loads(liverseg("webhook", "list", "--json").output)["webhooks"][0]["off_by"] == "local"
    assert liverseg("webhook", "switch", "1", "on").output == "webhook 1: on\n"
    assert liverseg("webhook", "remove", "1").output == "webhook 1: removed\n"
    assert "nothing to list" in liverseg("webhook", "list").output
    assert "no such webhook" in liverseg("webhook", "show", "1", code=2).output
    assert "LIVERSEG_WEBHOOK_PRIVATE" in liverseg("webhook", "add", "http://10.0.0.1/", code=2).output
    plain = json.loads(liverseg("webhook", "add", receiver.url, "--json").output)
    assert (plain["events"], len(plain["states"])) == (["experiment.ended", "run.ended"], 4)


# ---- what the docs say ---------------------------------------------------------------------------------------


def test_the_snippet_of_the_docs_takes_what_is_ours_and_nothing_else(web: httpx.Client, receiver: Receiver):
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    space: Json = {}
    exec(snippet, space)  # the page's own words
    is_ours = space["is_ours"]
    made = add(web, receiver.url).json()
    web.post(f"/v1/webhooks/{made['id']}/test")
    (test,) = receiver.got
    assert is_ours(test.headers, test.body, made["secret"])
    assert not is_ours(test.headers, test.body + b" ", made["secret"])
    assert not is_ours(test.headers, test.body, add(web, receiver.url).json()["secret"])
    assert not is_ours({**test.headers, "webhook-id": "msg_other"}, test.body, made["secret"])
    old = str(int(test.headers["webhook-timestamp"]) - 301)
    assert not is_ours({**test.headers, "webhook-timestamp": old}, test.body, made["secret"])
    assert not is_ours({}, test.body, made["secret"])


def test_the_message_of_the_docs_has_the_fields_of_a_real_one(
    web: httpx.Client, finished: Callable[..., int], receiver: Receiver
):
    shown = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)]
    add(web, receiver.url)
    finished()
    got(receiver, 2)
    for one, real in zip(shown, (message.content for message in receiver.got), strict=True):
        assert one.keys() == real.keys()
        assert one["type"] == real["type"]
        assert one["data"].keys() == real["data"].keys()
        assert set(one["data"].get("scores") or {}) <= set(real["data"].get("scores") or {})


def test_how_often_messages_are_taken_and_fail_can_be_watched(
    database: Path, web: httpx.Client, receiver: Receiver, submit: Callable[..., list[int]]
):
    """More messages at once than one process sends, so that API processes of other tests cannot take them all."""
    messages, receiver.slow_s = courier.AT_ONCE + 2, 1.0
    with serving(database, LIVERSEG_UPKEEP_S="0.05") as url, httpx.Client(base_url=url, timeout=60) as other:

        def told(result: str) -> float:
            name = rf'liverseg_webhook_attempts_total{{result="{result}"}} (\S+)'
            return sum(float(re.search(name, one.get("/metrics").text)[1]) for one in (web, other))

        def more(result: str, than: float) -> bool:
            return told(result) > than

        before = {result: told(result) for result in ("taken", "error")}
        for _ in range(messages):
            add(web, receiver.url, events=["run.ended"])
        for (result, count), run in zip(before.items(), submit(seeds=2), strict=True):
            web.post(f"/v1/runs/{run}/cancel")
            processes.wait_for(f"messages: {result}", partial(more, result, count), 20)
            got(receiver, messages)
            receiver.got.clear()
            receiver.status = 500
        counted = {result: told(result) - count for result, count in before.items()}
    assert counted["taken"] <= messages
    with transaction() as session:  # what failed may have been sent again by now
        assert sum(counted.values()) <= session.scalar(text("SELECT sum(attempts) FROM webhook_deliveries"))


def test_a_run_that_dies_is_told_of(web: httpx.Client, submit: Any, claim: Any, receiver: Receiver):
    add(web, receiver.url, events=["run.ended"], states=["dead"])
    submit()
    with transaction() as session:
        endings.crash(session, claim().claim, Ending(exit_code=-9, message="killed"), 1)
    got(receiver, 1)
    told = receiver.got[0].data
    assert (told["state"], told["reason"], told["scores"]) == ("dead", "crashed-too-often", None)
