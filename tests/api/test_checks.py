"""Looking for scans of one person: over HTTP, by the command, and on the data set's page."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from store import artifacts
from tests.api.test_figures import size
from tests.api.test_pages import page
from tests.core.test_similarity import packed, write_scan

HOSTILE = "<b>$x"


@pytest.fixture
def twins(web: httpx.Client, tmp_path: Path) -> str:
    """A data set whose scans 0 (train) and 2 (val) show one drawn subject; told to be different people."""
    folder = tmp_path / "twins"
    for scan, (part, seed) in enumerate([("train", 2), ("train", 5), ("val", 2)]):
        write_scan(folder, part, scan, seed, lesions=6 * (scan < 2), noise=scan)
    people = {"0": HOSTILE, "1": "B", "2": "C"}
    (folder / "subjects.json").write_text(json.dumps({"subjects": people}))
    archive, _ = packed(folder)
    answer = web.post("/v1/datasets?name=twins", content=archive.read_bytes())
    assert answer.status_code == 201, answer.text
    assert answer.json()["similarity"] is None
    return "twins"


def test_a_pair_is_found_kept_and_pictured(web: httpx.Client, twins: str):
    assert "Check for scans of one person" in page(web, "/datasets/twins")
    answer = web.post("/v1/datasets/twins/check")
    assert answer.status_code == 200, answer.text
    found = answer.json()["similarity"]
    (pair,) = found["pairs"]
    assert (pair["scans"], pair["parts"], pair["subjects"]) == ([0, 2], ["train", "val"], [HOSTILE, "C"])
    assert (pair["same_subject"], pair["across"]) == (False, True)
    assert pair["score"] > found["threshold"] > found["next"]["score"]
    assert (found["compared"], found["unconfirmed"]) == (3, [])
    assert web.get("/v1/datasets/twins").json()["similarity"] == found
    assert web.get("/v1/datasets").json()["datasets"][0]["similarity"] == found
    width, height = size(web.get("/v1/datasets/twins/pairs/0-2.png"))
    assert (width, height < width) == (720, True)
    assert web.get("/v1/datasets/twins/pairs/0-1.png").status_code == 404
    html = page(web, "/datasets/twins")
    assert "/v1/datasets/twins/pairs/0-2.png" in html
    assert "On both sides of the split: 0 with 2" in html
    assert "Told to be different people: 0 with 2" in html
    assert HOSTILE not in html


def test_people_told_to_be_one_who_do_not_look_alike_are_named(web: httpx.Client, tmp_path: Path):
    for scan, (part, seed) in enumerate([("train", 2), ("val", 5)]):
        write_scan(tmp_path / "two", part, scan, seed)
    (tmp_path / "two" / "subjects.json").write_text('{"subjects": {"0": "A", "1": "A"}}')
    archive, _ = packed(tmp_path / "two")
    web.post("/v1/datasets?name=two", content=archive.read_bytes())
    assert web.post("/v1/datasets/two/check").json()["similarity"]["unconfirmed"] == [[0, 1]]
    html = page(web, "/datasets/two")
    assert "Told to be one person, but not alike: 0 with 1" in html
    assert "in several parts" in html


def test_the_pages_button_checks(web: httpx.Client, twins: str):
    answer = web.post("/datasets/twins/check", headers={"origin": str(web.base_url).rstrip("/")})
    assert (answer.status_code, answer.headers["location"]) == (303, "/datasets/twins")
    assert "Check again" in page(web, "/datasets/twins")
    assert 'href="/datasets/twins"' in page(web, "/datasets")
    assert web.post("/datasets/twins/check", headers={"origin": "http://evil.example"}).status_code == 403


def test_the_command_says_what_it_means(liverseg: Callable[..., object], twins: str):
    told = " ".join(liverseg("dataset", "check", "twins").stdout.split())
    assert told.startswith("Scans Score Best slices Told to be Parts 0 and 2 0.")
    assert "<b>$x and C train and val 1 of 3 pairs of scans score above 0.25; the next one scores 0." in told
    assert "The subjects (told at import) say that these are different people: 0 with 2." in told
    assert "WARNING: on both sides of the split: 0 with 2." in told
    found = json.loads(liverseg("dataset", "check", "twins", "--json").stdout)
    assert found["similarity"]["pairs"][0]["scans"] == [0, 2]
    assert "no such data set" in liverseg("dataset", "check", "nobody", code=2).stderr


def test_what_cannot_be_checked_is_refused(
    web: httpx.Client, phantom: dict, count_rows: Callable[[], dict[str, int]]
):
    answer = web.post("/v1/datasets/phantom/check")  # 32 x 32
    assert answer.status_code == 422
    assert "at least 96 pixels" in answer.json()["detail"]
    assert web.get("/v1/datasets/phantom").json()["similarity"] is None
    assert web.post("/v1/datasets/nobody/check").status_code == 404
    html = page(web, "/datasets/phantom")
    assert "As told at import" in html
    assert web.get("/datasets/nobody", headers={"accept": "text/html"}).status_code == 404


def test_a_data_set_whose_file_is_gone_cannot_be_checked(web: httpx.Client, twins: str):
    from store import datasets
    from store.database import transaction
    from store.models import DEFAULT_PROJECT

    with transaction() as session:
        place = artifacts.locate(datasets.resolve(session, DEFAULT_PROJECT, "twins").artifact)
    place.unlink()
    assert web.post("/v1/datasets/twins/check").status_code == 410
