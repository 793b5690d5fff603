"""What the API answered, as text: tables and cards for a terminal, plain aligned columns for everything else.

Nothing is cut off where the output is no terminal. Text of other people (names, notes, messages) loses its
control characters, so that it cannot drive the terminal.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from api.tables import size, speed
from liverseg_core.data.annotations import in_words
from liverseg_core.spec import ExperimentSpec
from store.states import FINAL

Json = dict[str, Any]

NOTE_WIDTH = 100
NOTHING = "-"
COLOURS = {"succeeded": "green", "failed": "red", "dead": "red", "running": "cyan", "stopping": "yellow"}


@dataclass(frozen=True)
class Sheet:
    """A table of texts; columns named in ``numbers`` are aligned to the right."""

    headers: list[str]
    rows: list[list[str]]
    numbers: frozenset[str] = frozenset()

    def select(self, wanted: Sequence[str]) -> "Sheet":
        """The columns ``wanted``."""
        places = [self.headers.index(name) for name in wanted]
        return Sheet(list(wanted), [[row[place] for place in places] for row in self.rows], self.numbers)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_sheet(sheet: Sheet, empty: str = "nothing to list") -> None:
    """Print a table; on a terminal too narrow for it, wide cells wrap. Without rows ``empty`` says so on stderr."""
    if sys.stdout.isatty():
        Console().print(rich_table(sheet))
    else:
        click.echo(plain(sheet))
    if not sheet.rows:
        click.echo(empty, err=True)


def print_card(facts: Iterable[tuple[str, str]]) -> None:
    """Print ``name  value`` lines."""
    facts = list(facts)
    width = max(cell_len(name) for name, _ in facts)
    for name, value in facts:
        head, *more = (value or NOTHING).splitlines()
        click.echo(f"{name:{width}}  {head}")
        for line in more:
            click.echo(f"{'':{width}}  {line}")


def plain(sheet: Sheet) -> str:
    """Aligned columns without borders, two spaces apart, never cut."""
    lines = [sheet.headers, *sheet.rows]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(sheet.headers))]
    return "\n".join(_line(line, widths, sheet) for line in lines)


def _line(cells: list[str], widths: list[int], sheet: Sheet) -> str:
    padded = []
    for cell, width, header in zip(cells, widths, sheet.headers, strict=True):
        blank = " " * (width - cell_len(cell))
        padded.append(blank + cell if header in sheet.numbers else cell + blank)
    return "  ".join(padded).rstrip()


def rich_table(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in sheet.headers:
        justify: JustifyMethod = "right" if header in sheet.numbers else "left"
        table.add_column(Text(header), justify=justify, no_wrap=header == "Name")
    for row in sheet.rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    return table


# ---- values --------------------------------------------------------------------------------------------------


def clean(value: Any) -> str:
    """Text without control characters; line breaks become spaces."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def clean_lines(value: Any) -> str:
    """Text without control characters but line breaks."""
    return "\n".join(clean(line) for line in str(value).splitlines())


