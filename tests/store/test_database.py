"""What counts as an outage (worth retrying), asked of real errors of a real server."""

import time
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from store import bundled
from store import database as db
from store.database import is_outage, transaction
from store.settings import settings
from tests.conftest import forget_caches
from tests.proxy import Proxy

pytestmark = pytest.mark.usefixtures("database")


def error_of(*statements):
    with pytest.raises(DBAPIError) as caught, transaction() as session:  # noqa: PT012
        for statement in statements:
            session.execute(text(statement))
    return caught.value


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nonsense",
        "SELECT 1 / 0",
        "INSERT INTO projects (name) VALUES ('default')",
        "INSERT INTO runs (id) VALUES (1)",
        # a value too large for an index is an OperationalError of psycopg and yet will never pass
        "INSERT INTO projects (name) SELECT string_agg(md5(n::text), '') FROM generate_series(1, 900) n",
    ],
)
def test_a_wrong_statement_is_no_outage(statement):
    assert not is_outage(error_of(statement))


@pytest.mark.parametrize(
    "statements",
    [
        ["SELECT pg_terminate_backend(pg_backend_pid())"],
        ["SET LOCAL statement_timeout = 10", "SELECT pg_sleep(5)"],
        ["SET TRANSACTION READ ONLY", "INSERT INTO projects (name) VALUES ('x')"],
    ],
)
def test_what_passes_is_an_outage(statements):
    assert is_outage(error_of(*statements))


def test_the_next_transaction_after_a_lost_connection_works():
    assert is_outage(error_of("SELECT pg_terminate_backend(pg_backend_pid())"))
    with transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_connection_that_ended_while_nobody_used_it_is_replaced_unnoticed(database):
    """As after a restart of Postgres; every connection of the pool, since any may be the next."""
    with ExitStack() as together:
        for session in [together.enter_context(transaction()) for _ in range(5)]:
            session.execute(text("SELECT 1"))
    name = bundled.database_url(settings().home).replace("+psycopg", "")
    with psycopg.connect(name, autocommit=True) as other:
        ended = other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
        ).fetchall()
    assert len(ended) >= 5
    for _ in range(len(ended)):
        with transaction() as session:
            assert session.scalar(text("SELECT 1")) == 1


def test_a_server_that_is_not_there_is_an_outage(tmp_path):
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"postgresql://app@/liverseg?host={tmp_path}")
    assert is_outage(caught.value)
    engine = create_engine(db.dialect(f"postgresql://app@/liverseg?host={tmp_path}"))
    with pytest.raises(DBAPIError) as wrapped:
        engine.connect()
    assert is_outage(wrapped.value)


def test_a_pool_in_full_use_is_an_outage():
    engine = create_engine(db.url(), pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect(), pytest.raises(PoolTimeout) as caught:
        engine.connect()
    engine.dispose()
    assert is_outage(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), TimeoutError("x")])
def test_other_errors_are_no_outage(error):
    assert not is_outage(error)


def test_a_transaction_is_rolled_back_as_a_whole():
    with pytest.raises(IntegrityError), transaction() as session:  # noqa: PT012
        session.execute(text("INSERT INTO projects (name) VALUES ('half')"))
        session.execute(text("INSERT INTO projects (name) VALUES ('half')"))
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM projects WHERE name = 'half'")) == 0


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_whatever_driver_a_url_names_ours_is_used(scheme):
    assert db.dialect(f"{scheme}://a:p%40ss@h:5433/d?sslmode=require") == (
        "postgresql+psycopg://a:p%40ss@h:5433/d?sslmode=require"
    )


@pytest.fixture
def proxied(database, monkeypatch):
    """This process reaches Postgres through a proxy, and waits half a second for an answer."""
    name = ".s.PGSQL.5432"
    with Proxy(bundled.socket_folder(database) / name, name) as proxy:
        monkeypatch.setenv("LIVERSEG_DATABASE_URL", f"postgresql://app@/liverseg?host={proxy.folder}")
        forget_caches()
        db.limit_replies(0.5)
        yield proxy
        forget_caches()
        monkeypatch.undo()
        forget_caches()


def test_a_server_that_falls_silent_is_away_and_comes_back(proxied):
    """Half open: the connection stands, nothing comes through. It may not hold a thread for ever."""
    with transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
    proxied.stall()
    with pytest.raises(DBAPIError) as caught, transaction() as session:
        session.scalar(text("SELECT 1"))
    assert is_outage(caught.value)
    proxied.go_on()
    with transaction() as session:
        assert session.scalar(text("SELECT 2")) == 2


def test_who_stands_still_in_mid_transaction_keeps_no_rows(database):
    """What has ended so can be tried again, and what is between two transactions may wait as long as it likes."""
    forget_caches()
    db.limit_silence(2)
    try:
        with pytest.raises(DBAPIError) as caught, transaction() as session:  # noqa: PT012
            session.execute(text("UPDATE projects SET name = 'held'"))
            with psycopg.connect(bundled.database_url(database)) as other:
                other.execute("SET lock_timeout = '30s'")
                assert other.execute("SELECT name FROM projects FOR UPDATE").fetchall() == [("default",)]
            session.execute(text("SELECT 1"))
        assert is_outage(caught.value)
        with transaction() as session:
            assert session.scalar(text("SELECT name FROM projects")) == "default"
        time.sleep(3)
        with transaction() as session:
            assert session.scalar(text("SELECT 2")) == 2
    finally:
        forget_caches()


def test_a_server_that_falls_silent_in_mid_transaction(proxied):
    with pytest.raises(DBAPIError) as caught, transaction() as session:  # noqa: PT012
        session.execute(text("INSERT INTO projects (name) VALUES ('half')"))
        proxied.stall()
        session.execute(text("SELECT 1"))
    assert is_outage(caught.value)
    proxied.go_on()
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM projects WHERE name = 'half'")) == 0


def test_a_connection_that_is_cut_is_away_and_the_next_one_works(proxied):
    with pytest.raises(DBAPIError) as caught, transaction() as session:  # noqa: PT012
        session.execute(text("SELECT 1"))
        proxied.cut()
        session.execute(text("SELECT 1"))
    assert is_outage(caught.value)
    with transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
