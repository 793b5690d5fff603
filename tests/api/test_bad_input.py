"""What cannot be used is refused with path, what was received and what to do; and nothing is written."""

import contextlib
import io
import json
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest

from store.settings import settings
from tests.factories import tiny_spec

Count = Callable[[], dict[str, int]]


def spec(**sections: Any) -> dict[str, Any]:
    return {"spec": tiny_spec() | sections}


def training(**values: Any) -> dict[str, Any]:
    return spec(training={"batch_size": 4, "epochs": 2, **values})


BODIES: dict[str, tuple[Any, str, Any, str]] = {
    # name: (body, path, received, words of the remedy)
    "no spec": ({}, "spec", {}, "required"),
    "unknown key of the body": ({**spec(), "seed": 3}, "seed", 3, "no such field"),
    "unknown section": (spec(modle={}), "modle", {}, "no such field"),
    "unknown setting": (training(lr=0.1), "training.lr", 0.1, "no such field"),
    "text for a number": (training(learning_rate="fast"), "training.learning_rate", "fast", "valid number"),
    "number as text": (training(epochs="3"), "training.epochs", "3", "valid integer"),
    "fraction for a count": (training(epochs=2.5), "training.epochs", 2.5, "valid integer"),
    "negative rate": (training(learning_rate=-0.001), "training.learning_rate", -0.001, "greater than 0"),
    "rate of zero": (training(learning_rate=0), "training.learning_rate", 0, "greater than 0"),
    "rate NaN": (training(learning_rate=float("nan")), "training.learning_rate", "nan", "finite"),
    "rate infinite": (training(learning_rate=float("inf")), "training.learning_rate", "inf", "finite"),
    "no epochs": (training(epochs=0), "training.epochs", 0, "greater than or equal to 1"),
    "unknown optimizer": (training(optimizer="lion"), "training.optimizer", "lion", "'adam'"),
    "batch of more than there is": (training(batch_size=4000), "training.batch_size", 4000, "at most"),
    "filters 0": (spec(model={"filters": 0}), "model.filters", 0, "greater than or equal to 1"),
    "size that cannot be pooled": (
        spec(data={"image_size": 250}, model={"depth": 4}),
        "spec",
        None,
        "divisible by 16",
    ),
    "size as a flag": (spec(data={"image_size": True}), "data.image_size", True, "valid integer"),
    "unknown data set": (spec(dataset={"id": "nope"}), "dataset.id", "nope", "liverseg dataset list"),
    "folds of an axis without values": (
        {**spec(), "folds": "subject", "grid": {"name": []}},
        "grid.name",
        "[]",
        "list",
    ),
    "no data set": ({"spec": {}}, "dataset", {}, "required"),
    "nothing left to train on": (
        spec(dataset={"id": "phantom", "exclude": {"scans": list(range(2))}}),
        "dataset.exclude",
        None,
        "exclude less",
    ),
    "excluding what is not there": (
        spec(dataset={"id": "phantom", "exclude": {"scans": [99]}}),
        "dataset.exclude.scans",
        [99],
        "",
    ),
    "split without lists": (
        spec(dataset={"id": "phantom", "split": {"kind": "scans"}}),
        "dataset.split",
        {"kind": "scans"},
        "train and a val list",
    ),
    "empty axis": ({**spec(), "grid": {"training.seed": []}}, "grid.training.seed", [], "at least one value"),
    "no seeds": ({**spec(), "seeds": []}, "seeds", [], "at least one seed"),
    "negative seeds": ({**spec(), "seeds": -1}, "seeds", -1, ""),
    "a grid of a thousand million cells": (
        {**spec(), "grid": {f"training.{axis}": list(range(1000)) for axis in ("seed", "epochs", "batch_size")}},
        "grid",
        10**9,
        "make the grid smaller",
    ),
    "grid over what does not exist": ({**spec(), "grid": {"training.lr": [1]}}, "training.lr", 1, "no such field"),
    "grid below a value": ({**spec(), "grid": {"dataset.id.x": [1]}}, "dataset.id.x", "phantom", "not a section"),
    "variant that is no object": ({**spec(), "variants": [3]}, "variants.0", 3, "dictionary"),
    "NUL in a name": (spec(name="a\0b"), "name", "a\0b", "cannot be stored"),
    "half a character": (spec(name="a\ud800b"), "name", "a\\ud800b", "cannot be stored"),
    "name too long": (spec(name="x" * 201), "name", None, "200"),
    "reuse as text": ({**spec(), "reuse": "yes"}, "reuse", "yes", "boolean"),
    "notes as a list": (spec(notes=["a"]), "notes", "['a']", "valid string"),
    "very deep": ({**spec(), "grid": {"notes": [json.loads("[" * 60 + "]" * 60)]}}, None, None, "flatter"),
    "a list": ([1, 2], "body", "[1, 2]", "dictionary"),
}