def setting(value: Any) -> str:
    """A spec's value: ``yes``, ``0.001``, ``0, 1``."""
    if value is None or value in ([], ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    return clean(value)


def percent(fraction: float | None) -> str:
    """``0.96337`` -> ``96.337``, as Table 6 is printed."""
    return NOTHING if fraction is None else f"{100 * fraction:.3f}"


def duration(seconds: float) -> str:
    """``75`` -> ``1:15``, ``4000`` -> ``1:06:40``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def moment(text: str | None) -> str:
    """An ISO time in this machine's zone, to the second."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else NOTHING


def label(path: str) -> str:
    """Short heading of a setting: ``training.learning_rate`` -> ``Learning rate``."""
    *sections, name = path.split(".")
    words = name.replace("_", " ")
    before = {"exclude": "without ", "split": "split "}.get(sections[-1] if sections else "", "")
    return (before + words).capitalize()


def took(run: Json) -> str:
    """How long a run has been worked on, from its first start."""
    if not run.get("started_at"):
        return NOTHING
    end = datetime.fromisoformat(run["finished_at"]) if run.get("finished_at") else datetime.now(UTC)
    return duration((end - datetime.fromisoformat(run["started_at"])).total_seconds())


def standing(run: Json) -> str:
    """How a run stands, in a few words: ``epoch 2 of 6, 41 images/s, 1:20 left``."""
    state, progress = run["state"], run.get("progress") or {}
    if state == "queued":
        return clean(run.get("waits") or "queued")
    if run.get("reused_from"):
        return f"{state}: result of run {run['reused_from']}"
    if state in FINAL:
        return _ending(run)
    if state == "stopping" or "epoch" not in progress:
        return f"{state}: {clean(progress['phase'])}" if "phase" in progress else state
    words = f"epoch {progress['epoch']} of {run['epochs_total']}"
    if "seconds_left" not in progress:
        return words
    return f"{words}, {speed(progress['images_per_second'])} images/s, {duration(progress['seconds_left'])} left"


def _ending(run: Json) -> str:
    if run["state"] == "succeeded":
        best = f", best epoch {run['best_epoch']}" if run.get("best_epoch") else ""
        return f"succeeded after {took(run)}{best}"
    why = clean(run.get("reason") or "")
    return f"{run['state']}: {why}" if why else str(run["state"])


def complaint(run: Json) -> str:
    """Why a run did not succeed, for a person: state, reason and message."""
    told = clean_lines(run.get("message") or "").strip()
    why = ": ".join(filter(None, [clean(run.get("reason") or ""), told]))
    return f"run {run['id']} {named(run)} {run['state']}" + (f": {why}" if why else "")


def named(run: Json) -> str:
    return clean(run.get("name") or "(no name)")


# ---- runs and data sets --------------------------------------------------------------------------------------


def runs_sheet(runs: list[Json]) -> Sheet:
    rows = [
        [
            str(run["id"]),
            named(run),
            run["state"],
            standing(run) if run["state"] == "running" or run.get("reason") else NOTHING,
            clean(run["dataset"]),
            moment(run["created_at"]),
            took(run),
        ]
        for run in runs
    ]
    return Sheet(
        ["Run", "Name", "State", "Standing", "Data set", "Submitted", "Took"], rows, frozenset({"Run", "Took"})
    )


def workers_sheet(workers: list[Json]) -> Sheet:
    rows = [
        [
            clean(one["name"]),
            clean(one["pool"]),
            clean(", ".join(f"{name}={value}" for name, value in sorted(one["labels"].items()))),
            f"{one['runs']} of {one['slots']}",
            str(one["threads"]),
            "draining" if one["draining"] else clean(one["trouble"] or "there") if one["alive"] else "gone",
            moment(one["seen_at"]),
            one["version"],
        ]
        for one in workers
    ]
    headings = ["Worker", "Pool", "Labels", "Slots in use", "Threads a run", "Standing", "Last seen", "Version"]
    return Sheet(headings, rows, frozenset({"Threads a run"}))


def plan_sheet(runs: list[Json]) -> Sheet:
    """A dry run: what would be trained, with the settings in which the runs differ, and what is there already."""
    same = same_settings(runs)
    rows = [
        [
            clean(run.get("name") or "(no name)"),
            _settings({path: value for path, value in run["settings"].items() if path not in same}) or "as below",
            f"result of run {run['reused_from']}" if run.get("reused_from") else "new",
        ]
        for run in runs
    ]
    return Sheet(["Name", "Settings", "Result"], rows)


def same_settings(runs: list[Json]) -> Json:
    """The settings that all runs of a dry run share, of those that are not the study's."""
    first, *others = (run["settings"] for run in runs)
    return {path: value for path, value in first.items() if all(path in one and one[path] == value for one in others)}


def same_told(runs: list[Json]) -> str:
    """Those settings as a sentence."""
    whose = "All runs" if len(runs) > 1 else "The run"
    return clean(f"{whose}, where not the study's Table 1: {_settings(same_settings(runs)) or 'nothing'}.")


def _settings(some: Json) -> str:
    return ", ".join(f"{path}={setting(value)}" for path, value in some.items())


def run_facts(run: Json) -> list[tuple[str, str]]:
    """What `liverseg show` says about a run, above the lists of attempts, events and artifacts."""
    facts = [
        ("Run", f"{run['id']} of experiment {run['experiment']}"),
        ("Name", named(run)),
        ("State", standing(run)),
        ("Data set", clean(run["dataset"])),
        ("Settings", _differing_from_default(run["spec"])),
        ("Submitted", moment(run["created_at"])),
        ("Started", moment(run["started_at"])),
        ("Finished", moment(run["finished_at"])),
        ("Took", took(run)),
        ("Tags", ", ".join(map(clean, run["tags"]))),
        ("Notes", clean_lines(run["notes"])),
        ("Disk", _disk(run["disk"])),
        ("Hashes", f"training {run['training_hash'][:12]}, evaluation {run['evaluation_hash'][:12]}"),
    ]
    if run.get("resumed_elsewhere"):
        facts.insert(3, ("Hardware", clean(run["resumed_elsewhere"])))
    if run.get("message"):
        facts.insert(3, ("Message", clean_lines(run["message"])))
    if run.get("retries"):
        facts.insert(3, ("Retries", ", ".join(f"run {other}" for other in run["retries"])))
    if run.get("retry_of"):
        facts.insert(3, ("Retry of", f"run {run['retry_of']}"))
    if run.get("next"):
        facts.insert(3, ("Next", clean(run["next"])))
    return facts


def _disk(disk: Json) -> str:
    told = f"{size(disk['bytes'])}; deleting it frees {size(disk['frees_run'])}"
    return f"{told}\n{clean(disk['deleted'])}" if disk["deleted"] else told


def _differing_from_default(spec: Json) -> str:
    chosen = ExperimentSpec.parse(spec).settings()
    usual = ExperimentSpec.parse({"dataset": {"id": spec["dataset"]["id"]}}).settings()
    differing = [f"{path} = {setting(value)}" for path, value in chosen.items() if usual.get(path) != value]
    return "\n".join(differing) or "all at their defaults"


def records_sheet(records: list[Json], columns: dict[str, str]) -> Sheet:
    """Any list of records; ``columns`` maps a key to its heading."""
    rows = [[_value(key, record.get(key)) for key in columns] for record in records]
    numbers = frozenset(
        heading for key, heading in columns.items() if any(type(one.get(key)) in (int, float) for one in records)
    )
    return Sheet(list(columns.values()), rows, numbers)


def _value(key: str, value: Any) -> str:
    if key == "at" or key.endswith("_at"):
        return moment(value)
    return NOTHING if value is None else clean(f"{value:,}" if type(value) is int else value)


def datasets_sheet(datasets: list[Json]) -> Sheet:
    rows = [
        [
            clean(one["name"]),
            f"{one['height']} x {one['width']}",
            parts(one),
            str(people(one)),
            one["content_hash"][:12],
        ]
        for one in datasets
    ]
    return Sheet(["Name", "Height x width", "Slices (scans)", "Subjects", "Content"], rows, frozenset({"Subjects"}))


def dataset_facts(dataset: Json) -> list[tuple[str, str]]:
    assumed = " (nobody said who they are, so each scan counts as one)" if dataset["subjects_assumed"] else ""
    return [
        ("Name", clean(dataset["name"])),
        ("Height x width", f"{dataset['height']} x {dataset['width']}"),
        ("Slices (scans)", parts(dataset)),
        *in_words(dataset.get("acquisitions", {}).values()).items(),
        ("Subjects", f"{people(dataset)}{assumed}"),
        *(("On both sides", clean(leak)) for leak in dataset["leaks"]),
        ("Content", dataset["content_hash"]),
        ("Imported", f"{moment(dataset['created_at'])} by {clean(dataset['created_by'] or NOTHING)}"),
    ]


def parts(dataset: Json) -> str:
    """``train 1,092 (8), val 500 (3)``."""
    found = dataset["parts"].items()
    return ", ".join(f"{part} {facts['slices']:,} ({facts['scans']})" for part, facts in found)


def people(dataset: Json) -> int:
    """How many subjects a data set shows."""
    return len(set(dataset["subjects"].values()))
