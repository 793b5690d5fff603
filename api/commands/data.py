"""``liverseg dataset`` and ``liverseg weights``."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from api import specs
from api.client import Progress as Sent
from api.commands import alike, show
from api.commands.connect import as_json_option, connect, yes_option
from api.commands.figure import out_option
from api.commands.runs import follow
from api.tables import size
from liverseg_core.data.annotations import Acquisition, in_words
from liverseg_core.errors import LiversegError

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def dataset() -> None:
    """Data sets: import, convert, list, show, check, count, delete, draw a phantom."""


@dataset.command("import")
@click.argument("folder", type=FOLDER)
@click.option("--name", help="what to call it  [default: the folder's name]")
@click.option("--subjects", type=FILE, help="JSON, scan -> subject  [default: FOLDER/subjects.json, if there is one]")
@as_json_option
def import_(folder: Path, name: str | None, subjects: Path | None, as_json: bool) -> None:
    """Copy a FOLDER of PNG pairs into the store.

    FOLDER holds {train,val}/{images,masks}/SCAN_SLICE.png and, optionally, test: 8-bit grey, masks 0 (background),
    127 (liver), 255 (lesion). Importing the same pixels again changes nothing.
    """
    with connect() as client, sending(f"importing {folder}") as sent:
        found = client.import_dataset(folder, name or folder.resolve().name, subjects, sent)
    show.print_json(found) if as_json else show.print_card(show.dataset_facts(found))


@dataset.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List the data sets, newest first."""
    with connect() as client:
        found = client.datasets()
    show.print_json({"datasets": found}) if as_json else show.print_sheet(
        show.datasets_sheet(found), "no data set yet; `liverseg dataset import FOLDER --name NAME` makes one"
    )


@dataset.command("show")
@click.argument("name")
@as_json_option
def show_(name: str, as_json: bool) -> None:
    """Show the data set NAME (or its content hash)."""
    with connect() as client:
        found = client.dataset(name)
    show.print_json(found) if as_json else show.print_card(show.dataset_facts(found))


@dataset.command()
@click.argument("name")
@as_json_option
def check(name: str, as_json: bool) -> None:
    """Look for scans in the data set NAME that may show one person.

    Judged by pixels alone, which takes up to a minute; the page of the data set shows the pairs side by side. Says
    too whether the subjects agree that were told at import, and which pairs lie on both sides of the split.
    """
    with connect() as client:
        found = client.check_dataset(name)
    show.print_json(found) if as_json else alike.print_similarity(found)


@dataset.command()
@click.argument("name")
@click.option(
    "--by", default="scan", show_default=True, type=click.Choice(["scan", "subject"]), help="a bar for each"
)
@out_option
def histogram(name: str, by: str, out: Path) -> None:
    """Draw how many slices the data set NAME has of each scan, by part: the study's Table 4."""
    with connect() as client:
        client.figure(f"datasets/{quote(name, safe='')}/figures/histogram.png", out, by=by)
    click.echo(f"wrote {out}")


@dataset.command("delete")
@click.argument("name")
@yes_option
@as_json_option
def delete_(name: str, yes: bool, as_json: bool) -> None:
    """Delete the data set NAME, which no run may refer to any more; without --yes only say what that frees."""
    with connect() as client:
        found = client.delete_dataset(name, dry_run=not yes)
    if as_json:
        show.print_json(found)
        return
    went = "would free" if found["dry_run"] else "deleted; frees"
    click.echo(f"data set {show.clean(found['dataset'])}: {went} {size(found['frees'])}")
    if found["dry_run"]:
        click.echo("nothing was deleted; --yes does it")


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--subjects", default=8, show_default=True, help="how many people, a scan each")
@click.option("--slices", default=24, show_default=True, help="slices a scan")
@click.option("--size", default=128, show_default=True, help="side in pixels")
@click.option("--seed", default=0, show_default=True, help="of anatomy and noise")
def phantom(folder: Path, subjects: int, slices: int, size: int, seed: int) -> None:
    """Draw a synthetic data set into the new FOLDER; the same numbers give the same files."""
    from liverseg_core.phantom import draw_phantom  # numpy, which other commands do without

    draw_phantom(folder, subjects, slices, size, seed)
    click.echo(f"drew {subjects} subjects with {slices} slices each into {folder}")


def _scans(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """``3,7`` -> (3, 7)."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter("scans are whole numbers with commas between them, such as 3,7")
    return tuple(map(int, words))


@dataset.command()
@click.argument("folder", type=FOLDER)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--val", required=True, callback=_scans, metavar="SCANS", help="scans that validate, such as 3,7")
@click.option("--test", default="", callback=_scans, metavar="SCANS", help="scans that test; all others train")
@click.option("--level", default=50.0, show_default=True, help="middle of the window, Hounsfield units")
@click.option("--width", default=400.0, show_default=True, help="from black to white, Hounsfield units")
def convert(folder: Path, out: Path, val: Sequence[int], test: Sequence[int], level: float, width: float) -> None:
    """Turn CT scans in NIfTI or DICOM into PNG pairs in the new folder OUT, to be imported.

    FOLDER holds volume-N.nii and segmentation-N.nii (or .nii.gz; labels 0, 1 liver, 2 lesion), as the LiTS benchmark
    has them; or for each scan a folder called by its number, with one CT series in ct and in mask a DICOM
    segmentation, a series of label slices or a NIfTI file. Slices come out axial, from feet to head. Nothing of a
    header is kept but spacing; docs/in-and-out.md says what is supported.
    """
    try:
        from liverseg_core.medical import conversion  # an extra, and NumPy, which other commands do without
    except ModuleNotFoundError as error:
        told = '`pip install ".[medical]"` in the checkout adds what reads NIfTI and DICOM'
        raise LiversegError(f"{error.name} is not installed; {told}") from None

    def told_of(scan: int, slices: int, taken: Acquisition) -> None:
        words = "; ".join(f"{name.lower()} {text}" for name, text in in_words([taken.to_json()]).items())
        click.echo(f"scan {scan}: {slices} slices; {words}")

    found = conversion.convert(folder, out, val, test, level, width, told_of)
    click.echo(f"wrote {len(found)} scans into {out}; `liverseg dataset import {out}` imports them")


@click.group()
def weights() -> None:
    """Trained weights from elsewhere."""


@weights.command("import")
@click.argument("file", type=FILE)
@click.option(
    "--spec", "spec_file", required=True, type=FILE, help="YAML spec of the network and data set to score on"
)
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="change a field of the spec")
@click.option("--wait", is_flag=True, help="wait until it is scored; exit 1 if that fails")
@as_json_option
def import_weights(file: Path, spec_file: Path, sets: Sequence[str], wait: bool, as_json: bool) -> None:
    """Score the HDF5 weights FILE as a run, which can then be compared like any other."""
    body = {"spec": specs.read_spec(spec_file)}
    specs.change(body, sets, [])
    with connect() as client:
        with sending(f"sending {file}") as sent:
            experiment = client.import_weights(file, body["spec"], sent)
        follow(client, experiment, wait, as_json)


@contextmanager
def sending(what: str) -> Iterator[Sent]:
    """A bar with rate and time left on a terminal, one line elsewhere."""
    if not sys.stderr.isatty():
        click.echo(what, err=True)
        yield lambda *_: None
        return
    name = TextColumn("{task.description}", markup=False)
    rate = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(name, BarColumn(), *rate, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


COMMANDS = [dataset, weights]
