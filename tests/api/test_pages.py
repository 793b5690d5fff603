import re
from collections.abc import Callable
from html import escape, unescape

import httpx
import pytest

from api import render
from tests.conftest import Browser

HTML = {"accept": "text/html"}
HOSTILE = "<script>alert(1)</script>\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;"


def page(web: httpx.Client, path: str) -> str:
    answer = web.get(path, headers=HTML)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def rows(html: str) -> list[str]:
    """The text of every table row, tags and spaces taken out."""
    found = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


def test_an_empty_place_says_how_to_begin(web: httpx.Client):
    assert "liverseg submit" in page(web, "/")
    assert "liverseg dataset import" in page(web, "/datasets")


def test_the_runs_page_shows_state_and_progress(
    web: httpx.Client, submit: Callable[..., list[int]], worker_there: None
):
    submit(spec={"name": "first"}, seeds=2)
    html = page(web, "/")
    assert rows(html)[1:] == [
        "2 first seed 1 queued 1 run ahead in pool default phantom 1",
        "1 first seed 0 queued next in pool default; waits for a free worker phantom 1",
    ]
    assert 'href="/comparisons?experiment=1"' in html
    assert rows(page(web, "/fragments/runs")) == rows(html)
    assert len(rows(page(web, "/?state=succeeded"))) == 0
    assert len(rows(page(web, "/?name=FIR&state=queued&experiment=1"))) == 3
    assert len(rows(page(web, "/?name=&state="))) == 3


def test_runs_of_one_name_are_told_apart_by_what_differs(web: httpx.Client, submit: Callable[..., list[int]]):
    submit(spec={"name": "rate"}, grid={"training.learning_rate": [0.001, 0.01], "model.filters": [4]})
    submit(spec={"name": "rate"})  # another experiment, alone in it
    submit(variants=[{"name": f"{count} filters", "model.filters": count} for count in (4, 8)])
    assert [row.split(" queued")[0] for row in rows(page(web, "/"))[1:]] == [
        "5 8 filters", "4 4 filters", "3 rate", "2 rate learning rate 0.01", "1 rate learning rate 0.001",
    ]  # fmt: skip


def test_states_are_counted_as_the_list_is(web: httpx.Client, submit: Callable[..., list[int]]):
    submit(references=True)
    assert len(web.get("/v1/runs?kind=reference").json()["runs"]) == 4
    assert re.findall(r"queued</span> (\d+)", page(web, "/")) == ["1"]


def test_the_counts_are_of_what_the_list_is_filtered_by(web: httpx.Client, submit: Callable[..., list[int]]):
    (slow, *_) = submit(spec={"name": "slow_1"}, seeds=3)
    submit(spec={"name": "fast"})
    web.post(f"/v1/runs/{slow}/cancel")

    def counted(path: str) -> dict[str, int]:
        return {state: int(count) for state, count in re.findall(r">(\w+)</span> (\d+)</a>", page(web, path))}

    assert counted("/") == {"queued": 3, "cancelled": 1}
    assert counted("/?experiment=1") == counted("/?name=LOW_") == {"queued": 2, "cancelled": 1}
    assert counted("/?experiment=1&state=cancelled&before=2") == {"queued": 2, "cancelled": 1}
    assert counted("/?experiment=2") == counted("/?name=fast") == {"queued": 1}
    assert counted("/?experiment=2&name=slow") == {}


def test_a_long_list_has_older_pages(web: httpx.Client, submit: Callable[..., list[int]]):
    submit(seeds=51)
    html = page(web, "/?name=")
    assert 'href="/?before=2"' in html
    assert [row.split()[0] for row in rows(page(web, "/?before=2"))[1:]] == ["1"]


def test_newer_pages_lead_back_as_older_ones_lead_on(web: httpx.Client, submit: Callable[..., list[int]]):
    submit(seeds=120)

    def links(path: str) -> dict[str, str]:
        return {rel: href for href, rel in re.findall(r'href="([^"]+)" rel="(prev|next)"', page(web, path))}

    # Ids 120 to 71, 70 to 21, 20 to 1.
    assert links("/?name=") == {"next": "/?before=71"}
    assert links("/?before=71") == {"prev": "/?", "next": "/?before=21"}
    assert links("/?before=21") == {"prev": "/?before=71"}
    assert links("/?experiment=1&before=21") == {"prev": "/?experiment=1&amp;before=71"}
    assert links("/?before=30") == {"prev": "/?before=80"}  # 30 to 79 are fifty


