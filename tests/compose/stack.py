"""The containers of the compose file, as one project of a test."""

import secrets
import socket
from dataclasses import dataclass, field

from tests.compose import stand_ins
from tests.compose.engine import ROOT, Engine
from tests.processes import wait_for

PROJECT = "liverseg-test"
FILE = ROOT / "docker-compose.yml"
LONG_RUNNING = {"postgres": 1, "redis": 1, "api": 2, "proxy": 1, "worker": 2}
"""Service -> how many containers of it."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@dataclass(frozen=True)
class Stack:
    """Postgres, Valkey, two API nodes behind their proxy, and two workers."""

    engine: Engine
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    password: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def build(self) -> None:
        """The images of this repository."""
        mounted = () if self.engine.has_registry else (f"--podman-build-args={stand_ins.MOUNTED}",)
        self._compose("build", "api", "worker", first=mounted)  # without names, podman builds one for each container

    def up(self) -> None:
        """Start everything, in the order of its conditions."""
        if self.engine.command == "docker":
            self._compose("up", "--no-build", "-d")
        else:
            self._step_by_step()
        self.wait_until_healthy(*LONG_RUNNING)

    def _step_by_step(self) -> None:
        """Podman before 4.6 waits for no health check, and does not find what a container requires."""
        self._start("postgres", "redis")
        self.wait_until_healthy("postgres", "redis")
        self._start("migrate")
        wait_for("the migrations", self._is_migrated, 180)
        self._start("api")
        self.wait_until_healthy("api")
        self._start("proxy", "worker")

    def _is_migrated(self) -> bool:
        ended = ("--all", "--filter", "label=com.docker.compose.service=migrate", "--filter", "status=exited")
        return bool(self.listed(*ended, "--filter", "exited=0"))

    def _start(self, *services: str) -> None:
        self._compose("up", "--no-build", "--no-deps", "-d", *services)

    def down(self) -> None:
        """End and remove everything, volumes too."""
        self._compose("down", "--volumes")

    def _compose(self, *words: str, first: tuple[str, ...] = ()) -> str:
        return self.engine.composed(
            *first, "-f", str(FILE), "-p", PROJECT, *words,
            LIVERSEG_TOKEN=self.token, POSTGRES_PASSWORD=self.password, LIVERSEG_PUBLISH=f"127.0.0.1:{self.port}",
        )  # fmt: skip

    def containers(self, service: str) -> list[str]:
        """Names of the running containers of a service."""
        return self.listed("--filter", f"label=com.docker.compose.service={service}")

    def listed(self, *words: str) -> list[str]:
        """Names of containers of this project; running ones, unless ``words`` ask for others."""
        mine = f"label=com.docker.compose.project={PROJECT}"
        return sorted(self.engine.run("ps", "--filter", mine, *words, "--format", "{{.Names}}").split())

    def wait_until_healthy(self, *services: str) -> None:
        def all_healthy() -> bool:
            found = {service: self.containers(service) for service in services}
            complete = all(len(names) == LONG_RUNNING[service] for service, names in found.items())
            return complete and all(self.engine.is_healthy(name) for names in found.values() for name in names)

        wait_for(f"{', '.join(services)} to be healthy", all_healthy, 180)

    def on_host(self, host: str) -> str:
        """The running container whose host name this is."""
        found = [name for name in self.listed() if self.inside(name, "cat", "/etc/hostname") == host]
        assert len(found) == 1, (host, found)
        return found[0]

    def inside(self, container: str, *words: str) -> str:
        """What a command prints that runs in a container."""
        return self.engine.run("exec", container, *words).strip()

    def kill(self, container: str) -> None:
        """SIGKILL to everything in it, as a power cut would."""
        self.engine.run("kill", container)
