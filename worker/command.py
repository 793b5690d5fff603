"""The ``liverseg-worker`` command."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from liverseg_core.errors import InputError
from liverseg_core.submission import LABEL
from store import broker, logs
from store.database import limit_replies, limit_silence
from store.settings import settings
from worker.asking import drain, status


@click.group()
def main() -> None:
    """Take runs from the queue and train them on this machine.

    Set LIVERSEG_DATABASE_URL, LIVERSEG_BROKER_URL and LIVERSEG_HOME (a folder shared with the API) to join the
    services of another machine; `liverseg-worker doctor` says what is amiss.
    """


def _devices(_context: click.Context, _option: click.Parameter, given: str | None) -> Sequence[str]:
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"names a device twice: {given!r}; name each once")
    return names


def _labels(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, _, value = text.partition("=")
        if not (re.match(LABEL, name) and re.match(LABEL, value)):
            raise click.BadParameter(f"is written NAME=VALUE, such as gpu=h200. Received: {text!r}")
        labels[name] = value
    return labels


def _of_a_worker(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what kind of worker is meant."""
    options = (
        click.option(
            "--devices",
            callback=_devices,
            metavar="NAME,NAME",
            help="devices to train on, as CUDA_VISIBLE_DEVICES calls them, or cpu  [default: what TensorFlow finds]",
        ),
        click.option(
            "--slots",
            default=1,
            show_default=True,
            type=click.IntRange(1, 64),
            help="runs at the same time on each device",
        ),
        click.option("--pool", help="pool of runs to take from  [default: LIVERSEG_POOL or 'default']"),
        click.option(
            "--data-cache",
            type=click.Path(file_okay=False, path_type=Path),
            help="folder on a fast disk of this host for fetched files and decoded slices  [default: "
            "LIVERSEG_DATA_CACHE, or LIVERSEG_HOME]; LIVERSEG_DATA_CACHE_MB says how much",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _choose(pool: str | None, data_cache: Path | None) -> None:
    """Let this process and its trainers have what was said on the command line."""
    if pool:
        os.environ["LIVERSEG_POOL"] = pool
    if data_cache:
        os.environ["LIVERSEG_DATA_CACHE"] = str(data_cache.resolve())
    settings.cache_clear()


def _end(*_: object) -> None:
    """What SIGTERM does until Celery has a handler of its own: a process that the signal ends leaves its trainers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


@main.command()
@_of_a_worker
@click.option("--threads", type=click.IntRange(1, 1024), help="compute threads a run  [default: cores / all slots]")
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=VALUE",
    help="what runs may need, e.g. gpu=h200",
)
@click.option("--log-level", default="INFO", show_default=True)
def start(
    devices: Sequence[str],
    slots: int,
    pool: str | None,
    data_cache: Path | None,
    threads: int | None,
    labels: dict[str, str],
    log_level: str,
) -> None:
    """Start working; SIGTERM or Ctrl-C gives the running work back to the queue and ends."""
    _choose(pool, data_cache)
    try:
        settings()
    except InputError as error:
        raise click.UsageError(str(error)) from None
    from celery.signals import setup_logging, worker_ready

    from worker.app import make_app
    from worker.attempt import work_off, worker_name
    from worker.here import Here
    from worker.load import attempts
    from worker.slots import Slots
    from worker.waiting import trainers

    places = Slots(slots, worker_name(), devices)
    chosen = threads or max(1, (os.cpu_count() or 1) // places.total)
    attempts.labels = labels
    words = ["--quiet"] if logs.as_json() else []  # else Celery would print a banner among the lines
    words += ["worker", "--pool", "threads", "--concurrency", str(places.total)]
    words += ["--queues", broker.queue_name(settings().pool)]
    words += ["--without-gossip", "--without-mingle", "--loglevel", log_level]
    limit_replies(settings().lease_s * 2 / 3)
    limit_silence(settings().lease_s)
    if logs.as_json():
        logs.configure("worker", log_level.upper())
        setup_logging.connect(lambda **_: None, weak=False)  # Celery then leaves it as it is
    if settings().warm:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
        trainers.keep(slots, places.surroundings)
        signal.signal(signal.SIGTERM, _end)
        if asked:
            _end()
    here = Here(places.total, chosen, devices, lambda: work_off(chosen, places))
    worker_ready.connect(lambda **_: here.start(), weak=False)
    try:
        make_app(chosen, places).worker_main(words)
    finally:
        here.stop()


@main.command()
@_of_a_worker
@click.option("--json", "as_json", is_flag=True, help="for programs: one object a check")
def doctor(devices: Sequence[str], slots: int, pool: str | None, data_cache: Path | None, as_json: bool) -> None:
    """Say whether a worker started with the same options would work here, and what to do where not.

    Looks at database, schema, broker, folders, memory, slots, driver, devices (as a trainer sees them), versions and
    clock. Exit status 1: something fails.
    """
    from worker.doctor.examination import examine
    from worker.doctor.findings import Level

    _choose(pool, data_cache)
    findings = []
    for finding in examine(slots, devices):
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    if as_json:
        click.echo(json.dumps({"checks": [asdict(one) for one in findings]}, indent=2))
    if any(one.level is Level.FAIL for one in findings):
        raise SystemExit(1)


main.add_command(status)
main.add_command(drain)

if __name__ == "__main__":
    main()
