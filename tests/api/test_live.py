"""Events of a run as they happen: each once, in order, also after a lost connection; the page that lives by them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import text

from store import bundled, queue, wishes
from store.changes import Position
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.queue import Work
from tests import factories, processes
from tests.api.conftest import serving
from tests.conftest import Browser


@contextmanager
def follow(client: httpx.Client, run: int, last: str = "", **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a run: ``event``, ``data`` (parsed) and ``id``, as a browser would take them apart."""
    with streamed(client, f"/v1/runs/{run}/events", last, **query) as events:
        yield events


@contextmanager
def streamed(client: httpx.Client, path: str, last: str = "", **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    headers = {"Last-Event-ID": last} if last else {}
    with client.stream("GET", path, params=query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif name:
            event[name] = json.loads(value) if name == "data" else value


def told(events: Iterator[dict[str, Any]]) -> list[str]:
    """Each event in a word or two."""
    return [words(event) for event in events]


def words(event: dict[str, Any]) -> str:
    return {
        "move": lambda data: f"{data['move']} {data['state']}",
        "epoch": lambda data: f"epoch {data['epoch']}",
        "progress": lambda data: f"progress {data['step']}",
        "end": lambda _: "end",
    }[event["event"]](event["data"])


def record(work: Work, *epochs: int) -> None:
    with transaction() as session:
        for epoch in epochs:
            factories.store_epoch(session, work.claim, factories.epoch_record(epoch), {"epoch": epoch})


STORY = ["epoch 1", "epoch 2", "submit queued", "claim running", "succeed succeeded", "end"]


def test_what_has_happened_is_told_and_then_the_stream_ends(web: httpx.Client, finished: Callable[..., int]):
    with follow(web, finished()) as events:
        assert told(events) == STORY


def test_each_event_is_told_as_it_happens(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work]
):
    (run,) = submit()
    with follow(web, run) as events:
        assert words(next(events)) == "submit queued"
        work = claim()
        assert words(next(events)) == "claim running"
        with transaction() as session:
            queue.heartbeat(session, work.claim, 60, {"step": 7})
        assert words(next(events)) == "progress 7"
        record(work, 1)
        first = next(events)
        assert (words(first), first["data"]["dice"]) == ("epoch 1", factories.epoch_record(1).dice)
        with transaction() as session:
            wishes.cancel(session, DEFAULT_PROJECT, run)
        assert words(next(events)) == "cancel stopping"


@pytest.mark.parametrize("seen", range(6))
def test_whoever_connects_again_hears_each_event_once(web: httpx.Client, finished: Callable[..., int], seen: int):
    run = finished()
    with follow(web, run) as events:
        before = [next(events) for _ in range(seen)]
    last = before[-1]["id"] if before else ""
    with follow(web, run, last) as events:
        assert [words(event) for event in before] + told(events) == STORY
    with follow(web, run, after=last or "0.0.0") as events:  # as a page asks that knows what it shows
        assert [words(event) for event in before] + told(events) == STORY


def test_what_the_browser_has_seen_counts_more_than_the_address(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    with follow(web, run) as events:
        ids = [event["id"] for event in events]
    with follow(web, run, ids[4], after=ids[0]) as events:
        assert told(events) == ["end"]
    with follow(web, run, "of-another-server", after=ids[4]) as events:
        assert told(events) == ["end"]


def test_epochs_of_an_attempt_that_goes_on_come_after_those_it_repeats(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work]
):
    (run,) = submit()
    work = claim()
    record(work, 1, 2, 3)
    with transaction() as session:
        session.get_one(queue.Run, run).checkpoint = {"epoch": 1}
        queue.move(session, queue.owned(session, work.claim), "release", attempt=1)
    with follow(web, run) as events:
        seen = [next(events) for _ in range(6)]
    assert [words(event) for event in seen[:3]] == ["epoch 1", "epoch 2", "epoch 3"]
    again = claim()
    record(again, 2, 3)
    with follow(web, run, seen[-1]["id"]) as events:
        repeated = [next(events) for _ in range(3)]
    assert [words(event) for event in repeated] == ["epoch 2", "epoch 3", "claim running"]
    assert [event["data"]["attempt"] for event in repeated] == [2, 2, 2]


def test_a_reused_run_shows_the_epochs_of_its_original(
    web: httpx.Client, submit: Callable[..., list[int]], finished: Callable[..., int]
):
    finished()
    (shown,) = submit()
    with follow(web, shown) as events:
        assert told(events) == ["epoch 1", "epoch 2", "reuse succeeded", "end"]


def test_all_runs_of_a_project_are_followed_from_now_on_or_from_the_beginning(
    web: httpx.Client, finished: Callable[..., int], submit: Callable[..., list[int]], claim: Callable[[], Work]
):
    first = finished(spec={"name": "first"})
    with streamed(web, "/v1/events") as events:
        assert next(events)["event"] == "begin"
        (second,) = submit(spec={"name": "second"}, reuse=False)
        claim()
        heard = [next(events) for _ in range(2)]
    told = [(one["data"]["run"], one["data"]["name"], words(one)) for one in heard]
    assert told == [(second, "second", "submit queued"), (second, "second", "claim running")]
    with streamed(web, "/v1/events", after="0") as events:
        begin, *every = [next(events) for _ in range(6)]
    assert (begin["event"], begin["id"]) == ("begin", "0")
    assert [(one["data"]["run"], words(one)) for one in every] == [
        (first, "submit queued"),
        (first, "claim running"),
        (first, "succeed succeeded"),
        (second, "submit queued"),
        (second, "claim running"),
    ]
    for seen in range(5):  # each event once, wherever the connection was lost; the header counts more
        with streamed(web, "/v1/events", str(every[seen]["data"]["id"]), after="0") as events:
            assert next(events)["event"] == "begin"
            assert [next(events)["data"] for _ in range(4 - seen)] == [one["data"] for one in every[seen + 1 :]]


def test_what_others_take_long_to_write_holds_up_nobody_who_follows(
    web: httpx.Client, submit: Callable[..., list[int]]
):
    with web.stream("GET", "/v1/events", params={"after": "0"}) as answer:
        lines = answer.iter_lines()
        events = parsed(lines)
        assert next(events)["event"] == "begin"
        with transaction() as slow:
            slow.execute(text("SELECT pg_current_xact_id()"))
            (run,) = submit()
            heard = next(events)
            assert (heard["data"]["run"], words(heard)) == (run, "submit queued")
            assert "id" not in heard  # an earlier move may still come
            with streamed(web, "/v1/events", after="0") as again:
                assert [next(again)["data"].get("id") for _ in range(2)] == [None, heard["data"]["id"]]
        assert next(line for line in lines if line and not line.startswith(":")) == f"id: {heard['data']['id']}"
    with streamed(web, "/v1/events", str(heard["data"]["id"])) as rest:
        assert next(rest)["event"] == "begin"
        submit(spec={"name": "second"}, reuse=False)
        assert next(rest)["data"]["name"] == "second"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/runs/99/events", 404), ("/v1/runs/1/events?after=x", 422), ("/v1/events?after=-1", 422)],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_streamed(
    web: httpx.Client, finished: Callable[..., int], path: str, status: int
):
    assert finished() == 1
    answer = web.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_stream_ends_after_its_time_and_with_its_run(
    database: Path, web: httpx.Client, submit: Callable[..., list[int]]
):
    (run,) = submit()
    with (
        serving(database, LIVERSEG_STREAM_S="0.2") as url,
        httpx.Client(base_url=url, timeout=20) as short,
        follow(short, run) as events,
    ):
        assert told(events) == ["submit queued"]
    with follow(web, run) as events:
        next(events)
        assert web.post(f"/v1/runs/{run}/cancel").status_code == 200
        assert web.delete(f"/v1/runs/{run}").status_code == 200
        assert [one for one in told(events) if one != "cancel cancelled"] in (["end"], [])


