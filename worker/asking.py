"""Subcommands that ask the ledger about workers of any host: status and drain."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from store import presence
from store.database import is_outage, transaction
from store.models import Run, Worker
from store.presence import Leave
from store.settings import settings

LOOK_EVERY_S = 1.0
WIDE = 400
"""Columns where nobody looks on."""


@contextmanager
def _ledger_told() -> Iterator[None]:
    """Say in words that the ledger is away.

    Raises:
        ClickException: it is.
    """
    try:
        yield
    except SQLAlchemyError as error:
        if not is_outage(error):
            raise
        raise click.ClickException("the database does not answer; `liverseg-worker doctor` says why") from None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="for programs: every worker and the ids of its runs")
def status(as_json: bool) -> None:
    """Who works: workers of every host, what they have, what each carries and when it was last heard."""
    with _ledger_told(), transaction() as session:
        found = presence.workers(session, settings().lease_s)
        carried = presence.carried(session)
    rows = [_told(worker, alive, carried.get(worker.name, [])) for worker, alive, _ in found]
    if as_json:
        click.echo(json.dumps({"workers": rows}, indent=2))
    elif rows:
        _print(rows)
    else:
        click.echo("No worker is there, nor was one within a week; `liverseg-worker start` starts one here.")


def _told(worker: Worker, alive: bool, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "name": worker.name,
        "host": worker.host,
        "pool": worker.pool,
        "labels": worker.labels,
        "devices": worker.devices,
        "slots": worker.slots,
        "threads": worker.threads,
        "memory_mb": worker.memory_mb,
        "runs": [_told_run(run) for run in runs],
        "standing": _standing(worker, alive),
        "seen_at": worker.seen_at.isoformat(),
        "version": worker.version,
    }


def _told_run(run: Run) -> dict[str, Any]:
    return {"id": run.id, "kind": run.kind, "name": run.name, "state": run.state, "progress": run.progress}


def _standing(worker: Worker, alive: bool) -> str:
    if not alive:
        return "gone"
    if worker.draining or worker.wish:
        return "draining"
    return worker.trouble or "there"


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "Worker",
        "Pool",
        "Labels",
        "Devices",
        "Slots",
        "Memory left",
        "Carries",
        "Standing",
        "Last heard",
    ):
        table.add_column(heading, overflow="fold")
    for one in rows:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(one["labels"].items()))
        memory = "" if one["memory_mb"] is None else f"{one['memory_mb']:,} MiB"
        carries = "\n".join(map(_run_line, one["runs"])) or "nothing"
        cells = [one["name"], one["pool"], labels, ", ".join(one["devices"]), f"{len(one['runs'])} of {one['slots']}"]
        heard = one["seen_at"][:19].replace("T", " ")
        table.add_row(*map(escape, [*cells, memory, carries, one["standing"], heard]))
    console = Console()
    if not console.is_terminal:  # for a file or a program: a worker a line, however long
        console.width = WIDE
    console.print(table)


def _run_line(run: dict[str, Any]) -> str:
    progress = run["progress"] or {}
    epoch = f", epoch {progress['epoch']}" if progress.get("epoch") else ""
    return f"run {run['id']} ({progress.get('phase', run['kind'])}{epoch})"


@click.command()
@click.argument("workers", metavar="[WORKER]...", nargs=-1)
@click.option("--now", is_flag=True, help="do not finish what they run: give it back to the queue")
@click.option("--wait", is_flag=True, help="return when they have ended")
def drain(workers: Sequence[str], now: bool, wait: bool) -> None:
    """Ask workers to finish what they run, take nothing more, and end.

    WORKER is a name that `liverseg-worker status` shows, or a host, for all of its workers; none: this host. Each
    hears of it with its next heartbeat, wherever it is. What starts workers again (systemd, a container engine) must
    be told to stop as well; the unit that comes with liverseg lets a drained worker rest.
    """
    wanted = workers or [socket.gethostname()]
    how = Leave.NOW if now else Leave.FINISH
    with _ledger_told(), transaction() as session:
        there = [worker for worker, alive, _ in presence.workers(session, settings().lease_s) if alive]
        chosen = {name: [one.name for one in there if name in (one.name, one.host)] for name in wanted}
        for name, found in chosen.items():
            if not found:
                raise click.ClickException(f"no worker {name} is there; `liverseg-worker status` lists them")
        asked = [name for found in chosen.values() for name in found]
        for name in asked:
            presence.ask_to_leave(session, name, how, settings().lease_s)
    for name in asked:
        end = "gives back what it runs and ends" if now else "finishes what it runs and ends"
        click.echo(f"{name} {end}")
    if wait:
        _wait_for(set(asked))


def _wait_for(names: set[str]) -> None:
    while True:
        with _ledger_told(), transaction() as session:
            alive = {one.name for one, lives, _ in presence.workers(session, settings().lease_s) if lives}
        if not names & alive:
            return
        time.sleep(LOOK_EVERY_S)
