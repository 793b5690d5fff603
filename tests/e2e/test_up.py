"""``liverseg up`` and ``liverseg demo`` as people run them: as processes, with signals."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.commands.up import free_port
from tests.processes import wait_for

LIVERSEG = Path(sys.executable).parent / "liverseg"


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, so that sockets fit; outside the tests' own folders, so that its parents' modes mean something."""
    folder = Path(tempfile.mkdtemp(prefix="lv-up-", dir="/tmp"))
    yield folder
    for process in processes_of(folder):
        process.kill()
    shutil.rmtree(folder)


def environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LIVERSEG_")}
    return own | {"LIVERSEG_HOME": str(home), "LIVERSEG_GRACE_S": "2", "TMPDIR": str(home)}


def processes_of(home: Path) -> list[psutil.Process]:
    """Every live process that was started with this home, by its environment or command line."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join([*process.cmdline(), *process.environ().values()])
            if str(home) in told and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Up:
    """A `liverseg` process with its output in a file."""

    def __init__(self, home: Path, *words: str) -> None:
        self.output = home / "output.txt"
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [str(LIVERSEG), *words], env=environment(home), stdout=out, stderr=out, start_new_session=True
            )

    def told(self, words: str, timeout: float = 90) -> None:
        def ready() -> bool:
            if words in self.output.read_text():
                return True
            assert self.process.poll() is None, self.output.read_text()
            return False

        wait_for(f"{words!r} in the output", ready, timeout)

    def stop(self, *signals: int) -> int:
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        return self.process.wait(60)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def child(home: Path, words: str) -> psutil.Process | None:
    return next((process for process in processes_of(home) if words in " ".join(process.cmdline())), None)


def test_up_restarts_what_dies_and_stops_all_of_it(home: Path) -> None:
    port = free_port()
    up = Up(home, "up", "--port", str(port))
    up.told(f"liverseg is ready: http://127.0.0.1:{port}")
    api = child(home, "api.serve")
    api.kill()
    up.told("api ended with status -9; starting it again in 0.5 s")
    wait_for("the API to be back", lambda: ready(port), 30)
    valkey = child(home, "valkey-server")
    valkey.kill()
    up.told("valkey runs again")
    wait_for("the broker to be back", lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").json()["broker"], 30)
    postgres = child(home, "bin/postgres")
    postgres.kill()
    up.told("postgres runs again")
    wait_for("the database to be back", lambda: ready(port), 30)
    assert up.stop(signal.SIGTERM) == 0
    assert processes_of(home) == []
    assert up.output.read_text().endswith("stopped\n")


def test_two_interrupts_leave_nothing(home: Path) -> None:
    up = Up(home, "up", "--port", str(free_port()))
    up.told("liverseg is ready")
    assert up.stop(signal.SIGINT, signal.SIGINT) == 0
    assert processes_of(home) == []


def test_an_interrupt_while_starting_leaves_nothing(home: Path) -> None:
    up = Up(home, "up", "--port", str(free_port()))
    wait_for("the database folder", (home / "postgres").exists)
    assert up.stop(signal.SIGINT, signal.SIGINT) == 0
    assert up.output.read_text() == "stopped before it was ready\n"
    assert processes_of(home) == []


def test_a_killed_up_leaves_nothing_and_can_be_started_again(home: Path) -> None:
    port = free_port()
    first = Up(home, "up", "--port", str(port))
    first.told("liverseg is ready")
    first.process.kill()
    first.process.wait()
    second = Up(home, "up", "--port", str(port))  # at once: waits until the services of the first are gone
    second.told("liverseg is ready")
    assert len([p for p in processes_of(home) if "valkey-server" in " ".join(p.cmdline())]) == 1
    second.process.kill()
    second.process.wait()
    wait_for("every process to end", lambda: not processes_of(home), 20)


def test_a_second_up_on_the_same_home_is_refused(home: Path) -> None:
    up = Up(home, "up", "--port", str(free_port()), "--no-worker")
    up.told("liverseg is ready")
    command = [str(LIVERSEG), "up", "--port", str(free_port())]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"liverseg already runs on {home} (process {up.process.pid})" in done.stderr
    assert up.process.poll() is None
    assert up.stop(signal.SIGTERM) == 0


def test_a_taken_port_is_refused_and_nothing_is_started(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [str(LIVERSEG), "up", "--port", str(port)]
        done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use); choose another host or port." in done.stderr
    assert not (home / "postgres").exists()


def test_beyond_loopback_a_token_is_needed(home: Path) -> None:
    command = [str(LIVERSEG), "up", "--host", "0.0.0.0", "--port", str(free_port()), "--no-worker"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "LIVERSEG_TOKEN" in done.stderr
    assert processes_of(home) == []
