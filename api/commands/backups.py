"""``liverseg backup`` and ``liverseg restore``."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from store.settings import settings

Folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=Folder)
def backup(folder: Path) -> None:
    """Back up the database and all files that it names into FOLDER, while everything runs.

    It reads the database of LIVERSEG_DATABASE_URL, or the bundled one of LIVERSEG_HOME, itself, not through the API.
    A second backup into the same FOLDER copies only files that it lacks, and takes the place of the first once it is
    whole. Exit 1 where files are missing or damaged in the store; all others are in the backup then.
    """
    from sqlalchemy.exc import OperationalError  # loads the database's libraries, which other commands do without

    from store.backup import back_up

    try:
        made = back_up(folder, _say)
    except OperationalError as error:
        told = "start it with `liverseg up`" if not settings().database_url else "see LIVERSEG_DATABASE_URL"
        raise click.ClickException(f"the database cannot be reached; {told} ({error.orig})") from None
    click.echo(
        f"{folder}: the ledger of {made.taken_at} and {made.files - len(made.missing):,} files, {_size(made.bytes)}"
    )
    _tell_lost(made.missing, "missing or damaged in the store, and not in the backup")


@click.command()
@click.argument("folder", type=Folder)
def restore(folder: Path) -> None:
    """Put the backup in FOLDER into an empty database and LIVERSEG_HOME.

    Stop `liverseg up` and all workers first. With the bundled database, LIVERSEG_HOME must be new; an outside one of
    LIVERSEG_DATABASE_URL must be without tables. Every file is hashed. Runs that were going on are queued again.
    """
    from store.backup import read_about  # as above
    from store.backup import restore as put_back

    read_about(folder)  # before anything is made
    with _database():
        lost = put_back(folder, _say)
    click.echo(f"restored into {settings().home}; start it with `liverseg up`, and see `liverseg verify`")
    _tell_lost(lost, "missing or damaged in the backup")


@contextlib.contextmanager
def _database() -> Iterator[None]:
    """The database answers inside the block; the bundled one runs for that long."""
    if settings().database_url:
        yield
        return
    from api.commands.up import only_one
    from store.bundled import start_postgres
    from store.database import engine

    with only_one(settings().home) as lock:
        server = start_postgres(settings().home, (lock,))
        try:
            yield
        finally:
            engine().dispose()
            server.stop()


def _say(line: str) -> None:
    click.echo(line, err=True)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _tell_lost(files: list[str], how: str) -> None:
    if files:
        for sha256 in files:
            click.echo(sha256)
        click.echo(f"{len(files):,} files are {how}; `liverseg verify` names their runs", err=True)
        raise SystemExit(1)


COMMANDS = [backup, restore]
