"""Images by runs over HTTP and as a page: equal to the ledger's, in windows, and refused in words."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import factories
from tests.api import exports
from tests.api.test_pages import page

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
    heads = ["part", "scan", "slice", "subject", "images", f"{runs[0]} =sum", f"{runs[1]} b", "difference"]
    assert header == [*heads, "score", "baseline"]
    assert {tuple(row[-2:]) for row in rows} == {("lesion_dice", str(runs[0]))}
    assert 'filename="images.csv"' in answer.headers["content-disposition"]
    assert [(int(row[1]), int(row[2]), float(row[5]), float(row[6])) for row in rows] == [
        (line["place"]["scan"], line["place"]["slice"], *line["values"]) for line in found["lines"]
    ]


def test_a_scan_and_a_person_lead_to_their_images(web: httpx.Client, runs: list[int]):
    for by, name in (("scan", "scan"), ("subject", "subject")):
        html = page(web, address(runs, f"&by={by}&sort=place&limit=10"))
        link = re.search(rf'<th scope="row" class="name">val <a href="([^"]+{name}=[^"]+)">', html)
        assert link is not None, html
        own = page(web, link[1].replace("&amp;", "&"))
        assert " alone. <a " in own
        parameters = httpx.URL(f"http://x{link[1].replace('&amp;', '&')}").params
        assert parameters["limit"] == "10"
        found = web.get("/v1/comparisons/images", params=parameters).json()
        assert {str(line["place"][name]) for line in found["lines"]} == {parameters[name]}
        assert all(line["place"]["slice"] is not None for line in found["lines"])
    assert "No such image has been scored" in page(web, address(runs, "&scan=9999"))


def test_so_many_rows_at_a_time_of_the_worst(web: httpx.Client, runs: list[int]):
    total = web.get(f"/v1{address(runs)}").json()["total"]
    html = page(web, address(runs, "&limit=2"))
    assert f"1 to 2 of {total}" in html
    assert re.search(r'offset=2" rel="next"|offset=2&amp;[^"]*" rel="next"', html)
    assert re.search(r'<a href="/comparisons/images\?runs=1,2">100</a>', html)
    assert web.get(address(runs, "&limit=501")).status_code == 422


def test_one_run_alone_has_no_differences_and_its_lowest_images_first(
    web: httpx.Client, finished: Callable[..., int]
):
    run = finished(each=lambda one: {"counts": MISSED if one.slice % 2 else WHOLE})
    html = page(web, address([run]))
    assert "Mean difference" not in html
    assert "baseline" not in html
    assert re.search(r'aria-current="true">lowest first</a>', html)
    shown = [float(value) for value in re.findall(r"_\d+\?runs=\d+\">([\d.]+)</a>", html)]
    assert shown == sorted(shown)
    assert len(set(shown)) == 2
    assert "Mean difference" in page(web, address([run, finished(spec={"training": SEED}, counts=MISSED)]))


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
    assert header[-4:] == ["difference", "score", "baseline", "override"]
    assert {(row[-4], row[-1]) for row in rows} == {("-1.0", told)}
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


def test_a_csv_that_stops_early_says_so(web: httpx.Client, runs: list[int]):
    total = web.get(f"/v1{address(runs)}").json()["total"]
    last = f"{total} to {total} of {total}"
    for window, told in (("limit=3", f"1 to 3 of {total}"), (f"offset={total - 1}", last)):
        answer = web.get(f"/v1{address(runs, f'&format=csv&column=lesion_recall&baseline={runs[1]}&{window}')}")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert {(row["score"], row["baseline"], row["rows"]) for row in rows} == {("lesion_recall", "2", told)}
        assert f'filename="images-{told.replace(" ", "-")}.csv"' in answer.headers["content-disposition"]


def test_deleted_runs_are_told(web: httpx.Client, finished: Callable[..., int], runs: list[int]):
    kept = [*runs, finished(spec={"name": "gone", "training": SEED | {"seed": 2}}, counts=WHOLE)]
    lost = kept[0]
    assert web.delete(f"/v1/runs/{lost}").status_code == 200
    (told,) = web.get(f"/v1{address(kept)}").json()["warnings"]
    assert re.fullmatch(rf"Run {lost} \(=sum\) was deleted on .+; its numbers are in frozen .+\.", told)
    assert exports.html(page(web, address(kept))).notes == [told]
    rows = list(csv.DictReader(io.StringIO(web.get(f"/v1{address(kept, '&format=csv')}").text)))
    assert {row["warnings"] for row in rows} == {told}
    assert web.get(f"/v1{address(kept[1:])}").json()["warnings"] == []


@pytest.mark.parametrize(
    ("query", "head", "order"),
    [
        ("", "Mean difference↑", "ascending"),
        ("&descending=true", "Mean difference↓", "descending"),
        ("&of=2", "2 b↑", "ascending"),
        ("&of=2&descending=true", "2 b↓", "descending"),
        ("&sort=value&of=2", "2 b↑", "ascending"),
        ("&sort=value", "1 =sum↑", "ascending"),
        ("&sort=place", "Image↑", "ascending"),
    ],
)
def test_the_page_shows_what_it_is_sorted_by(web: httpx.Client, runs: list[int], query: str, head: str, order: str):
    html = page(web, address(runs, query))
    ((told, inside),) = re.findall(r'<th [^>]*aria-sort="(\w+)"[^>]*>(.*?)</th>', html)
    assert (told, re.sub(r"<[^>]+>", "", inside.partition("<br>")[0]).removesuffix(" baseline")) == (order, head)


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


def behind(html: str, score: str) -> list[str]:
    """Where the cells of a comparison with this score lead."""
    return [found.replace("&amp;", "&") for found in re.findall(rf'<td [^>]*><a href="([^"]+)">{score}</a>', html)]


@pytest.mark.parametrize(
    ("query", "score", "columns", "order"),
    [
        # Lesions are all the liver there is: its scores are 1 and 0 too. The study's own of every slice: 0.9.
        ("", "0.000", ["liver_dice", "lesion_dice"], "&sort=value&of=2"),
        ("&baseline=1", "0.000", ["liver_dice", "lesion_dice"], "&of=2"),
        ("&baseline=1", "100.000", ["liver_dice", "lesion_dice"], "&sort=value&of=1"),
        ("&profile=paper-2019&baseline=2", "90.000", ["dice"], "&of=1"),
        (
            "&profile=modern&level=scan&baseline=1&column=liver_iou&sort=name&filter=b",
            "0.000",
            ["liver_dice", "lesion_dice", "lesion_recall"],
            "&of=2",
        ),
        ("&profile=nnunet&baseline=2", "100.000", ["lesion_dice"], "&of=1"),
    ],
)
def test_a_score_leads_to_the_images_behind_it(
    web: httpx.Client, runs: list[int], query: str, score: str, columns: list[str], order: str
):
    """Two clicks to the pixels: the run's worst images first, in the same score."""
    order += "&part=test"  # the part that the score is of
    links = [link for link in behind(page(web, f"/comparisons?runs=1,2{query}"), score) if link.endswith(order)]
    base = re.search("&baseline=.", query)
    assert links == [
        f"/comparisons/images?runs=1,2{base[0] if base else ''}&column={column}{order}" for column in columns
    ]
    for link in links:
        html = page(web, link)
        assert set(re.findall(r'<td [^>]*><a href="/comparisons/images/(\w+)/\d+_\d+\?', html)) == {"test"}
        assert "Images of the test part alone." in html


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("&column=lesion_recall", ""),
        ("&profile=modern&baseline=1&column=lesion_recall", "&baseline=1&column=lesion_recall"),
        ("&profile=modern&baseline=1&column=liver_iou", "&baseline=1"),
    ],
)
def test_image_by_image_keeps_the_tested_score(web: httpx.Client, runs: list[int], query: str, rest: str):
    links = exports.html(page(web, f"/comparisons?runs=1,2{query}")).links
    assert links["Image by image"] == f"/comparisons/images?runs=1,2{rest}&part=test"


def test_images_are_not_offered_for_too_many_runs(web: httpx.Client, submit: Callable[..., list[int]]):
    submit(seeds=201)
    html = page(web, "/comparisons?experiment=1")
    assert "Image by image: for 200 runs at most; compare fewer" in html
    assert "Image by image" not in exports.html(html).links
    runs = ",".join(map(str, range(1, 201)))
    assert web.get(exports.html(page(web, f"/comparisons?runs={runs}")).links["Image by image"]).status_code == 200


def test_images_are_not_offered_for_runs_of_other_images(
    web: httpx.Client, finished: Callable[..., int], tmp_path: Path
):
    first = finished()
    other = factories.tiny_archive(tmp_path, seed=1)
    assert web.post("/v1/datasets?name=other", content=other.read_bytes()).status_code == 201
    second = finished(spec={"dataset": {"id": "other"}})
    html = page(web, f"/comparisons?runs={first},{second}")
    assert "Image by image: for runs of the same images; these are of several data sets" in html
    assert "/comparisons/images" not in html