def check(answer: Any, path: str | None, received: Any, remedy: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert problem["title"]
    error = problem["errors"][0]
    assert error.keys() == {"path", "message", "received"}
    if path is not None:
        assert error["path"] == path
        assert path in problem["detail"]
    assert remedy in error["message"]
    if received is not None:
        assert error["received"] in (received, repr(received))
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("case", BODIES, ids=lambda name: name.replace(" ", "-"))
def test_a_bad_submission(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, case: str):
    body, path, received, remedy = BODIES[case]
    before, headers = count_rows(), {"content-type": "application/json"}
    for dry_run in ("false", "true"):
        answer = web.post(f"/v1/experiments?dry_run={dry_run}", content=json.dumps(body).encode(), headers=headers)
        check(answer, path, received, remedy)
    assert count_rows() == before


RAW = {
    "no JSON": (b'{"spec": ', "body", "no valid JSON"),
    "nothing": (b"", "body", "required"),
    "a number": (b"3", "body", "dictionary"),
}


@pytest.mark.parametrize("case", RAW, ids=lambda name: name.replace(" ", "-"))
def test_a_body_that_is_no_submission(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, case: str):
    content, path, remedy = RAW[case]
    before = count_rows()
    check(
        web.post("/v1/experiments", content=content, headers={"content-type": "application/json"}), path, None, remedy
    )
    assert count_rows() == before


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"1" * 10_000, b"\xff\xfe{}"], ids=["deep", "digits", "not-utf-8"]
)
def test_a_body_that_breaks_parsers(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, content: bytes):
    before = count_rows()
    answer = web.post("/v1/experiments", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert count_rows() == before


QUERIES = [
    (
        "/v1/runs?states=queued",
        "states",
        "queued",
        "this address takes: before, experiment, fields, kind, limit, name, state",
    ),
    ("/v1/runs?state=lost", "state", "lost", "'queued'"),
    ("/v1/runs?limit=1001", "limit", "1001", "less than or equal to 1000"),
    ("/v1/runs?limit=0", "limit", "0", "greater than or equal to 1"),
    ("/v1/runs?fields=id,stat", "fields", "id,stat", "no setting 'stat'; did you mean state?"),
    ("/v1/runs?fields=name,", "fields", "name,", "no setting ''; settings are given by dotted path"),
    ("/v1/runs?before=99999999999999999999", "before", "99999999999999999999", "less than or equal"),
    ("/v1/runs?name=%00", "name", "\0", "pattern"),
    ("/v1/runs?limit=1&limit=2", "limit", "['1', '2']", "keep one"),
    ("/v1/runs/abc", "run", "abc", "valid integer"),
    ("/v1/runs/0", "run", "0", "greater than or equal to 1"),
    ("/v1/runs/1/images?sort=loss", "sort", "loss", "one of dice, dice_liver"),
    ("/v1/runs/1/images?limit=5001", "limit", "5001", "5000"),
    ("/v1/runs/1/images?sort=scan;DROP%20TABLE%20runs", "sort", "scan;DROP TABLE runs", "one of dice"),
    ("/v1/runs/1/artifacts/..%2f..%2fetc", None, None, ""),
    ("/v1/experiments?limit=many", "limit", "many", "valid integer"),
    ("/v1/comparisons", "runs", None, "either runs=1,2,3 or experiment=ID"),
    ("/v1/comparisons?runs=1&experiment=1", "runs", "1", "either"),
    ("/v1/comparisons?runs=1,x", "runs", "1,x", "commas"),
    ("/v1/comparisons?runs=", "runs", "", "commas"),
    ("/v1/comparisons?runs=²", "runs", "²", "commas"),
    ("/v1/comparisons?runs=1&format=xls", "format", "xls", "'json'"),
    (
        "/v1/comparisons?runs=1&base=2",
        "base",
        "2",
        "baseline, column, descending, experiment, filter, format, level, profile, runs, sort, tables",
    ),
    ("/v1/comparisons?runs=1&baseline=a", "baseline", "a", "valid integer"),
    ("/v1/comparisons?runs=1&profile=modern&profile=nnunet", "profile", "['modern', 'nnunet']", "keep one"),
    ("/v1/profiles?key=modern", "key", "modern", "none"),
    ("/v1/datasets?sort=name", "sort", "name", "this address takes: before, limit"),
    ("/v1/webhooks?limit=0", "limit", "0", "greater than or equal to 1"),
    ("/v1/webhooks?active=yes", "active", "yes", "this address takes: before, limit"),
    ("/v1/webhooks/0", "webhook", "0", "greater than or equal to 1"),
    ("/v1/webhooks/1?limit=1001", "limit", "1001", "less than or equal to 1000"),
    ("/healthz?x=1", "x", "1", "none"),
]


@pytest.mark.parametrize(("url", "path", "received", "remedy"), QUERIES, ids=[case[0] for case in QUERIES])
def test_a_bad_query(web: httpx.Client, url: str, path: str | None, received: Any, remedy: str):
    answer = web.get(url)
    if path is None:
        assert answer.status_code == 404
    else:
        check(answer, path, received, remedy)


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return out.getvalue()


PARTS = ("train", "val")

ARCHIVES = {
    "no zip": (b"not a zip", "dataset.zip", "pack it again"),
    "empty": (b"", "dataset.zip", "pack it again"),
    "climbs out": (zipped({"../evil.png": b"x"}), "../evil.png", "no safe name"),
    "unknown folder": (zipped({"notes/a.txt": b"x"}), "notes/a.txt", ""),
    "bad name": (zipped({"train/images/a.png": b"x"}), "train/images/a.png", "SCAN_SLICE.png"),
    "no partner": (zipped({"train/images/0_0.png": b"x"}), "train/images/0_0.png", "add it or remove"),
    "no picture": (
        zipped({f"{place}/{kind}/{n}_0.png": b"x" for n, place in enumerate(PARTS) for kind in ("images", "masks")}),
        "train/images/0_0.png",
        "",
    ),
}


def left_over() -> list[Path]:
    return [
        file for folder in (settings().artifacts, settings().scratch) for file in folder.rglob("*") if file.is_file()
    ]


@pytest.mark.parametrize("case", ARCHIVES, ids=lambda name: name.replace(" ", "-"))
def test_a_bad_archive(web: httpx.Client, count_rows: Count, case: str):
    content, path, remedy = ARCHIVES[case]
    rows, files = count_rows(), left_over()
    check(web.post("/v1/datasets?name=new", content=content), path, None, remedy)
    assert (count_rows(), left_over()) == (rows, files)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "=1", "-x", "x" * 101, "a\0", "ä"])
