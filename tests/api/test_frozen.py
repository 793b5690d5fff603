"""Frozen comparisons: the numbers stay, byte for byte, whatever becomes of the runs."""

import csv
import re
from collections.abc import Callable
from html import unescape
from urllib.parse import urlencode

import httpx
import pytest

from tests.api.conftest import Command
from tests.api.test_pages import HTML, page, rows

Finished = Callable[..., int]


@pytest.fixture
def pair(finished: Finished) -> tuple[int, int]:
    first = finished(spec={"name": "a"})
    return first, finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}}, dice=0.96)


def test_a_frozen_comparison_outlives_its_runs(web: httpx.Client, pair: tuple[int, int]):
    first, second = pair
    asked = {"runs": list(pair), "profile": "modern", "level": "subject", "baseline": first}
    live = web.get("/v1/comparisons", params={**asked, "runs": f"{first},{second}"})
    kept = web.post("/v1/comparisons/frozen", json=asked).json()
    address = f"/v1/comparisons/frozen/{kept['key']}"
    unsorted = {"sort": "", "descending": False, "filter": ""}
    assert kept["asked"] == {**asked, "experiment": None, "tables": [], "column": "lesion_dice", **unsorted}
    assert (kept["comparison"], kept["deleted"], kept["address"]) == (live.json(), [], f"/c/{kept['key']}")
    before = {form: web.get(f"{address}/result?format={form}").content for form in ("json", "csv", "md", "latex")}
    assert before["json"] == live.content
    assert web.delete(f"/v1/runs/{second}").json()["frozen"] == [kept["key"]]
    assert {form: web.get(f"{address}/result?format={form}").content for form in before} == before
    after = web.get(address).json()
    assert after == {**kept, "deleted": [second]}
    assert [one["deleted"] for one in web.get("/v1/comparisons/frozen").json()["frozen"]] == [[second]]
    live = web.get(f"/v1/comparisons?runs={first},{second}").json()
    assert [row["run"] for row in live["rows"]] == [first]
    assert "was deleted on" in live["warnings"][0]
    assert len(list(csv.reader(before["csv"].decode().splitlines()))) == 3


def test_a_comparison_is_frozen_with_what_is_deleted_while_it_is_made(web: httpx.Client, pair: tuple[int, int]):
    """Deleted runs are no part of it; of nothing there is nothing to freeze."""
    for run in pair:
        web.delete(f"/v1/runs/{run}")
    refused = web.post("/v1/comparisons/frozen", json={"runs": list(pair)})
    assert refused.status_code == 410


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"runs": [1], "experiment": 1}, 422),
        ({"runs": [99]}, 404),
        ({"experiment": 99}, 404),
        ({"runs": [1], "profile": "none"}, 422),
        ({"runs": [1], "baseline": 2}, 422),
        ({"runs": [1], "format": "csv"}, 422),
    ],
)
def test_what_cannot_be_compared_is_not_frozen(web: httpx.Client, finished: Finished, body: dict, status: int):
    assert finished() == 1
    assert web.post("/v1/comparisons/frozen", json=body).status_code == status
    assert web.get("/v1/comparisons/frozen").json()["frozen"] == []


def test_the_list_comes_in_pages(web: httpx.Client, finished: Finished):
    finished()
    keys = [web.post("/v1/comparisons/frozen", json={"runs": [1]}).json()["key"] for _ in range(3)]
    first = web.get("/v1/comparisons/frozen?limit=2").json()
    second = web.get(f"/v1/comparisons/frozen?limit=2&before={first['next']}").json()
    assert [one["key"] for one in (*first["frozen"], *second["frozen"])] == keys[::-1]
    assert second["next"] is None


def test_the_list_is_a_page(web: httpx.Client, pair: tuple[int, int]):
    assert "Nothing is frozen yet" in page(web, "/comparisons/frozen")
    made = web.post("/v1/comparisons/frozen", json={"runs": list(pair), "profile": "modern", "level": "scan"}).json()
    (row,) = rows(page(web, "/comparisons/frozen"))[1:]
    assert row.startswith(made["address"])
    assert row.endswith("local 2 runs modern scan none")
    assert f'href="{made["address"]}"' in page(web, "/comparisons/frozen")
    assert 'href="/comparisons/frozen"' in page(web, "/")


