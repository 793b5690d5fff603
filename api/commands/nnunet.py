"""``liverseg nnunet``: nnU-Net's files in and out."""

from pathlib import Path
from typing import Any

import click

from api import specs
from api.commands.connect import as_json_option, connect
from api.commands.runs import FILE, RUN, follow, print_plan, wait_option
from liverseg_core.errors import InputError
from liverseg_core.submission import refuse_own_split


@click.group()
def nnunet() -> None:
    """nnU-Net's summary.json and splits_final.json."""


@nnunet.command()
@click.argument("run", type=RUN)
def summary(run: int) -> None:
    """Print the scores of RUN as a summary.json, a case a scan."""
    with connect() as client:
        click.echo(client.nnunet_summary(run))


@nnunet.command()
@click.argument("dataset")
@click.option(
    "--folds", default="subject", show_default=True, help="how many folds of subjects, or subject: one each"
)
def splits(dataset: str, folds: str) -> None:
    """Print the folds of DATASET's subjects as a splits_final.json."""
    with connect() as client:
        click.echo(client.nnunet_splits(dataset, specs.parse_folds(folds)))


@nnunet.command()
@click.argument("file", type=FILE)
def read(file: Path) -> None:
    """Print what a summary.json FILE of nnU-Net says: mean scores over its cases, checked against them."""
    from liverseg_core.nnunet import read_summary

    for key, value in read_summary(_text(file)).items():
        said = "-" if value.value is None else f"{value.value:.6g}"
        click.echo(f"{key:12}  {said}  (n {value.n}, not defined {value.empty})")


@nnunet.command()
@click.argument("file", type=FILE)
@click.argument("splits", type=FILE)
@click.option("--dry-run", is_flag=True, help="show the runs this would make; submit nothing")
@wait_option
@as_json_option
def submit(file: Path, splits: Path, dry_run: bool, wait: bool, as_json: bool) -> None:
    """Submit the spec in FILE once for each fold of a splits_final.json."""
    from liverseg_core.nnunet import read_splits

    body = specs.read_submission(file)
    if body.keys() - {"spec"}:
        raise InputError(str(file), "describes many runs; one spec alone is wanted here", sorted(body))
    with connect() as client:
        dataset = client.dataset(_dataset_of(body["spec"]))
        refuse_own_split(body["spec"], splits.name)
        folds = read_splits(_text(splits), [int(scan) for scan in dataset["subjects"]])
        body["variants"] = [
            {"name": f"fold {place}", "dataset.split.kind": "scans"}
            | {f"dataset.split.{part}": list(fold[part]) for part in fold}
            for place, fold in enumerate(folds)
        ]
        if dry_run:
            print_plan(client.submit(body, dry_run=True), as_json)
        else:
            follow(client, client.submit(body), wait, as_json)


def _dataset_of(spec: dict[str, Any]) -> str:
    chosen = spec.get("dataset")
    if not isinstance(chosen, dict) or not isinstance(chosen.get("id"), str) or not chosen["id"]:
        raise InputError("dataset.id", "must name a data set, such as `dataset: {id: my-slices}`", chosen)
    return str(chosen["id"])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(file), f"cannot be read ({error})") from None


COMMANDS = [nnunet]
