"""``liverseg compare``: the comparison as a table in the terminal, or as text for a paper."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import click
from rich.console import Console
from rich.measure import Measurement

from api.client import Client
from api.commands.connect import connect
from api.commands.show import (
    NOTE_WIDTH,
    NOTHING,
    Sheet,
    clean,
    label,
    moment,
    percent,
    print_json,
    print_sheet,
    rich_table,
    setting,
)
from api.tables import COUNTED, counted, difference, differing
from store.rows import Count

Json = dict[str, Any]

RUN = click.IntRange(1)
Form = Literal["table", "csv", "md", "latex", "json"]


@click.command()
@click.argument("run", type=RUN, nargs=-1)
@click.option("--experiment", type=RUN, help="all runs of this experiment, instead of RUN...")
@click.option("--baseline", type=RUN, help="test every row against this run's, by subject")
@click.option("--column", help="what to test  [default: lesion Dice]")
@click.option("--profile", default="overview", show_default=True, help="overview, modern, paper-2019, ...")
@click.option("--level", help="slice, scan, subject or pooled, as the profile has them")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="pin the rows of this printed table")
@click.option("--sort", help="by run, name, a setting's path or a score's key (dice, pooled_lesion_dice, ...)")
@click.option("--descending", is_flag=True, help="the largest first")
@click.option("--filter", metavar="WORDS", help="only rows with all of them: part of a name, or setting=value")
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(get_args(Form)))
@click.option("--json", "as_json", is_flag=True, help="the same as --format json")
@click.option("--freeze", is_flag=True, help="also keep it as it is, for good, and print its address")
def compare(
    run: Sequence[int], experiment: int | None, form: Form, as_json: bool, freeze: bool, **asked: Any
) -> None:
    """Compare every RUN: settings that differ, then scores in percent, reference predictors at the foot.

    Runs that differ in their seed alone become one row with mean and standard deviation; folds of one set become
    one row over all held-out slices.
    """
    if bool(run) == (experiment is not None):
        raise click.UsageError("Give RUN... or --experiment, one of them.")
    form = "json" if as_json else form
    with connect() as client:
        if freeze:
            kept = client.freeze(list(run) or None, experiment=experiment, **asked)
            click.echo(f"frozen as {kept['key']}: {client.url}{kept['address']}", err=True)
            _show_frozen(client, kept["key"], form)
            return
        wanted = "json" if form == "table" else form
        found = client.compare(list(run) or None, experiment=experiment, format=wanted, **asked)
    if form == "table":
        print_comparison(found)
        click.echo(f"\nThe same as a page: {client.url}/comparisons?{_query(run, experiment, asked)}")
    elif form == "json":
        print_json(found)
    else:
        click.echo(found, nl=False)


def _query(runs: Sequence[int], experiment: int | None, asked: Json) -> str:
    """Of the page that shows the same; what is as usual is left out."""
    chosen: Json = {"experiment": experiment} if experiment is not None else {"runs": ",".join(map(str, runs))}
    chosen |= {name: value for name, value in asked.items() if value and (name, value) != ("profile", "overview")}
    shown = {name: "true" if value is True else value for name, value in chosen.items()}
    return urlencode(shown, doseq=True, safe=",")


@click.command()
@click.argument("key", required=False)
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(get_args(Form)))
@click.option("--json", "as_json", is_flag=True, help="the same as --format json")
def frozen(key: str | None, form: Form, as_json: bool) -> None:
    """Print the frozen comparison KEY as it was; without KEY list the frozen comparisons, newest first.

    Its numbers stay whatever becomes of its runs. `liverseg compare --freeze` makes one.
    """
    form = "json" if as_json else form
    with connect() as client:
        if key is not None:
            _show_frozen(client, key, form)
            return
        found = client.frozen_comparisons(limit=500)
    if form == "json":
        print_json({"frozen": found})
        return
    rows = [[one["key"], moment(one["created_at"]), clean(one["created_by"]), _shown_runs(one)] for one in found]
    print_sheet(Sheet(["Key", "Frozen", "By", "Runs"], rows))


def _shown_runs(one: Json) -> str:
    return ", ".join(f"{run} (deleted)" if run in one["deleted"] else str(run) for run in one["runs"])


def _show_frozen(client: Client, key: str, form: Form) -> None:
    if form != "table":
        click.echo(client.frozen_text(key, form), nl=form == "json")
        return
    kept = client.frozen(key)
    print_comparison(_with_marks(kept))
    click.echo(
        f"Frozen on {moment(kept['created_at'])} by {clean(kept['created_by'])}: {client.url}{kept['address']}"
    )


def _with_marks(kept: Json) -> Json:
    """The comparison with a mark in the place of the state of runs that are deleted since."""
    lost = set(kept["deleted"])
    rows = [{**row, "state": "deleted"} if row["run"] in lost else row for row in kept["comparison"]["rows"]]
    return {**kept["comparison"], "rows": rows}


def print_comparison(comparison: Json) -> None:
    """Table 6 with the settings that differ; in two tables where the terminal is too narrow for one."""
    sheet = comparison_sheet(comparison)
    for block in _fitting(sheet, comparison):
        print_sheet(block)
    for sheet in statistics_sheets(comparison):
        click.echo()
        print_sheet(sheet)
    click.echo()
    for note in comparison_notes(comparison):
        click.echo(textwrap.fill(note, NOTE_WIDTH))


def comparison_sheet(comparison: Json) -> Sheet:
    """Name, settings that differ, then the score columns, one line a row; what is pinned comes last."""
    columns, shown = comparison["columns"], apart_in(comparison)
    rows = [
        [
            ", ".join(map(str, row["runs"])) or NOTHING,
            "  " * row["depth"] + _named(row),
            *(setting(row["settings"][path]) if path in row["settings"] else "" for path in shown),
            *(_score(row, column) for column in columns),
        ]
        for name in KINDS
        for row in comparison[name]
    ]
    headers = ["Run", "Name", *map(label, shown), *_headings(columns)]
    return Sheet(headers, rows, frozenset(headers) - {"Name", *map(label, shown)})


def statistics_sheets(comparison: Json) -> Iterator[Sheet]:
    """The tests against the baseline, then each subject's difference."""
    found = comparison["statistics"]
    if not found or not found["contrasts"]:
        return
    unit = found["unit"]
    headers = [
        "Against",
        "Subjects",
        "Won",
        "Lost",
        "Difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "Effect",
        "Smallest p",
    ]
    headers[0] = f"{found['label']} against {clean(found['baseline'])}"
    tests = [
        [
            clean(one["name"]),
            str(one["subjects"]),
            *(NOTHING if one[key] is None else str(one[key]) for key in ("won", "lost")),
            _in_unit(one["mean_difference"], unit),
            " to ".join(_in_unit(end, unit) for end in one["interval"]) if one["interval"] else NOTHING,
            *(f"{one[key]:.3g}" for key in ("p", "p_holm")),
            NOTHING if one["effect"] is None else f"{one['effect']:.2f}",
            f"{one['smallest_p']:.3g}",
        ]
        for one in found["contrasts"]
    ]
    yield Sheet(headers, tests, frozenset(headers[1:]))
    dots = [
        [clean(one["name"]), clean(pair["subject"]), *(_in_unit(pair[key], unit) for key in PAIR)]
        for one in found["contrasts"]
        for pair in one["pairs"]
    ]
    headers = ["Row", "Subject", *(word.capitalize() for word in PAIR)]
    yield Sheet(headers, dots, frozenset(headers[2:]))


