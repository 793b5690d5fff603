"""Images by runs over HTTP and as a page: equal to the ledger's, in windows, and refused in words."""

import csv
import io
import re
from collections.abc import Callable

import httpx
import pytest

from tests.api import exports

HTML = {"accept": "text/html"}
SEED = {"seed": 1, "batch_size": 4, "epochs": 2}
WHOLE, MISSED = (8, 0, 0, 0, 0, 0, 0, 0, 2), (8, 0, 0, 0, 0, 0, 2, 0, 0)


@pytest.fixture
def runs(finished: Callable[..., int]) -> list[int]:
    """A run that finds every lesion, and one that finds none."""
    return [
        finished(spec={"name": "=sum"}, counts=WHOLE),
        finished(spec={"name": "b", "training": SEED}, counts=MISSED),
    ]


def address(runs: list[int], rest: str = "") -> str:
    return f"/comparisons/images?runs={','.join(map(str, runs))}{rest}"


def test_json_and_csv_hold_the_same_numbers(web: httpx.Client, runs: list[int]):
    found = web.get(f"/v1{address(runs)}").json()
    assert [head["run"] for head in found["runs"]] == runs
    assert (found["baseline"], found["total"]) == (runs[0], len(found["lines"]))
    assert {tuple(line["values"]) for line in found["lines"]} == {(1.0, 0.0)}
    assert {line["difference"] for line in found["lines"]} == {-1.0}
    assert (found["runs"][1]["better"], found["runs"][1]["worse"]) == (0, found["total"])
    answer = web.get(f"/v1{address(runs, '&format=csv')}")
    header, *rows = csv.reader(io.StringIO(answer.text))
    assert header == ["part", "scan", "slice", "subject", "images", f"{runs[0]} =sum", f"{runs[1]} b", "difference"]
    assert [(int(row[1]), int(row[2]), float(row[5]), float(row[6])) for row in rows] == [
        (line["place"]["scan"], line["place"]["slice"], *line["values"]) for line in found["lines"]
    ]


def test_the_page_leads_from_a_number_to_its_image(web: httpx.Client, runs: list[int]):
    answer = web.get(address(runs), headers=HTML)
    assert answer.status_code == 200
    found = re.search(r'down4"><a href="(/comparisons/images/\w+/\d+_\d+\?runs=1,2)">0.000<', answer.text)
    assert web.get(found[1], headers=HTML).status_code == 200
    assert "0 / " in answer.text
    assert "Image by image" in web.get(f"/comparisons?runs={runs[0]}", headers=HTML).text


def test_a_written_override_stands_below_the_page_and_in_every_line(web: httpx.Client, finished: Callable[..., int]):
    split = {"override": "as in <the> study"}
    runs = [finished(counts=WHOLE), finished(spec={"dataset": {"id": "phantom", "split": split}}, counts=MISSED)]
    told = f"Run {runs[1]}: split override: as in <the> study"
    assert web.get(f"/v1{address(runs)}").json()["overrides"] == [told]
    notes = exports.html(web.get(address(runs, "&by=scan"), headers=HTML).text).notes
    assert notes == [told]
    header, *rows = csv.reader(io.StringIO(web.get(f"/v1{address(runs, '&format=csv')}").text))
    assert header[-2:] == ["difference", "override"]
    assert {tuple(row[-2:]) for row in rows} == {("-1.0", told)}
    alone = [runs[0]]
    assert web.get(f"/v1{address(alone)}").json()["overrides"] == []
    assert "override" not in web.get(f"/v1{address(alone, '&format=csv')}").text
    assert "footnotes" not in web.get(address(alone), headers=HTML).text


def test_scans_have_one_row(web: httpx.Client, runs: list[int]):
    assert web.get(f"/v1{address(runs, '&by=scan')}").json()["total"] == 2  # one of val, one of test
    assert " images</small>" in web.get(address(runs, "&by=scan&baseline="), headers=HTML).text


def test_a_later_window_of_rows_leads_back(web: httpx.Client, runs: list[int]):
    total = web.get(f"/v1{address(runs)}").json()["total"]
    html = web.get(address(runs, "&offset=3"), headers=HTML).text
    assert f"4 to {total} of {total}" in html
    assert re.search(r'href="/comparisons/images\?runs=1,2" rel="prev"', html)
    assert 'rel="next"' not in html


def test_runs_without_scores_show_an_empty_page(web: httpx.Client, submit: Callable[..., list[int]]):
    assert "No image has been scored yet" in web.get(address(submit()), headers=HTML).text


@pytest.mark.parametrize(
    ("query", "status", "where"),
    [
        ("", 422, "runs"),
        ("runs=99", 404, "runs"),
        ("runs=1&column=n22", 422, "column"),
        ("runs=1&baseline=7", 422, "baseline"),
        ("runs=1&by=image&sort=worst", 422, "sort"),
        (f"runs={','.join(map(str, range(1, 202)))}", 422, "runs"),
    ],
)
def test_what_cannot_be_is_said(web: httpx.Client, runs: list[int], query: str, status: int, where: str):
    answer = web.get(f"/v1/comparisons/images?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (status, where)
