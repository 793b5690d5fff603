"""``liverseg-worker doctor`` with one fault after another planted in real servers and folders: it names each."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psycopg
import pytest

from store import artifacts, bundled, presence
from store.database import transaction
from store.presence import Presence
from store.queue import WORK_VERSION
from store.settings import settings
from tests import factories, s3
from tests.conftest import SERVERS, broker_client, forget_caches
from tests.e2e.test_clocks import off_by
from tests.store import ledger
from worker import memory
from worker.doctor import host
from worker.doctor.examination import examine
from worker.doctor.findings import Finding, Level
from worker.slots import Slots

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


@dataclass(frozen=True)
class Report:
    """The findings by their check."""

    by_check: dict[str, Finding]

    def worst(self) -> list[tuple[str, Level]]:
        return [(name, one.level) for name, one in self.by_check.items() if one.level is not OK]


def report() -> Report:
    """All but what the device check says, which takes TensorFlow's time to load."""
    found = takewhile(lambda one: one.check != "driver", examine(1, []))
    return Report({one.check: one for one in found})


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    forget_caches()
    yield
    monkeypatch.undo()
    forget_caches()


@pytest.fixture
def installed(database: Path, tmp_path: Path) -> Path:
    """The home of a sound installation with one data set."""
    factories.import_phantom(tmp_path)
    return database


