"""Tiles of the image page over HTTP, and the page: pixels worked out by hand on slices of 32 pixels a side."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from api import render
from api.overlay_page import MOST_RUNS, tone
from liverseg_core import overlays
from liverseg_core.data.archive import pack_folder
from liverseg_core.maps import decode
from liverseg_core.metrics import count_3x3, enlarge_nearest
from store import artifacts, datasets, queue, scores
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories, processes
from tests.api.test_pages import HOSTILE, page
from tests.conftest import Browser

Maps = Callable[[int], NDArray[np.uint16]]
Scored = Callable[..., int]

CT, LIVER, LESION = 100, 30_000, 50_000
"""Grey of every pixel; values of a map that mean liver (from 21,845 on) and lesion (from 43,690 on)."""


def truth(number: int) -> NDArray[np.uint8]:
    """Rows and columns 4 to 19 are liver; in slices 1 and 2 rows and columns 8 to 11 of it are lesion, 16 pixels."""
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20] = 1
    if number:
        labels[8:12, 8:12] = 2
    return labels


def two_columns_off(_: int) -> NDArray[np.uint16]:
    """At half the size: rows and columns 2 to 9 are liver; rows 4 and 5 and columns 5 and 6 lesion.

    Enlarged: the same liver; lesion in rows 8 to 11 and columns 10 to 13. So of the lesion columns 10 and 11 are
    found, 12 and 13 are too much, 8 and 9 are missed: 8 pixels each.
    """
    u = np.zeros((16, 16), np.uint16)
    u[2:10, 2:10] = LIVER
    u[4:6, 5:7] = LESION
    return u


def nothing(_: int) -> NDArray[np.uint16]:
    return np.zeros((16, 16), np.uint16)


@pytest.fixture
def squares(web: httpx.Client, tmp_path: Path) -> str:
    """A data set of one train slice and three val slices, 1_0 to 1_2; its name."""
    return import_squares(web, tmp_path, "squares")


def import_squares(web: httpx.Client, folder: Path, name: str, ct: int = CT) -> str:
    for part, scan, numbers in (("train", 0, [0]), ("val", 1, [0, 1, 2])):
        for number in numbers:
            grey = np.array([0, 127, 255], np.uint8)[truth(number)]
            # Brighter in train: else one picture would lie in both parts.
            picture = np.full((32, 32), ct + 10 * (part == "train"), np.uint8)
            for kind, pixels in (("images", picture), ("masks", grey)):
                place = folder / name / part / kind / f"{scan}_{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place)
    pack_folder(folder / name, folder / f"{name}.zip")
    answer = web.post(f"/v1/datasets?name={name}", content=(folder / f"{name}.zip").read_bytes())
    assert answer.status_code == 201, answer.text
    return name


def spec_of(dataset: str, **changes: Any) -> dict[str, Any]:
    return factories.tiny_spec(dataset, data={"image_size": 16}, training={"batch_size": 1, "epochs": 2}, **changes)


def submitted(web: httpx.Client, spec: dict[str, Any]) -> int:
    answer = web.post("/v1/experiments", json={"spec": spec, "references": False, "reuse": False})
    assert answer.status_code == 201, answer.text
    return answer.json()["runs"][0]["id"]


@pytest.fixture
def scored(web: httpx.Client, squares: str, tmp_path: Path) -> Scored:
    """Makes a succeeded run whose maps are drawn by a function of the slice; its id."""

    def finish(draw: Maps = two_columns_off, dataset: str = squares, keep: bool = True, **changes: Any) -> int:
        run = submitted(web, spec_of(dataset, **changes))
        work = processes.claim()
        assert work.claim.run_id == run
        numbers = [one.slice for one in work.manifest.slices if one.part == "val"]
        maps = {f"val/1_{number}": draw(number) for number in numbers}
        np.savez_compressed(tmp_path / "maps.npz", **maps)
        rows = []
        for number in numbers:
            predicted = enlarge_nearest(decode(maps[f"val/1_{number}"]), (32, 32))
            counts = count_3x3(truth(number), predicted)
            rows.append(factories.slice_score("val", 1, number, counts=counts))
        with transaction() as session:
            files = {"probabilities": artifacts.put(tmp_path / "maps.npz")} if keep else {}
            scores.finish(session, work.claim, rows, files, 2, Ending(exit_code=0))
        return run

    return finish


@pytest.fixture
def run(scored: Scored) -> int:
    return scored()


def tile(web: httpx.Client, run: int, query: str = "", image: str = "val/1_1") -> NDArray[np.uint8]:
    """The pixels of a tile, ``[32, 32, 3]``, or ``[32, 32]`` of a grey one."""
    answer = web.get(f"/v1/runs/{run}/images/{image}/overlay.png?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        return np.array(picture)


def at(pixels: NDArray[np.uint8], *places: tuple[int, int]) -> list[tuple[int, ...]]:
    return [tuple(map(int, pixels[place])) for place in places]


# Two parts of the CT's 100 and three of the colour, see tests/core/test_overlays.py.
PLAIN, FOUND, TOO_MUCH, MISSED, EDGE = (100,) * 3, (184, 176, 79), (167, 96, 40), (91, 148, 179), (255,) * 3


def test_a_prediction_is_coloured_by_what_it_found_and_missed(web: httpx.Client, run: int):
    pixels = tile(web, run)
    assert at(pixels, (8, 8), (11, 9), (8, 10), (11, 11), (8, 12), (11, 13)) == [
        MISSED, MISSED, FOUND, FOUND, TOO_MUCH, TOO_MUCH
    ]  # fmt: skip
    assert at(pixels, (0, 0), (6, 6), (7, 8), (4, 4), (19, 10)) == [PLAIN, PLAIN, PLAIN, EDGE, EDGE]
    # 8 pixels each, and of the liver of 16 x 16 the edge: 4 * 15.
    for colour, count in ((FOUND, 8), (TOO_MUCH, 8), (MISSED, 8), (EDGE, 60)):
        assert np.count_nonzero((pixels == colour).all(axis=2)) == count


def test_the_truth_the_scan_the_liver_and_contours(web: httpx.Client, run: int):
    assert at(tile(web, run, "show=truth"), (8, 8), (9, 9), (8, 12)) == [FOUND, FOUND, PLAIN]
    assert (tile(web, run, "show=scan") == np.full((32, 32), CT)).all()
    # All of the liver is found; the edge of the predicted lesion, columns 10 and 13, lies below that.
    liver = tile(web, run, "label=liver")
    assert np.count_nonzero((liver == FOUND).all(axis=2)) == 16 * 16
    # Areas two pixels wide are all edge, in the pure colour; of the true lesion of 4 x 4 the inside stays free.
    edges = tile(web, run, "style=contour")
    assert at(edges, (8, 8), (9, 10), (9, 12)) == [overlays.MISSED, overlays.FOUND, overlays.TOO_MUCH]
    assert at(tile(web, run, "show=truth&style=contour"), (8, 8), (9, 9)) == [overlays.FOUND, PLAIN]


def test_colours_come_alone_for_whoever_has_the_scan(web: httpx.Client, run: int):
    answer = web.get(f"/v1/runs/{run}/images/val/1_1/overlay.png?ground=none")
    with Image.open(io.BytesIO(answer.content)) as picture:
        pixels = np.array(picture.convert("RGBA"))
    # Three fifths of 255 are 153; where nothing is to be shown, nothing is.
    assert at(pixels, (8, 8), (8, 10), (8, 12), (4, 4)) == [
        (*overlays.MISSED, 153), (*overlays.FOUND, 153), (*overlays.TOO_MUCH, 153), (*overlays.OUTLINE, 255)
    ]  # fmt: skip
    assert np.count_nonzero(pixels[..., 3]) == 24 + 60


def test_lesions_that_count_as_liver_are_not_coloured(web: httpx.Client, scored: Scored):
    run = scored(evaluation={"min_lesion": 17})  # both lesions have 16 pixels
    assert at(tile(web, run), (8, 8), (8, 10), (8, 12)) == [PLAIN] * 3
    # The truth as it was drawn, on the other hand, is that of the data set.
    assert at(tile(web, run, "show=truth"), (8, 8)) == [FOUND]


def test_what_does_not_hang_together_with_the_largest_liver_is_left_out(web: httpx.Client, scored: Scored):
    """A second, smaller liver in slice 1 goes, unless slice 2 links it to the rest."""

    def two(number: int) -> NDArray[np.uint16]:
        u = two_columns_off(number)
        u[12:14, 12:14] = LIVER  # rows and columns 24 to 27
        if number == 2:
            u[2:14, 2:14] = LIVER
        return u

    apart = scored(lambda number: two(min(number, 1)), evaluation={"largest_component": True})
    linked = scored(two, evaluation={"largest_component": True})
    shown = [at(tile(web, one, "label=liver"), (24, 24), (8, 8))[0] for one in (apart, linked)]
    assert shown == [PLAIN, TOO_MUCH]


def test_a_tile_that_is_asked_for_by_its_tag_may_be_kept_for_good(web: httpx.Client, run: int, scored: Scored):
    path = f"/v1/runs/{run}/images/val/1_1/overlay.png"
    first = web.get(path)
    tag = first.headers["etag"].strip('"')
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == "Authorization"
    by_tag = web.get(f"{path}?tag={tag}")
    assert by_tag.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert by_tag.content == first.content
    assert web.get(f"{path}?tag={'0' * 16}").headers["cache-control"] == "private, no-cache"
    again = web.get(path, headers={"if-none-match": f'"{tag}"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", f'"{tag}"')
    assert web.get(path, headers={"if-none-match": '"0000000000000000"'}).status_code == 200
    other = scored(nothing)
    queries = ("", "style=contour", "label=liver", "ground=none", "show=truth", "show=scan", "show=truth&label=liver")
    tags = {
        (one, query): web.get(f"/v1/runs/{one}/images/val/1_1/overlay.png?{query}").headers["etag"]
        for one in (run, other)
        for query in queries
    }
    # CT and truth are those of the data set, so that both runs share them; all else differs.
    assert tags[run, "show=scan"] == tags[other, "show=scan"]
    assert len(set(tags.values())) == 2 * len(queries) - 3


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("runs/99/images/val/1_1/overlay.png", 404),
        ("runs/{run}/images/val/1_9/overlay.png", 404),
        ("runs/{run}/images/val/1_9/overlay.png?show=scan", 404),
        ("runs/{run}/images/train/0_0/overlay.png", 404),
        ("runs/{run}/images/test/1_1/overlay.png?show=truth", 404),
        ("runs/{run}/images/other/1_1/overlay.png", 422),
        ("runs/{run}/images/val/abc/overlay.png", 422),
        ("runs/{run}/images/val/1_1/overlay.png?show=mask", 422),
        ("runs/{run}/images/val/1_1/overlay.png?style=dots", 422),
        ("runs/{run}/images/val/1_1/overlay.png?label=spleen", 422),
        ("runs/{run}/images/val/1_1/overlay.png?tag=x", 422),
        ("runs/{run}/images/val/1_1/overlay.png?kind=six", 422),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(web: httpx.Client, run: int, path: str, status: int):
    answer = web.get(f"/v1/{path.format(run=run)}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_slice_that_nobody_scored_has_a_scan_and_a_truth(web: httpx.Client, run: int):
    assert tile(web, run, "show=scan", "train/0_0").shape == (32, 32)
    assert at(tile(web, run, "show=truth&label=liver", "train/0_0"), (5, 5)) == [(188, 180, 83)]  # over 110


def test_without_maps_there_is_a_truth_and_no_prediction(web: httpx.Client, scored: Scored):
    run = scored(keep=False)
    answer = web.get(f"/v1/runs/{run}/images/val/1_1/overlay.png")
    assert (answer.status_code, "kept no probability maps" in answer.json()["detail"]) == (404, True)
    assert at(tile(web, run, "show=truth"), (8, 8)) == [FOUND]


@pytest.mark.parametrize("kind", ["probabilities", "data set"])
@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_file_that_is_gone_or_torn_is_said_to_be(web: httpx.Client, run: int, kind: str, content: bytes | None):
    with transaction() as session:
        dataset = datasets.resolve(session, DEFAULT_PROJECT, "squares").artifact
    found = {one["kind"]: one["sha256"] for one in web.get(f"/v1/runs/{run}/artifacts").json()["artifacts"]}
    place = artifacts.locate(found.get(kind, dataset))
    place.unlink()
    if content:
        place.write_bytes(content)
    assert web.get(f"/v1/runs/{run}/images/val/1_1/overlay.png").status_code == 410
    shown = page(web, f"/comparisons/images/val/1_1?runs={run}")  # of a torn one, the browser shows the words in alt
    assert ("is gone from the store" in shown) == (content is None)
    place.unlink(missing_ok=True)


# ---- the page ------------------------------------------------------------------------------------------------------


def figures(html: str) -> dict[str, str]:
    """Run, or CT and Truth -> the words of its tile."""
    found = re.findall(r"<figure(?: data-run=\"(\d+)\")?>(.*?)</figure>", html, re.DOTALL)
    texts = [(run, " ".join(re.sub(r"<[^>]+>", " ", body).split())) for run, body in found]
    return {run or text: text for run, text in texts}


def test_the_page_shows_truth_and_runs_side_by_side(web: httpx.Client, run: int, scored: Scored):
    empty = scored(nothing, name=HOSTILE)
    html = page(web, f"/comparisons/images/val/1_1?runs={run},{empty}")
    shown = figures(html)
    assert list(shown) == ["CT", "Truth", str(run), str(empty)]
    # Dice 2 * 8 / (2 * 8 + 8 + 8), precision and recall 8 / 16; the liver is found whole.
    assert "Lesion Dice 0.500 Precision 0.500 Recall 0.500 Liver Dice 1.000 FP 8 FN 8" in shown[str(run)]
    assert "Lesion Dice 0.000 Precision \N{EN DASH} Recall 0.000 Liver Dice 0.000 FP 0 FN 16" in shown[str(empty)]
    assert "<script>alert" not in html
    for picture in re.findall(r'<img src="([^"]+)"', html):
        answer = web.get(picture.replace("&amp;", "&"))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    for link in (f"/runs/{run}/images/val/1_1", f"/v1/runs/{run}/images/val/1_1/figure.png?kind=four"):
        assert f'href="{link}"' in html
    assert f'href="/comparisons/images/val/1_0?runs={run},{empty}" rel="prev"' in html
    assert f'href="/comparisons/images/val/1_2?runs={run},{empty}" rel="next"' in html
    liver = page(web, f"/comparisons/images/val/1_1?runs={run},{empty}&style=contour&label=liver")
    # Nothing predicted: all 256 pixels of the liver are missed.
    assert "FP 0 FN 256" in figures(liver)[str(empty)]
    assert f'1_0?runs={run},{empty}&amp;style=contour&amp;label=liver" rel="prev"' in liver
    assert "style=contour&amp;label=liver&amp;ground=none&amp;tag=" in liver


def test_the_page_leads_to_the_worst(web: httpx.Client, scored: Scored):
    run = scored(lambda number: nothing(number) if number == 2 else two_columns_off(number))
    html = page(web, f"/comparisons/images/val/1_0?runs={run}")
    # Slice 0 has no true lesion and a predicted one: Dice 0, as slice 2; the strip marks both.
    assert re.search(rf'1_0\?runs={run}" [^>]*>Worst of the scan: slice 0<', html)
    # Of the part: of equals, the one with the most lesion.
    assert re.search(rf'1_2\?runs={run}" [^>]*>Worst of val: 1_2<', html)
    strip = re.findall(r'class="(\w+)"(?: aria-current="true")? title="Slice (\d): ([^"]+)"', html)
    assert strip == [
        ("tone3", "0", "mean lesion Dice 0.000"),
        ("tone1", "1", "mean lesion Dice 0.500"),
        ("tone3", "2", "mean lesion Dice 0.000"),
    ]
    assert 'rel="prev"' not in html


@pytest.mark.parametrize(
    ("dice", "shown"), [(None, "none"), (1, "tone0"), (0.75, "tone0"), (0.74, "tone1"), (0.3, "tone2"), (0, "tone3")]
)
def test_tone(dice: float | None, shown: str):
    assert tone(dice) == shown


def test_what_cannot_be_shown_is_said_in_its_place(web: httpx.Client, run: int, scored: Scored, tmp_path: Path):
    other = scored(dataset=import_squares(web, tmp_path, "brighter", ct=200))
    without = scored(keep=False)
    lost = scored(nothing)
    assert web.delete(f"/v1/runs/{lost}?what=files").status_code == 200
    gone = scored(nothing)
    assert web.delete(f"/v1/runs/{gone}").status_code == 200
    (reference, *_) = web.post("/v1/references", json={"spec": spec_of("squares")}).json()["runs"]
    work = processes.claim()
    assert work.claim.run_id == reference["id"]
    with transaction() as session:
        rows = [factories.slice_score("val", 1, number) for number in range(3)]
        scores.finish(session, work.claim, rows, {}, None, Ending(exit_code=0))
    waiting = submitted(web, spec_of("squares"))
    ids = [run, other, without, lost, gone, reference["id"], waiting]
    html = page(web, f"/comparisons/images/val/1_1?runs={','.join(map(str, ids))}")
    shown = figures(html)
    for one, words in (
        (other, "Its data set, brighter, has another image or truth as val 1_1."),
        (without, "kept no probability maps, so there is no prediction to draw."),
        (lost, f"The maps and checkpoints of run {lost} were deleted on"),
        (reference["id"], "A reference predictor keeps no probability maps"),
        (waiting, "This run is queued, so it has no scores."),
    ):
        assert words in shown[str(one)], shown
    assert "Lesion Dice 0.500" in shown[str(without)]  # what it scored is known all the same
    assert "Lesion Dice" not in shown[str(other)]
    assert f"Run {gone} was deleted on" in html
    assert len(re.findall("<img ", html)) == 5  # CT, truth and the one run, both over the CT
    trained = page(web, f"/comparisons/images/train/0_0?runs={run}")
    assert "This run did not score train 0_0." in trained
    assert len(re.findall("<img ", trained)) == 3


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("val/1_1", 422, "give the runs to show"),
        ("val/1_1?runs=99", 404, "no such runs"),
        ("val/1_9?runs={run}", 404, "no such slice"),
        ("val/1_1?runs={run}&show=scan", 422, "no such parameter"),
        (f"val/1_1?runs={','.join(map(str, range(1, MOST_RUNS + 2)))}", 422, "more than 12 runs"),
    ],
)
def test_an_address_that_cannot_be_shown(web: httpx.Client, run: int, path: str, status: int, words: str):
    answer = web.get(f"/comparisons/images/{path.format(run=run)}", headers={"accept": "text/html"})
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_pages_lead_to_each_other(web: httpx.Client, squares: str, scored: Scored):
    first, second = scored(), scored(nothing)
    matrix = page(web, f"/comparisons/images?runs={first},{second}")
    assert f'href="/comparisons/images/val/1_1?runs={first},{second}"' in matrix
    assert f'href="/comparisons/images/val/1_1?runs={first}"' in page(web, f"/runs/{first}")
    alone = page(web, f"/runs/{first}/images/val/1_1")
    assert f'href="/comparisons/images/val/1_1?runs={first}"' in alone
    assert "of its experiment" not in alone
    with transaction() as session:  # as seeds of one submission are
        session.get_one(queue.Run, second).experiment_id = session.get_one(queue.Run, first).experiment_id
    beside = f'href="/comparisons/images/val/1_1?runs={second},{first}"'
    assert f"{beside}>Beside 1 other of its experiment" in page(web, f"/runs/{second}/images/val/1_1")
    assert f"{beside}>beside 1 other<" in page(web, f"/runs/{second}")


def test_a_matrix_of_many_runs_leads_to_the_baseline_and_the_run_that_was_chosen(web: httpx.Client, run: int):
    with transaction() as session:
        source = session.get_one(queue.Run, run)
        for number in range(MOST_RUNS + 1):
            values = {one.key: getattr(source, one.key) for one in source.__table__.columns if one.key != "id"}
            session.add(queue.Run(**values | {"reused_from": run, "name": f"again {number}"}))
    ids = [run + number for number in range(MOST_RUNS + 2)]
    html = page(web, f"/comparisons/images?runs={','.join(map(str, ids))}&baseline={ids[1]}")
    links = re.findall(r'href="/comparisons/images/val/1_1\?runs=([\d,]+)"', html)
    assert len(links) == len(ids)
    for one, link in zip(ids, links, strict=True):
        chosen = [int(word) for word in link.split(",")]
        assert len(chosen) == MOST_RUNS
        assert {one, ids[1]} <= set(chosen)


def test_the_legend_has_the_colours_of_the_pictures():
    style = (render.STATIC / "style.css").read_text()
    for name in ("FOUND", "TOO_MUCH", "MISSED", "OUTLINE"):
        told = re.search(rf"\.legend \.{name.lower().replace('_', '-')} {{ --swatch: rgb\(([\d ]+)\)", style)
        assert tuple(map(int, told[1].split())) == getattr(overlays, name)


def test_a_page_without_scripts_has_all_it_needs(web: httpx.Client, run: int):
    html = page(web, f"/comparisons/images/val/1_1?runs={run}")
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    assert re.search(r'<input id="slider"[^>]* hidden>', html)  # what only a script can serve
    assert re.search(r'<p id="tools"[^>]* hidden>', html)
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html))


# ---- in a browser --------------------------------------------------------------------------------------------------


def until(tab: Any, words: str) -> None:
    """Wait until a script of the page says so; Playwright's own way needs eval, which the pages forbid."""
    processes.wait_for(words, lambda: tab.evaluate(words), 20)


