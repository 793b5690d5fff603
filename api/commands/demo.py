"""``liverseg demo``: the main job from data to Table 6, in a throw-away folder that is gone afterwards."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from api.client import Client
from api.commands import show
from api.commands.compare import print_comparison
from api.commands.data import sending
from api.commands.up import Choice, Stack, Stop, can_work, free_port, running, say, tend_for_ever
from api.commands.watch import viewing, watch
from liverseg_core.phantom import draw_phantom
from liverseg_core.presets import PAPER_2019_OVERRIDE
from store import bundled, tokens
from store.bundled import ServiceError
from store.settings import settings
from store.states import State

Json = dict[str, Any]

INTERRUPTED = 130


@dataclass(frozen=True)
class Wishes:
    """What was asked for on the command line."""

    data: Path | None
    end: bool
    epochs: int | None
    port: int | None
    tiny: bool


@dataclass(frozen=True)
class Phantom:
    """Sizes of the drawn data set, and settings that learn it in little time on two cores.

    ``size`` is of the pictures, ``image_size`` of the network's input, both in pixels.
    """

    subjects: int
    slices: int
    size: int
    image_size: int
    batch_size: int
    epochs: int
    learning_rate: float

    def settings(self) -> Json:
        return {
            "data": {"image_size": self.image_size},
            "training": {
                "batch_size": self.batch_size,
                "learning_rate": self.learning_rate,
                "epochs": self.epochs,
                "early_stopping": {"patience": None},
            },
        }


# Small steps, and many of them: from 0.004 on this network ends in predicting nothing.
USUAL = Phantom(subjects=8, slices=24, size=128, image_size=64, batch_size=2, epochs=16, learning_rate=2e-3)
TINY = Phantom(subjects=5, slices=4, size=32, image_size=32, batch_size=2, epochs=1, learning_rate=1e-3)

REAL_EPOCHS = 3


def demo(wishes: Wishes) -> None:
    """Start everything, train and compare three variants, and stay up unless told to end.

    Raises:
        ServiceError: something does not start, or this installation cannot train.
        click.exceptions.Exit: a run did not succeed, or somebody stopped the demo before its end.
    """
    if not can_work():
        raise ServiceError(
            "this installation cannot train; install it with `pip install '.[worker]'` in the checkout"
        )
    finished = False
    with throw_away_home() as home:
        choice = Choice("127.0.0.1", wishes.port or free_port(), slots=1)
        try:
            say(f"starting Postgres, Valkey, API and worker in {home}")
            with running(choice, say) as stack:
                _study(wishes, stack, home)
                finished = True
                if not wishes.end:
                    tend_for_ever(stack)
        except Stop:
            say("stopped; the folder of the demo is removed")
    if not finished:
        raise click.exceptions.Exit(INTERRUPTED)


@contextmanager
def throw_away_home() -> Iterator[Path]:
    """A LIVERSEG_HOME that nobody has used before and nobody will again; outside servers are left alone."""
    home = Path(tempfile.mkdtemp(prefix="liverseg-demo-")).resolve()
    os.environ["LIVERSEG_HOME"] = str(home)
    for name in ("LIVERSEG_DATABASE_URL", "LIVERSEG_BROKER_URL"):
        os.environ.pop(name, None)
    if os.environ.get("LIVERSEG_TOKEN", "").startswith(tokens.PREFIX):  # of another ledger, so it opens nothing here
        os.environ.pop("LIVERSEG_TOKEN")
    settings.cache_clear()
    try:
        yield home
    finally:
        for folder in (bundled.socket_folder(home), home):
            shutil.rmtree(folder, ignore_errors=True)


def _study(wishes: Wishes, stack: Stack, home: Path) -> None:
    folder = wishes.data or _draw(TINY if wishes.tiny else USUAL, home / "phantom")
    body = submission(wishes, folder)
    with Client(stack.url, settings().token) as client:
        with sending(f"importing {folder}") as sent:
            dataset = client.import_dataset(folder, body["spec"]["dataset"]["id"], progress=sent)
        say(f"data set {dataset['name']}: {show.parts(dataset)}, {show.people(dataset)} subjects")
        experiment = client.submit(body)
        say(f"four reference predictors are scored, then {len(experiment['runs'])} experiments are trained")
        with viewing() as view:
            runs = watch(client, [run["id"] for run in experiment["runs"]], view, stack.tend)
        _demand_success(runs)
        click.echo()
        print_comparison(client.compare(experiment=experiment["id"]))
    if wishes.tiny:
        click.echo("This phantom is far too small to learn from: the table shows that all parts work, nothing else.")
    say(f"\nThe same as a page: {stack.url}/comparisons?experiment={experiment['id']}")
    stays = "It stays up until Ctrl-C, and its runs go with it; `liverseg up` keeps what you train."
    say("It ends with this demo; without --exit it stays up." if wishes.end else stays)


def _draw(phantom: Phantom, folder: Path) -> Path:
    say(f"drawing a phantom: {phantom.subjects} subjects with {phantom.slices} slices each")
    draw_phantom(folder, phantom.subjects, phantom.slices, phantom.size)
    return folder


def submission(wishes: Wishes, folder: Path) -> Json:
    """The request: on real slices the study's defaults for three epochs, on the phantom its own settings."""
    phantom = TINY if wishes.tiny else USUAL
    settings = {"training": {"epochs": REAL_EPOCHS}} if wishes.data else phantom.settings()
    if wishes.epochs:
        settings["training"]["epochs"] = wishes.epochs
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip("._-")[:100] or "data"
    dataset = {"id": name, "split": {"override": PAPER_2019_OVERRIDE}} if wishes.data else {"id": name}
    return {"spec": {"name": f"demo on {name}", "dataset": dataset, **settings}, "variants": _variants(folder)}


def _variants(folder: Path) -> list[Json]:
    removed = train_scans(folder)[:-1][:2]
    variants: list[Json] = [{"name": "Shuffled"}, {"name": "Not shuffled", "data.shuffle": False}]
    if removed:
        which = " and ".join(map(str, removed))
        variants.append({"name": f"Scans {which} removed", "dataset.exclude.scans": removed})
    return variants


def train_scans(folder: Path) -> list[int]:
    """Numbers of the train scans, rising; files that are no slices are left to the import to refuse."""
    stems = (path.stem.partition("_")[0] for path in folder.glob("train/images/*.png"))
    return sorted({int(stem) for stem in stems if stem.isdecimal()})


def _demand_success(runs: Sequence[Json]) -> None:
    failed = [run for run in runs if run["state"] != State.SUCCEEDED]
    if failed:
        logs = settings().home / "logs"
        raise ServiceError("\n".join(map(show.complaint, failed)) + "\n" + bundled.log_end(logs / "worker.log"))
