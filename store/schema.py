"""Bringing the database to the schema this code needs, by running the migrations."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from store import database


def config() -> Config:
    """Alembic's configuration; there is no alembic.ini."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.set_main_option("sqlalchemy.url", database.url().replace("%", "%%"))
    return made


def upgrade() -> None:
    """Run every migration that the database lacks."""
    command.upgrade(config(), "head")


def is_current() -> bool:
    """Whether the database has the newest schema."""
    with database.engine().connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(config()).get_current_head()