def test_an_api_that_is_to_stop_does_not_wait_for_those_who_listen(
    database: Path, web: httpx.Client, submit: Callable[..., list[int]]
):
    (run,) = submit()
    began = 0.0
    with (
        serving(database) as url,
        httpx.Client(base_url=url, timeout=20) as client,
        follow(client, run) as events,
    ):
        next(events)
        port = int(url.rpartition(":")[2])
        (process,) = [one for one in processes.processes_of(database) if port in listening(one)]
        began = time.monotonic()
        process.terminate()
        assert list(events) == []
    assert time.monotonic() - began < 20  # else it would be a minute


def listening(process: Any) -> list[int]:
    return [one.laddr.port for one in process.net_connections() if one.status == "LISTEN" and one.laddr]


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4", "a.b.c", "-1.0.0", "1.2.3\n", "\u0661.\u0662.\u0663", f"{10**18}.0.0"]
)
def test_no_position(text: str):
    assert Position.parse(text) is None


def test_a_position_is_read_as_it_is_written():
    assert Position.parse(str(Position(12, 3, 45))) == Position(12, 3, 45)


# ---- in a browser ------------------------------------------------------------------------------------------------


@contextmanager
def renewal(tab: Any, name: str) -> Iterator[None]:
    """Leaves once the part of the page with this id has taken the place of the one at the beginning."""
    tab.evaluate("name => { document.getElementById(name).old = true; }", name)
    yield
    processes.wait_for(
        f"#{name} to renew itself", lambda: tab.evaluate("name => !document.getElementById(name).old", name), 20
    )


