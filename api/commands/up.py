"""``liverseg up``: starts Postgres, Valkey, the API and a worker, keeps them alive, and stops them in order.

    start ──> Postgres ──> Valkey ──> migrations ──> API ──> worker
    stop  <── Postgres <── Valkey <───────────────── API <── worker

The API's process comes first and loads its code meanwhile, which takes longer than the servers; it is told to go on
when they are there and the migrations are done.
Each child ends with this process, also when it is killed. All of them hold a lock on the home folder while they
live, so a second `liverseg up` on it is refused, or waits until the last one of a killed `up` is gone.
"""

import contextlib
import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from api.client import ApiError, Client, Unreachable
from liverseg_core.errors import InputError
from store import bundled, schema
from store.bundled import Service, ServiceError
from store.settings import settings

Say = Callable[[str], None]

LOOK_EVERY_S = 0.2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
STEADY_S = 60.0
"""A child that lived this long has recovered: its next death is again the first."""
API_READY_S = 60.0
LOCK_WAIT_S = 30.0
STOP_ORDER = ("worker", "api", "valkey", "postgres")


class Stop(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal; no Exception, so that nothing that handles errors swallows it."""


class StopSignals:
    """Turns the first signal into :class:`Stop`; later ones change nothing, as stopping is under way."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._held = False

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup asked to survive the terminal
            signal.signal(signal.SIGHUP, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == self._hear:
                signal.signal(number, signal.SIG_IGN)  # the process is about to end, cleanly

    def _hear(self, number: int, _frame: object) -> None:
        first, self.asked = self.asked is None, self.asked or signal.Signals(number)
        if first and not self._held:
            raise Stop

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the block finish first: a child that has just been started must not be forgotten."""
        self._held = True
        yield
        self._held = False
        if self.asked:
            raise Stop

    def ignore(self) -> None:
        """From now on nothing is raised."""
        self._held = True


@dataclass(frozen=True)
class Choice:
    """What to start and where it listens."""

    host: str
    port: int
    slots: int
    worker: bool = True

    @property
    def url(self) -> str:
        """The API's address as seen from this machine."""
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # nosec B104  # noqa: S104 - only compared
        return f"http://{f'[{near}]' if ':' in near else near}:{self.port}"


class Kept:
    """A child that is started again when it dies, each time after a longer wait."""

    def __init__(self, start: Callable[[], Service]) -> None:
        self._start = start
        self._deaths = 0
        self._again_at: float | None = None
        self._started = time.monotonic()
        self.service = start()

    def tend(self, say: Say) -> None:
        """Look after it; never raises for a child that cannot be started."""
        now = time.monotonic()
        if self._again_at is None:
            if self.service.process.poll() is not None:
                self._plan(now, f"ended with status {self.service.process.returncode}", say)
        elif now >= self._again_at:
            self._restart(now, say)

    def _plan(self, now: float, what: str, say: Say) -> None:
        self._deaths = 1 if now - self._started > STEADY_S else self._deaths + 1
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self._deaths - 1))
        self._again_at = now + wait
        say(f"{self.service.name} {what}; starting it again in {wait:g} s (log: {log_of(self.service.name)})")

    def _restart(self, now: float, say: Say) -> None:
        self._started, self._again_at = now, None
        try:
            self.service = self._start()
        except (ServiceError, OSError) as error:  # no memory for a fork, a full disk: both may pass
            self._plan(now, f"cannot start: {error}", say)
        else:
            say(f"{self.service.name} runs again")


