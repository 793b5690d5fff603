"""``liverseg up``, ``liverseg demo`` and ``liverseg verify``."""

from pathlib import Path
from urllib.parse import urlsplit

import click

from store.settings import settings


@click.command()
@click.option("--host", help="address that the API listens at  [default: from LIVERSEG_URL, else 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="its port  [default: from LIVERSEG_URL, else 8421]")
@click.option("--slots", default=1, show_default=True, type=click.IntRange(1, 64), help="runs at the same time")
@click.option("--worker/--no-worker", default=True, help="whether to start a worker on this machine")
def up(host: str | None, port: int | None, slots: int, worker: bool) -> None:
    """Start database, broker, API and one worker; Ctrl-C stops all of it.

    The bundled Postgres and Valkey keep their data in LIVERSEG_HOME (~/.local/share/liverseg). With
    LIVERSEG_DATABASE_URL or LIVERSEG_BROKER_URL set, those servers are used instead.
    """
    from api.commands import up as services  # imports the database's libraries, which other commands do without

    address = urlsplit(settings().url)
    if worker and not services.can_work():
        click.echo("no worker is started: training needs `pip install '.[worker]'` in the checkout", err=True)
        worker = False
    choice = services.Choice(host or address.hostname or "127.0.0.1", port or address.port or 8421, slots, worker)
    click.echo(f"starting the services on {settings().home}, which takes some seconds", err=True)
    services.up(choice, services.say)


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="folder of real PNG pairs, {train,val}/{images,masks}/SCAN_SLICE.png  [default: a phantom is drawn]",
)
@click.option("--exit", "end", is_flag=True, help="end by itself instead of staying up until Ctrl-C")
@click.option("--epochs", type=click.IntRange(1, 1000), help="epochs a run  [default: 3 with --data, else 16]")
@click.option("--port", type=click.IntRange(1, 65535), help="port of the API  [default: a free one]")
@click.option("--tiny", is_flag=True, help="a phantom far too small to learn from, to see whether all parts work")
def demo(data: Path | None, end: bool, epochs: int | None, port: int | None, tiny: bool) -> None:
    """Train and compare three variants of one experiment, end to end, in a throw-away folder.

    Shuffled, not shuffled, and shuffled without scans 0 and 1, as in the study. Without --data everything is
    done on a phantom: a synthetic abdomen drawn on the spot.
    """
    from api.commands import demo as show  # as above

    show.demo(show.Wishes(data, end, epochs, port, tiny))


@click.command()
@click.option("--files/--no-files", default=True, help="whether to read and hash every artifact")
def verify(files: bool) -> None:
    """Check every invariant over the live database, a line each; exit 1 if one is broken.

    It reads the database of LIVERSEG_DATABASE_URL, or the bundled one of LIVERSEG_HOME, itself, not through the API,
    and writes nothing.
    """
    from sqlalchemy.exc import OperationalError  # as above

    from store.database import snapshot
    from store.verify import verify as check

    try:
        with snapshot() as session:  # what moves between two looks would be told as broken
            found = check(session, files)
    except OperationalError as error:
        raise click.ClickException(f"the database cannot be reached: {error.orig}") from None
    for one in found:
        click.echo(str(one))
    broken = sum(not one.holds for one in found)
    if broken:
        click.echo(f"{broken} of {len(found)} invariants are broken", err=True)
        raise SystemExit(1)


COMMANDS = [up, demo, verify]
