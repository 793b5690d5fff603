"""Empty tables quickly: hundreds of TRUNCATEs leave files that Postgres needs 15 s to sync when it stops."""

from pathlib import Path

import psycopg
import pytest

from store import bundled
from store.models import Base
from tests.conftest import broker_client

TABLES = [table.name for table in reversed(Base.metadata.sorted_tables) if table.name != "projects"]
NUMBERED = [name for name in TABLES if "id" in Base.metadata.tables[name].columns]
EMPTY = ";".join(
    [f"DELETE FROM {name}" for name in TABLES]
    + [f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), 1, false)" for name in NUMBERED]
)


@pytest.fixture
def database(services: Path) -> Path:
    """The services with every table (but projects) empty, ids from 1 on, and no message waiting."""
    with psycopg.connect(bundled.database_url(services), autocommit=True) as connection:
        connection.execute(EMPTY)
    broker_client(services).flushall()
    return services
