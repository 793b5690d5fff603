"""The study's table of images as text, over HTTP and by command."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from api.commands.main import main
from store.settings import settings

KINDS = [f"{score} {what} [%]" for what in ("Liver", "Tumor") for score in ("Dice", "Precision", "Recall")]
HEADER = ["ID", "Image", "Dice All [%]", *KINDS]

# Quantised counts (58 2 0 | 3 26 1 | 0 4 6), truth by prediction, one label against the rest.
# Label 1: TP 26, FP 2 + 4, FN 3 + 1: Dice 52/62, precision 26/32, recall 26/30.
# Label 2: TP 6, FP 1, FN 4: Dice 12/17, precision 6/7, recall 6/10.
SCORES = ["90.000", "83.871", "81.250", "86.667", "70.588", "85.714", "60.000"]


def test_every_image_is_a_row(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    answer = web.get(f"/v1/runs/{run}/images?format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="run-{run}-images.csv"'
    header, *rows = csv.reader(answer.text.splitlines())
    images = web.get(f"/v1/runs/{run}/images").json()["images"]
    assert header == HEADER
    names = [f"{one['part']}/{one['scan']}_{one['slice']}" for one in images]
    assert rows == [[str(number), name, *SCORES] for number, name in enumerate(names, 1)]


def test_what_is_not_there_is_blank_and_what_was_missed_is_zero(web: httpx.Client, finished: Callable[..., int]):
    # No lesion in the truth, one pixel predicted; parenchyma there and none predicted.
    run = finished(quantised=(60, 0, 0, 39, 0, 1, 0, 0, 0))
    _, row, *_ = csv.reader(web.get(f"/v1/runs/{run}/images?format=csv").text.splitlines())
    assert row[2:] == ["90.000", "0.000", "0.000", "0.000", "", "", ""]


def test_markdown_and_latex(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    header, rule, first, *_ = web.get(f"/v1/runs/{run}/images?format=md&limit=1").text.splitlines()
    assert header == f"| {' | '.join(HEADER)} |"
    assert rule == "|" + " --- |" * len(HEADER)
    assert first.endswith(f"| {' | '.join(SCORES)} |")
    text = web.get(f"/v1/runs/{run}/images?format=latex&limit=2").text
    head = "\\begin{longtable}{rlrrrrrrr}\n\\toprule\nID & Image & \\shortstack[r]{Dice\\\\{}All\\\\{}[\\%]} & "
    assert head in text
    assert text.count("90.000 & 83.871 & 81.250 & 86.667 & 70.588 & 85.714 & 60.000 \\\\\n") == 2
    assert "/3\\_0 & " in text or "/2\\_0 & " in text


def test_sorted_and_cut_as_the_json_is(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    query = "sort=slice&descending=true&limit=3&offset=1"
    images = web.get(f"/v1/runs/{run}/images?{query}").json()["images"]
    _, *rows = csv.reader(web.get(f"/v1/runs/{run}/images?{query}&format=csv").text.splitlines())
    assert [row[1] for row in rows] == [f"{one['part']}/{one['scan']}_{one['slice']}" for one in images]


WRITTEN = {"dataset": {"id": "phantom", "split": {"override": "=as in the study,\non purpose"}}}


def test_a_written_override_stands_with_the_table_in_every_form(web: httpx.Client, finished: Callable[..., int]):
    run = finished(spec=WRITTEN)
    texts = {form: web.get(f"/v1/runs/{run}/images?format={form}").text for form in ("csv", "md", "latex", "json")}
    header, *rows = csv.reader(io.StringIO(texts["csv"], newline=""))
    assert header == [*HEADER, "override"]
    assert {tuple(row[2:]) for row in rows} == {(*SCORES, "'=as in the study,\non purpose")}
    assert texts["md"].splitlines()[-2:] == ["", "Split override: =as in the study, on purpose"]
    below = texts["latex"].partition("\\end{longtable}}\n")[2]
    assert below == "{\\footnotesize\\raggedright Split override: =as in the study, on purpose\\par}\n"
    assert json.loads(texts["json"])["override"] == WRITTEN["dataset"]["split"]["override"]


def test_without_an_override_nothing_is_added(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    for form in ("csv", "md", "latex"):
        assert "override" not in web.get(f"/v1/runs/{run}/images?format={form}").text
    assert web.get(f"/v1/runs/{run}/images").json()["override"] == ""


def test_a_run_without_scores_is_a_heading_alone(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    assert web.get(f"/v1/runs/{run}/images?format=csv").text.splitlines() == [",".join(HEADER)]


def test_no_such_format_and_no_such_run(web: httpx.Client, finished: Callable[..., int]):
    assert web.get(f"/v1/runs/{finished()}/images?format=xlsx").status_code == 422
    assert web.get("/v1/runs/99/images?format=csv").status_code == 404


def test_by_command(database: Path, api_url: str, finished: Callable[..., int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIVERSEG_URL", api_url)
    settings.cache_clear()
    run = str(finished())
    told = CliRunner().invoke(main, ["images", run, "--limit", "1"])
    assert told.exit_code == 0, told.output
    header, row = told.stdout.splitlines()
    assert header.split() == " ".join(HEADER).split()
    assert row.split()[2:] == SCORES
    text = CliRunner().invoke(main, ["images", run, "--format", "csv"]).stdout
    assert next(csv.reader(text.splitlines())) == HEADER
    assert CliRunner().invoke(main, ["images", run, "--json", "--limit", "2"]).stdout.count('"n00"') == 2
    split = {"override": "as in the study: on purpose"}
    written = str(finished(spec={"dataset": {"id": "phantom", "split": split}}))
    lines = CliRunner().invoke(main, ["images", written, "--limit", "1"]).stdout.splitlines()
    assert [lines[0].split(), lines[1].split()[2:]] == [" ".join(HEADER).split(), SCORES]
    assert lines[2:] == ["", "WARNING: split override: as in the study: on purpose"]
    assert '"override": "as in' in CliRunner().invoke(main, ["images", written, "--json"]).stdout
