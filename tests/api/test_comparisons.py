import csv
import io
from collections.abc import Callable

import httpx
import pytest

from api import tables

Finished = Callable[..., int]


def test_runs_side_by_side(web: httpx.Client, finished: Finished):
    first, second = finished(spec={"name": "a"}), finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}})
    found = web.get(f"/v1/comparisons?runs={second},{first}").json()
    assert [row["run"] for row in found["rows"]] == [second, first]
    assert found["rows"][0]["settings"]["model.filters"] == 3
    scores = found["rows"][1]["scores"]
    # every slice: dice 0.9; TP 35, FP 2, FN 5; lesion 2*6/(12+1+4); liver 2*37/(74+2+3)
    assert scores["loss"] == pytest.approx(0.1)
    assert scores["precision"] == pytest.approx(35 / 37)
    assert scores["recall"] == pytest.approx(35 / 40)
    assert scores["pooled_lesion_dice"] == pytest.approx(12 / 17)
    assert scores["pooled_liver_dice"] == pytest.approx(74 / 79)


def test_a_whole_experiment(web: httpx.Client, finished: Finished):
    run = finished()
    assert [row["run"] for row in web.get("/v1/comparisons?experiment=1").json()["rows"]] == [run]


def test_unknown_runs_are_named(web: httpx.Client, finished: Finished):
    answer = web.get(f"/v1/comparisons?runs={finished()},8,9")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there are no such runs: 8, 9"
    assert web.get("/v1/comparisons?experiment=9").status_code == 404


def test_csv_prints_percent_and_neutralises_what_a_spreadsheet_would_run(web: httpx.Client, finished: Finished):
    run = finished(spec={"name": "=HYPERLINK(1)"})
    answer = web.get(f"/v1/comparisons?runs={run}&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, line = csv.reader(io.StringIO(answer.text))
    row = dict(zip(header, line, strict=True))
    assert row["name"] == "'=HYPERLINK(1)"
    assert (row["Loss [%]"], row["Dice Coef. [%]"], row["Dice Coef. Tumor [%]"]) == ("10.000", "90.000", "5.000")
    assert (row["Precision [%]"], row["Recall [%]"]) == ("94.595", "87.500")
    assert (row["Liver Dice, pooled [%]"], row["Lesion Dice, pooled [%]"]) == ("93.671", "70.588")
    assert row["training.learning_rate"] == "0.001"


def test_a_run_without_scores_has_empty_cells(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    header, line = csv.reader(io.StringIO(web.get(f"/v1/comparisons?runs={run}&format=csv").text))
    assert dict(zip(header, line, strict=True))["Loss [%]"] == ""


def test_markdown_shows_names_as_they_are(web: httpx.Client, finished: Finished):
    run = finished(spec={"name": "a|b <b>*x*\n`c` [d](javascript:e)"})
    answer = web.get(f"/v1/comparisons?runs={run}&format=md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    lines = answer.text.splitlines()
    assert r"| a\|b \<b>\*x\* \`c\` [d\](javascript:e) |" in lines[2]
    assert "Scores are on" in answer.text


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("plain", "plain"),
        ("", ""),
        ("a=1", "a=1"),
    ],
)
def test_neutral(cell: str, safe: str):
    assert tables.neutral(cell) == safe


@pytest.mark.parametrize(("value", "shown"), [(0.96337, "96.337"), (0.0, "0.000"), (1.0, "100.000"), (None, "")])
def test_percent(value: float | None, shown: str):
    assert tables.percent(value) == shown
