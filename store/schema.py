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

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from store import bundled, database
from store.settings import settings

FOLDER = Path(migrations.__file__).parent


def config(url: str | None = None) -> Config:
    """Alembic's configuration, for the database of this process or another; there is no alembic.ini."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.set_main_option("sqlalchemy.url", database.dialect(url or database.url()).replace("%", "%%"))
    return made


def upgrade(url: str | None = None) -> None:
    """Run every migration that the database lacks."""
    command.upgrade(config(url), "head")


def is_current() -> bool:
    """Whether the database has the newest schema."""
    with database.engine().connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(config()).get_current_head()


def revision(message: str) -> Path:
    """Write the migration that leads from the newest one to the models; the file made.

    It compares against ``LIVERSEG_DATABASE_URL`` if that is set (and must be current), else against a throw-away
    bundled Postgres.
    """
    with _current_database() as url:
        head = ScriptDirectory.from_config(config(url)).get_current_head()
        made = command.revision(config(url), message, autogenerate=True, rev_id=f"{int(head or 0) + 1:04}")
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