def test_the_page_freezes_and_shows_a_badge(web: httpx.Client, pair: tuple[int, int]):
    first, second = pair
    address = f"/comparisons?runs={first},{second}&profile=modern"
    html = page(web, address)
    assert f'action="/comparisons/freeze?runs={first},{second}&amp;profile=modern"' in html
    answer = web.post(f"/comparisons/freeze?runs={first},{second}&profile=modern")
    assert answer.status_code == 303
    frozen = page(web, answer.headers["location"])
    assert "frozen on 20" in frozen
    assert [line for line in rows(frozen) if line.startswith(("a ", "b "))] == [
        line for line in rows(html) if line.startswith(("a ", "b "))
    ]
    web.delete(f"/v1/runs/{second}")
    again = page(web, answer.headers["location"])
    assert [line for line in rows(again) if line.startswith("a ")] == [
        line for line in rows(frozen) if line.startswith("a ")
    ]
    before, _taken_over = [line for line in rows(frozen) if line.startswith("b ")]
    after, _taken_over = [line for line in rows(again) if line.startswith("b ")]
    assert after == before.replace(f"b run {second} ", f"b run {second} deleted ", 1)
    assert f'href="/runs/{second}"' not in again
    assert web.get("/c/zzzzzzzz", headers=HTML).status_code == 404


def test_commands_freeze_list_and_show(liverseg: Command, web: httpx.Client, pair: tuple[int, int]):
    first, second = pair
    told = liverseg("compare", first, second, "--freeze")
    (key,) = [one["key"] for one in web.get("/v1/comparisons/frozen").json()["frozen"]]
    assert f"frozen as {key}: {web.base_url}".rstrip("/") in told.output
    before = liverseg("frozen", key, "--json").stdout
    web.delete(f"/v1/runs/{second}")
    assert liverseg("frozen", key, "--json").stdout == before
    assert "b (deleted)" in liverseg("frozen", key).stdout
    assert f"{first}, {second} (deleted)" in liverseg("frozen").stdout
    assert liverseg("frozen", key, "--format", "csv").stdout.count("\n") == 3
    liverseg("frozen", "zzzzzzzz", code=2)


def test_order_and_filter_are_frozen_too(liverseg: Command, web: httpx.Client, pair: tuple[int, int]):
    """By the page, over HTTP and by command: what is kept is the table as it was shown."""
    first, second = pair
    shown = {"runs": f"{first},{second}", "sort": "dice", "descending": "true", "filter": "filters=2"}
    for more in ({}, {"filter": ""}):
        html = page(web, f"/comparisons?{urlencode(shown | more)}")
        action = unescape(re.search(r'action="(/comparisons/freeze[^"]+)"', html)[1])
        answer = web.post(action)
        assert answer.status_code == 303
        kept = web.get(f"/v1/comparisons/frozen/{answer.headers['location'].removeprefix('/c/')}").json()
        assert kept["comparison"] == web.get("/v1/comparisons", params=shown | more).json()
        assert kept["runs"] == ([first, second] if more else [first])
        frozen = page(web, kept["address"])
        assert re.search(r'aria-sort="descending">Dice Coef. \[%\]<span class="arrow"', frozen)
        today = unescape(re.search(r'href="(/comparisons\?[^"]+)">The same today', frozen)[1])
        assert rows(page(web, today)) == rows(html)
    body = shown | {"runs": list(pair), "descending": True}
    asked = web.post("/v1/comparisons/frozen", json=body).json()["asked"]
    assert {name: asked[name] for name in ("sort", "descending", "filter")} == {
        name: body[name] for name in ("sort", "descending", "filter")
    }
    assert web.post("/v1/comparisons/frozen", json=body | {"sort": "nothing"}).status_code == 422
    told = liverseg("compare", *pair, "--freeze", "--sort", "dice", "--descending", "--format", "csv").stdout
    exported = web.get("/v1/comparisons", params=shown | {"filter": "", "format": "csv"}).text
    assert told.splitlines() == exported.splitlines()
