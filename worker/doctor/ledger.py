"""The ledger as this host sees it: reachable, of the right schema, writable, and whose clock is off."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import psycopg
from sqlalchemy import make_url

from store import database, schema
from store.models import Base
from store.queue import WORK_VERSION
from store.settings import settings
from worker.doctor.findings import Finding, fail, ok, warn

WAITS_S = 5
OLDEST = 15
"""Major version of Postgres."""

CLOCK_S = 2.0
"""By how much a clock may be off before logs and tables tell different stories, seconds."""

Connection = psycopg.Connection[Any]


def connect() -> "Connection | Finding":
    """A connection to the ledger, or why there is none."""
    url = make_url(database.url()).set(drivername="postgresql")
    where = url.render_as_string(hide_password=True)
    try:
        plain = url.render_as_string(hide_password=False)
        return psycopg.connect(plain, connect_timeout=WAITS_S, autocommit=True, application_name="liverseg doctor")
    except psycopg.OperationalError as error:
        told = " ".join(str(error).split())
        return fail("database", f"{where}: {told}", _mend(told))


def _mend(told: str) -> str:
    if "password" in told:
        return "set the right password in LIVERSEG_DATABASE_URL, or in PGPASSWORD, which is in no URL and no log"
    if "does not exist" in told and ("database" in told or "role" in told):
        return "make it, or name the one that the API uses in LIVERSEG_DATABASE_URL"
    if "pg_hba.conf" in told:
        return "let this host in with a line in the server's pg_hba.conf"
    if settings().database_url is None:
        return "start `liverseg up` with the same LIVERSEG_HOME, or name another server in LIVERSEG_DATABASE_URL"
    return "start the server, let this host's packets through to it, or correct LIVERSEG_DATABASE_URL"


def examine(connection: Connection, pool: str) -> Iterator[Finding]:
    """Everything that a connection can tell; what needs the tables only where they are there."""
    yield _server(connection)
    found = _schema(connection)
    yield found.finding
    if found.usable:
        yield _privileges(connection)
        yield _versions(connection, pool)
    yield clock(connection)


def _server(connection: Connection) -> Finding:
    info = connection.info
    number, seconds = divmod(info.server_version, 10_000)[0], _round_trip(connection)
    told = (
        f"Postgres {number} at {info.host}, database {info.dbname} as {info.user}, round trip {1000 * seconds:.1f} ms"
    )
    if number < OLDEST:
        return fail("database", told, f"move to Postgres {OLDEST} or newer")
    if _one(connection, "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"):
        return fail("database", f"{told}: it takes no writes", "name the primary server in LIVERSEG_DATABASE_URL")
    return ok("database", told)


def _round_trip(connection: Connection) -> float:
    start = time.perf_counter()
    connection.execute("SELECT 1")
    return time.perf_counter() - start


@dataclass(frozen=True)
class _Schema:
    finding: Finding
    usable: bool


def _schema(connection: Connection) -> _Schema:
    if _one(connection, "SELECT to_regclass('alembic_version')") is None:
        todo = "run `python -m store.schema upgrade` once, or correct LIVERSEG_DATABASE_URL"
        return _Schema(fail("schema", "the database is empty", todo), False)
    if not _one(connection, "SELECT has_table_privilege('alembic_version', 'SELECT')"):
        return _Schema(fail("schema", "cannot be read: no privilege", GRANT), False)
    have, want = _one(connection, "SELECT version_num FROM alembic_version"), schema.newest()
    if have == want:
        return _Schema(ok("schema", f"version {have}"), True)
    if str(have) < want:
        todo = "run `python -m store.schema upgrade`; workers of the older release go on meanwhile"
        return _Schema(fail("schema", f"version {have} is older than {want}, which this release needs", todo), False)
    told = f"version {have} is newer than {want}, which this release was made for"
    return _Schema(warn("schema", told, "upgrade liverseg on this host when its runs have ended"), True)


GRANT = "as the owner of the tables: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO this role"


def _privileges(connection: Connection) -> Finding:
    lacking = [
        row[0]
        for row in connection.execute(
            """
            SELECT name FROM unnest(%s::text[]) AS name WHERE NOT (
                has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
                AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))""",
            [sorted(Base.metadata.tables)],
        )
    ]
    if lacking:
        return fail("privileges", f"this role may not read and write {', '.join(lacking)}", GRANT)
    return ok("privileges", f"all {len(Base.metadata.tables)} tables can be read and written")


def _versions(connection: Connection, pool: str) -> Finding:
    own = version("liverseg")
    newer = _one(
        connection,
        "SELECT count(*) FROM runs WHERE pool = %s AND state = 'queued' AND needs > %s",
        pool,
        WORK_VERSION,
    )
    if newer:
        told = f"{newer} queued runs of pool {pool} need a newer worker than this (work version {WORK_VERSION})"
        return fail("versions", told, "upgrade liverseg on this host to the API's release")
    others = connection.execute(
        """
        SELECT DISTINCT version FROM workers
        WHERE seen_at > clock_timestamp() - interval '1 minute' AND version <> %s""",
        [own],
    )
    named = sorted(str(row[0]) for row in others)
    if named:
        told = f"this is liverseg {own}, and other workers are of {', '.join(named)}"
        return warn("versions", told, "bring all hosts to one release when their runs have ended")
    return ok("versions", f"liverseg {own}, work version {WORK_VERSION}")


def clock(connection: Connection) -> Finding:
    """This host's clock against the database's, which alone decides about leases."""
    before = time.time()
    theirs = float(_one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8"))
    after = time.time()
    offset, within = (before + after) / 2 - theirs, (after - before) / 2
    if abs(offset) - within > CLOCK_S:
        how = "ahead of" if offset > 0 else "behind"
        told = f"{abs(offset):,.1f} s {how} the database's; no run is harmed, but logs and tables differ"
        return warn("clock", told, "set it by NTP (`timedatectl set-ntp true`, `chronyc makestep`)")
    return ok("clock", f"within {max(abs(offset), within):.3f} s of the database's")


def expected_mb(connection: Connection) -> int | None:
    """The most memory that runs took which are known here, MiB."""
    found = _one(connection, "SELECT max(memory_mb) FROM peaks")
    return None if found is None else int(found)


def newest_data_set(connection: Connection) -> tuple[str, str] | None:
    """Name and artifact of the data set that was imported last."""
    row = connection.execute("SELECT name, artifact FROM datasets ORDER BY id DESC LIMIT 1").fetchone()
    return (str(row[0]), str(row[1])) if row else None


def _one(connection: Connection, query: str, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return row[0] if row else None