def test_every_page_leads_past_its_navigation(web: httpx.Client):
    for path in ("/", "/queue", "/datasets", "/docs"):
        html = page(web, path)
        assert re.search(r'<body>\s*<a [^>]*href="#main"', html)
        assert '<main id="main"' in html


def test_the_run_page_shows_epochs_settings_and_worst_images(web: httpx.Client, finished: Callable[..., int]):
    html = page(web, f"/runs/{finished(spec={'name': 'one'})}")
    lines = rows(html)
    assert "1 0.5000 0.4000 0.5000 0.6000 10.0 1.0" in lines
    assert "training.batch_size 4" in lines
    assert html.index("model.filters") < html.index("At their defaults") < html.index("data.shuffle")
    assert any(line.endswith("0.706 0.857 0.600 0.937 10 7 alone") for line in lines)  # 12/17, 6/7, 6/10, 74/79
    assert "/artifacts/weights" in html
    assert "Cancel this run" not in html
    assert "hx-get" not in html
    facts = " ".join(re.sub(r"<[^>]+>", " ", html[html.index('<dl class="facts">') : html.index("</dl>")]).split())
    assert facts.startswith("Lesion Dice, pooled (test) 70.588 % Liver Dice, pooled (test) 93.671 %")
    assert "slices of the test part with the lowest lesion Dice" in html
    assert not any(line.startswith("val ") for line in lines)


def test_the_cancel_button_cancels(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    assert "Cancel this run" in page(web, f"/runs/{run}")
    answer = web.post("/runs/cancel", data={"runs": run}, headers={**HTML, "origin": str(web.base_url).rstrip("/")})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run}")
    assert web.get(f"/v1/runs/{run}").json()["state"] == "cancelled"
    assert web.get(f"/fragments/runs/{run}", headers=HTML).headers["hx-refresh"] == "true"


def test_a_button_pressed_too_late_gives_a_page_with_the_state(web: httpx.Client, finished: Callable[..., int]):
    answer = web.post("/runs/cancel", data={"runs": finished()}, headers=HTML)
    assert answer.status_code == 409
    assert "is succeeded" in answer.text


def test_a_dead_run_can_be_queued_again(web: httpx.Client, dead: int):
    assert "Queue it again" in page(web, f"/runs/{dead}")
    assert web.post("/runs/requeue", data={"runs": dead}).status_code == 303
    assert web.get(f"/v1/runs/{dead}").json()["state"] == "queued"


