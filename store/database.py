"""One engine a process, and transactions whose commit belongs to the edge that opened them."""

import select
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from pydantic_core import from_json
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    any_,
    create_engine,
    event,
    literal,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import InstrumentedAttribute, Session

from liverseg_core.errors import InputError
from store import bundled
from store.settings import settings


def url() -> str:
    """The database of this process in SQLAlchemy's form."""
    return dialect(settings().database_url or bundled.database_url(settings().home))


def dialect(url: str) -> str:
    """``url`` with the driver that we use, whichever it names.

    Raises:
        InputError: it is no address of a database; it is not shown, since it may hold a password.
    """
    try:
        return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    except (ArgumentError, ValueError):
        raise InputError("LIVERSEG_DATABASE_URL", "must look like postgresql://user@host:5432/liverseg.") from None


@cache
def engine() -> Engine:
    """The engine of this process; connects on first use."""
    made = create_engine(
        url(),
        pool_size=10,
        max_overflow=20,
        pool_timeout=5,  # who asks is told to come again, rather than kept waiting
        connect_args={"connect_timeout": 5},
        hide_parameters=True,  # what people sent in does not belong in a log
        json_deserializer=from_json,  # a comparison of 100 runs reads 300 documents, at half the time of json.loads
    )
    event.listen(made, "checkout", _need_alive)
    return made


def _need_alive(connection: psycopg.Connection, _record: object, _proxy: object) -> None:
    """Read what the server sent to a connection of the pool while nobody used it, which is how it says that it ends.

    This asks the server nothing, where ``pool_pre_ping`` waits for an answer before each transaction. One that is
    gone without a word is found out by the first statement.

    Raises:
        DisconnectionError: the connection has ended; the pool makes another one.
    """
    told = select.poll()
    told.register(connection.pgconn.socket, select.POLLIN)
    try:
        while told.poll(0):
            connection.pgconn.consume_input()
    except psycopg.OperationalError as error:
        raise DisconnectionError(str(error)) from error


def among(column: InstrumentedAttribute[int], ids: Collection[int]) -> ColumnElement[bool]:
    """``column`` is one of ``ids``, sent as one value: with ``IN`` a hundred of them are written out each time."""
    return column == any_(literal(list(ids), ARRAY(BigInteger)))


def limit_statements(seconds: float) -> None:
    """From now on the server ends every statement of this process that takes longer; see :func:`took_too_long`."""
    _limit("statement_timeout", seconds)


def limit_silence(seconds: float) -> None:
    """From now on the server ends every transaction of this process that waits so long for its next statement.

    Else a process that stands still between two of them, on a host that was suspended, say, would keep the rows that
    it has locked, and nobody could take its runs over.
    """
    _limit("idle_in_transaction_session_timeout", seconds)


def _limit(setting: str, seconds: float) -> None:
    def limit(connection: psycopg.Connection, _record: object) -> None:
        connection.execute(f"SET {setting} = {round(1000 * seconds)}")
        connection.commit()  # else the first rollback would take it back

    event.listen(engine(), "connect", limit)


class PatientConnection(psycopg.Connection[Any]):
    """Waits for an answer of the server for ``reply_s`` seconds, then closes itself.

    Else a server that vanished without a word (power, network, a dead proxy) would hold a thread for ever.
    """

    reply_s: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        limit = self.reply_s if timeout is None else timeout
        start = time.monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError:
            if timeout is None and limit is not None and time.monotonic() - start >= limit:
                self.pgconn.finish()  # whatever it is in the middle of, nobody may go on with it
                raise psycopg.OperationalError(f"the server has not answered for {limit:g} s") from None
            raise


def limit_replies(seconds: float) -> None:
    """From now on a server that does not answer for so long counts as away."""

    class Limited(PatientConnection):
        reply_s = seconds

    def connect(_dialect: object, _record: object, words: Any, options: dict[str, Any]) -> psycopg.Connection:
        return Limited.connect(*words, **options)

    event.listen(engine(), "do_connect", connect)


OUTAGES = ("08", "25006", "25P03", "40", "53", "55", "57", "58")
"""SQLSTATEs (or their classes) that pass: connection, read-only, nothing asked for long, rolled back, resources, in
use, operator, system."""


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or rolled back as a whole."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


def alone(session: Session, key: int) -> bool:
    """Whether this process may do the pass ``key`` now; held until the transaction ends."""
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(815001, :key)"), {"key": key}))


@contextmanager
def snapshot() -> Iterator[Session]:
    """A session that reads everything as it was at one moment, whatever others commit meanwhile; it cannot write."""
    with transaction() as session:
        # Not as an option of the connection, which would stay behind on it in the pool.
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield session


@contextmanager
def looking() -> Iterator[Connection]:
    """A connection to ask a question or two without the round trips of a transaction around them."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def took_too_long(error: BaseException) -> bool:
    """Whether ``error`` says that a statement was ended for its time."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.errors.QueryCanceled)


def is_outage(error: BaseException) -> bool:
    """Whether ``error`` says that the database is away (worth retrying), not that a statement is wrong."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_outage(error.orig))
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return error.sqlstate.startswith(OUTAGES)
    # Without a code the server said nothing: it cannot be reached, or every connection of the pool is in use.
    return isinstance(error, psycopg.OperationalError | PoolTimeout)
