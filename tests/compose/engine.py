"""What runs the compose file: Docker and its registry, or podman on a store of its own in ``.compose``.

The store keeps stand-ins, which bear the names of real images, away from everybody else's.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".compose"
IMAGES = {
    name: service["image"]
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].items()
    if "build" not in service
}
"""Service -> the image of others that it runs."""

NEEDED = (
    "what is needed: podman, runc, netavark, aardvark-dns, iptables, mmdebstrap "
    "(as root, make test-compose installs them from Debian)"
)


class NoEngine(Exception):
    """The compose file cannot be run here; the message says what is missing."""


@dataclass(frozen=True)
class Engine:
    """A container engine: its command, the compose command that drives it, and what both find in the environment."""

    command: str
    compose: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    has_registry: bool = True

    def run(self, *words: str, **options: str) -> str:
        """What an engine's command prints.

        Raises:
            AssertionError: it fails; with the end of what it said.
        """
        return said(self.command, *words, environment=self.environment | options)

    def composed(self, *words: str, **options: str) -> str:
        """What a compose command prints."""
        return said(*self.compose, *words, environment=self.environment | options)

    def can(self, *words: str) -> bool:
        """Whether a command succeeds."""
        return quiet((self.command, *words), self.environment)

    def is_healthy(self, container: str) -> bool:
        """Whether its health check succeeds: Docker checks by itself, podman without systemd only when asked."""
        if self.command == "podman":
            return self.can("healthcheck", "run", container)
        return json.loads(self.run("inspect", container))[0]["State"]["Health"]["Status"] == "healthy"


def find() -> Engine:
    """The first engine that works here.

    Raises:
        NoEngine: there is none.
    """
    docker = Engine("docker", ("docker", "compose"))
    if docker.can("info") and docker.can("compose", "version") and docker.can("pull", IMAGES["proxy"]):
        return docker
    if not shutil.which("podman"):
        raise NoEngine(f"neither Docker with a registry nor podman is here; {NEEDED}")
    podman = _podman(has_registry=False)
    if not podman.can("info"):
        raise NoEngine(f"podman does not run here; see what `podman info` says, and {NEEDED}")
    if podman.can("pull", "--quiet", f"docker.io/library/{IMAGES['proxy']}"):
        return _podman(has_registry=True)
    if not shutil.which("mmdebstrap"):
        raise NoEngine(f"no image registry can be reached, and without mmdebstrap there are no stand-ins; {NEEDED}")
    return podman


def _podman(*, has_registry: bool) -> Engine:
    compose = str(Path(sys.executable).parent / "podman-compose")
    files = {
        "CONTAINERS_CONF": _written("containers.conf", _containers_conf()),
        "CONTAINERS_STORAGE_CONF": _written("storage.conf", _storage_conf()),
        "DISABLE_HC_SYSTEMD": "true",  # health is looked at when it is asked for
    }
    return Engine("podman", (compose,), files, has_registry)


def _written(name: str, text: str) -> str:
    STORE.mkdir(exist_ok=True)
    (STORE / name).write_text(text)
    return str(STORE / name)


def _containers_conf() -> str:
    """No systemd, no raising of limits: as it is in a container or a sandbox, and harmless elsewhere."""
    runtime = "runc" if shutil.which("runc") else "crun"
    return f"""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{STORE}/networks"
"""


def _storage_conf() -> str:
    return f"""\
[storage]
driver = "overlay"
graphroot = "{STORE}/storage"
runroot = "{STORE}/run"
"""


def said(*words: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, (
        f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}"
    )
    return done.stdout


def quiet(words: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    if not shutil.which(words[0]):
        return False
    return subprocess.run(words, env=os.environ | environment, capture_output=True, check=False).returncode == 0