def focused(tab: Any) -> list[str | None]:
    """What has the keyboard's focus: element, address and words."""
    found: list[str | None] = tab.evaluate(
        "(one => [one.tagName, one.getAttribute('href'), one.innerText])(document.activeElement)"
    )
    return found


@pytest.mark.browser
def test_a_list_that_renews_itself_leaves_the_focus_where_it_is(
    web: httpx.Client, submit: Callable[..., list[int]], browser: Browser
):
    (first, second) = submit(seeds=2)
    tab, complaints = browser.tab()
    tab.goto(str(web.base_url))
    for place, found in (
        (f".name a[href='/runs/{first}']", ["A", f"/runs/{first}", "unnamed"]),
        (".states a[href='/?state=queued']", ["A", "/?state=queued", "queued 2"]),
        (f"input[value='{second}']", ["INPUT", None, ""]),
    ):
        tab.focus(place)
        with renewal(tab, "runs"):
            pass
        assert focused(tab) == found
    assert complaints == []


@pytest.mark.browser
def test_a_run_that_renews_itself_is_read_on_where_it_was_read(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work], browser: Browser
):
    (run,) = submit()
    work = claim()

    def tell(step: int, lines: int) -> None:
        with transaction() as session:
            log = "\n".join(f"line {number}" for number in range(lines))
            queue.heartbeat(session, work.claim, 60, {"step": step, "log": log})

    def top() -> int:
        return int(tab.evaluate("document.querySelector('.log').scrollTop"))

    tab, complaints = browser.tab()
    tab.goto(f"{str(web.base_url).rstrip('/')}/runs/{run}")
    tab.click("summary:has-text('Events')")
    with renewal(tab, "standing"):
        tell(1, lines=200)  # a log comes, above what is open
    tab.wait_for_selector(".log", state="attached")
    opened = "[...document.querySelectorAll('#standing details[open] > summary')].map(one => one.innerText)"
    assert tab.evaluate(opened) == ["Events (2)"]
    assert focused(tab)[2] == "Events (2)"
    tab.click("summary:has-text('Log')")
    tab.evaluate("document.querySelector('.log').scrollTop = 70")
    tab.focus(".log")
    with renewal(tab, "standing"):
        tell(2, lines=300)
    assert top() == 70
    assert tab.evaluate("document.activeElement.className") == "log"
    tab.evaluate("document.querySelector('.log').scrollTop = 1e6")
    before = top()
    with renewal(tab, "standing"):
        tell(3, lines=400)  # who reads the end sees the end
    assert top() > before > 70
    tab.focus("text=Pause this run")
    with renewal(tab, "standing"):
        tell(4, lines=400)
    assert focused(tab)[2] == "Pause this run"
    assert complaints == []