def say(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LIVERSEG_{name}", str(value))
    forget_caches()


def doctor(*words: str, **around: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The command as people run it: exit status, and its findings by check."""
    command = [sys.executable, "-P", "-m", "worker.command", "doctor", "--json", *words]
    done = subprocess.run(command, env=os.environ | around, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {one["check"]: one for one in json.loads(done.stdout)["checks"]}


@contextmanager
def admin(home: Path) -> Iterator[psycopg.Connection]:
    with psycopg.connect(bundled.database_url(home), autocommit=True) as connection:
        yield connection


# ---- a sound host ----------------------------------------------------------------------------------------------


def test_a_sound_host_has_no_fault(installed: Path):
    code, checks = doctor()
    assert {name for name, one in checks.items() if one["level"] == "fail"} == set()
    assert code == 0
    assert list(checks)[:6] == ["database", "schema", "privileges", "versions", "clock", "broker"]
    assert list(checks)[6:] == ["home", "artifacts", "disk", "data cache", "memory", "slots", "driver", "device"]
    assert "TensorFlow 2." in checks["device"]["told"]
    assert all(one["todo"] for one in checks.values() if one["level"] != "ok")


def test_it_prints_a_line_a_check_and_leaves_nothing(installed: Path):
    before = sorted(path for path in installed.rglob("*") if ".doctor" in path.name)
    assert [str(one).partition("  ")[0].strip() for one in report().by_check.values()].count("fail") == 0
    assert sorted(path for path in installed.rglob("*") if ".doctor" in path.name) == before == []


def test_a_setting_that_is_none_stops_everything(installed: Path, monkeypatch: pytest.MonkeyPatch):
    say("LEASE_S", 1, monkeypatch)
    (only,) = report().by_check.values()
    assert (only.check, only.level) == ("settings", FAIL)
    assert "LIVERSEG_LEASE_S (1)" in only.told


# ---- the ledger ------------------------------------------------------------------------------------------------


def test_a_stopped_postgres(installed: Path):
    SERVERS["postgres"].stop()
    try:
        code, checks = doctor()
    finally:
        SERVERS["postgres"] = bundled.start_postgres(installed)
    assert code == 1
    assert {name for name, one in checks.items() if one["level"] == "fail"} == {"database"}
    assert "start `liverseg up`" in checks["database"]["todo"]
    assert {"broker", "home", "artifacts", "device"} <= checks.keys()  # the rest is looked at all the same


@pytest.fixture
def locked_role(installed: Path) -> Iterator[str]:
    """A role that Postgres lets in by password alone."""
    rules = installed / "postgres" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all careful scram-sha-256\n{before}")
    with admin(installed) as connection:
        connection.execute("CREATE ROLE careful LOGIN PASSWORD 'right'")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO careful")
        connection.execute("SELECT pg_reload_conf()")
    yield f"host={bundled.socket_folder(installed)}"
    rules.write_text(before)
    with admin(installed) as connection:
        connection.execute("DROP OWNED BY careful")
        connection.execute("DROP ROLE careful")
        connection.execute("SELECT pg_reload_conf()")


def test_a_wrong_password_is_named_and_not_shown(locked_role: str, monkeypatch: pytest.MonkeyPatch):
    say("DATABASE_URL", f"postgresql://careful:right@/liverseg?{locked_role}", monkeypatch)
    assert report().by_check["database"].level is OK
    say("DATABASE_URL", f"postgresql://careful:hunter2@/liverseg?{locked_role}", monkeypatch)
    found = report()
    assert found.worst() == [("database", FAIL)]
    assert "password authentication failed" in found.by_check["database"].told
    assert "set the right password in LIVERSEG_DATABASE_URL" in found.by_check["database"].todo
    assert "hunter2" not in "".join(map(str, found.by_check.values()))


def test_a_database_that_is_not_there(installed: Path, monkeypatch: pytest.MonkeyPatch):
    say("DATABASE_URL", f"postgresql://app@/nowhere?host={bundled.socket_folder(installed)}", monkeypatch)
    assert "name the one that the API uses" in report().by_check["database"].todo


@pytest.mark.parametrize(
    ("version", "level", "told"), [("0001", FAIL, "is older than"), ("9999", WARN, "is newer than")]
)
def test_another_schema(installed: Path, version: str, level: Level, told: str):
    with admin(installed) as connection:
        (kept,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = %s", [version])
        try:
            found = report()
        finally:
            connection.execute("UPDATE alembic_version SET version_num = %s", [kept])
    assert found.worst() == [("schema", level)]
    assert f"version {version} {told} {kept}" in found.by_check["schema"].told
    assert ("privileges" in found.by_check) == (level is WARN)


def test_an_empty_database(installed: Path, monkeypatch: pytest.MonkeyPatch):
    with admin(installed) as connection:
        connection.execute("CREATE DATABASE bare")
        try:
            say("DATABASE_URL", f"postgresql://app@/bare?host={bundled.socket_folder(installed)}", monkeypatch)
            assert "python -m store.schema upgrade" in report().by_check["schema"].todo
        finally:
            connection.execute("DROP DATABASE bare WITH (FORCE)")


@pytest.fixture
def reader(installed: Path) -> Iterator[str]:
    """The address of the ledger for a role that may read it and no more."""
    with admin(installed) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    yield f"postgresql://reader@/liverseg?host={bundled.socket_folder(installed)}"
    with admin(installed) as connection:
        connection.execute("DROP OWNED BY reader")
        connection.execute("DROP ROLE reader")


def test_a_role_that_may_not_write(reader: str, monkeypatch: pytest.MonkeyPatch):
    say("DATABASE_URL", reader, monkeypatch)
    found = report()
    assert found.worst() == [("privileges", FAIL)]
    assert "runs" in found.by_check["privileges"].told
    assert "GRANT SELECT, INSERT" in found.by_check["privileges"].todo


def test_a_server_that_takes_no_writes(reader: str, installed: Path, monkeypatch: pytest.MonkeyPatch):
    with admin(installed) as connection:
        connection.execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader")
        connection.execute("ALTER ROLE reader SET default_transaction_read_only = on")
    say("DATABASE_URL", reader, monkeypatch)
    found = report()
    assert found.worst() == [("database", FAIL)]
    assert "takes no writes" in found.by_check["database"].told


def test_runs_that_need_a_newer_worker(installed: Path):
    (run,) = ledger.submit()
    assert report().by_check["versions"].level is OK
    ledger.execute("UPDATE runs SET needs = :needs WHERE id = :run", needs=WORK_VERSION + 1, run=run)
    versions = report().by_check["versions"]
    assert versions.level is FAIL
    assert "1 queued runs of pool default need a newer worker" in versions.told


def test_workers_of_another_release(installed: Path):
    with transaction() as session:
        presence.here(session, Presence("host-9:1", "host-9", "default", 1, 1, "99.0"))
    versions = report().by_check["versions"]
    assert versions.level is WARN
    assert "other workers are of 99.0" in versions.told


@pytest.mark.parametrize(("hours", "told"), [(5, "18,000"), (-5, "18,000")])
def test_a_skewed_clock(installed: Path, hours: int, told: str):
    code, checks = doctor(**off_by(hours))
    assert checks["clock"]["level"] == "warn"
    assert checks["clock"]["told"].startswith(told) or checks["clock"]["told"].startswith("17,999")
    assert ("ahead of" if hours > 0 else "behind") in checks["clock"]["told"]
    assert {one["check"] for one in checks.values() if one["level"] == "fail"} == set()
    assert code == 0  # the database's clock alone decides


# ---- the broker ------------------------------------------------------------------------------------------------


def test_a_stopped_valkey(installed: Path):
    SERVERS["valkey"].stop()
    try:
        found = report()
    finally:
        SERVERS["valkey"] = bundled.start_valkey(installed)
    assert found.worst() == [("broker", FAIL)]
    assert "start `liverseg up`" in found.by_check["broker"].todo


@pytest.mark.parametrize(
    ("options", "level", "words"),
    [
        ({"requirepass": "secret"}, FAIL, "user and password in LIVERSEG_BROKER_URL"),
        ({"maxmemory": "1"}, FAIL, "raise maxmemory"),
        ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, WARN, "set maxmemory-policy to noeviction"),
    ],
)
def test_a_broker_that_refuses(installed: Path, options: dict[str, str], level: Level, words: str):
    client = broker_client(installed)
    before = {name: client.config_get(name)[name] for name in options}
    for name, value in options.items():
        client.config_set(name, value)
    try:
        found = report()
    finally:
        if "requirepass" in options:
            client.execute_command("AUTH", options["requirepass"])
        for name, value in before.items():
            client.config_set(name, value)
        client.close()
    assert found.worst() == [("broker", level)]
    assert words in found.by_check["broker"].todo


# ---- folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of the installation, named by their addresses, so that LIVERSEG_HOME can be anything."""
    say("DATABASE_URL", bundled.database_url(installed), monkeypatch)
    say("BROKER_URL", bundled.broker_url(installed), monkeypatch)


def test_a_home_that_is_missing(elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    say("HOME", tmp_path / "not-mounted", monkeypatch)
    say("DATA_CACHE", tmp_path / "cache", monkeypatch)
    found = report()
    assert found.by_check["home"].level is FAIL
    assert "mount it" in found.by_check["home"].todo
    assert not (tmp_path / "not-mounted" / "artifacts").exists()


def test_the_home_of_another_installation(elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    say("HOME", tmp_path, monkeypatch)
    assert "is away" in report().by_check["artifacts"].told
    settings().artifacts.mkdir()
    assert "is it mounted?" in report().by_check["artifacts"].told
    (tmp_path / "file").write_text("something else")
    artifacts.put(tmp_path / "file")
    found = report().by_check["artifacts"]
    assert found.level is FAIL
    assert "data set phantom of the ledger is not in" in found.told
    assert "at the same path" in found.todo


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own, where this machine lets us mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_home_that_is_read_only(elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    say("DATA_CACHE", tmp_path / "cache", monkeypatch)
    with small_disk(tmp_path / "home", "size=64m,ro") as home:
        say("HOME", home, monkeypatch)
        found = report().by_check["home"]
    assert (found.level, "Read-only file system" in found.told) == (FAIL, True)
    assert "mount it for writing" in found.todo


def test_a_full_disk(elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    say("DATA_CACHE", tmp_path / "cache", monkeypatch)
    with small_disk(tmp_path / "home", "size=4m") as home:
        say("HOME", home, monkeypatch)
        assert report().by_check["home"].level is OK
        with pytest.raises(OSError, match="No space left"):
            (home / "ballast").write_bytes(bytes(5 << 20))
        found = report()
        left = sorted(path.name for path in home.iterdir())
    assert "No space left" in found.by_check["home"].told
    assert "free space" in found.by_check["home"].todo
    assert found.by_check["disk"].level is FAIL
    assert left == ["ballast", "slots"] or left == ["ballast"]


def test_little_room_for_decoded_slices(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with small_disk(tmp_path / "cache", "size=64m") as cache:
        say("DATA_CACHE", cache, monkeypatch)
        found = report()
    assert found.worst() == [("data cache", WARN)]
    assert "LIVERSEG_DATA_CACHE_MB" in found.by_check["data cache"].todo


@pytest.fixture
def bucket(database: Path, tmp_path: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> s3.Server:
    """A sound installation whose files lie in a bucket, with one data set."""
    s3_server.clear()
    for name, value in s3_server.surroundings().items():
        monkeypatch.setenv(name, value)
    forget_caches()
    factories.import_phantom(tmp_path)
    return s3_server


def test_a_sound_bucket(bucket: s3.Server):
    before = bucket.objects()
    found = report()
    assert [one for one in found.worst() if one[1] is FAIL] == []
    assert found.by_check["artifacts"].told == f"{s3.ADDRESS} is there, with what the ledger imported last"
    assert bucket.objects() == before  # what was tried is gone again


def read_only(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / s3.BUCKET / s3.PREFIX).rename(server.folder / "kept")
    (server.folder / s3.BUCKET / s3.PREFIX).write_text("a file where the server would write a folder")


def emptied(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.clear()


def other_keys(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")


def nobody_there(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


def no_such_bucket(server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERSEG_ARTIFACTS", "s3://another-bucket")


@pytest.mark.parametrize(
    ("fault", "told", "todo"),
    [
        (read_only, "cannot be written to", "AWS_ACCESS_KEY_ID"),
        (emptied, "data set phantom of the ledger is not in s3://", "the bucket and prefix that the API uses"),
        (other_keys, "refuses what these credentials", "AWS_SECRET_ACCESS_KEY"),
        (nobody_there, "is away", "let this host through"),
        (no_such_bucket, "no such bucket", "correct LIVERSEG_ARTIFACTS"),
    ],
)
def test_a_bucket_that_is_not_what_it_should_be(
    bucket: s3.Server,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[s3.Server, pytest.MonkeyPatch], None],
    told: str,
    todo: str,
):
    fault(bucket, monkeypatch)
    forget_caches()
    found = report()
    assert found.by_check["artifacts"].level is FAIL
    assert told in found.by_check["artifacts"].told
    assert todo in found.by_check["artifacts"].todo
    assert s3.SECRET not in str(found)


# ---- the host and its devices ----------------------------------------------------------------------------------


def test_too_little_memory_for_what_runs_took(installed: Path):
    ledger.execute("INSERT INTO peaks (cost, memory_mb) VALUES ('c', 100000000)")
    found = report()
    assert found.worst() == [("memory", WARN)]
    assert "took 100,000,000 MiB" in found.by_check["memory"].told


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """1.5 GiB allowed, 1 GiB used, 256 MiB of that page cache: 768 MiB are left, too little for TensorFlow."""
    for name, text in {
        "memory.max": f"{3 << 29}\n",
        "memory.current": f"{1 << 30}\n",
        "memory.stat": f"anon 1\ninactive_file {200 << 20}\nactive_file {56 << 20}\nslab 5\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.left_mb() == 768
    assert host.memory_for(1, None).level is FAIL
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.left_mb() > 768


def test_slots_that_another_worker_has(installed: Path):
    held = Slots(1, "host-7:42").take()
    try:
        found = report().by_check["slots"]
    finally:
        held.close()
    assert (found.level, "host-7:42" in found.told) == (WARN, True)
    assert report().by_check["slots"].level is OK


def test_a_device_that_is_not_there(installed: Path):
    code, checks = doctor("--devices", "cpu,77")
    assert code == 1
    assert checks["device cpu"]["level"] == "ok"
    assert checks["device 77"]["level"] == "fail"
    assert "sees no GPU by this name" in checks["device 77"]["told"]


@pytest.mark.parametrize("onednn", ["", "AVX2"])
def test_what_bfloat16_takes(installed: Path, onednn: str):
    """Where oneDNN may not use what a processor has for it, TensorFlow counts on it all the same, and fails."""
    _, checks = doctor("--devices", "cpu", ONEDNN_MAX_CPU_ISA=onednn or "DEFAULT")
    assert checks["device cpu"]["level"] == "ok"
    told = checks["device cpu"]["told"].rpartition("; ")[2]
    takes = re.fullmatch(r"a convolution in bfloat16 takes (\d+\.\d\d) of its time in float32", told)
    assert takes or (onednn and told == "it does not compute bfloat16")
    assert not takes or 0.02 < float(takes[1]) < 50


def test_a_trainer_without_tensorflow(installed: Path, tmp_path: Path):
    (tmp_path / "keras.py").write_text("raise ModuleNotFoundError('No module named keras', name='keras')\n")
    code, checks = doctor(PYTHONPATH=str(tmp_path))
    assert code == 1
    assert checks["device"]["told"] == "a trainer cannot start: keras is not installed"
    assert "liverseg[worker]" in checks["device"]["todo"]


def test_a_trainer_that_dies(installed: Path, tmp_path: Path):
    (tmp_path / "keras.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n")
    code, checks = doctor(PYTHONPATH=str(tmp_path))
    assert (code, checks["device"]["level"]) == (1, "fail")
    assert "status -4" in checks["device"]["told"]
