"""Bringing the database to the schema this code needs, by running the migrations.

python -m store.schema upgrade             run every migration that the database lacks
python -m store.schema revision MESSAGE    write the next migration from the models
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

import migrations
from store import bundled, database
from store.settings import settings

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(migrations.__file__).parent


def config(url: str | None = None) -> "Config":
    """Alembic's configuration, for the database of this process or another; there is no alembic.ini."""
    from alembic.config import Config  # half a second, and most starts find nothing to migrate

    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.set_main_option("sqlalchemy.url", database.dialect(url or database.url()).replace("%", "%%"))
    return made


def upgrade(url: str | None = None) -> None:
    """Run every migration that the database lacks."""
    if url is None and is_current():
        return
    from alembic import command

    command.upgrade(config(url), "head")


def is_current() -> bool:
    """Whether the database has the newest schema."""
    with database.looking() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return False
        return bool(connection.scalar(text("SELECT version_num FROM alembic_version")) == newest())


def newest() -> str:
    """The newest migration's number; migrations are numbered in one line, ``0001_first_tables.py`` first."""
    return max(path.name.partition("_")[0] for path in FOLDER.glob("versions/[0-9]*.py"))


def revision(message: str) -> Path:
    """Write the migration that leads from the newest one to the models; the file made.

    It compares against ``LIVERSEG_DATABASE_URL`` if that is set (and must be current), else against a throw-away
    bundled Postgres.
    """
    from alembic import command

    with _current_database() as url:
        made = command.revision(config(url), message, autogenerate=True, rev_id=f"{int(newest()) + 1:04}")
    path = Path(made.path)  # type: ignore[union-attr]  # a list comes only from several heads
    for words in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, str(path)], check=True)
    return path


@contextmanager
def _current_database() -> Iterator[str]:
    if settings().database_url:
        yield database.url()
        return
    with tempfile.TemporaryDirectory(prefix="liverseg-") as home:
        service = bundled.start_postgres(Path(home))
        try:
            upgrade(bundled.database_url(Path(home)))
            yield bundled.database_url(Path(home))
        finally:
            service.stop()


def main(arguments: list[str]) -> None:
    match arguments:
        case [] | ["upgrade"]:
            upgrade()
        case ["revision", message] if message.strip():
            sys.stdout.write(f"{revision(message)}\n")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
