"""``liverseg predict``: masks for slices that nobody has labelled."""

import os
import tempfile
import zipfile
from pathlib import Path

import click

from api.client import Client
from api.commands import show
from api.commands.connect import as_json_option, connect
from api.commands.data import FOLDER, sending
from api.commands.runs import RUN
from api.commands.watch import viewing, watch
from liverseg_core.errors import InputError
from store.states import State


@click.command()
@click.argument("run", type=RUN)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder for the masks  [default: DIR with -masks at its end]"
)
@as_json_option
def predict(run: int, folder: Path, out: Path | None, as_json: bool) -> None:
    """Make masks for the unlabelled slices in DIR with the weights of RUN, and wait for them.

    DIR holds SCAN_SLICE.png files, 8-bit grey, of one size. A worker makes the masks: 8-bit grey PNGs with the names
    and the size of the slices, 0 background, 127 liver, 255 lesion.
    """
    from liverseg_core.data.unlabelled import pack_slices  # NumPy, which other commands do without

    place = out or folder.resolve().with_name(f"{folder.resolve().name}-masks")
    _refuse_used(place)
    with tempfile.TemporaryDirectory(prefix="liverseg-") as scratch, connect() as client:
        packed = Path(scratch) / "slices.zip"
        names = pack_slices(folder, packed)
        with sending(f"sending {folder}") as sent:
            (made,) = client.predict(run, packed, sent)["runs"]
        _demand_success(client, made["id"])
        masks = client.download(made["id"], "masks", Path(scratch) / "masks.zip")
        _unpack(masks, place, names)
    if as_json:
        show.print_json({"run": made["id"], "masks": [str(place / own) for own in names.values()]})
    else:
        click.echo(f"run {made['id']}: {len(names)} mask{'s' * (len(names) > 1)} in {place}")


def _refuse_used(place: Path) -> None:
    """Before anything is sent: masks never mix with other files."""
    if place.is_dir() and not any(place.iterdir()):
        return
    if os.path.lexists(place):
        raise InputError("--out", "is there already and not an empty folder; name a new one", str(place))


def _demand_success(client: Client, run: int) -> None:
    with viewing() as view:
        (ended,) = watch(client, [run], view)
    if ended["state"] != State.SUCCEEDED:
        click.echo(show.complaint(ended), err=True)
        raise click.exceptions.Exit(1)


def _unpack(masks: Path, place: Path, names: dict[str, str]) -> None:
    """Each mask under its slice's own name; only names that were sent are taken from the zip."""
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(masks) as bundle:
        for inner, own in names.items():
            (place / own).write_bytes(bundle.read(inner))


COMMANDS = [predict]