def test_a_bad_name_for_a_data_set(web: httpx.Client, archive: Path, count_rows: Count, name: str):
    before = count_rows()
    answer = web.post("/v1/datasets", params={"name": name}, content=archive.read_bytes())
    check(answer, "name", name, "pattern")
    assert count_rows() == before


def test_a_name_that_is_taken(web: httpx.Client, phantom: dict[str, Any], tmp_path: Path, count_rows: Count):
    from tests.factories import tiny_archive

    rows, files = count_rows(), left_over()
    other = tiny_archive(tmp_path, seed=1)
    check(web.post("/v1/datasets?name=phantom", content=other.read_bytes()), "name", "phantom", "choose another name")
    assert (count_rows(), left_over()) == (rows, files)


def hdf5(fill: Callable[[h5py.File], None]) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        fill(file)
    return out.getvalue()


def wrong_shape(file: h5py.File) -> None:
    file.attrs["layer_names"] = [b"conv"]
    group = file.create_group("conv")
    group.attrs["weight_names"] = [b"kernel"]
    group["kernel"] = np.zeros((5, 5, 1, 2), np.float32)


def linked(file: h5py.File) -> None:
    file.attrs["layer_names"] = [b"conv"]
    group = file.create_group("conv")
    group.attrs["weight_names"] = [b"kernel"]
    group["kernel"] = h5py.ExternalLink("/etc/passwd", "/")