@pytest.mark.browser
def test_tiles_move_together_and_slices_go_by(web: httpx.Client, run: int, scored: Scored, browser: Browser):
    other, home = scored(nothing, name="x" * 60), str(web.base_url).rstrip("/")
    tab, complaints = browser.tab(viewport={"width": 1200, "height": 900})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{home}/comparisons/images/val/1_0?runs={run},{other}")
    until(tab, "document.querySelectorAll('.pane img').length === 7 && !slider.hidden")

    def transforms() -> set[str]:
        return set(tab.eval_on_selector_all(".pane img", "all => all.map(one => one.style.transform)"))

    def view() -> list[float]:
        return tab.evaluate("[view.zoom, view.x, view.y]")

    assert transforms() == {"translate(0%, 0%) scale(1)"}
    tab.keyboard.press("+")
    # 1.5 times about the middle: the corner goes a quarter of a tile up and left.
    assert transforms() == {"translate(-25%, -25%) scale(1.5)"}
    tab.keyboard.press("ArrowRight")
    assert view() == pytest.approx([1.5, -0.4, -0.25])
    assert len(transforms()) == 1
    box = tab.locator(".pane").nth(2).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"])
    tab.mouse.up()
    assert view() == pytest.approx([1.5, -0.2, -0.15], abs=0.01)
    until(tab, "location.hash.startsWith('#zoom=1.5,-0.2')")
    tab.keyboard.press("j")  # zoomed or not
    until(tab, "document.querySelector('h1').textContent.includes('slice 1')")
    assert view() == pytest.approx([1.5, -0.2, -0.15], abs=0.01)
    assert len(transforms()) == 1
    assert "/val/1_1?" in tab.url
    assert "#zoom=1.5" in tab.url
    tab.reload()  # the address is the whole state
    until(tab, "!slider.hidden")
    assert view() == pytest.approx([1.5, -0.2, -0.15], abs=0.01)
    tab.locator(".pane").nth(0).dblclick()
    assert transforms() == {"translate(0%, 0%) scale(1)"}
    tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    tab.mouse.wheel(0, -400)  # e times, and what lies under the pointer stays there
    until(tab, "view.zoom > 2.7")
    assert view() == pytest.approx([np.e, (1 - np.e) / 4, (1 - np.e) / 4], abs=0.02)
    tab.keyboard.press("0")
    tab.keyboard.press("ArrowRight")
    until(tab, "document.querySelector('h1').textContent.includes('slice 2')")
    tab.keyboard.press("k")
    until(tab, "document.querySelector('h1').textContent.includes('slice 1')")
    tab.focus("#slider")
    tab.keyboard.press("ArrowLeft")
    until(tab, "document.querySelector('h1').textContent.includes('slice 0')")
    assert tab.evaluate("document.activeElement.id") == "slider"
    tab.click("#contour")
    until(tab, "location.search.includes('style=contour')")
    assert tab.evaluate("document.activeElement.id") == "contour"
    assert "style=contour" in tab.get_attribute("#next", "href")
    assert "enlarged" in tab.get_attribute(".pane img", "class")  # 32 pixels over hundreds are not smoothed
    # What was seen before is kept: a new page of slice 2 gets its four tiles without a byte.
    tab.goto(f"{home}/comparisons/images/val/1_2?runs={run},{other}")
    until(tab, "!slider.hidden && [...document.images].every(one => one.complete)")
    seen = tab.evaluate("performance.getEntriesByType('resource').map(one => [one.name, one.transferSize])")
    tiles = [(name, size) for name, size in seen if "/val/1_2/overlay.png" in name]
    assert len({name for name, _ in tiles}) == 4
    assert {size for _, size in tiles} == {0}
    assert all(one.startswith(home) for one in asked)
    assert complaints == []


