"""The ``liverseg-worker`` command."""

import os

import click

from liverseg_core.errors import InputError
from store import broker, logs
from store.database import limit_replies
from store.settings import settings


@click.group()
def main() -> None:
    """Take runs from the queue and train them on this machine.

    Set LIVERSEG_DATABASE_URL, LIVERSEG_BROKER_URL and LIVERSEG_HOME (a folder shared with the API) to join the
    services of another machine.
    """


@main.command()
@click.option(
    "--slots", default=1, show_default=True, type=click.IntRange(1, 64), help="runs at the same time on one device"
)
@click.option("--threads", type=click.IntRange(1, 1024), help="compute threads a run  [default: cores / slots]")
@click.option("--pool", help="pool of runs to take from  [default: LIVERSEG_POOL or 'default']")
@click.option("--log-level", default="INFO", show_default=True)
def start(slots: int, threads: int | None, pool: str | None, log_level: str) -> None:
    """Start working; SIGTERM or Ctrl-C gives the running work back to the queue and ends."""
    if pool:
        os.environ["LIVERSEG_POOL"] = pool
        settings.cache_clear()
    try:
        settings()
    except InputError as error:
        raise click.UsageError(str(error)) from None
    from celery.signals import setup_logging, worker_ready

    from worker.app import make_app
    from worker.attempt import trainers, worker_name
    from worker.here import Here
    from worker.slots import Slots

    chosen = threads or max(1, (os.cpu_count() or 1) // slots)
    words = ["--quiet"] if logs.as_json() else []  # else Celery would print a banner among the lines
    words += [
        "worker",
        "--pool",
        "threads",
        "--concurrency",
        str(slots),
        "--queues",
        broker.queue_name(settings().pool),
    ]
    words += ["--without-gossip", "--without-mingle", "--loglevel", log_level]
    limit_replies(settings().lease_s * 2 / 3)
    if logs.as_json():
        logs.configure("worker", log_level.upper())
        setup_logging.connect(lambda **_: None, weak=False)  # Celery then leaves it as it is
    if settings().warm:
        trainers.keep(slots)
    here = Here(slots, chosen)
    worker_ready.connect(lambda **_: here.start(), weak=False)
    try:
        make_app(chosen, Slots(slots, worker_name())).worker_main(words)
    finally:
        here.stop()


if __name__ == "__main__":
    main()
