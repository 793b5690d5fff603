"""From a scanner's files to a network that runs without liverseg, and nothing of the patient on the way."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from liverseg_core.data.png import read_image
from store.settings import settings
from tests import factories, processes, scanner
from tests.api.conftest import Command, serving
from tests.api.test_canaries import everything_told, files, home, rows  # noqa: F401 - a fixture of theirs
from tests.scanner import LEVEL, PERSON, SPACING, WIDTH

SCANS = {number: scanner.draw(number) for number in range(4)}
FULL = 65535
Write = Callable[[Path, dict[int, scanner.Drawn]], Path]


@pytest.fixture
def own(home: Path, liverseg: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:  # noqa: F811
    """An API whose log can be read from its start, for commands too."""
    with serving(home) as url, httpx.Client(base_url=url, timeout=60) as client:
        monkeypatch.setenv("LIVERSEG_URL", url)
        settings.cache_clear()
        yield client


@pytest.fixture
def trained(home: Path, own: httpx.Client, liverseg: Command, tmp_path: Path):  # noqa: F811
    """Scans to a succeeded run, by commands alone; what the commands said."""

    def train(write: Write, **sections: Any) -> list[str]:
        write(tmp_path / "scans", SCANS)
        window = ("--level", str(LEVEL), "--width", str(WIDTH))
        said = [liverseg("dataset", "convert", tmp_path / "scans", tmp_path / "out", "--val=2", "--test=3", *window)]
        said.append(liverseg("dataset", "import", tmp_path / "out", "--name", "phantom"))
        spec = factories.tiny_spec(training={"batch_size": 4, "epochs": 1}, **sections)
        (run,) = own.post("/v1/experiments", json={"spec": spec, "references": False}).json()["runs"]
        with processes.worker(home / "worker.log"):
            assert processes.wait_for_end(run["id"]).state == "succeeded"
        said.append(liverseg("export", "1", "--onnx", tmp_path / "out.onnx"))
        return [one.output for one in said]

    return train


@pytest.mark.parametrize("write", [scanner.write_lits, scanner.write_dicom])
def test_a_scan_comes_in_is_trained_on_and_the_network_goes_out(
    home: Path,  # noqa: F811
    own: httpx.Client,
    trained: Callable[..., list[str]],
    tmp_path: Path,
    write: Write,
):
    said = trained(write, model={"filters": 2, "depth": 2, "head": "softmax"})
    stored = own.get("/v1/datasets/phantom").json()
    taken = {"spacing": list(SPACING), "window": [LEVEL, WIDTH]}
    assert stored["acquisitions"] == {str(number): taken for number in SCANS}
    assert "scan 2: 6 slices; spacing 0.75 x 0.625 x 2.5 mm" in said[0]
    page = own.get("/datasets/phantom", headers={"accept": "text/html"}).text
    assert "0.75 \N{MULTIPLICATION SIGN} 0.625" in page
    assert "level 95, width 510 HU" in page

    maps = tmp_path / "maps.npz"
    maps.write_bytes(own.get("/v1/runs/1/artifacts/probabilities").content)
    listed = own.get("/v1/runs/1/images").json()["images"]
    stored_rows = {f"{row['part']}/{row['scan']}_{row['slice']}": row for row in listed}
    predicted = run_onnx(tmp_path / "out.onnx", "val", 2) | run_onnx(tmp_path / "out.onnx", "test", 3)
    with np.load(maps) as kept:
        assert set(kept.files) == set(predicted) == set(stored_rows)
        for name, p in predicted.items():
            u = kept[name]  # parenchyma and lesion, 65535 * probability
            assert np.abs(p[..., 1:] - np.moveaxis(u, 0, -1) / FULL).max() < 1e-4
            ours, theirs = softmax_labels(np.rint(p[..., 1:] * FULL)), softmax_labels(np.moveaxis(u, 0, -1))
            np.testing.assert_array_equal(ours, theirs)
            assert confusion(name, ours).items() <= stored_rows[name].items()

    sinks = {"rows": rows(home), "answers": everything_told(own), "commands": "".join(said)}
    sinks |= {name: content.decode("latin-1") for name, content in files(home).items()}
    sinks |= {"onnx": (tmp_path / "out.onnx").read_bytes().decode("latin-1")}
    assert any(name.startswith("artifacts") for name in sinks)
    assert {"worker.log", "test-api.log"} <= sinks.keys()
    assert {name: word for name, text in sinks.items() for word in PERSON if word in text + name} == {}


def run_onnx(file: Path, part: str, scan: int) -> dict[str, np.ndarray]:
    """Probabilities ``[S, S, 3]`` of every slice, from the PNG files and what the metadata says of the input."""
    session = onnxruntime.InferenceSession(file)
    told = session.get_modelmeta().custom_metadata_map
    assert told["input"].startswith("image: float32 [batch, 32, 32, 1] (rows, columns, slices), grey 0..255 over 255")
    assert told["input.window"] == "level 95, width 510 HU"
    assert told["run"] == "1"
    pictures = sorted((file.parent / "out" / part / "images").glob(f"{scan}_*.png"))
    grey = np.stack([read_image(path.read_bytes(), path.name) for path in pictures])
    (p,) = session.run(None, {"image": grey[..., None].astype(np.float32) / np.float32(255)})
    return {f"{part}/{path.stem}": one for path, one in zip(pictures, p, strict=True)}


def softmax_labels(u: np.ndarray) -> np.ndarray:
    """The most likely class, the first of equals; ``u`` holds parenchyma and lesion, ``[S, S, 2]``."""
    one, two = u[..., 0].astype(int), u[..., 1].astype(int)
    return np.stack([FULL - one - two, one, two]).argmax(0)


def confusion(name: str, labels: np.ndarray) -> dict[str, int]:
    """How often a pixel of true label t (as drawn) was given label p: ``n{t}{p}``."""
    scan, number = map(int, name.rpartition("/")[2].split("_"))
    counts = np.bincount(3 * SCANS[scan].labels[number].ravel() + labels.ravel(), minlength=9)
    return {f"n{place // 3}{place % 3}": int(count) for place, count in enumerate(counts)}


def test_scans_of_a_part_are_numbers(liverseg: Command, tmp_path: Path):
    said = liverseg("dataset", "convert", tmp_path, tmp_path / "out", "--val", "3,b", code=2).output
    assert "scans are whole numbers with commas between them, such as 3,7" in said


def test_without_the_extra_export_says_what_to_install(
    liverseg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # as if it were not installed
    said = liverseg("export", "1", "--onnx", tmp_path / "out.onnx", code=1).output
    assert 'tf2onnx: not installed here; export where `pip install ".[worker,onnx]"` was done in the checkout' in said


def test_only_a_run_that_succeeded_is_exported(liverseg: Command, submit: Callable[..., list[int]], tmp_path: Path):
    (run,) = submit()
    said = liverseg("export", run, "--onnx", tmp_path / "out.onnx", code=2).output
    assert f"RUN: is queued; only a succeeded run has weights to export. Received: {run}" in said
    said = liverseg("export", run, "--onnx", tmp_path / "nowhere" / "out.onnx", code=2).output
    assert "lies in no folder that is there" in said
    assert list(tmp_path.iterdir()) == []
