"""Figures over HTTP and by the command, from files in the store; the check of a data set, and their pages."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from store import artifacts, datasets, scores
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.queue import Work
from tests import factories
from tests.api.test_pages import page


def size(answer: httpx.Response) -> tuple[int, int]:
    """Width and height of a PNG answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        return image.size


@pytest.fixture
def run(submit: Callable[..., list[int]], claim: Callable[[], Work], tmp_path: Path) -> int:
    """A finished run with two epochs, scores and probability maps."""
    (run,) = submit(reuse=False)
    work = claim()
    evaluated = [one for one in work.manifest.slices if one.part != "train"]
    random = np.random.default_rng(0)
    maps = {f"{one.part}/{one.key}": random.integers(0, 65536, (32, 32), np.uint16) for one in evaluated}
    np.savez_compressed(tmp_path / "maps.npz", **maps)
    (tmp_path / "events").write_bytes(b"events")
    for epoch in (1, 2):
        with transaction() as session:
            factories.store_epoch(session, work.claim, factories.epoch_record(epoch), {"epoch": epoch})
    with transaction() as session:
        made = [factories.slice_score(one.part, one.scan, one.slice) for one in evaluated]
        files = {
            "probabilities": artifacts.put(tmp_path / "maps.npz"), "tensorboard": artifacts.put(tmp_path / "events")
        }  # fmt: skip
        scores.finish(session, work.claim, made, files, 2, Ending(exit_code=0))
    return run


def test_every_figure_of_a_run_is_a_picture(web: httpx.Client, run: int):
    assert size(web.get(f"/v1/runs/{run}/figures/curves.png")) == (1036, 619)
    # A page's text width, 7.2 inches at 200 dots; of the four parts two train, one validates: scan 2, one tests.
    one = web.get(f"/v1/runs/{run}/images/val/2_3/figure.png")
    assert size(one)[0] == 1440
    assert one.content == web.get(f"/v1/runs/{run}/images/val/2_3/figure.png?kind=six").content
    assert one.content != web.get(f"/v1/runs/{run}/images/val/2_4/figure.png").content
    assert size(web.get(f"/v1/runs/{run}/images/test/3_0/figure.png?kind=four"))[1] < 500
    worst = web.get(f"/v1/runs/{run}/figures/worst.png?kind=four&rows=3")
    assert size(worst)[1] > 2 * 300


