"""``liverseg study``: the rows of 2019 as one submission, finished runs as files, and the page made from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from api import specs
from api.client import Client
from api.commands import show
from api.commands.connect import as_json_option, connect
from api.commands.runs import RUN, dry_run_option, follow, print_plan, wait_option
from liverseg_core.errors import InputError

Json = dict[str, Any]

FOLDER = click.Path(file_okay=False, path_type=Path)
PAGE = 5000


@click.group()
def study() -> None:
    """The study of 2019: submit its rows, export finished runs, make the page about them."""


@study.command("paper-2019")
@click.option("--dataset", required=True, help="name or content hash of the imported slices")
@click.option("--rows", default="all", show_default=True, help="rows of Table 6 by name, with commas between")
@click.option("--epochs", type=click.IntRange(1), help="epochs of every row  [default: each row's own]")
@click.option("--seeds", help="how many repeats of each row (5), or their seeds (3,4,9)  [default: each row's own]")
@click.option("--folds", help="leave subjects out in turn, as in `liverseg submit --folds`")
@dry_run_option
@wait_option
@as_json_option
def paper_2019(
    dataset: str,
    rows: str,
    epochs: int | None,
    seeds: str | None,
    folds: str | None,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Train the rows of the study's Tables 5 and 6; rows that are done already are reused.

    With --seeds, rows that have the settings of an earlier row (Shuffled 2) are left out: its repeats are theirs.
    """
    from liverseg_core.presets import paper_2019_overrides

    chosen, same = _chosen(rows, repeated=seeds is not None)
    more = {} if epochs is None else {"training.epochs": epochs}
    variants = [{**paper_2019_overrides(row), **more} for row in chosen]
    if seeds is not None:  # they take the place of each row's own
        variants = [{path: value for path, value in one.items() if path != "training.seed"} for one in variants]
    body: Json = {"spec": {"name": "paper-2019", "dataset": {"id": dataset}}, "variants": variants}
    if seeds is not None:
        body["seeds"] = specs.parse_seeds(seeds)
    if folds is not None:
        body["folds"] = specs.parse_folds(folds)
    if same and not as_json:
        click.echo(f"left out, because they repeat other rows: {', '.join(same)}")
    with connect() as client:
        if dry_run:
            print_plan(client.submit(body, dry_run=True), as_json)
            return
        experiment = client.submit(body)
        if not as_json:
            _tell_reuse(experiment["runs"])
        follow(client, experiment, wait, as_json)


def _chosen(rows: str, repeated: bool) -> tuple[list[Any], list[str]]:
    """The preset's rows by name, and the names of those that only repeat others where seeds are given."""
    from liverseg_core.presets import PAPER_2019_ROWS, paper_2019_overrides

    known = {row.name: row for row in PAPER_2019_ROWS}
    names = list(known) if rows == "all" else [name.strip() for name in rows.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError("--rows", f"no such row; there are {', '.join(known)}.", unknown[0])
    kept: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        settings = {path: value for path, value in paper_2019_overrides(known[name]).items() if path != "name"}
        if repeated:
            del settings["training.seed"]
        kept.setdefault(repr(settings), known[name])
    chosen = list(kept.values())
    return chosen, [name for name in dict.fromkeys(names) if known[name] not in chosen]


def _tell_reuse(runs: Sequence[Json]) -> None:
    done = [f"{_told(run)} (run {run['reused_from']})" for run in runs if run["reused_from"]]
    gaps = [_told(run) for run in runs if not run["reused_from"]]
    click.echo(f"done already: {', '.join(done) or 'none'}")
    click.echo(f"to run: {', '.join(gaps) or 'none'}")


def _told(run: Json) -> str:
    split = run["spec"]["dataset"]["split"]
    fold = f" fold {split['fold']}" if split["kind"] in ("subject-folds", "leave-one-subject-out") else ""
    return f"{show.named(run)} seed {run['spec']['training']['seed']}{fold}"


@study.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@click.option("--out", type=FOLDER, default="docs/study", show_default=True, help="folder for the files")
@as_json_option
def export(run: Sequence[int], out: Path, as_json: bool) -> None:
    """Write every finished RUN as a small JSON file.

    A file holds spec, epochs, counts a slice, hashes, code version and kind of machine; no pixels, no weights, no
    paths and no host names. The same run gives the same bytes. Of a reused run, the original is written.
    """
    from liverseg_core import study as records

    with connect() as client:
        made = [_record(client, one) for one in run]
    files = [str(records.write(one, out)) for one in made]
    show.print_json({"files": files}) if as_json else click.echo("\n".join(files))


def _record(client: Client, run: int) -> Any:
    from liverseg_core.study import record

    found = client.run(run)
    if found["reused_from"]:
        found = client.run(found["reused_from"])
    images: list[Json] = []
    while len(page := client.images(found["id"], limit=PAGE, offset=len(images))) == PAGE:
        images += page
    return record(found, client.epochs(found["id"]), images + page, client.dataset(found["dataset"]))


@study.command()
@click.option("--dir", "folder", type=FOLDER, default="docs/study", show_default=True, help="folder of exported runs")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="docs/study.md",
    show_default=True,
    help="the page",
)
@as_json_option
def report(folder: Path, out: Path, as_json: bool) -> None:
    """Make the page about the study from exported runs alone."""
    from liverseg_core.study import read_folder
    from liverseg_core.study_page import page

    runs = read_folder(folder)
    text = page(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    show.print_json({"file": str(out), "runs": len(runs)}) if as_json else click.echo(f"{out}: {len(runs)} runs")


COMMANDS = [study]
