"""Alembic's entry: one database, run online, one transaction, one migrator at a time."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from store.models import Base

LOCK = 815000  # two containers that start together must not both migrate


def run() -> None:
    engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            context.run_migrations()


run()