class Stack:
    """All children of one home."""

    def __init__(self, choice: Choice, signals: StopSignals, lock: int, say: Say) -> None:
        self.choice = choice
        self.url = choice.url
        self._signals, self._lock, self._say = signals, lock, say
        self._children: list[Kept] = []

    def start(self) -> None:
        """Start everything and wait until the API answers.

        Raises:
            ServiceError: something does not come up; the message says what and why.
        """
        home = settings().home
        api = self._keep(self._start_api)
        if not settings().database_url:
            self._keep(lambda: bundled.start_postgres(home, (self._lock,)))
        if not settings().broker_url:
            self._keep(lambda: bundled.start_valkey(home, (self._lock,)))
        schema.upgrade()
        _let_go(api.service)
        if self.choice.worker:
            self._keep(self._start_worker)
        self._await_api()

    def tend(self) -> None:
        """Look after the children once; call it several times a second."""
        with self._signals.held():
            for child in self._children:
                child.tend(self._say)

    def stop(self) -> None:
        """End everything, those first that use the others; signals are ignored from here on."""
        self._signals.ignore()
        for child in sorted(self._children, key=lambda child: STOP_ORDER.index(child.service.name)):
            patience = settings().grace_s + 10 if child.service.name == "worker" else 10
            child.service.stop(patience)

    def _keep(self, start: Callable[[], Service]) -> Kept:
        with self._signals.held():
            self._children.append(Kept(start))
            return self._children[-1]

    def _start_api(self) -> Service:
        where = ["--host", self.choice.host, "--port", str(self.choice.port)]
        if self._children:  # it starts again; all it needs is there
            return self._python("api", ["api.serve", *where])
        return self._python("api", ["api.serve", *where, "--held"], stdin=subprocess.PIPE)

    def _start_worker(self) -> Service:
        return self._python("worker", ["worker.command", "start", "--slots", str(self.choice.slots)])

    def _python(self, name: str, words: list[str], stdin: int = subprocess.DEVNULL) -> Service:
        # Killed with us, not asked: Postgres goes at the same moment, and a worker would wait for it for ever.
        # -P: a folder named `store` where the command is typed must not be imported.
        command = [*bundled.tether(signal.SIGKILL), sys.executable, "-P", "-m", *words]
        return Service(name, bundled.spawn(command, log_of(name), (self._lock,), stdin), signal.SIGTERM)

    def _await_api(self) -> None:
        api = next(child.service for child in self._children if child.service.name == "api")
        deadline = time.monotonic() + API_READY_S
        with Client(self.url, settings().token, timeout=5) as client:
            while not _ready(client):
                if api.process.poll() is not None or time.monotonic() > deadline:
                    log = log_of("api")
                    raise ServiceError(f"the API did not come up at {self.url}\n{log}:\n{bundled.log_end(log)}")
                time.sleep(0.05)


@contextlib.contextmanager
def running(choice: Choice, say: Say) -> Iterator[Stack]:
    """Everything runs inside the block, and nothing after it; a signal raises :class:`Stop` in the block.

    Raises:
        ServiceError: something does not come up, or another `liverseg up` uses the home folder.
        InputError: the port is taken or the host is none of this machine's.
    """
    with StopSignals() as signals, only_one(settings().home) as lock:
        check_address(choice.host, choice.port)
        stack = Stack(choice, signals, lock, say)
        os.environ["LIVERSEG_HOME"] = str(settings().home.resolve())
        os.environ["LIVERSEG_URL"] = stack.url
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def up(choice: Choice, say: Say) -> None:
    """Run until a signal asks to stop."""
    try:
        with running(choice, say) as stack:
            say(f"liverseg is ready: {stack.url}  (data: {settings().home}; Ctrl-C stops everything)")
            try:
                tend_for_ever(stack)
            except Stop:
                say("stopping (runs that train go back to the queue)")
    except Stop:
        say("stopped before it was ready")
    else:
        say("stopped")


def tend_for_ever(stack: Stack) -> None:
    """Look after the children until a signal raises :class:`Stop`."""
    while True:
        stack.tend()
        time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[int]:
    """A lock on ``home``: its file descriptor, for children to hold as well.

    Raises:
        ServiceError: another `liverseg up` has it.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    with (home / "up.lock").open("a+") as file:
        _lock(file, home)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _lock(file: IO[str], home: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            if _alive(owner):
                raise ServiceError(
                    f"liverseg already runs on {home} (process {owner}); stop that one, or set LIVERSEG_HOME to "
                    "another folder and --port to another port"
                ) from None
            if time.monotonic() > deadline:
                raise ServiceError(f"services of an earlier `liverseg up` still run on {home}; end them") from None
            time.sleep(0.1)
        else:
            return


def _alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def check_address(host: str, port: int) -> None:
    """See whether the API could listen there.

    Raises:
        InputError: it could not; says why and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise InputError(
            "--port", f"cannot listen at {host}:{port} ({reason}); choose another host or port."
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens now."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def can_work() -> bool:
    """Whether this installation can train (the extra ``worker`` or ``gpu``)."""
    return importlib.util.find_spec("keras") is not None


def log_of(name: str) -> Path:
    """Where a child writes what it has to say."""
    return settings().home / "logs" / f"{name}.log"


def _let_go(service: Service) -> None:
    """Tell a child that was started with ``--held`` to go on; one that has ended meanwhile is noticed later."""
    assert service.process.stdin is not None
    with contextlib.suppress(BrokenPipeError), service.process.stdin as told:
        told.write(b"\n")


def _ready(client: Client) -> bool:
    try:
        return bool(client.ready().get("ready"))
    except (ApiError, Unreachable):
        return False


def say(line: str) -> None:
    """Print a line at once; a terminal that is gone must not keep anything from being stopped."""
    with contextlib.suppress(OSError):
        print(line, flush=True)  # noqa: T201 - the one place of `up` that prints
