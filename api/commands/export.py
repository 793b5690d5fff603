"""``liverseg export``: a trained network as a file that runs anywhere."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from api.client import Client
from api.commands.connect import connect
from api.commands.runs import RUN
from liverseg_core.data.annotations import in_words
from liverseg_core.errors import InputError, LiversegError, WeightsError
from store.states import State

NEEDED = ("tensorflow", "keras", "tf2onnx", "onnx")
MISFIT = 2
"""How the exporting process ends where the weights do not fit; it has said so in one line."""


@click.command()
@click.argument("run", type=RUN)
@click.option(
    "--onnx", "out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="the file to write"
)
def export(run: int, out: Path) -> None:
    """Write the trained network of RUN as an ONNX file.

    Runs here, where "liverseg[worker,onnx]" must be installed, and takes half a minute. Input, output and how
    probabilities become labels are told in the file's metadata; docs/in-and-out.md shows how to use them.
    """
    _demand_libraries()
    if not out.parent.is_dir():
        raise InputError("--onnx", "lies in no folder that is there; make it first", str(out))
    with tempfile.TemporaryDirectory(prefix="liverseg-") as scratch, connect() as client:
        found = client.run(run)
        if found["state"] != State.SUCCEEDED:
            raise InputError("RUN", f"is {found['state']}; only a succeeded run has weights to export", run)
        weights = client.download(run, "weights", Path(scratch) / "weights.npz")
        _export(
            {"spec": found["spec"], "weights": str(weights), "out": str(out.resolve()), "told": _told(client, found)}
        )
    click.echo(f"wrote {out}")


def _demand_libraries() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        advice = 'export where `pip install ".[worker,onnx]"` was done in the checkout'
        raise LiversegError(f"{', '.join(missing)}: not installed here; {advice}")


def _told(client: Client, run: dict[str, Any]) -> dict[str, str]:
    """Where the network comes from, and which Hounsfield units its grey values were."""
    taken = in_words(client.dataset(run["dataset"]).get("acquisitions", {}).values())
    told = {"liverseg": version("liverseg"), "run": str(run["id"]), "training_hash": run["training_hash"]}
    return told | ({"input.window": taken["Window"]} if "Window" in taken else {})


def _export(job: dict[str, Any]) -> None:
    """In a process of its own: commands never load Keras."""
    words = [sys.executable, "-P", "-m", "liverseg_core.onnx_export"]
    surroundings = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(words, input=json.dumps(job), capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        if done.returncode == MISFIT:
            raise WeightsError("weights", said[-1])
        raise LiversegError("the export failed:\n" + "\n".join(said[-5:]))


COMMANDS = [export]
