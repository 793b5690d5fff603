"""``liverseg disk``, ``delete`` and ``sweep``: what takes room, and giving it back."""

import re
from collections.abc import Sequence
from typing import Any

import click

from api.commands import show
from api.commands.connect import as_json_option, connect, yes_option
from api.commands.runs import PAGE, RUN
from api.tables import size
from liverseg_core.errors import InputError

Json = dict[str, Any]


@click.command()
@click.argument("run", type=RUN, required=False)
@as_json_option
def disk(run: int | None, as_json: bool) -> None:
    """What takes room on disk: RUN, or everything of the project with its largest runs.

    Files are stored by their content, so several runs may hold one file: it is counted once and goes with the last.
    Rows in the database are not counted.
    """
    with connect() as client:
        found = client.disk() if run is None else client.run(run)["disk"]
    if as_json:
        show.print_json(found)
    elif run is None:
        _print_project(found)
    else:
        _print_run(found)


def _print_project(found: Json) -> None:
    lines = [[kind, size(count)] for kind, count in found["kinds"].items()]
    lines += [["checkpoints", size(found["checkpoints"])]]
    for one in found["datasets"]:
        cache = f" and {size(one['cache'])} of decoded slices" if one["cache"] else ""
        lines.append([f"data set {show.clean(one['name'])}", f"{size(one['bytes'])}{cache}"])
    lines += [["deleted, goes within the hour", size(found["leaving"])]] if found["leaving"] else []
    show.print_sheet(show.Sheet(["What", "Size"], [*lines, ["all", size(found["bytes"])]]))
    if found["runs"]:
        click.echo("\nLargest runs")
        rows = [[str(one["run"]), show.named(one), one["state"], size(one["bytes"])] for one in found["runs"]]
        show.print_sheet(show.Sheet(["Run", "Name", "State", "Size"], rows, frozenset({"Run", "Size"})))


def _print_run(found: Json) -> None:
    rows = [
        [part["kind"], size(part["bytes"]), ", ".join(map(str, part["shared"])) or show.NOTHING]
        for part in found["parts"]
    ]
    show.print_sheet(show.Sheet(["Kind", "Size", "Also held by runs"], rows, frozenset({"Size"})))
    click.echo(
        f"{size(found['bytes'])} in all; deleting the run frees {size(found['frees_run'])}, its maps and checkpoints "
        f"alone {size(found['frees_files'])}"
    )
    if found["deleted"]:
        click.echo(show.clean(found["deleted"]))


@click.command()
@click.argument("run", type=RUN, nargs=-1)
@click.option("--experiment", type=RUN, help="all runs of this experiment")
@click.option("--tag", help="all runs with this tag")
@click.option("--older-than", metavar="DAYS", help="all runs that ended so long ago, such as 30d")
@click.option("--files", is_flag=True, help="only probability maps and checkpoints; scores, curves and weights stay")
@yes_option
@as_json_option
def delete(
    run: Sequence[int],
    experiment: int | None,
    tag: str | None,
    older_than: str | None,
    files: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete every RUN, or all that fit the options together; exit 1 if one of them stays.

    Without --yes it says what would go, what that really frees, and what stands against it. Frozen comparisons
    (`liverseg compare --freeze`) keep their numbers. Deleting runs needs an administrator's token, --files one that
    may write.
    """
    fits: Json = {"experiment": experiment, "tag": tag, "older_than_days": _days(older_than)}
    if bool(run) == any(one is not None for one in fits.values()):
        raise click.UsageError("Give RUN..., or some of --experiment, --tag, --older-than.")
    with connect() as client:
        found = client.delete(list(run) or None, what="files" if files else "run", dry_run=not yes, **fits)
    if as_json:
        show.print_json(found)
    else:
        _tell(found)
    if found["stays"]:
        raise click.exceptions.Exit(1)


def _days(told: str | None) -> int | None:
    if told is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})d?", told)
    if match is None:
        raise InputError("--older-than", "is written as days, such as 30d", told)
    return int(match[1])


def _tell(found: Json) -> None:
    """What goes, what stays, what it frees."""
    going = [str(one["run"]) for one in found["runs"]]
    rows = [[one["kind"], str(one["files"]), size(one["bytes"]), size(one["frees"])] for one in found["files"]]
    if rows:
        show.print_sheet(show.Sheet(["Kind", "Files", "Size", "Freed"], rows, frozenset({"Files", "Size", "Freed"})))
    for one in found["stays"]:
        click.echo(f"stays: run {one['run']} {show.named(one)}: {show.clean(one['why'])}")
    if found["frozen"]:
        click.echo(f"frozen comparisons that keep their numbers: {', '.join(found['frozen'])}")
    if found["experiments"]:
        click.echo(f"experiments that go with their last run: {', '.join(map(str, found['experiments']))}")
    what = "runs" if found["what"] == "run" else "maps and checkpoints of runs"
    names = ", ".join(going[:20]) + (f" and {len(going) - 20} more" if len(going) > 20 else "")
    if not going:
        click.echo("nothing to delete")
    elif found["dry_run"]:
        click.echo(f"{what} {names} would go and free {size(found['frees'])}; nothing was deleted, --yes does it")
    else:
        click.echo(f"{what} {names} deleted; {size(found['frees'])} are free within an hour of their storing")


@click.command()
@as_json_option
def deletions(as_json: bool) -> None:
    """What was deleted, by whom, newest first."""
    with connect() as client:
        found = client.deletions(PAGE)
    columns = {"at": "At", "actor": "By", "what": "What", "run": "Run", "name": "Name", "bytes": "Bytes freed"}
    show.print_json({"deletions": found}) if as_json else show.print_sheet(show.records_sheet(found, columns))


@click.command()
@yes_option
def sweep(yes: bool) -> None:
    """Find files of LIVERSEG_HOME that the database does not know and nothing has touched for a day.

    Crashed workers and broken uploads leave them. Like `verify` it reads the database itself, not through the API;
    make sure that LIVERSEG_DATABASE_URL and LIVERSEG_HOME belong together before you say --yes.
    """
    from sqlalchemy.exc import OperationalError  # the database's libraries, which other commands do without

    from store import tidy
    from store.database import transaction

    try:
        with transaction() as session:
            found = tidy.remove_orphans(session) if yes else tidy.orphans(session)
    except OperationalError as error:
        raise click.ClickException(f"the database cannot be reached: {error.orig}") from None
    for orphan in found:
        click.echo(f"{size(orphan.bytes):>12}  {orphan.path}")
    total = size(sum(orphan.bytes for orphan in found))
    if not found:
        click.echo("nothing is left over")
    elif yes:
        click.echo(f"removed {len(found)}, {total}")
    else:
        click.echo(f"{len(found)}, {total}; nothing was removed, --yes does it")


COMMANDS = [disk, delete, deletions, sweep]