def test_a_cancelled_run_is_tried_again_as_another_one(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    assert "Try it again" not in page(web, f"/runs/{run}")
    web.post(f"/v1/runs/{run}/cancel")
    assert "Try it again as another run" in page(web, f"/runs/{run}")
    answer = web.post("/runs/retry", data={"runs": run})
    new = web.get(f"/v1/runs/{run}").json()["retries"][0]
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{new}")
    assert f'Tries <a id="retry-of" href="/runs/{run}">run {run}</a> again' in page(web, f"/runs/{new}")
    assert f'Tried again as <a id="retry-{new}" href="/runs/{new}">run {new}</a>' in page(web, f"/runs/{run}")
    told = web.get(f"/v1/runs/{new}").json()
    assert (told["retry_of"], told["state"], told["retries"]) == (run, "queued", [])
    assert web.post(f"/v1/runs/{run}/retry").json()["id"] == new
    several = web.post("/runs/retry", data={"runs": [run, new]}, headers=HTML)
    assert (several.status_code, "is queued, so it cannot be tried again" in several.text) == (409, True)


def test_the_comparison_page_is_table_6(web: httpx.Client, finished: Callable[..., int]):
    first = finished(spec={"name": "a"})
    second = finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}}, dice=0.96, dice_tumor=0.03)
    html = page(web, f"/comparisons?runs={first}&runs={second}")
    lines = rows(html)
    assert "a run 1 2 10.000 90.000 94.595 87.500 80.000 5.000 93.671 70.588 test 8 1 2 of 2" in lines
    assert "The same in all rows: optimizer adam; batch size 4; image size 32; learning rate 0.001." in html
    assert lines.index(next(line for line in lines if line.startswith("a "))) < len(lines) - 1
    assert f"/v1/comparisons?runs={first},{second}&amp;format=csv" in html
    assert re.search(r'class="number finest"><a [^>]*>96\.000', html)
    assert not re.search(r'class="number finest"><a [^>]*>90\.000', html)
    assert not re.search(r'finest"><a [^>]*>[35]\.000', html)  # what a perfect prediction scores low in has no best
    ordered = rows(page(web, f"/comparisons?runs={first},{second}&sort=dice&descending=true"))
    assert [line[:1] for line in ordered[2:4]] == ["b", "a"]
    by_setting = rows(page(web, f"/comparisons?runs={second},{first}&sort=model.filters"))
    assert [line[:1] for line in by_setting[2:4]] == ["a", "b"]
    alone = page(web, f"/comparisons?runs={first}")
    assert "a run 1 10.000 90.000 94.595 87.500 80.000 5.000 93.671 70.588 test 8 1 2 of 2" in rows(alone)
    assert "Parameters" not in rows(alone)[0]


def test_the_comparison_page_switches_by_links_alone(web: httpx.Client, finished: Callable[..., int]):
    first = finished(spec={"name": "a"})
    second = finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}}, counts=(58, 2, 0, 3, 26, 1, 0, 2, 8))
    address = f"/comparisons?runs={first},{second}"
    html = page(web, f"{address}&profile=modern&level=subject&baseline={first}&column=&sort=lesion_dice")
    for link in ("profile=paper-2019&amp;baseline=1", "profile=modern&amp;level=scan&amp;baseline=1", "format=latex"):
        assert f"{address}&amp;{link}".partition("?")[2] in html or link in html
    assert re.search(r'level=subject[^"]*" aria-current="true">subject', html)
    assert f'<option value="{first}" selected>a</option>' in html
    assert "Lesion Dice [%] by subject, against a" in html
    assert "b 1 1 0 13.622 none 1 1 1.00 1" in rows(html)
    assert "2 TP / (2 TP + FP + FN). Empty masks: both empty: left out; one empty: 0" in html
    assert "no interval; the dots are shown" in html
    assert "baseline" in next(line for line in rows(html) if line.startswith("a "))
    assert '<small class="difference better">(+13.622)</small>' in html
    fewer = page(web, f"{address}&baseline={second}")
    assert '<small class="difference worse">(-13.622)</small>' in fewer  # the overview's lesion Dice
    assert page(web, f"{address}&baseline=") == page(web, address)


def test_settings_beyond_a_few_are_folded_so_that_the_scores_are_in_sight(
    web: httpx.Client, finished: Callable[..., int]
):
    own = {"rotation": 5, "scale": 0.1, "shift": 0.1, "brightness": 0.1, "contrast": 0.1, "noise": 0.01}
    first = finished()
    second = finished(
        spec={
            "data": {"image_size": 64, "augmentation": own},
            "model": {"filters": 4, "depth": 3},
            "training": {"batch_size": 2},
        }
    )
    address = f"/comparisons?runs={first},{second}"
    html = page(web, address)
    heads = re.findall(r'title="((?:data|model|training)\.[a-z_.]+)"', html)
    assert len(heads) == 6
    folded = re.search(r'href="([^"]+)">and (\d+) more</a>', html)
    assert folded
    every = page(web, unescape(folded[1]))
    assert len(re.findall(r'title="((?:data|model|training)\.[a-z_.]+)"', every)) == 6 + int(folded[2])
    assert f'href="{escape(address)}">fewer</a>' in every
    assert "settings=all" not in "".join(
        re.findall(r'href="(/v1/[^"]+)"', every)
    )  # what is exported holds all of them
    assert 'title="data.augmentation.noise"' not in html
    assert 'title="data.augmentation.noise"' in page(web, f"{address}&sort=data.augmentation.noise")


