"""``liverseg up`` and ``liverseg demo`` as people run them: as processes, with signals."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from api.commands.up import free_port
from tests.conftest import broker_client
from tests.e2e.conftest import LIVERSEG, Up, environment
from tests.processes import processes_of, wait_for, words_of


def ready(port: int, path: str = "readyz") -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/{path}").status_code == 200
    except httpx.TransportError:
        return False


def child(home: Path, words: str) -> psutil.Process | None:
    return next((process for process in processes_of(home) if words in " ".join(words_of(process))), None)


def answers(home: Path) -> bool:
    try:
        return bool(broker_client(home).ping())
    except redis.exceptions.ConnectionError:
        return False


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
    wait_for("the broker to be back", lambda: answers(home), 30)
    postgres = child(home, "bin/postgres")
    postgres.kill()
    up.told("postgres runs again")
    wait_for("the database to be back", lambda: ready(port), 30)
    assert up.stop(signal.SIGTERM) == 0
    assert processes_of(home) == []
    assert up.output.read_text().endswith("stopped\n")


def test_a_held_api_is_loaded_and_waits_until_it_is_let_go(home: Path) -> None:
    """What `up` starts first: it holds its memory and no port, and needs no database to come so far."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "api.serve", "--port", str(port), "--held"]
    with subprocess.Popen(command, env=environment(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as api:
        try:
            loaded = psutil.Process(api.pid)
            wait_for(
                "the code to be loaded",
                lambda: "psycopg" in mapped(loaded) and loaded.cpu_percent(0.5) == 0,
                30,
            )
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")
            api.stdin.write(b"\n")
            api.stdin.flush()
            wait_for("the API to listen", lambda: ready(port, "healthz"), 30)
        finally:
            api.kill()


def test_a_held_api_ends_with_whoever_holds_it(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "api.serve", "--port", str(free_port()), "--held"]
    done = subprocess.run(command, env=environment(home), stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 0


def mapped(process: psutil.Process) -> str:
    return " ".join(one.path for one in process.memory_maps())


def test_two_interrupts_leave_nothing(home: Path) -> None:
    up = Up(home, "up", "--port", str(free_port()))
    up.told("liverseg is ready")
    assert up.stop(signal.SIGINT, signal.SIGINT) == 0
    assert processes_of(home) == []


def test_an_interrupt_while_starting_leaves_nothing(home: Path) -> None:
    up = Up(home, "up", "--port", str(free_port()))
    wait_for("the database folder", (home / "postgres").exists)
    assert up.stop(signal.SIGINT, signal.SIGINT) == 0
    starting, stopped = up.output.read_text().splitlines()
    assert starting == f"starting the services on {home}, which takes some seconds"
    assert stopped == "stopped before it was ready"
    assert processes_of(home) == []


def test_a_killed_up_leaves_nothing_and_can_be_started_again(home: Path) -> None:
    port = free_port()
    first = Up(home, "up", "--port", str(port))
    first.told("liverseg is ready")
    first.process.kill()
    first.process.wait()
    second = Up(home, "up", "--port", str(port))  # at once: waits until the services of the first are gone
    second.told("liverseg is ready")
    assert len([p for p in processes_of(home) if "valkey-server" in " ".join(words_of(p))]) == 1
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