def whole_model(file: h5py.File) -> None:
    file.attrs["model_config"] = "{}"


WEIGHTS = {
    "no HDF5": (b"no weights", "no HDF5"),
    "cut short": (hdf5(wrong_shape)[:600], "damaged"),
    "another shape": (hdf5(wrong_shape), "set the section model"),
    "a link": (hdf5(linked), "is a link"),
    "a whole model": (hdf5(whole_model), "save_weights"),
    "nothing listed": (hdf5(lambda file: None), "layer_names"),
}


@pytest.mark.parametrize("case", WEIGHTS, ids=lambda name: name.replace(" ", "-"))
def test_bad_weights(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, case: str):
    content, remedy = WEIGHTS[case]
    rows, files = count_rows(), left_over()
    answer = web.post("/v1/weights", params={"spec": json.dumps(tiny_spec())}, content=content)
    check(answer, None, None, remedy)
    assert answer.json()["errors"][0]["path"].startswith("weights.h5")
    assert (count_rows(), left_over()) == (rows, files)


@pytest.mark.parametrize(
    ("text", "path", "remedy"),
    [
        ("{", "spec", "no valid JSON"),
        ("[" * 20_000, "spec", "no valid JSON"),
        ("3", "spec", "section of fields"),
        (json.dumps(tiny_spec(model={"filters": 0})), "model.filters", "greater than or equal to 1"),
        (json.dumps(tiny_spec(training={"learning_rate": float("nan")})), "training.learning_rate", "finite"),
    ],
)
def test_weights_with_a_bad_spec(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, text, path, remedy):
    before = count_rows()
    check(web.post("/v1/weights", params={"spec": text}, content=b"x"), path, None, remedy)
    assert count_rows() == before


@pytest.mark.parametrize("key", ["a b", "x" * 201, ""])
def test_a_bad_idempotency_key(web: httpx.Client, phantom: dict[str, Any], count_rows: Count, key: str):
    before = count_rows()
    answer = web.post("/v1/experiments", json=spec(), headers={"Idempotency-Key": key})
    check(answer, "Idempotency-Key", key if len(key) < 200 else None, "")
    assert count_rows() == before


def test_what_is_not_http_is_refused_before_the_app_sees_it(web: httpx.Client):
    answer = web.request("BREW", "/v1/runs")
    assert (answer.status_code, answer.text) == (400, "Invalid HTTP request received.")
    assert web.get("/v1/runs").status_code == 200


@pytest.mark.parametrize("sent", ["one endless header", "headers without end", "an endless address"])
def test_a_head_without_end_is_refused_before_it_fills_the_memory(web: httpx.Client, sent: str):
    begin, more = {
        "one endless header": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ", b"x" * 16_384),
        "headers without end": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-Many: " + b"x" * 4_086 + b"\r\n"),
        "an endless address": (b"GET /v1/runs?name=", b"x" * 16_384),
    }[sent]
    with socket.create_connection((web.base_url.host, web.base_url.port or 80), 30) as line:
        line.sendall(begin)
        with contextlib.suppress(ConnectionError):  # it is closed while we still send
            for _ in range(400_000 // len(more)):
                line.sendall(more)
                time.sleep(0.002)  # a piece at a time, as over a network
        assert line.recv(12) == b"HTTP/1.1 400"
    assert web.get("/v1/runs", params={"name": "x" * 200}, headers={"X-Long": "x" * 30_000}).status_code == 200
