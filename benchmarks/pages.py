"""What people look at on ledgers of growing size: lists, search, comparisons, images by runs, pages in a browser.

    python benchmarks/pages.py                      100, 1,000 and 10,000 runs of 500 images, one after another
    python benchmarks/pages.py --plot docs/scale.png --plans docs/query-plans.md

Each ledger is filled by ``benchmarks/filling.py`` in a throw-away home; the API, as it is shipped, is asked over
HTTP by one client. Every number is the p95 of several requests, the first one of its kind left out.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from store import bundled, schema
from store.database import engine
from store.settings import settings

sys.path.insert(0, str(Path(__file__).parent))
from filling import fill
from machine import durability, machine, throw_away_home
from plans import plans
from server import milliseconds, serving
from targets import TARGETS, mention, p95, tell

SIZES = (100, 1_000, 10_000)
REPEATS = 20
COMPARED, BY_IMAGE = 100, 50

Measured = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--plot", type=Path, help="also draw how each operation grows, as a PNG")
    parser.add_argument("--plans", type=Path, help="also write the plans of the hottest queries, as Markdown")
    chosen = parser.parse_args()
    print(machine())
    grown = {runs: measured(runs, chosen.plans if runs == max(chosen.runs) else None) for runs in sorted(chosen.runs)}
    largest = max(grown)
    print(f"on {largest:,} runs of 500 images:")
    for key, value in grown[largest].items():
        others = ", ".join(f"{one[key]:.0f} on {runs:,}" for runs, one in grown.items() if runs != largest)
        tell(key, value, others)
    if chosen.plot:
        draw(grown, chosen.plot)


def measured(runs: int, explained: Path | None = None) -> Measured:
    """Every operation on a ledger of so many runs; ``explained``: where to write its query plans."""
    with throw_away_home() as home:
        settings.cache_clear()
        postgres, valkey = bundled.start_postgres(home), bundled.start_valkey(home)
        try:
            schema.upgrade()
            began = time.monotonic()
            fill(runs)
            mention(f"a ledger of {runs:,} runs filled", time.monotonic() - began, "s", durability())
            with serving() as (process, url), httpx.Client(base_url=url, timeout=120) as client:
                found = dict(operations(client))
                found["interactive"] = interactive(url)
                found["memory"] = psutil.Process(process.pid).memory_full_info().pss / 2**20
            if explained:
                explained.write_text(plans(runs))
            return found
        finally:
            engine().dispose()
            engine.cache_clear()  # the next ledger has a server of its own
            valkey.stop()
            postgres.stop()


def operations(client: httpx.Client) -> Iterator[tuple[str, float]]:
    """Key of the target -> milliseconds."""
    newest = client.get("/v1/runs", params={"limit": 1, "state": "succeeded"}).json()["runs"][0]["id"]
    ended = succeeded(client, COMPARED)
    many, fewer = ",".join(map(str, ended)), ",".join(map(str, ended[:BY_IMAGE]))
    yield "list", several(client, "/v1/runs?limit=50", f"/v1/runs?limit=50&before={newest // 2 + 1}", "/?")
    yield "search", several(client, "/v1/runs?name=filters+8", "/v1/runs?name=nowhere", "/?state=failed&name=rate")
    yield "compare", several(client, f"/v1/comparisons?profile=modern&runs={many}")
    yield "tested", several(client, f"/v1/comparisons?profile=modern&runs={many}&baseline={ended[0]}")
    yield "matrix", several(client, f"/v1/comparisons/images?limit=500&runs={fewer}")
    yield "window", several(client, f"/comparisons/images?runs={fewer}&baseline={ended[0]}")
    yield "run", several(client, f"/runs/{newest}")


def succeeded(client: httpx.Client, most: int) -> list[int]:
    """The newest finished runs, as many as there are."""
    found = client.get("/v1/runs", params={"state": "succeeded", "kind": "train", "limit": most}).json()["runs"]
    return [run["id"] for run in found]


def several(client: httpx.Client, *paths: str) -> float:
    """p95 of the milliseconds of requests to each of ``paths`` in turn."""
    times = []
    for number in range(REPEATS + 1):
        for path in paths:
            took = milliseconds(lambda path=path: ask(client, path))
            times += [took] if number else []
    return p95(times)


def ask(client: httpx.Client, path: str) -> None:
    page = {} if path.startswith("/v1/") else {"accept": "text/html"}
    client.get(path, headers=page).raise_for_status()


def interactive(url: str) -> float:
    """From the response to an interactive page in chromium, the slowest of the pages, each the median of three."""
    from playwright.sync_api import sync_playwright

    words = "--no-sandbox --disable-gpu --no-first-run --disable-sync --disable-background-networking"
    script = (
        "() => { const t = performance.getEntriesByType('navigation')[0]; return t.domInteractive - t.responseEnd }"
    )
    slowest = 0.0
    with sync_playwright() as playwright, httpx.Client(base_url=url, timeout=120) as client:
        ended = succeeded(client, COMPARED)
        many, fewer = ",".join(map(str, ended)), ",".join(map(str, ended[:BY_IMAGE]))
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=words.split())
        for path in ("/", f"/comparisons?runs={many}", f"/comparisons/images?runs={fewer}"):
            tab, times = chromium.new_page(), []
            for _ in range(3):
                tab.goto(url + path)
                times.append(float(tab.evaluate(script)))
            slowest = max(slowest, statistics.median(times))
            tab.close()
        chromium.close()
    return slowest


def draw(grown: dict[int, Measured], file: Path) -> None:
    """How each operation grows with the number of runs; dashed where its target is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [key for key in next(iter(grown.values())) if TARGETS[key].unit == "ms"]
    figure = Figure(figsize=(3.1 * 4, 2.6 * -(-len(keys) // 4)), layout="constrained")
    for place, key in enumerate(keys, 1):
        axes = figure.add_subplot(-(-len(keys) // 4), 4, place)
        sizes = list(grown)
        axes.plot(sizes, [grown[size][key] for size in sizes], marker="o", color="#2468b4")
        axes.axhline(TARGETS[key].bound, color="#b3261e", linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="runs", ylabel="ms", title=TARGETS[key].what.removesuffix(", p95"))
        axes.set_ylim(0, 1.1 * max(TARGETS[key].bound, *(grown[size][key] for size in sizes)))
        axes.title.set_fontsize(8)
    FigureCanvasAgg(figure).print_png(str(file))


if __name__ == "__main__":
    main()