KINDS = ("rows", "references", "printed")
PAIR = ("baseline", "value", "difference")


def apart_in(comparison: Json) -> list[str]:
    """The settings in which the rows differ, by dotted path."""
    runs = [row["settings"] for row in comparison["rows"] if row["what"] == "run"]
    return differing(comparison["parameters"], runs, [row["settings"] for row in comparison["printed"]])


def comparison_notes(comparison: Json) -> list[str]:
    """What is equal in all rows, what the numbers mean, and what to beware of."""
    rows, apart = [row for row in comparison["rows"] if row["what"] == "run"], apart_in(comparison)
    same = [
        f"{label(path).lower()} {setting(rows[0]['settings'].get(path))}"
        for path in comparison["parameters"]
        if rows and path not in apart
    ]
    tests = comparison["statistics"] or {"skipped": [], "notes": []}
    return [
        f"Profile {comparison['profile']}, level {comparison['level']}; scores in percent where no unit is named."
        + (f" The same in all rows: {'; '.join(same)}." if same else ""),
        *(f"WARNING: {clean(text)}" for text in (*comparison["warnings"], *comparison["overrides"])),
        *map(clean, (*tests["skipped"], *tests["notes"])),
        *dict.fromkeys(clean(f"{row['table']}: {note}") for row in comparison["printed"] for note in row["notes"]),
        *map(clean, comparison["notes"]),
        *([COUNTED] if any(_counted(row) for name in KINDS for row in comparison[name]) else []),
    ]


def _named(row: Json) -> str:
    name = clean(row["name"] or "(no name)")
    marks = {
        "seeds": f"mean of {row['size']} seeds",
        "folds": f"{row['size']} of {row['expected']} folds",
        "reference": "reference",
        "printed": clean(row["table"] or ""),
        "run": "" if row["state"] == "succeeded" else str(row["state"]),
    }
    told = ", ".join(filter(None, [marks[row["what"]], "collapsed" if row["collapsed"] else ""]))
    return f"{name} ({told})" if told else name


def _score(row: Json, column: Json) -> str:
    value = _in_unit((row["scores"] or {}).get(column["key"]), column["unit"])
    spread = (row["deviations"] or {}).get(column["key"])
    apart = difference((row.get("differences") or {}).get(column["key"]), column["unit"])
    value += "" if spread is None else f" ± {_in_unit(spread, column['unit'])}"
    fewer = _counted(row).get(column["key"])
    return " ".join([value, *(f"({told})" for told in (apart, fewer) if told)])


def _counted(row: Json) -> dict[str, str]:
    """Score -> over how many it was taken, where these are not all that its row has."""
    counts = {key: counted(Count.model_validate(one)) for key, one in (row.get("counts") or {}).items()}
    return {key: told for key, told in counts.items() if told}


def _headings(columns: Sequence[Json]) -> list[str]:
    return [one["label"] if one["unit"] == "fraction" else f"{one['label']} [{one['unit']}]" for one in columns]


def _in_unit(value: float | None, unit: str) -> str:
    if value is None or unit == "fraction":
        return percent(value)
    return f"{value:.3f}"


def _fitting(sheet: Sheet, comparison: Json) -> list[Sheet]:
    console = Console()
    wanted = Measurement.get(console, console.options.update(max_width=10_000), rich_table(sheet)).maximum
    if not sys.stdout.isatty() or wanted <= console.width:
        return [sheet]
    scores = _headings(comparison["columns"])
    settings = [name for name in sheet.headers[2:] if name not in scores]
    blocks = [settings, scores] if settings else [scores]
    return [sheet.select(["Run", "Name", *block]) for block in blocks]


COMMANDS = [compare, frozen]
