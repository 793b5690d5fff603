"""Three hosts far away: a network namespace each, 50 ms each way, stalls, resets, and a partition of one of them.

``make hosts`` cuts one off for 30 s under the settings that people have; ``make test`` for 10 s, with short leases.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from store import bundled, presence, views
from store.database import transaction
from store.models import Dataset
from store.settings import settings
from store.states import FINAL
from tests import factories, processes
from tests.conftest import TEST_SETTINGS
from tests.e2e.test_kills import assert_succeeded_once, submit
from tests.far import FarServer, Weather

LONG = "LIVERSEG_HOSTS" in os.environ
LATE_S = 0.05
PARTITION_S = 30 if LONG else 10
EPOCHS = 60 if LONG else 20
SEED = int(os.environ.get("LIVERSEG_HOSTS_SEED") or time.time())
SHORT = {"LIVERSEG_HEARTBEAT_S": "1", "LIVERSEG_LEASE_S": "6", "LIVERSEG_REANNOUNCE_S": "5"}

pytestmark = pytest.mark.timeout(1800)


def ip(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


@dataclass(frozen=True)
class Host:
    """A network namespace with one cable to here; ``near``: our end's address, where its servers seem to be."""

    number: int

    @property
    def name(self) -> str:
        return f"liver{os.getpid() % 10_000}-{self.number}"

    @property
    def cable(self) -> str:
        return f"lv{os.getpid() % 10_000}n{self.number}"

    @property
    def near(self) -> str:
        return f"10.199.{self.number}.1"

    def build(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("address", "add", f"{self.near}/24", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        ip("-n", self.name, "address", "add", f"10.199.{self.number}.2/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def cut_off(self) -> None:
        ip("link", "set", self.cable, "down")

    def join_again(self) -> None:
        ip("link", "set", self.cable, "up")

    def remove(self) -> None:
        ip("link", "delete", self.cable, check=False)
        ip("netns", "delete", self.name, check=False)

    def start_worker(self, log: Path) -> processes.Worker:
        """A worker there, which knows the servers by TCP alone; its host name is its own."""
        inside = f'hostname {self.name} && exec "$@"'
        command = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", inside, "sh"]
        command += [sys.executable, "-m", "worker.command", "start", "--threads", "1"]
        urls = {
            "LIVERSEG_DATABASE_URL": f"postgresql://app@{self.near}:5432/liverseg",
            "LIVERSEG_BROKER_URL": f"redis://{self.near}:6379/0",
        }
        with log.open("ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=os.environ | urls)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if os.getuid() or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need root and iproute2 (Debian: apt-get install iproute2)")
    made = [Host(number) for number in (1, 2, 3)]
    try:
        for one in made:
            try:
                one.build()
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here ({error.stderr.strip()})")
        yield made
    finally:
        for one in made:
            one.remove()


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times that fit the latency; in the long test those that people have."""
    for name in TEST_SETTINGS:
        monkeypatch.delenv(name)
    for name, value in ({} if LONG else SHORT).items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def dataset(database: Path, times: None, tmp_path: Path) -> Dataset:
    return factories.import_phantom(tmp_path, subjects=4, slices=16, size=64)


def carried() -> dict[str, list[int]]:
    """Each host whose worker is heard of -> the runs that it has now."""
    with transaction() as session:
        busy = presence.carried(session)
        return {
            one.host: [run.id for run in busy.get(one.name, [])]
            for one, _, _ in presence.workers(session, settings().lease_s)
        }


def test_three_far_hosts_finish_every_run_once(
    dataset: Dataset, hosts: list[Host], upkeep: object, database: Path, tmp_path: Path
) -> None:
    print(f"LIVERSEG_HOSTS_SEED={SEED}")  # noqa: T201 - shown where it fails
    sockets = bundled.socket_folder(database)
    behind = {5432: sockets / ".s.PGSQL.5432", 6379: sockets / "valkey.sock"}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(FarServer(server, (host.near, port), LATE_S))
            for host in hosts
            for port, server in behind.items()
        ]
        workers = {host: host.start_worker(tmp_path / f"{host.name}.log") for host in hosts}
        stack.callback(end, list(workers.values()))
        # First all of them, then the work: else two hosts may have done all of it before the third one has joined.
        processes.wait_for("the hosts to join", lambda: {one.name for one in hosts} == carried().keys())
        runs = [submit(epochs=EPOCHS) for _ in range(6)]
        processes.wait_for("each host to carry a run", lambda: all(carried().get(one.name) for one in hosts))
        stack.enter_context(Weather(servers, SEED))
        victim = hosts[0]
        (run, *_) = processes.wait_for("a run on the host that is cut off", lambda: carried().get(victim.name))
        processes.wait_for_epoch(run, 2)
        victim.cut_off()
        time.sleep(PARTITION_S)
        lived = workers[victim].poll() is None
        victim.join_again()
        processes.wait_for(
            "all runs to end", lambda: all(processes.get_run(one).state in FINAL for one in runs), 1200
        )
        log = tmp_path / f"{victim.name}.log"
        outcomes = {one: assert_succeeded_once(one, dataset, log, epochs=EPOCHS) for one in runs}
        with transaction() as session:
            who = {attempt.host for one in runs for attempt in views.attempts(session, one)}
    assert lived, log.read_text()
    assert who == {one.name for one in hosts}  # each did its part
    assert all({*some} <= {"lost", "succeeded"} for some in outcomes.values()), outcomes
    assert sum(one.stalls + one.resets for one in servers) > 0
    told = f"{sum(one.stalls for one in servers)} stalls, {sum(one.resets for one in servers)} resets, "
    print(f"{told}{PARTITION_S} s apart; outcomes {outcomes}")  # noqa: T201


def end(workers: list[processes.Worker]) -> None:
    for one in workers:
        one.send_signal(signal.SIGTERM)
    for one in workers:
        try:
            one.wait(60)
        except subprocess.TimeoutExpired:
            processes.kill_tree(one)