def test_a_seed_is_never_the_best(web: httpx.Client, finished: Callable[..., int]):
    for seed, dice in enumerate((0.7, 0.99)):
        finished(spec={"name": "seeds", "training": {"batch_size": 4, "epochs": 2, "seed": seed}}, dice=dice)
    finished(spec={"name": "other", "model": {"filters": 3, "depth": 2}}, dice=0.86)
    html = page(web, "/comparisons?runs=1,2,3")
    assert re.search(r'finest"><a [^>]*>86\.000', html)  # mean of the seeds: 84.5
    assert not re.search(r'finest">(?:<a [^>]*>)?99\.000', html)
    assert "seeds (mean of 2 seeds)" in html
    ordered = [line.split()[0] for line in rows(page(web, "/comparisons?runs=1,2,3&sort=dice&descending=true"))[2:6]]
    assert ordered == ["other", "seeds", "seeds", "seeds"]


def test_names_are_text_everywhere(web: httpx.Client, finished: Callable[..., int]):
    run = finished(spec={"name": HOSTILE, "tags": [HOSTILE], "notes": HOSTILE})
    for path in ("/", f"/runs/{run}", f"/comparisons?runs={run}", "/?name=%3Cscript%3Ealert(1)"):
        html = page(web, path)
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)" in html
    assert ESCAPED in page(web, f"/runs/{run}")


def test_pages_hold_no_inline_script_or_style(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    for path in ("/", f"/runs/{run}", f"/comparisons?runs={run}", "/datasets", "/docs", "/fragments/runs"):
        html = page(web, path)
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html), path


@pytest.mark.parametrize("path", ["/nothing", "/runs/99", "/comparisons?runs=99", "/runs/abc"])
def test_a_browser_gets_a_page_about_what_is_wrong(web: httpx.Client, path: str):
    answer = web.get(path, headers=HTML)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "To the runs" in answer.text


def test_the_docs_name_every_operation_and_field(web: httpx.Client):
    html = page(web, "/docs")
    for words in ("/v1/runs/{run}/cancel", "training.early_stopping.patience", "dataset.id", "adam | sgd | rmsprop"):
        assert words in html
    assert "``" not in html
    assert "<code>move</code>" in html
    assert render.coded("``a`` <b>") == "<code>a</code> &lt;b&gt;"


def test_vendored_scripts_have_their_licences():
    for name in ("htmx", "uplot"):
        assert (render.STATIC / f"{name}.min.js").stat().st_size > 10_000
        assert len((render.STATIC / f"{name}.LICENSE").read_text()) > 500


@pytest.mark.parametrize(("seconds", "shown"), [(None, ""), (0, "0 s"), (75, "1 min 15 s"), (3725, "1 h 02 min")])
def test_duration(seconds: float | None, shown: str):
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(("count", "shown"), [(16, "16 bytes"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB")])
def test_size(count: int, shown: str):
    assert render.size(count) == shown


@pytest.mark.browser
def test_the_pages_live_in_a_browser(
    web: httpx.Client, submit: Callable[..., list[int]], finished: Callable[..., int], browser: Browser
):
    run, home = finished(spec={"name": HOSTILE}), str(web.base_url).rstrip("/")
    tab, complaints = browser.tab(viewport={"width": 390, "height": 800})
    tab.goto(f"{home}/runs/{run}")
    tab.wait_for_selector("#curve canvas")
    tab.goto(home)
    tab.check(f"input[value='{run}']")
    (later,) = submit(spec={"name": "came later"}, reuse=False)
    tab.wait_for_selector(f"input[value='{later}']", timeout=60_000)  # the table renewed itself
    assert tab.is_checked(f"input[value='{run}']")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.click("text=Compare selected")
    assert tab.url.endswith(f"/comparisons?runs={run}")
    tab.goto(f"{home}/runs/{later}")
    tab.click("text=Cancel this run")
    tab.wait_for_selector(".lead .state.cancelled")
    assert complaints == []
