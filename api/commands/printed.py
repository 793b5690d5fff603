"""``liverseg table``: tables of publications as reference rows, checked for misprints."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from api.commands import show
from api.commands.connect import as_json_option, connect
from liverseg_core.errors import DataError

Json = dict[str, Any]

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
STDIN = Path("-")


@click.group()
def table() -> None:
    """Printed tables: import, list, show."""


@table.command("import")
@click.argument("file", type=FILE, nargs=-1, required=True)
@click.option("--name", help="what to call it  [default: the files' names]")
@as_json_option
def import_(file: Sequence[Path], name: str | None, as_json: bool) -> None:
    """Read a printed table from every FILE, check it for misprints and keep its rows.

    FILE is JSON (columns, rows), CSV, Markdown or text pasted from a page, columns separated by tabs or by two or
    more spaces; - is standard input. Rows of several files are joined by their names, as a table of parameters and a
    table of scores. Importing again under the same name replaces the table.
    """
    texts = {str(path): _read(path) for path in file}
    chosen = name or "-".join("table" if path == STDIN else path.stem for path in file)
    with connect() as client:
        _print(client.import_table(chosen, texts), as_json)


@table.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List the printed tables."""
    with connect() as client:
        found = client.tables()
    columns = {"name": "Name", "rows": "Rows", "notes": "Notes", "created_at": "Imported"}
    columns |= {"created_by": "By"}
    show.print_json({"tables": found}) if as_json else show.print_sheet(show.records_sheet(found, columns))


@table.command("show")
@click.argument("name")
@as_json_option
def show_(name: str, as_json: bool) -> None:
    """Show the printed table NAME and what looks wrong in it."""
    with connect() as client:
        _print(client.table(name), as_json)


def _read(path: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({error})") from None


def _print(found: Json, as_json: bool) -> None:
    if as_json:
        show.print_json(found)
        return
    show.print_sheet(_sheet(found["rows"]))
    click.echo()
    for note in found["notes"]:
        click.echo(textwrap.fill(show.clean(note["message"]), show.NOTE_WIDTH, subsequent_indent="  "))
    if not found["notes"]:
        click.echo("The checks found nothing wrong.")


def _sheet(rows: list[Json]) -> show.Sheet:
    from liverseg_core.misprints import TITLES

    paths = list(dict.fromkeys(path for row in rows for path in row["parameters"]))
    keys = [key for key in TITLES if any(key in row["scores"] for row in rows)]
    lines = [
        [
            show.clean(row["run_id"] or show.NOTHING),
            show.clean(row["name"]),
            *(show.setting(row["parameters"][path]) if path in row["parameters"] else show.NOTHING for path in paths),
            *(f"{row['scores'][key]:.3f}" if key in row["scores"] else show.NOTHING for key in keys),
        ]
        for row in rows
    ]
    headers = ["Run", "Name", *map(show.label, paths), *(TITLES[key] for key in keys)]
    return show.Sheet(headers, lines, frozenset(headers[2:]))


COMMANDS = [table]
