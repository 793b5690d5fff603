"""What a person does in the browser, from an empty form to the pixels behind a number, with a worker that trains."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import factories, processes
from tests.api.conftest import serving
from tests.conftest import Browser

pytestmark = pytest.mark.browser

TINY = {"data.image_size": "32", "model.filters": "2", "model.depth": "2", "training.batch_size": "4"}


@pytest.fixture
def url(database: Path, tmp_path: Path) -> Iterator[str]:
    """The API on a ledger with a phantom, and a worker."""
    factories.import_phantom(tmp_path, size=64)
    with serving(database) as address, processes.worker(tmp_path / "worker.log"):
        yield address


def names(tab: Any) -> list[str]:
    """The rows of the comparison, top down."""
    found: list[str] = tab.eval_on_selector_all(
        "table.comparison > tbody:not(.pinned) > tr > th", "them => them.map(one => one.innerText.split(' ')[0])"
    )
    return found


def apart(difference: str) -> str:
    """A difference as it stands beside a score; nothing where there is none."""
    if not difference:
        return ""
    return f" ({float(difference):+.3f})" if float(difference) else " (0.000)"


def column(tab: Any, heading: str) -> list[str]:
    """The shown values of a column."""
    heads = tab.eval_on_selector_all(
        "table.comparison thead tr:last-child th", "them => them.map(one => one.innerText)"
    )
    place = next(n for n, text in enumerate(heads) if " ".join(text.split()).startswith(heading))
    cells: list[str] = tab.eval_on_selector_all(
        f"table.comparison > tbody:not(.pinned) > tr > :nth-child({place + 1})",
        "them => them.map(one => one.innerText)",
    )
    return cells


def test_from_the_form_to_the_pixels(url: str, browser: Browser) -> None:
    tab, complaints = browser.tab(viewport={"width": 1280, "height": 900})
    beyond: list[str] = []
    tab.on("request", lambda one: beyond.append(one.url) if not one.url.startswith((url, "blob:")) else None)

    # Submit: preview, then the thing itself.
    tab.goto(url)
    tab.click("nav >> text=Submit")
    tab.select_option("select[name='dataset.id']", "phantom")
    for section in ("Data", "Model"):
        tab.click(f"summary:text-is('{section}')")
    for path, text in {**TINY, "name": "journey", "training.epochs": "3"}.items():
        tab.fill(f"[name='{path}']", text)
    tab.fill("textarea[name='vary']", "training.learning_rate=0.001,0.01\nname=slow,fast")
    tab.click("button[value='preview']")
    assert "4 runs, 0 done already" in tab.inner_text("#plan")
    tab.fill("textarea[name='vary']", "training.learning_rate=0.001,0.01")
    tab.click("button[value='preview']")
    assert "2 runs, 0 done already" in tab.inner_text("#plan")
    tab.click("button[value='submit']")
    tab.wait_for_selector("h1:has-text('Runs of experiment 1')")

    # Watch it live: the first run to its end, without a click.
    tab.click("table.runs >> text=journey >> nth=-1")
    run = int(tab.url.rpartition("/")[2])
    tab.wait_for_selector("#curve[data-epochs] canvas", timeout=120_000)
    tab.wait_for_selector(".lead .state.succeeded", timeout=120_000)
    tab.wait_for_selector("#curve[data-epochs='3'] canvas")
    processes.wait_for_end(run % 2 + 1)
    with httpx.Client(base_url=url, timeout=60) as api:
        for one, name in ((1, "slow"), (2, "fast")):
            assert api.patch(f"/v1/runs/{one}", json={"name": name}).status_code == 200

    # Compare, sort, pin, switch the profile: the address holds all of it.
    tab.goto(f"{url}/?experiment=1")
    tab.click("text=Compare the whole experiment")
    assert sorted(names(tab)) == ["fast", "slow"]
    tab.click("thead >> text=Loss")
    losses = [float(text) for text in column(tab, "Loss")]
    assert losses == sorted(losses)
    tab.click("thead >> text=Loss")
    assert [float(text) for text in column(tab, "Loss")] == losses[::-1]
    tab.select_option("select[name='baseline']", label="slow")
    tab.click("form.choose >> text=Show")
    assert "against slow" in tab.inner_text("#statistics")
    for baseline in ("none", "slow"):  # unpinned, and pinned again
        tab.select_option("select[name='baseline']", label=baseline)
        tab.click("form.choose >> text=Show")
        assert sorted(names(tab)) == ["fast", "slow"]
        assert tab.locator("#statistics").count() == (baseline == "slow")
    tab.click("nav >> text=Modern")
    assert "against slow" in tab.inner_text("#statistics")
    state = tab.url
    assert {"profile=modern", "baseline=1"} <= set(re.split("[?&]", state))

    # Another tab on the same address shows the same; what is done there stays there.
    other, more_complaints = browser.tab()
    other.goto(state)
    assert other.inner_text("table.comparison") == tab.inner_text("table.comparison")
    other.click("nav >> text=nnU-Net")
    assert tab.url == state

    # Export: the numbers of the page.
    text = httpx.get(url + tab.get_attribute("text=CSV", "href"), timeout=60).text
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["name"] in ("slow", "fast")]
    dice, less = "Lesion Dice [%]", "Lesion Dice less baseline [%]"
    shown = [" ".join(text.split()) for text in column(tab, "Lesion Dice")]
    assert [row["name"] for row in rows] == names(tab)
    assert [(row[dice] or "\u2013") + apart(row[less]) for row in rows] == shown

    # Two clicks from the table to the pixels, and back by the browser's own button.
    tab.click("table.comparison > tbody:not(.pinned) td a >> nth=0")
    tab.click("table.matrix tbody td a >> nth=0")
    tab.wait_for_selector(".tiles img")
    drawn = "[...document.querySelectorAll('.tiles img')].every(one => one.complete && one.naturalWidth)"
    processes.wait_for("every tile to be drawn", lambda: tab.evaluate(drawn))
    tab.go_back()
    tab.wait_for_selector("table.matrix")
    tab.go_back()
    assert tab.url == state
    assert "against slow" in tab.inner_text("#statistics")

    assert beyond == []
    assert complaints == more_complaints == []


def test_by_keyboard_alone(url: str, browser: Browser) -> None:
    """From the runs to a cancelled one and back, without a pointer."""
    endless = factories.tiny_spec(training={"batch_size": 4, "epochs": 100_000, "early_stopping": {"patience": None}})
    with httpx.Client(base_url=url, timeout=60) as api:
        (run,) = api.post("/v1/experiments", json={"spec": endless, "references": False}).json()["runs"]
    tab, complaints = browser.tab()
    tab.goto(url)
    focus(tab, lambda one: one["href"] == f"/runs/{run['id']}")
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**/runs/{run['id']}")
    focus(tab, lambda one: one["text"] == "Cancel this run")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".lead .state.cancelled", timeout=60_000)
    focus(tab, lambda one: one["text"] == "Queue")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("h1:has-text('Queue and workers')")
    assert complaints == []


def focus(tab: Any, wanted: Any) -> None:
    """Press Tab until what has the focus is wanted; what has it must be seen to have it."""
    script = """() => {
        const one = document.activeElement;
        return {text: one.innerText, href: one.getAttribute("href"), outline: getComputedStyle(one).outlineStyle};
    }"""
    for _ in range(80):
        tab.keyboard.press("Tab")
        now = tab.evaluate(script)
        if wanted(now):
            assert now["outline"] != "none"
            return
    raise AssertionError("eighty times Tab lead nowhere")
