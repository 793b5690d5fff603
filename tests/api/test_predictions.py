"""Unlabelled slices over HTTP: what is queued, what is refused with nothing stored, and the command around it."""

import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from api.commands.main import main
from liverseg_core.data.png import write_png
from store import artifacts, endings, scores
from store.database import transaction
from store.endings import Ending
from store.models import Run
from store.settings import settings
from tests import processes

Count = Callable[[], dict[str, int]]
PNG = write_png(np.full((5, 7), 9, np.uint8))


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return out.getvalue()


SLICES = zipped({"3_1.png": PNG, "3_2.png": PNG})


def stored() -> set[str]:
    return {path.name for path in settings().artifacts.rglob("*") if path.is_file()}


def test_slices_become_a_queued_run(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    answer = web.post(f"/v1/runs/{run}/predictions", content=SLICES)
    assert answer.status_code == 201, answer.text
    (made,) = answer.json()["runs"]
    assert (made["kind"], made["state"], made["name"]) == ("predict", "queued", f"masks by run {run}")
    with transaction() as session:
        row = session.get_one(Run, made["id"])
        assert row.scored_from == run
        with zipfile.ZipFile(artifacts.locate(row.images)) as kept:
            assert {name: kept.read(name) for name in kept.namelist()} == {"3_1.png": PNG, "3_2.png": PNG}
        assert artifacts.locate(row.weights).read_bytes() == b"weights of a run"
    assert not list(settings().scratch.rglob("*"))


def test_every_damage_is_told_in_words(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    for place in range(0, len(SLICES), 7):
        damaged = bytearray(SLICES)
        damaged[place] ^= 0xFF
        answer = web.post(f"/v1/runs/{run}/predictions", content=bytes(damaged))
        assert answer.status_code in (201, 422), (place, answer.text)  # times of files may be anything
        if answer.status_code == 422:
            assert answer.json()["errors"]
    for size in (0, 10, 100, len(SLICES) - 1):
        assert web.post(f"/v1/runs/{run}/predictions", content=SLICES[:size]).status_code == 422


def test_a_reused_run_stands_for_its_original(web: httpx.Client, finished: Callable[..., int], submit: Any):
    run = finished()
    (again,) = submit()
    assert web.get(f"/v1/runs/{again}").json()["reused_from"] == run
    (made,) = web.post(f"/v1/runs/{again}/predictions", content=SLICES).json()["runs"]
    with transaction() as session:
        assert session.get_one(Run, made["id"]).scored_from == run


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"no zip", "slices.zip"),
        (zipped({}), "slices.zip"),
        (zipped({"a.png": PNG}), "a.png"),
        (zipped({"../3_1.png": PNG}), "../3_1.png"),
        (zipped({"3_1.png": PNG[:-20]}), "3_1.png"),
        (zipped({"3_1.png": PNG, "3_2.png": write_png(np.zeros((7, 5), np.uint8))}), "3_2.png"),
    ],
)
def test_bad_slices_are_refused_and_nothing_is_stored(
    web: httpx.Client, finished: Callable[..., int], count_rows: Count, content: bytes, path: str
):
    run = finished()
    before = count_rows(), stored()
    answer = web.post(f"/v1/runs/{run}/predictions", content=content)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    assert (count_rows() | {"outbox": 0}, stored()) == (before[0] | {"outbox": 0}, before[1])
    assert not list(settings().scratch.rglob("*"))


def test_runs_without_weights_are_refused(web: httpx.Client, finished: Callable[..., int], submit: Any):
    run = finished()
    (made,) = web.post(f"/v1/runs/{run}/predictions", content=SLICES).json()["runs"]
    (queued,) = submit(reuse=False)
    for wanted, words in ((made["id"], "of kind predict"), (queued, "is queued")):
        answer = web.post(f"/v1/runs/{wanted}/predictions", content=SLICES)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["path"], error["received"]) == ("run", wanted)
        assert words in error["message"]
    assert web.post("/v1/runs/999/predictions", content=SLICES).status_code == 404


def test_weights_that_are_gone_are_said_to_be(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    with transaction() as session:
        weights = text("SELECT sha256 FROM artifacts WHERE run_id = :a AND kind = 'weights'")
        artifacts.locate(session.scalar(weights, {"a": run})).unlink()
    answer = web.post(f"/v1/runs/{run}/predictions", content=SLICES)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "run")
    assert "no weights in the store" in answer.text


