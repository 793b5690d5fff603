"""The bundled servers on homes of their own: first start, kill, second start, stop, strange paths, folder modes."""

import contextlib
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from store import bundled
from store import database as db
from store.bundled import ServiceError


@pytest.fixture
def folder():
    """A short folder with a mode of its own, to be left as it is."""
    made = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def modes(*folders):
    return {str(one): stat.S_IMODE(one.stat().st_mode) for one in folders}


def ask(home, query):
    with psycopg.connect(bundled.database_url(home), autocommit=True) as connection:
        return connection.execute(query).fetchall() if query.startswith("SELECT") else connection.execute(query)


def valkey(home):
    return redis.Redis(unix_socket_path=str(bundled.socket_folder(home) / "valkey.sock"))


def family(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def test_postgres_from_first_start_over_a_kill_to_its_end(folder):
    home = folder / "home"
    parents = [folder, *folder.parents]
    before = modes(*parents)
    service = bundled.start_postgres(home)
    try:
        ask(home, "CREATE TABLE kept AS SELECT 7 AS number")
        with pytest.raises(ServiceError, match="postgres did not start"):
            bundled.start_postgres(home)  # a second one on the same folder
        assert ask(home, "SELECT number FROM kept") == [(7,)]

        service.process.kill()
        service.process.wait()
        service = bundled.start_postgres(home)
        assert ask(home, "SELECT number FROM kept") == [(7,)]
        assert ask(home, "SELECT count(*) FROM pg_database WHERE datname = 'liverseg'") == [(1,)]
        assert ask(home, "SELECT current_setting('listen_addresses')") == [("",)]
        running = family(service.process)
        assert len(running) > 3
    finally:
        service.stop()
    gone, alive = psutil.wait_procs(running, timeout=5)
    assert (len(gone), alive) == (len(running), [])
    assert modes(*parents) == before
    assert set(modes(home, home / "postgres", home / "run").values()) == {0o700}
    assert {path.stat().st_uid for path in home.rglob("*")} == {os.getuid()}


def test_valkey_from_first_start_over_a_kill_to_its_end(folder):
    home = folder / "home"
    parents = [folder, *folder.parents]
    before = modes(*parents)
    service = bundled.start_valkey(home)
    try:
        valkey(home).set("kept", 7)
        valkey(home).bgrewriteaof()
        service.process.kill()
        service.process.wait()
        service = bundled.start_valkey(home)
        assert valkey(home).config_get("port") == {"port": "0"}
        assert valkey(home).config_get("unixsocketperm") == {"unixsocketperm": "700"}
        running = family(service.process)
    finally:
        service.stop()
    assert psutil.wait_procs(running, timeout=5)[1] == []
    assert modes(*parents) == before
    assert set(modes(home, home / "valkey", home / "run").values()) == {0o700}


def test_a_home_with_a_long_strange_path_and_a_half_made_database(folder):
    home = folder / ("x" * 120 + "a b, c%20d&e=#f?ö'\"")
    (home / "postgres" / "base").mkdir(parents=True)
    home.chmod(0o700)
    postgres = bundled.start_postgres(home)
    try:
        assert ask(home, "SELECT 7") == [(7,)]
        engine = db.create_engine(db.dialect(bundled.database_url(home)))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 7").scalar() == 7
        engine.dispose()
        broker = bundled.start_valkey(home)
        try:
            assert valkey(home).ping()
            assert (home / "valkey" / "appendonlydir").is_dir()
        finally:
            broker.stop()
    finally:
        postgres.stop()
        shutil.rmtree(bundled.socket_folder(home))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_the_socket_folder_is_the_same_for_every_process(folder, monkeypatch):
    long = folder / ("x" * 120)
    first = bundled.socket_folder(long)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    tempfile.tempdir = None
    assert bundled.socket_folder(long) == first
    assert bundled.socket_folder(folder / ("y" * 120)) != first
    assert bundled.socket_folder(folder) == folder / "run"
    assert len(str(first / ".s.PGSQL.5432.lock")) < 107


def test_a_server_that_cannot_start_says_why_and_leaves_no_process(folder):
    home = folder / "home"
    (home / "valkey").mkdir(parents=True)
    (home / "valkey" / "appendonlydir").write_text("in the way")
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(ServiceError, match="valkey did not start") as caught:
        bundled.start_valkey(home)
    assert str(home / "logs" / "valkey.log") in str(caught.value)
    assert {child.pid for child in psutil.Process().children()} == before


def test_stop_twice_is_stop_once(folder):
    service = bundled.start_valkey(folder / "home")
    service.stop()
    service.stop()
    assert service.process.returncode == 0


def test_a_file_that_somebody_else_owns_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ServiceError, match="belongs to another user"):
        bundled.start_valkey(folder)


def test_processes_of_a_killed_postgres_that_still_die_are_waited_for(folder):
    home = folder / "home"
    postgres = bundled.start_postgres(home)
    helpers = []
    try:
        for process in psutil.Process(postgres.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that served a connection may just have ended
                process.suspend()  # so that none of them notices
                helpers.append(process)
    finally:
        postgres.process.kill()
        postgres.process.wait()
    assert helpers

    def wake() -> None:
        for process in helpers:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended while it was being stopped
                process.resume()

    waking = threading.Timer(2, wake)
    waking.start()
    try:
        again = bundled.start_postgres(home)
        assert ask(home, "SELECT 7") == [(7,)]
        again.stop()
    finally:
        waking.join()
    assert bundled.STILL_DYING in (home / "logs" / "postgres.log").read_bytes()
