"""Every page in a browser, light and dark, wide and narrow: nothing that axe calls serious, nothing in the console,
no request beyond the server, no page wider than its window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.api.test_two_projects import finish
from tests.conftest import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def everything(
    web: httpx.Client, submit: Callable[..., list[int]], finished: Callable[..., int], tmp_path: Path
) -> dict[str, str]:
    """A ledger with something for every page; name -> address."""
    first = finished(spec={"name": "first"})
    second = finished(spec={"name": "second", "model": {"filters": 3, "depth": 2}}, dice=0.96)
    (mapped,) = submit(spec={"name": "with maps", "notes": "what it is for", "tags": ["a", "b"]}, reuse=False)
    finish(mapped, tmp_path)
    (waits,) = submit(spec={"name": "waits"}, reuse=False)
    frozen = web.post("/v1/comparisons/frozen", json={"runs": [first, second]}).json()
    runs = f"runs={first},{second},{mapped}"
    return {
        "runs": "/",
        "no run": "/?name=nobody",
        "run": f"/runs/{mapped}",
        "waiting run": f"/runs/{waits}",
        "comparison": f"/comparisons?{runs}&baseline={first}&profile=modern",
        "frozen comparison": frozen["address"],
        "frozen comparisons": "/comparisons/frozen",
        "images by runs": f"/comparisons/images?{runs}",
        "image": f"/runs/{mapped}/images/val/2_3",
        "images side by side": f"/comparisons/images/val/2_3?{runs}",
        "data sets": "/datasets",
        "data set": "/datasets/phantom",
        "queue": "/queue",
        "submit": f"/submit?run={first}",
        "deletion": f"/runs/{first}/deletion?what=run",
        "documentation": "/docs",
        "nothing": "/nowhere",
    }


TOO_WIDE = """(width) => {
    const wide = document.documentElement.scrollWidth;
    const beyond = [...document.querySelectorAll("main *")]
        .filter((one) => one.getBoundingClientRect().right > width && !one.closest(".scroll, pre"))
        .map((one) => `too wide: ${one.outerHTML.slice(0, 100)}`);
    return wide <= width ? [] : [`the page is ${wide} pixels wide`, ...beyond.slice(0, 3)];
}"""


def serious(page: Any) -> list[str]:
    """What axe finds serious or worse: rule and the first place."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_usable_by_everybody(
    web: httpx.Client, everything: dict[str, str], browser: Browser, scheme: str
):
    home, wrong = str(web.base_url).rstrip("/"), {}
    for name, path in everything.items():
        for width in (1280, 390):
            tab, complaints = browser.tab(viewport={"width": width, "height": 800}, color_scheme=scheme)
            beyond: list[str] = []
            tab.on("request", lambda one, to=beyond: to.append(one.url) if not one.url.startswith(home) else None)
            tab.goto(home + path)
            tab.wait_for_load_state("networkidle") if width == 1280 else None
            problems = [*beyond, *(one for one in complaints if name != "nothing" or "404" not in one)]
            problems += tab.evaluate(TOO_WIDE, width)
            problems += serious(tab) if width == 1280 else []
            if problems:
                wrong[f"{name}, {width}"] = problems
            tab.close()
    assert wrong == {}
