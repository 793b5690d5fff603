"""``liverseg figure``: the study's figures of a run as PNG files."""

import re
from pathlib import Path
from typing import Any

import click

from api.commands.connect import connect
from api.commands.runs import RUN
from liverseg_core.errors import InputError


def _png(_context: click.Context, _option: click.Parameter, out: Path) -> Path:
    if out.suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png, since that is what is written. Received: {out}")
    return out


out_option = click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_png,
    help="the PNG to write",
)


@click.command()
@click.argument("run", type=RUN)
@click.option("--kind", default="curves", show_default=True, type=click.Choice(["curves", "four", "six"]))
@click.option("--image", metavar="PART/SCAN_SLICE", help="which slice, e.g. val/8_12, for four or six panels")
@click.option(
    "--worst", type=click.IntRange(1, 12), help="that many slices with the lowest lesion Dice  [default: 6]"
)
@out_option
def figure(run: int, kind: str, image: str | None, worst: int | None, out: Path) -> None:
    """Draw a figure of RUN.

    `curves`: total Dice by epoch. `four`: prediction, quantised prediction, true mask, CT. `six`: prediction and
    mask, whole, liver alone and lesion alone, with their Dice.
    """
    if image and worst:
        raise click.UsageError("Give --image or --worst, one of them.")
    if kind == "curves" and (image or worst):
        raise click.UsageError("Curves show a whole run; --image and --worst need --kind four or six.")
    path, params = _source(kind, image, worst)
    with connect() as client:
        client.figure(f"runs/{run}/{path}", out, **params)
    click.echo(f"wrote {out}")


def _source(kind: str, image: str | None, worst: int | None) -> tuple[str, dict[str, Any]]:
    """Where the API has it, and what to ask for."""
    if kind == "curves":
        return "figures/curves.png", {}
    if image is None:
        return "figures/worst.png", {"kind": kind, "rows": worst or 6}
    if not re.fullmatch(r"(train|val|test)/[0-9]{1,9}_[0-9]{1,9}", image):
        raise InputError("--image", "must be part, scan and slice, such as val/8_12", image)
    return f"images/{image}/figure.png", {"kind": kind}


COMMANDS = [figure]
