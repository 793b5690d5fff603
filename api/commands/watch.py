"""Following runs until they end: bars with rate and time left on a terminal, a line a change elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from api.client import ApiError, Client, Unreachable
from api.commands import show
from store.states import FINAL

Json = dict[str, Any]

LOOK_EVERY_S = 0.5
MOST_AT_ONCE = 20
"""How many of the runs that have not ended are asked about; the queue takes them in this order, more or less."""
LINE_EVERY_S = 10.0
PATIENCE_S = 60.0


class View(Protocol):
    """Where a watcher shows what it sees."""

    def update(self, run: Json) -> None:
        """The newest of a run."""

    def say(self, line: str) -> None:
        """Something beside the runs."""


class Lines:
    """One line a change of state or epoch, and every ten seconds while something moves."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._told: dict[int, float] = {}

    def update(self, run: Json) -> None:
        progress = run.get("progress") or {}
        seen = (run["state"], run.get("waits"), progress.get("phase"), progress.get("epoch"))
        changed = seen[:1] != self._seen.get(run["id"], ())[:1]
        due = time.monotonic() - self._told.get(run["id"], 0) > LINE_EVERY_S
        if changed or (due and seen != self._seen.get(run["id"])):
            self._seen[run["id"]], self._told[run["id"]] = seen, time.monotonic()
            self.say(f"run {run['id']} {show.named(run)}: {show.standing(run)}")

    def say(self, line: str) -> None:
        click.echo(line, err=True)


class Bars:
    """A bar a run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, TaskID] = {}

    def update(self, run: Json) -> None:
        if run["id"] not in self._tasks:
            name = f"{run['id']} {show.named(run)}"
            self._tasks[run["id"]] = self._progress.add_task(name, total=1.0, standing="")
        self._progress.update(self._tasks[run["id"]], completed=fraction(run), standing=show.standing(run))

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False)


@contextmanager
def viewing() -> Iterator[View]:
    """Bars where standard error is a terminal, else lines; both leave standard output to results."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[standing]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)


def fraction(run: Json) -> float:
    """How much of a run is done, 0..1, counted in training steps."""
    if run["state"] == "succeeded":
        return 1.0
    progress = run.get("progress") or {}
    if progress.get("phase") == "evaluating":
        return 0.99
    epochs: float = progress.get("epoch", 1) - 1 + progress.get("step", 0) / max(1, progress.get("steps", 1))
    return min(1.0, epochs / max(1, int(run["epochs_total"])))


def watch(client: Client, ids: Sequence[int], view: View, between: Callable[[], None] = lambda: None) -> list[Json]:
    """Follow runs until all have ended; their last state, in the order of ``ids``.

    Args:
        client: the API; it may be away for a minute.
        ids: what to follow.
        view: where to show it.
        between: called twice a second.

    Raises:
        Unreachable: the API stayed away.
        ApiError: it refuses to tell, for instance because there is no such run.
    """
    ended: dict[int, Json] = {}
    heard = time.monotonic()
    while pending := [run for run in dict.fromkeys(ids) if run not in ended]:
        try:
            for run in map(client.run, pending[:MOST_AT_ONCE]):
                view.update(run)
                if run["state"] in FINAL:
                    ended[run["id"]] = run
            heard = time.monotonic()
        except (Unreachable, ApiError) as error:
            if not _passing(error) or time.monotonic() - heard > PATIENCE_S:
                raise
            view.say(f"{error}; trying again")
        between()
        if len(ended) < len(set(ids)):
            time.sleep(LOOK_EVERY_S)
    return [ended[run] for run in dict.fromkeys(ids)]


def _passing(error: Exception) -> bool:
    return isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status in (502, 503, 504))
