"""Tiles of the image page through HTTP: slices of 512 pixels a side, maps of 256, one request after another.

    python benchmarks/overlays.py

A throw-away home with the bundled Postgres and Valkey, the API as it is shipped, a drawn data set, and runs whose
maps are the truth with noise. No tile is asked for twice, so that each is drawn; what a browser holds already is
asked for again to see what that costs.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from scipy import ndimage

from liverseg_core.data.archive import pack_folder
from liverseg_core.data.manifest import SliceEntry
from liverseg_core.data.pixels import labels_of, open_archive
from liverseg_core.maps import decode
from liverseg_core.metrics import FULL, count_3x3, enlarge_nearest
from liverseg_core.phantom import draw_phantom
from liverseg_core.records import SliceScore
from store import artifacts, queue, scores
from store.database import transaction
from store.endings import Ending

sys.path.insert(0, str(Path(__file__).parent))
from machine import ledger, machine
from server import milliseconds, serving
from targets import mention, p95, tell

SUBJECTS, SLICES, RUNS = 4, 20, 4
QUERIES = [
    f"ground=none&style={style}&label={label}" for style in ("fill", "contour") for label in ("lesion", "liver")
]


def main() -> None:
    print(machine())
    with ledger() as home, tempfile.TemporaryDirectory() as folder:
        draw_phantom(Path(folder) / "phantom", subjects=SUBJECTS, slices=SLICES, size=512)
        archive = Path(folder) / "phantom.zip"
        pack_folder(Path(folder) / "phantom", archive)
        with serving() as (process, url), httpx.Client(base_url=url, timeout=60) as client:
            client.post("/v1/datasets?name=drawn", content=archive.read_bytes()).raise_for_status()
            runs = [finished(client, archive, Path(home) / "maps.npz", seed) for seed in range(RUNS)]
            rows = client.get(f"/v1/runs/{runs[0]}/images").json()["images"]
            measure(client, process.pid, runs, [f"{row['part']}/{row['scan']}_{row['slice']}" for row in rows])


def measure(client: httpx.Client, pid: int, runs: list[int], images: list[str]) -> None:
    def tile(run: int, image: str, query: str, tag: str = "") -> httpx.Response:
        path = f"/v1/runs/{run}/images/{image}/overlay.png?{query}"
        return client.get(path, headers={"if-none-match": tag}).raise_for_status()

    tile(runs[0], images[0], "show=prediction")  # NumPy and Pillow are loaded by the first
    asked = [(run, image, QUERIES[(place + run) % 4]) for run in runs for place, image in enumerate(images)]
    assert len(asked) >= 100
    told: list[httpx.Response] = []
    before = psutil.Process(pid).cpu_times()
    times = [milliseconds(lambda one=one: told.append(tile(*one))) for one in asked]
    after = psutil.Process(pid).cpu_times()
    cpu = 1000 * (after.user + after.system - before.user - before.system) / len(asked)
    tell(
        "tile",
        p95(times),
        f"n {len(times)}, median {statistics.median(times):.1f}, worst {max(times):.1f}; {cpu:.1f} of CPU time each, "
        f"{statistics.mean(len(one.content) for one in told) / 1024:.0f} KiB each",
    )
    for what, query in (("the scan", "show=scan"), ("the colours over the scan, in one", "show=prediction")):
        own = [milliseconds(lambda one=one, query=query: tile(runs[1], one, query)) for one in images]
        mention(f"{what}, p95", p95(own), "ms", f"n {len(own)}")
    again = [
        milliseconds(
            lambda one=one, tag=answer.headers["etag"]: client.get(url_of(one), headers={"if-none-match": tag})
        )
        for one, answer in zip(asked, told, strict=True)
    ]
    mention("a tile that the browser holds, p95", p95(again), "ms", f"n {len(again)}")
    ids = ",".join(map(str, runs))
    pages = [milliseconds(lambda one=one: page(client, one, ids)) for one in images]
    mention(f"the page of {len(runs)} runs, p95", p95(pages), "ms", f"n {len(pages)}")


def url_of(asked: tuple[int, str, str]) -> str:
    run, image, query = asked
    return f"/v1/runs/{run}/images/{image}/overlay.png?{query}"


def page(client: httpx.Client, image: str, ids: str) -> None:
    client.get(f"/comparisons/images/{image}?runs={ids}", headers={"accept": "text/html"}).raise_for_status()


def finished(client: httpx.Client, archive: Path, maps: Path, seed: int) -> int:
    """A run that predicted the truth, blurred and with noise; its id."""
    spec = {"dataset": {"id": "drawn"}, "training": {"seed": seed}}
    answer = client.post("/v1/experiments", json={"spec": spec, "references": False}).raise_for_status()
    with transaction() as session:
        work = queue.claim(session, "default", "bench", "bench", 600)
    assert work
    random, drawn, rows = np.random.default_rng(seed), {}, []
    with open_archive(archive) as bundle:
        for entry in work.manifest.slices:
            if entry.part != "train":
                u, row = predicted(random, labels_of(bundle, entry), entry)
                drawn[f"{entry.part}/{entry.key}"] = u
                rows.append(row)
    np.savez_compressed(maps, **drawn)
    with transaction() as session:
        scores.finish(session, work.claim, rows, {"probabilities": artifacts.put(maps)}, 1, Ending(exit_code=0))
    return int(answer.json()["runs"][0]["id"])


def predicted(random: np.random.Generator, truth: Any, entry: SliceEntry) -> tuple[Any, SliceScore]:
    levels = np.array([0, 0.498, 0.99])[truth[::2, ::2]]
    noise = ndimage.gaussian_filter(random.normal(0, 1, levels.shape), 3)
    u = np.rint(np.clip(ndimage.gaussian_filter(levels, 1.2) * (1 + noise), 0, 0.999) * FULL).astype(np.uint16)
    counts = count_3x3(truth, enlarge_nearest(decode(u), truth.shape))
    return u, SliceScore(entry.part, entry.scan, entry.slice, counts, counts, 0, 0, 0, 0.0, 0.0, 0.0)


if __name__ == "__main__":
    main()
