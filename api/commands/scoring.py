"""``liverseg rescore`` and ``liverseg references``: scores without training."""

from collections.abc import Sequence
from typing import Any

import click

from api import specs
from api.client import Client
from api.commands import show
from api.commands.connect import as_json_option, connect
from api.commands.runs import RUN, follow, wait_option
from liverseg_core.errors import InputError


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@click.option(
    "--set", "sets", multiple=True, required=True, metavar="FIELD=VALUE", help="e.g. min_lesion=10, threshold=0.5"
)
@click.option("--name", default="", help="of the experiment that they become")
@wait_option
@as_json_option
def rescore(run: Sequence[int], sets: Sequence[str], name: str, wait: bool, as_json: bool) -> None:
    """Score every finished RUN anew under other evaluation options, from its kept probability maps.

    FIELD is one of the section `evaluation` of a spec (see `liverseg submit --help`), such as min_lesion, with or
    without `evaluation.` in front. Nothing is trained.
    """
    body: dict[str, Any] = {"spec": {}}
    specs.change(body, [one if one.startswith("evaluation.") else f"evaluation.{one}" for one in sets], [])
    if set(body["spec"]) != {"evaluation"}:
        raise InputError("--set", "only fields of the section evaluation can change without training", list(sets))
    with connect() as client:
        made = client.rescore(run, body["spec"]["evaluation"], name)
        _tell_bare(client, made["runs"])
        follow(client, made, wait, as_json)


def _tell_bare(client: Client, runs: Sequence[dict[str, Any]]) -> None:
    """Maps that somebody deleted cannot be scored anew: then the kept weights are run again, which takes longer."""
    for source in dict.fromkeys(one["scored_from"] for one in runs if one["kind"] == "evaluate"):
        told = client.run(source)["disk"]["deleted"]
        if told:
            click.echo(f"{show.clean(told)}: its kept weights are evaluated again instead", err=True)


@click.command()
@click.argument("dataset")
@click.option(
    "--set", "sets", multiple=True, metavar="PATH=VALUE", help="a field of the spec, e.g. data.image_size=512"
)
@as_json_option
def references(dataset: str, sets: Sequence[str], as_json: bool) -> None:
    """Score the reference predictors (empty, liver as lesion, perfect, shifted) on DATASET.

    They show every score's floor and ceiling before anyone trains. A submission asks for them by itself.
    """
    body: dict[str, Any] = {"spec": {"dataset": {"id": dataset}}}
    specs.change(body, sets, [])
    with connect() as client:
        added = client.references(body["spec"])
    if as_json:
        show.print_json({"runs": added})
        return
    ids = ", ".join(str(run["id"]) for run in added)
    click.echo(f"runs {ids}: {', '.join(run['name'] for run in added)}" if added else "all there already")


COMMANDS = [rescore, references]