@pytest.mark.browser
def test_the_page_follows_its_run_and_takes_up_the_thread_after_the_api_was_away(
    database: Path, web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work], browser: Browser
):
    (run,) = submit()
    with serving(database) as url:
        tab, complaints = browser.tab()
        tab.goto(f"{url}/runs/{run}")
        tab.wait_for_selector(".lead .state.queued")
        work = claim()
        tab.wait_for_selector(".lead .state.running")
        record(work, 1)
        tab.wait_for_selector("#curve[data-epochs='1'] canvas")
        tab.wait_for_selector(".offline", state="hidden")
    tab.wait_for_selector(".offline", state="visible")
    record(work, 2)
    with serving(database, "--port", url.rpartition(":")[2]):
        tab.wait_for_selector("#curve[data-epochs='2'] canvas")
        tab.wait_for_selector(".offline", state="hidden")
        with transaction() as session:
            queue.move(session, queue.owned(session, work.claim), "fail", attempt=1)
        tab.wait_for_selector(".lead .state.failed")
        tab.wait_for_selector("#curve[data-epochs='2'] canvas")
        assert tab.evaluate("source") is None  # what has ended is not followed
    lost = ("ERR_CONNECTION_REFUSED", "htmx:")  # what the browser and htmx say of an API that is away
    assert [one for one in complaints if not any(words in one for words in lost)] == []


BANNERS = """() => {
    window.seen = [];
    for (const one of document.querySelectorAll(".offline, .gone"))
        new MutationObserver(() => one.hidden || seen.push(one.className)).observe(one, {attributes: true});
}"""
"""Notes in ``seen`` each time that a banner appears, however short."""


def events_asked(tab: Any) -> list[str]:
    """Grows with each time that the page asks for a stream of events."""
    asked: list[str] = []
    tab.on("request", lambda one: asked.append(one.url) if "/events?" in one.url else None)
    return asked


@pytest.mark.browser
def test_a_stream_that_ends_and_begins_again_is_no_outage(
    database: Path, submit: Callable[..., list[int]], browser: Browser
):
    (run,) = submit()
    with serving(database, LIVERSEG_STREAM_S="0.5") as url:
        tab, complaints = browser.tab()
        asked = events_asked(tab)
        tab.goto(f"{url}/runs/{run}")
        tab.evaluate(BANNERS)
        # Nothing happens to the run, so no event could tell the browser when to connect again.
        processes.wait_for("four streams", lambda: tab.evaluate("1") and len(asked) > 3, 30)
        assert tab.evaluate("seen") == []
    assert complaints == []


@pytest.mark.browser
def test_a_run_that_was_deleted_meanwhile_is_gone_and_asked_for_no_more(
    database: Path, web: httpx.Client, submit: Callable[..., list[int]], browser: Browser
):
    (run,) = submit()
    with serving(database) as url:
        tab, _ = browser.tab()
        asked = events_asked(tab)
        tab.goto(f"{url}/runs/{run}")
    tab.wait_for_selector(".offline", state="visible")
    assert web.post(f"/v1/runs/{run}/cancel").status_code == 200
    assert web.delete(f"/v1/runs/{run}").status_code == 200
    with serving(database, "--port", url.rpartition(":")[2]):
        tab.wait_for_selector(".gone", state="visible")
        assert tab.is_hidden(".offline")
        before = len(asked)
        tab.evaluate("htmx.trigger('#standing', 'changed')")  # as every 30 s
        tab.wait_for_timeout(2 * tab.evaluate("AGAIN_MS"))
        assert len(asked) == before
        assert tab.is_visible(".gone")


@pytest.mark.browser
def test_who_asks_too_often_waits_and_sees_no_outage(
    database: Path, submit: Callable[..., list[int]], browser: Browser
):
    submit()
    with serving(database, LIVERSEG_RATE="1") as url:
        tab, _ = browser.tab()
        answers: list[int] = []
        tab.on("response", lambda one: answers.append(one.status) if "/fragments/" in one.url else None)
        tab.goto(url)
        tab.evaluate(BANNERS)
        with httpx.Client(base_url=url, timeout=60) as other:

            def refused() -> bool:
                for _ in range(10):
                    other.get("/healthz")
                return tab.evaluate("1") == 1 and 429 in answers

            processes.wait_for("a refusal of the page", refused, 60)
        answers.clear()
        processes.wait_for("a renewal", lambda: tab.evaluate("1") and 200 in answers, 30)
        assert tab.evaluate("seen") == []