def test_a_reused_run_shows_its_originals_figures(web: httpx.Client, run: int, submit: Callable[..., list[int]]):
    (again,) = submit()
    assert web.get(f"/v1/runs/{again}").json()["reused_from"] == run
    paths = ("figures/curves.png", "figures/worst.png?rows=1", "images/val/2_3/figure.png")
    for path in paths:
        assert web.get(f"/v1/runs/{again}/{path}").content == web.get(f"/v1/runs/{run}/{path}").content


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("runs/99/figures/curves.png", 404),
        ("runs/99/figures/worst.png", 404),
        ("runs/99/images/val/2_3/figure.png", 404),
        ("runs/{run}/images/val/2_99/figure.png", 404),
        ("runs/{run}/images/train/0_0/figure.png", 404),
        ("runs/{run}/images/other/0_0/figure.png", 422),
        ("runs/{run}/images/val/..%2F..%2Fetc/figure.png", 404),
        ("runs/{run}/images/val/abc/figure.png", 422),
        ("runs/{run}/images/val/2_3/figure.png?kind=five", 422),
        ("runs/{run}/figures/worst.png?rows=13", 422),
        ("runs/{run}/figures/worst.png?rows=0", 422),
        ("runs/{run}/figures/curves.png?kind=six", 422),
        ("datasets/nobody/figures/histogram.png", 404),
        ("datasets/phantom/figures/histogram.png?by=person", 422),
        ("datasets/phantom/pairs/0-1.png", 404),
        ("datasets/phantom/pairs/one.png", 422),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(web: httpx.Client, run: int, path: str, status: int):
    answer = web.get(f"/v1/{path.format(run=run)}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_run_without_epochs_or_maps_has_no_such_figures(web: httpx.Client, submit: Callable[..., list[int]]):
    (queued,) = submit()
    told = web.get(f"/v1/runs/{queued}/figures/curves.png")
    assert (told.status_code, "no epoch" in told.json()["detail"]) == (404, True)
    assert web.get(f"/v1/runs/{queued}/figures/worst.png").status_code == 404


def test_a_run_that_kept_no_maps_says_so(web: httpx.Client, finished: Callable[..., int]):
    told = web.get(f"/v1/runs/{finished()}/figures/worst.png")
    assert (told.status_code, "kept no probability maps" in told.json()["detail"]) == (404, True)


@pytest.mark.parametrize("kind", ["probabilities", "data set"])
@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_file_that_is_gone_or_torn_is_said_to_be(web: httpx.Client, run: int, kind: str, content: bytes | None):
    with transaction() as session:
        dataset = datasets.resolve(session, DEFAULT_PROJECT, "phantom").artifact
    found = {one["kind"]: one["sha256"] for one in web.get(f"/v1/runs/{run}/artifacts").json()["artifacts"]}
    place = artifacts.locate(found.get(kind, dataset))
    place.unlink()
    if content:
        place.write_bytes(content)
    for path in ("images/val/2_3/figure.png", "figures/worst.png?kind=four"):
        answer = web.get(f"/v1/runs/{run}/{path}")
        assert answer.status_code == 410, answer.text
    place.unlink(missing_ok=True)


def test_the_event_file_has_a_name_that_tensorboard_opens(web: httpx.Client, run: int):
    header = web.get(f"/v1/runs/{run}/artifacts/tensorboard").headers["content-disposition"]
    assert header == f'attachment; filename="events.out.tfevents.run-{run}"'


def test_the_histogram_is_by_scan_or_by_subject(web: httpx.Client, run: int):
    by_scan = web.get("/v1/datasets/phantom/figures/histogram.png")
    assert size(by_scan) == (1238, 576)
    assert web.get("/v1/datasets/phantom/figures/histogram.png?by=subject").content != by_scan.content


def test_the_run_page_leads_to_its_images(web: httpx.Client, run: int):
    html = page(web, f"/runs/{run}")
    assert f"/v1/runs/{run}/figures/worst.png?kind=six&amp;rows=6" in html
    assert f'href="/v1/runs/{run}/figures/curves.png"' in html
    assert set(re.findall(rf'href="/runs/{run}/images/(\w+)/\d+_\d+"', html)) == {"test"}
    one = page(web, f"/runs/{run}/images/val/2_3")
    assert f"/v1/runs/{run}/images/val/2_3/figure.png?kind=four" in one
    assert f'href="/runs/{run}/images/val/2_2" rel="prev"' in one
    assert f'href="/runs/{run}/images/val/2_4" rel="next"' in one
    assert "0.706" in one  # lesion Dice 2 * 6 / (2 * 6 + 1 + 4)
    assert 'rel="prev"' not in page(web, f"/runs/{run}/images/val/2_0")
    assert 'rel="next"' not in page(web, f"/runs/{run}/images/val/2_7")
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html + one))
    assert web.get(f"/runs/{run}/images/val/2_99", headers={"accept": "text/html"}).status_code == 404


def test_the_command_writes_figures(liverseg: Callable[..., object], run: int, tmp_path: Path):
    out = tmp_path / "figure.png"
    for words in ([], ["--kind", "four"], ["--kind", "six", "--worst", 1], ["--kind", "six", "--image", "val/2_3"]):
        assert liverseg("figure", run, *words, "--out", out).stdout == f"wrote {out}\n"
        assert out.read_bytes().startswith(b"\x89PNG")
        out.unlink()
    for words in (["--image", "val/2_3"], ["--kind", "six", "--image", "val/2_3", "--worst", 2]):
        liverseg("figure", run, *words, "--out", out, code=2)
    assert (
        "must be part, scan and slice"
        in liverseg("figure", run, "--kind", "six", "--image", "../1", "--out", out, code=2).stderr
    )
    assert (
        "no such evaluated slice"
        in liverseg("figure", run, "--kind", "six", "--image", "val/9_9", "--out", out, code=2).stderr
    )
    refused = liverseg("figure", run, "--out", tmp_path / "figure.jpg", code=2).stderr
    assert "--out': must end in .png, since that is what is written. Received: " in refused
    assert list(tmp_path.glob("*figure*")) == []


def test_a_run_that_is_not_done_has_no_slices_to_show(
    liverseg: Callable[..., object], submit: Callable[..., list[int]], tmp_path: Path
):
    (queued,) = submit()
    words = ("figure", queued, "--kind", "six", "--out", tmp_path / "figure.png")
    assert f"run {queued} is queued; only succeeded runs have evaluated slices" in liverseg(*words, code=2).stderr


def test_the_command_draws_the_histogram(
    liverseg: Callable[..., object], phantom: dict[str, Any], web: httpx.Client, tmp_path: Path
):
    for by in ("scan", "subject"):
        out = tmp_path / f"{by}.png"
        assert liverseg("dataset", "histogram", "phantom", "--by", by, "--out", out).stdout == f"wrote {out}\n"
        drawn = web.get("/v1/datasets/phantom/figures/histogram.png", params={"by": by})
        assert out.read_bytes() == drawn.content
    out = tmp_path / "none.png"
    assert "no such data set" in liverseg("dataset", "histogram", "nowhere", "--out", out, code=2).stderr
    assert not out.exists()
