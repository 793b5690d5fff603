"""The subcommands about runs: to submit, list, show and follow them, and whatever may be asked of one."""

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click

from api import specs
from api.client import ApiError, Client
from api.commands import show
from api.commands.connect import as_json_option, connect
from api.commands.watch import viewing, watch
from store.states import State

Json = dict[str, Any]
Form = Literal["table", "csv", "md", "latex", "json"]

PAGE = 500
RUN = click.IntRange(1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

wait_option = click.option("--wait", is_flag=True, help="wait until all runs have ended; exit 1 if any fails")
dry_run_option = click.option("--dry-run", is_flag=True, help="show the runs this would make; submit nothing")


def _default(field: specs.Field) -> str:
    return "(required)" if field.required else f"= {json.dumps(field.default)}"


class ListingFields(click.Command):
    """A command whose help ends with every field of a spec."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Fields of a spec, with their defaults"):
            formatter.write_dl([(f"{one.path} {_default(one)}", one.told) for one in specs.fields()])


@click.command(cls=ListingFields)
@click.argument("file", type=FILE)
@click.option("--name", help="name of the experiment, and of runs that have none of their own")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="change a field, e.g. training.epochs=5")
@click.option(
    "--grid", "grids", multiple=True, metavar="PATH=VALUE,VALUE", help="one run a value; several multiply each other"
)
@click.option("--folds", help="cross-validate: how many folds of subjects (3), or `subject`: leave one subject out")
@click.option("--seeds", help="how many repeats (5), or their seeds (3,4,9)")
@click.option("--pool", help="pool whose workers take the runs  [default: that of the API]")
@click.option("--needs", multiple=True, metavar="LABEL=VALUE", help="a label that a worker must have, e.g. gpu=h200")
@click.option("--reuse/--no-reuse", default=True, help="whether finished runs may stand for equal new ones")
@dry_run_option
@wait_option
@as_json_option
def submit(
    file: Path,
    name: str | None,
    sets: Sequence[str],
    grids: Sequence[str],
    folds: str | None,
    seeds: str | None,
    pool: str | None,
    needs: Sequence[str],
    reuse: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Submit the experiment in FILE (YAML).

    FILE holds a spec, or `spec` with any of `grid` (path: [values]), `variants` ([{path: value}]), `folds` and
    `seeds` beside it. Those multiply: variants, then grid, then folds, then seeds. `pool` and `needs`
    ({label: value}) say whose workers take the runs.
    """
    body = specs.read_submission(file)
    specs.change(body, sets, grids)
    specs.place(body, pool, needs)
    if name is not None:
        body["spec"]["name"] = name
    if folds is not None:
        body["folds"] = specs.parse_folds(folds)
    if seeds is not None:
        body["seeds"] = specs.parse_seeds(seeds)
    if not reuse:
        body["reuse"] = False
    _submit(body, dry_run, wait, as_json)


def _submit(body: Json, dry_run: bool, wait: bool, as_json: bool) -> None:
    with connect() as client:
        if not dry_run:
            experiment = client.submit(body)
            _tell_reused(experiment["runs"])
            follow(client, experiment, wait, as_json)
            return
        plan = client.submit(body, dry_run=True)
    print_plan(plan, as_json)


def print_plan(plan: Json, as_json: bool) -> None:
    """What a submission would do."""
    if as_json:
        show.print_json(plan)
        return
    show.print_sheet(show.plan_sheet(plan["runs"]))
    told = textwrap.fill(
        show.same_told(plan["runs"]), show.NOTE_WIDTH, break_on_hyphens=False, break_long_words=False
    )
    click.echo(f"\n{told}\n")
    click.echo(plan["reach"])
    plural = "s" * (plan["count"] != 1)
    click.echo(f"{plan['count']} run{plural}, {plan['reused']} done already; nothing was submitted")
    click.echo(plan["cost"])
    for leak in dict.fromkeys(leak for run in plan["runs"] for leak in run["leaks"]):
        click.echo(f"let pass by dataset.split.override: {show.clean(leak)}")


def follow(client: Client, experiment: Json, wait: bool, as_json: bool) -> None:
    """Say what was submitted; with ``wait`` follow it to its end, and exit 1 unless every run succeeded."""
    ids = [run["id"] for run in experiment["runs"]]
    if not as_json:
        click.echo(f"experiment {experiment['id']}: {_runs(ids)}")
        _tell_if_nobody_works(client, experiment["runs"])
    if wait:
        experiment["runs"] = _watched(client, ids)
    if as_json:
        show.print_json(experiment)
    if wait:
        _demand_success(experiment["runs"])


def _tell_reused(runs: Sequence[Json]) -> None:
    for run in runs:
        if run["reused_from"]:
            told = f"run {run['id']} shows the results of run {run['reused_from']}, which has the same settings"
            click.echo(f"{told}; --no-reuse trains anew", err=True)


def _tell_if_nobody_works(client: Client, runs: Sequence[Json]) -> None:
    waiting = next((run["id"] for run in runs if run["state"] == State.QUEUED), None)
    waits = client.run(waiting)["waits"] if waiting else None
    if waits and waits.startswith("no worker"):
        click.echo(f"run {waiting}: {waits}", err=True)


def _runs(ids: Sequence[int]) -> str:
    if len(ids) > 1 and list(ids) == list(range(ids[0], ids[-1] + 1)):
        return f"runs {ids[0]} to {ids[-1]}"
    return f"run{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"


def _watched(client: Client, ids: Sequence[int]) -> list[Json]:
    with viewing() as view:
        return watch(client, ids, view)


def _demand_success(runs: Sequence[Json]) -> None:
    failed = [run for run in runs if run["state"] != State.SUCCEEDED]
    for run in failed:
        click.echo(show.complaint(run), err=True)
    if failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--state", type=click.Choice([str(state) for state in State]), help="only runs in this state")
@click.option("--experiment", type=RUN, help="only runs of this experiment")
@click.option("--name", help="only runs whose name holds this")
@click.option("--limit", default=30, show_default=True, type=RUN, help="how many, newest first")
@as_json_option
def runs(state: str | None, experiment: int | None, name: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    with connect() as client:
        found = _paged(client, limit, state=state, experiment=experiment, name=name)
    show.print_json({"runs": found}) if as_json else show.print_sheet(show.runs_sheet(found))


def _paged(client: Client, limit: int, **wanted: Any) -> list[Json]:
    found: list[Json] = []
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = client.runs(**wanted, limit=size, before=found[-1]["id"] if found else None)
        found += page
        if len(page) < size:
            break
    return found


@click.command("show")
@click.argument("run", type=RUN)
@as_json_option
def show_(run: int, as_json: bool) -> None:
    """Show RUN: its settings, attempts, history and files."""
    with connect() as client:
        found = client.run(run)
    if as_json:
        show.print_json(found)
        return
    show.print_card(show.run_facts(found))
    for title, key, columns in _LISTS:
        if found[key]:
            click.echo(f"\n{title}")
            show.print_sheet(show.records_sheet(found[key], columns))


_LISTS = (
    (
        "Attempts",
        "attempts",
        {
            "number": "Attempt",
            "outcome": "Outcome",
            "host": "Host",
            "device": "Device",
            "exit_code": "Exit code",
            "resumed_from": "Resumed from epoch",
            "peak_memory_mb": "Peak memory, MiB",
            "started_at": "Started",
            "ended_at": "Ended",
            "message": "Message",
        },
    ),
    (
        "History",
        "events",
        {"at": "At", "move": "Move", "state": "State", "attempt": "Attempt", "actor": "By", "detail": "Detail"},
    ),
    ("Files", "artifacts", {"kind": "Kind", "bytes": "Bytes", "sha256": "SHA-256"}),
)


@click.command()
@click.argument("run", type=RUN)
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(get_args(Form)))
@click.option("--sort", default="scan", show_default=True, help="a column of the JSON form, e.g. lesion_dice")
@click.option("--descending", is_flag=True, help="largest first")
@click.option("--limit", type=click.IntRange(1, 5000), help="how many images  [default: all; 500 in JSON]")
@click.option("--json", "as_json", is_flag=True, help="the same as --format json: counts, and ratios as fractions")
def images(run: int, form: Form, sort: str, descending: bool, limit: int | None, as_json: bool) -> None:
    """Print the scores of every image of RUN as the study's Figure 4 does, in percent.

    One label against the rest on quantised values; blank where the truth of the slice lacks the label.
    """
    form = "json" if as_json else form
    wanted = "csv" if form == "table" else form
    with connect() as client:
        text = client.images_text(run, wanted, sort=sort, descending=descending, limit=limit)
    if form == "json":
        show.print_json(json.loads(text))
    elif form == "table":
        _print_images(*csv.reader(io.StringIO(text, newline="")))
    else:
        click.echo(text, nl=not text.endswith("\n"))


def _print_images(header: list[str], *rows: list[str]) -> None:
    """The table, and below it the override that its CSV has in every line."""
    width = len(header) - ("override" in header)
    shown = header[:width]
    show.print_sheet(show.Sheet(shown, [row[:width] for row in rows], frozenset(shown) - {"Image"}))
    for written in dict.fromkeys(row[width] for row in rows if len(row) > width):
        click.echo(f"\n{textwrap.fill(f'WARNING: split override: {show.clean(written)}', show.NOTE_WIDTH)}")


@click.command()
@click.argument("run", type=RUN)
@click.option("--lines", type=click.IntRange(1, 10_000), default=200, show_default=True, help="how many, at most")
@click.option("--attempt", type=click.IntRange(min=1), help="of this attempt, which left no result")
def logs(run: int, lines: int, attempt: int | None) -> None:
    """Print the last lines of RUN's log, while it trains or afterwards."""
    with connect() as client:
        click.echo(show.clean_lines(client.logs(run, lines, attempt)))


@click.command("watch")
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def watch_(run: Sequence[int], as_json: bool) -> None:
    """Follow every RUN to its end; exit 1 if any does not succeed."""
    with connect() as client:
        ended = _watched(client, run)
    if as_json:
        show.print_json({"runs": ended})
    _demand_success(ended)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def cancel(run: Sequence[int], as_json: bool) -> None:
    """Ask every RUN to end; exit 1 if one has ended already in another way."""
    _ask(Client.cancel, run, as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def pause(run: Sequence[int], as_json: bool) -> None:
    """Ask every RUN to wait at its last checkpoint; exit 1 if one cannot."""
    _ask(Client.pause, run, as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def resume(run: Sequence[int], as_json: bool) -> None:
    """Queue every paused RUN again; each goes on from its checkpoint."""
    _ask(Client.resume, run, as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def requeue(run: Sequence[int], as_json: bool) -> None:
    """Give every dead RUN a new set of attempts."""
    _ask(Client.requeue, run, as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def retry(run: Sequence[int], as_json: bool) -> None:
    """Try every failed or cancelled RUN again, as another run that is linked to it."""
    _ask(Client.retry, run, as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@as_json_option
def first(run: Sequence[int], as_json: bool) -> None:
    """Put every RUN before all that wait in its pool, the first one given first; exit 1 if one does not wait."""
    _ask(Client.first, list(reversed(run)), as_json)


@click.command()
@click.argument("run", type=RUN, nargs=-1, required=True)
@click.option("--name", help="its name")
@click.option("--notes", help="its notes")
@click.option("--tag", "tags", multiple=True, help="its tags, in place of those it has; may be repeated")
@click.option("--no-tags", is_flag=True, help="take its tags away")
@click.option("--priority", type=int, help="the highest of what waits in a pool is taken first, then the oldest")
@as_json_option
def edit(
    run: Sequence[int],
    name: str | None,
    notes: str | None,
    tags: Sequence[str],
    no_tags: bool,
    priority: int | None,
    as_json: bool,
) -> None:
    """Change name, notes, tags or priority of every RUN; what is not given stays."""
    if tags and no_tags:
        raise click.UsageError("--tag and --no-tags exclude each other")
    wanted = {"name": name, "notes": notes, "tags": [] if no_tags else list(tags) or None, "priority": priority}
    changes = {key: value for key, value in wanted.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --name, --notes, --tag, --no-tags or --priority")
    _ask(lambda client, one: client.edit(one, **changes), run, as_json)


def _ask(move: Callable[[Client, int], Json], runs: Sequence[int], as_json: bool) -> None:
    """Ask it of each run, then tell what became of each; the last refusal is the command's."""
    answers, refusals = [], []
    with connect() as client:
        for one in runs:
            try:
                answers.append(move(client, one))
            except ApiError as error:
                refusals.append(error)
    _tell_moved(answers, as_json)
    for refusal in refusals[:-1]:
        click.echo(f"Error: {refusal}", err=True)
    if refusals:
        raise refusals[-1]


@click.command()
@as_json_option
def workers(as_json: bool) -> None:
    """Who works: worker processes, their pools and slots, and when they were last seen."""
    with connect() as client:
        found = client.workers()
    if as_json:
        show.print_json({"workers": found})
        return
    show.print_sheet(show.workers_sheet(found))


def _tell_moved(answers: list[Json], as_json: bool) -> None:
    if as_json:
        show.print_json({"runs": answers})
        return
    for run in answers:
        click.echo(f"run {run['id']} {show.named(run)}: {run['state']}")


COMMANDS = [submit, runs, show_, images, logs, watch_, cancel, pause, resume, requeue, retry, first, edit, workers]
