"""Real servers for the tests: one bundled Postgres and Valkey a session, on a throw-away home."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
import redis

from store import artifacts, bundled, schema
from store.broker import producer
from store.database import engine
from store.models import Base
from store.settings import settings
from store.upkeep import Upkeep
from tests import processes, s3

STUDY = os.environ.get("LIVERSEG_STUDY_DIR", "")
TEXLIVE = "apt-get install texlive-latex-base texlive-latex-recommended"
REQUIRED = set(filter(None, os.environ.get("REQUIRE", "").split(",")))

patient = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
"""An example that took long says that the machine was busy, not that the code is wrong."""
hypothesis.settings.register_profile("patient", patient)
hypothesis.settings.load_profile("patient")

TEST_SETTINGS = {
    "LIVERSEG_HEARTBEAT_S": "0.5",
    "LIVERSEG_LEASE_S": "4",
    "LIVERSEG_REANNOUNCE_S": "3",
    "LIVERSEG_UPKEEP_S": "0.2",
    "LIVERSEG_WEBHOOK_PRIVATE": "127.0.0.1/32",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what this machine cannot run; REQUIRE=browser,study turns such skips into failures."""
    missing = {
        "study": None if STUDY and Path(STUDY, "liver_ct").is_dir() else "LIVERSEG_STUDY_DIR holds no study slices",
        "browser": None if shutil.which("chromium") else "chromium is not installed",
        "latex": None if shutil.which("pdflatex") else f"texlive is not installed (Debian: {TEXLIVE})",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker) and marker not in REQUIRED:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def study() -> Path:
    """The folder of the study's slices and weights; tests that use it carry the marker ``study``."""
    return Path(STUDY)


def forget_caches() -> None:
    """Make this process read its settings again."""
    if engine.cache_info().currsize:
        engine().dispose()
    for cached in (settings, engine, producer, artifacts._bucket):
        cached.cache_clear()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Server]:
    """A server that speaks S3, with one empty bucket."""
    server = s3.Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    processes.end_workers()


SERVERS: dict[str, bundled.Service] = {}
"""The running servers; a test that kills one puts its successor here."""


@pytest.fixture(scope="session")
def services() -> Iterator[Path]:
    """Postgres and Valkey, migrated; the home they live in. Settings are short for tests."""
    home = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    before = dict(os.environ)
    os.environ.update(TEST_SETTINGS, LIVERSEG_HOME=str(home))
    for name in ("DATABASE_URL", "BROKER_URL", "TOKEN", "POOL", "ARTIFACTS"):
        os.environ.pop(f"LIVERSEG_{name}", None)
    forget_caches()
    SERVERS.update(postgres=bundled.start_postgres(home), valkey=bundled.start_valkey(home))
    try:
        schema.upgrade()
        yield home
    finally:
        forget_caches()
        SERVERS.pop("valkey").stop()
        SERVERS.pop("postgres").stop()
        shutil.rmtree(home, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)
        forget_caches()


TABLES = [table.name for table in reversed(Base.metadata.sorted_tables) if table.name != "projects"]
NUMBERED = [name for name in TABLES if "id" in Base.metadata.tables[name].columns]
EMPTY = ";".join(
    ["SELECT FROM webhooks FOR UPDATE"]  # else an API may write a message between the two deletions
    + [f"DELETE FROM {name}" for name in TABLES]
    + ["DELETE FROM projects WHERE id <> 1", "UPDATE projects SET name = 'default' WHERE id = 1"]
    + [f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), 1, false)" for name in NUMBERED]
)
"""Not TRUNCATE: hundreds of them leave files that Postgres needs 15 s to sync when it stops."""


@pytest.fixture
def database(services: Path) -> Path:
    """The services with every table (but projects) empty, ids from 1 on, and no message waiting.

    Checkpoints lie under the ids of runs, so those of an earlier test would pass for this one's. A server that a
    test that failed has left stopped goes on, or is started again.
    """
    for name, start in (("postgres", bundled.start_postgres), ("valkey", bundled.start_valkey)):
        SERVERS[name].process.send_signal(signal.SIGCONT)
        if SERVERS[name].process.poll() is not None:
            SERVERS[name] = start(services)
    with psycopg.connect(bundled.database_url(services), autocommit=True) as connection:
        connection.execute(EMPTY)
    broker_client(services).flushall()
    shutil.rmtree(services / "checkpoints", ignore_errors=True)
    return services


@contextmanager
def only_reading(home: Path) -> Iterator[None]:
    """Inside the block Postgres refuses every write, as a standby or a full primary does."""

    def refuse(writes: str) -> None:
        with psycopg.connect(bundled.database_url(home), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {writes}")
            connection.execute("SELECT pg_reload_conf()")

    refuse("on")
    try:
        yield
    finally:
        refuse("off")


def broker_client(home: Path) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(bundled.socket_folder(home) / "valkey.sock"))


@pytest.fixture
def count_rows(database: Path) -> Callable[[], dict[str, int]]:
    """Rows in every table, to show that a refused request wrote nothing.

    Where an upkeep runs, see ``tests.processes.all_announced``.
    """

    def count() -> dict[str, int]:
        with psycopg.connect(bundled.database_url(database)) as connection:
            return {
                table.name: connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
                for table in Base.metadata.sorted_tables
            }

    return count


@pytest.fixture
def upkeep(database: Path) -> Iterator[Upkeep]:
    """The relay, reconciler and reaper, as an API process would run them."""
    thread = Upkeep()
    thread.start()
    yield thread
    thread.stop()


class Browser:
    """Chromium, as pages meet it."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    def tab(self, **options: Any) -> tuple[Any, list[str]]:
        """A new tab, and all that its console and its scripts complain about from now on."""
        complaints: list[str] = []
        page = self._chromium.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page, complaints


@pytest.fixture
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    words = "--no-sandbox --disable-gpu --no-first-run --disable-sync --disable-background-networking"
    words += " --disable-component-update"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=words.split())
        yield Browser(chromium)
        chromium.close()