def test_a_finished_prediction_is_neither_compared_nor_reused(
    web: httpx.Client, finished: Callable[..., int], submit: Any
):
    run = finished()
    (made,) = web.post(f"/v1/runs/{run}/predictions", content=SLICES).json()["runs"]
    finish(made["id"], {})
    for asked in (f"runs={run},{made['id']}", f"experiment={made['experiment']}"):
        answer = web.get(f"/v1/comparisons?{asked}")
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["path"], error["received"]) == ("runs", f"[{made['id']}]")
        assert "no scores" in error["message"]
    (again,) = submit()
    assert web.get(f"/v1/runs/{again}").json()["reused_from"] == run


def finish(run: int, files: dict[str, Path]) -> None:
    """What a worker would do with a prediction."""
    work = processes.claim()
    assert work.claim.run_id == run
    with transaction() as session:
        made = {kind: artifacts.put(path) for kind, path in files.items()}
        assert scores.finish(session, work.claim, [], made, 0, Ending(exit_code=0)) == "succeeded"


# ---- the command ---------------------------------------------------------------------------------------------


def command(api_url: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setenv("LIVERSEG_URL", api_url)
    settings.cache_clear()
    return CliRunner().invoke(main, ["predict", *map(str, words)])


def test_the_command_sends_waits_and_unpacks_under_the_files_own_names(
    finished: Callable[..., int], api_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    run = finished()
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("3_01.png", "3_2.png"):
        (folder / name).write_bytes(PNG)
    masks = {name: write_png(np.full((5, 7), value, np.uint8)) for name, value in (("3_1.png", 0), ("3_2.png", 255))}
    (tmp_path / "made.zip").write_bytes(zipped(masks))

    def work() -> None:
        processes.wait_for("the prediction to be queued", lambda: processes.get_run(run + 1) is not None)
        finish(run + 1, {"masks": tmp_path / "made.zip"})

    worker = threading.Thread(target=work)
    worker.start()
    result = command(api_url, monkeypatch, run, folder, "--json")
    worker.join()
    assert result.exit_code == 0, result.output
    place = tmp_path / "scans-masks"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        "3_01.png": masks["3_1.png"],
        "3_2.png": masks["3_2.png"],
    }
    told = json.loads(result.stdout)
    assert told == {"run": run + 1, "masks": [str(place / "3_01.png"), str(place / "3_2.png")]}


def test_the_command_overwrites_nothing(
    finished: Callable[..., int], api_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count_rows: Count
):
    run, before = finished(), count_rows()
    for folder in ("scans", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "3_1.png").write_bytes(PNG)
    result = command(api_url, monkeypatch, run, tmp_path / "scans", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "not an empty folder" in result.output
    assert (tmp_path / "out" / "3_1.png").read_bytes() == PNG
    assert count_rows()["runs"] == before["runs"]


def test_the_command_tells_why_there_are_no_masks(
    finished: Callable[..., int], api_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    run = finished()
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "3_1.png").write_bytes(PNG)

    def work() -> None:
        processes.wait_for("the prediction to be queued", lambda: processes.get_run(run + 1) is not None)
        claim = processes.claim().claim
        with transaction() as session:
            endings.fail(session, claim, "bad-input", Ending(3, "the weights do not fit"))

    worker = threading.Thread(target=work)
    worker.start()
    result = command(api_url, monkeypatch, run, tmp_path / "scans")
    worker.join()
    assert result.exit_code == 1
    assert "the weights do not fit" in result.output
    assert not (tmp_path / "scans-masks").exists()


def test_one_key_is_one_run(web: httpx.Client, finished: Callable[..., int], count_rows: Count):
    path, headers = f"/v1/runs/{finished()}/predictions", {"Idempotency-Key": "k"}
    first = web.post(path, content=SLICES, headers=headers).json()
    before = [count_rows()[table] for table in ("experiments", "runs", "run_events")]
    assert web.post(path, content=SLICES, headers=headers).json() == first
    other = web.post(path, content=zipped({"3_1.png": PNG}), headers=headers)
    assert (other.status_code, other.json()["errors"][0]["path"]) == (422, "Idempotency-Key")
    assert [count_rows()[table] for table in ("experiments", "runs", "run_events")] == before