@pytest.mark.browser
def test_the_heading_that_is_read_out_changes_and_stays(web: httpx.Client, run: int, browser: Browser):
    tab, complaints = browser.tab()
    tab.goto(f"{str(web.base_url).rstrip('/')}/comparisons/images/val/1_1?runs={run}")
    until(tab, "!slider.hidden")
    tab.evaluate("document.querySelector('[aria-live]').first = true")
    tab.keyboard.press("j")
    until(tab, "document.querySelector('h1').textContent.includes('slice 2')")
    assert tab.evaluate("document.querySelector('[aria-live]').first") is True
    assert complaints == []


@pytest.mark.browser
def test_two_fingers_zoom(web: httpx.Client, run: int, browser: Browser):
    home = str(web.base_url).rstrip("/")
    tab, complaints = browser.tab(viewport={"width": 390, "height": 800}, has_touch=True)
    tab.goto(f"{home}/comparisons/images/val/1_1?runs={run}")
    until(tab, "!slider.hidden")
    box = tab.locator(".pane").nth(1).bounding_box()
    session = tab.context.new_cdp_session(tab)

    def fingers(kind: str, *places: float) -> None:
        y = box["y"] + box["height"] / 2
        points = [{"x": box["x"] + place * box["width"], "y": y, "id": n} for n, place in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 0.4, 0.6)
    fingers("touchMove", 0.3, 0.7)
    fingers("touchMove", 0.1, 0.9)  # four times as far apart
    fingers("touchEnd")
    assert tab.evaluate("view.zoom") == pytest.approx(4, rel=0.15)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert complaints == []


@pytest.mark.browser
def test_the_page_fits_a_phone_and_works_without_scripts(
    web: httpx.Client, run: int, scored: Scored, browser: Browser
):
    home, other = str(web.base_url).rstrip("/"), scored(nothing, name="long-name-" * 15)
    tab, complaints = browser.tab(viewport={"width": 390, "height": 800}, java_script_enabled=False)
    tab.goto(f"{home}/comparisons/images/val/1_0?runs={run},{other}")
    tab.click("#next")
    tab.wait_for_selector("text=Scan 1, slice 1")
    assert not tab.is_visible("#tools")
    assert tab.locator(".pane img").count() == 7
    widths = tab.evaluate("[document.documentElement.scrollWidth, document.querySelector('.pane').clientWidth]")
    assert widths[0] <= 390
    assert widths[1] > 150
    assert complaints == []
