import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest

from liverseg_core.data.archive import read_archive
from liverseg_core.spec import ModelOptions
from liverseg_core.weights import read_weights
from store import artifacts
from store.database import transaction
from store.models import Dataset, Run
from store.settings import settings
from tests import factories
from tests.api.conftest import serving
from tests.factories import tiny_spec


def test_a_data_set_is_imported_once(web: httpx.Client, archive: Path, count_rows: Callable[[], dict[str, int]]):
    manifest = read_archive(archive)
    answer = web.post("/v1/datasets?name=first", content=archive.read_bytes())
    assert answer.status_code == 201
    made = answer.json()
    assert (made["name"], made["content_hash"]) == ("first", manifest.content_hash)
    assert (made["height"], made["width"]) == (32, 32)
    for part in manifest.parts:
        scans = manifest.scans(part)
        slices = sum(entry.part == part for entry in manifest.slices)
        people = len({manifest.subjects[scan] for scan in scans})
        assert made["parts"][part] == {"scans": len(scans), "slices": slices, "subjects": people}
    again = web.post("/v1/datasets?name=first", content=archive.read_bytes())
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert count_rows()["datasets"] == 1
    assert not list(settings().scratch.rglob("*"))


def test_data_sets_are_found_by_name_and_by_hash(web: httpx.Client, phantom: dict[str, Any]):
    assert web.get("/v1/datasets").json()["datasets"] == [phantom]
    assert web.get("/v1/datasets/phantom").json() == phantom
    assert web.get(f"/v1/datasets/{phantom['content_hash'][:8]}").json() == phantom
    answer = web.get("/v1/datasets/nope")
    assert (answer.status_code, answer.json()["errors"][0]["received"]) == (404, "nope")


def test_weights_become_a_queued_evaluation(web: httpx.Client, phantom: dict[str, Any], tmp_path: Path):
    content = factories.keras_file(2, 2)
    answer = web.post("/v1/weights", params={"spec": json.dumps(tiny_spec(name="printed"))}, content=content)
    assert answer.status_code == 201, answer.text
    (run,) = answer.json()["runs"]
    assert (run["kind"], run["state"], run["name"]) == ("evaluate", "queued", "printed")
    beside = [one["predictor"] for one in web.get("/v1/runs", params={"kind": "reference"}).json()["runs"]]
    assert sorted(beside) == ["empty", "liver-as-lesion", "perfect", "shifted"]
    with transaction() as session:
        stored = session.get_one(Run, run["id"]).weights
    assert stored is not None
    assert artifacts.intact(stored)
    arrays = read_weights(artifacts.locate(stored), ModelOptions(filters=2, depth=2))
    with h5py.File(io.BytesIO(content)) as file:
        np.testing.assert_array_equal(arrays[0], file["encoder1_conv1/kernel"][()])
    assert not list(settings().scratch.rglob("*"))


def pieces(total: int) -> Any:
    for _ in range(total // 65536):
        yield bytes(65536)


@pytest.mark.parametrize("known_length", [True, False])
def test_uploads_and_bodies_have_a_largest_size(
    database: Path, count_rows: Callable[[], dict[str, int]], known_length: bool
):
    before = count_rows()
    with (
        serving(database, LIVERSEG_MAX_UPLOAD_MB="1") as url,
        httpx.Client(base_url=url, timeout=60) as web,
    ):
        for path in ("/v1/datasets?name=big", "/v1/experiments"):
            content = bytes(3 << 20) if known_length else pieces(3 << 20)
            answer = web.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["errors"][0]["path"] == "body"
    assert count_rows() == before
    assert not list(settings().scratch.rglob("*"))


def test_importing_again_brings_a_lost_or_damaged_file_back(
    web: httpx.Client, archive: Path, phantom: dict[str, Any]
):
    with transaction() as session:
        place = artifacts.locate(session.get_one(Dataset, phantom["id"]).artifact)
    for harm in (place.unlink, lambda: place.write_bytes(b"torn")):
        harm()
        assert web.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 200
        assert artifacts.intact(place.name)