@pytest.mark.browser
def test_a_database_that_does_not_answer_is_said_until_it_does(
    database: Path, submit: Callable[..., list[int]], browser: Browser
):
    submit()
    with serving(database, LIVERSEG_STATEMENT_S="0.5") as url:
        tab, _ = browser.tab()
        tab.goto(url)
        with psycopg.connect(bundled.database_url(database)) as other:
            other.execute("LOCK TABLE runs")
            tab.wait_for_selector(".offline", state="visible")
        tab.wait_for_selector(".offline", state="hidden")


def shown_epochs(tab: Any) -> list[str]:
    """The first column of the table of epochs."""
    found: list[str] = tab.eval_on_selector_all(
        "[aria-label=Epochs] tbody tr", "them => them.map(one => one.cells[0].textContent)"
    )
    return found


@pytest.mark.browser
def test_the_table_of_epochs_grows_with_the_run(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work], browser: Browser
):
    (run,) = submit()
    work = claim()
    tab, complaints = browser.tab()
    tab.goto(f"{str(web.base_url).rstrip('/')}/runs/{run}")
    tab.wait_for_selector("#curve.waiting")
    record(work, 1)
    processes.wait_for("the first epoch", lambda: shown_epochs(tab) == ["1"], 20)
    tab.click("summary:has-text('Epochs as a table (1)')")
    record(work, 2)
    processes.wait_for("the second epoch", lambda: shown_epochs(tab) == ["1", "2"], 20)
    assert tab.is_visible("[aria-label=Epochs]")
    assert focused(tab)[2] == "Epochs as a table (2)"
    assert tab.is_visible("text=as PNG")
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("refuse", [lambda one: one.abort(), lambda one: one.fulfill(status=503)])
def test_a_curve_that_could_not_be_loaded_says_so_and_comes_with_the_next_epoch(
    web: httpx.Client,
    submit: Callable[..., list[int]],
    claim: Callable[[], Work],
    browser: Browser,
    refuse: Callable[[Any], None],
):
    (run,) = submit()
    work = claim()
    record(work, 1)
    tab, complaints = browser.tab()
    tab.route("**/v1/runs/*/epochs", refuse)
    tab.goto(f"{str(web.base_url).rstrip('/')}/runs/{run}")
    tab.wait_for_selector("text=The curve could not be loaded")
    assert tab.is_hidden("#curve canvas")
    tab.unroute("**/v1/runs/*/epochs")
    record(work, 2)
    tab.wait_for_selector("#curve[data-epochs='2'] canvas")
    assert tab.is_hidden("text=The curve could not be loaded")
    assert [one for one in complaints if "Failed to load resource" not in one] == []


@pytest.mark.browser
def test_an_epoch_that_comes_while_the_curve_loads_is_not_lost(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work], browser: Browser
):
    (run,) = submit()
    work = claim()
    record(work, 1)
    held: list[Any] = []
    tab, complaints = browser.tab()
    tab.route("**/v1/runs/*/epochs", lambda one: held.append((one, one.fetch())))
    tab.goto(f"{str(web.base_url).rstrip('/')}/runs/{run}")
    processes.wait_for("the first answer", lambda: tab.evaluate("1") and held, 20)
    record(work, 2)
    heard = "epochs.length === 1 && epochs[0].epoch === 2"
    processes.wait_for("the epoch that comes meanwhile", lambda: tab.evaluate(heard), 20)
    route, answer = held[0]
    route.fulfill(response=answer)
    tab.wait_for_selector("#curve[data-epochs='2'] canvas")
    assert complaints == []


@pytest.mark.browser
def test_a_page_stands_still_where_it_is_asked_to(
    web: httpx.Client, submit: Callable[..., list[int]], claim: Callable[[], Work], browser: Browser
):
    (run,) = submit()
    home = str(web.base_url).rstrip("/")
    tabs = {path: browser.tab() for path in ("/", "/queue", f"/runs/{run}")}
    asked: list[str] = []
    for path, (tab, _) in tabs.items():
        tab.goto(home + path)
        tab.uncheck("#renews")
        tab.on("request", lambda one: asked.append(one.url))
    claim()
    for tab, _ in tabs.values():
        tab.wait_for_timeout(2_000)  # six seconds in all: the slowest renews itself every five
    assert asked == []
    for tab, complaints in tabs.values():
        assert tab.is_visible(".state.queued >> nth=-1")
        tab.check("#renews")
        tab.wait_for_selector("tr .state.running, .lead .state.running")
        assert complaints == []
