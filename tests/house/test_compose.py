"""The compose file and the Dockerfiles, checked without a container engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.compose import engine

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
PROXY = ROOT / "docker" / "haproxy.cfg"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOKENS = {"LIVERSEG_TOKEN": "a", "POSTGRES_PASSWORD": "b"}
LONG_RUNNING = {"postgres", "redis", "api", "proxy", "worker", "worker-gpu"}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def config(environment):
    found = shutil.which("docker-compose")
    if found is None:
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    command = [found, "-f", str(FILE), "--profile", "gpu", "config", "-q"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_docker_compose_accepts_the_file():
    done = config({"PATH": "/usr/local/bin:/usr/bin:/bin", **TOKENS})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", sorted(TOKENS))
def test_it_does_not_start_without_its_secrets(missing):
    rest = {name: value for name, value in TOKENS.items() if name != missing}
    done = config({"PATH": "/usr/local/bin:/usr/bin:/bin", **rest})
    assert done.returncode != 0
    assert "set it to a long random text" in done.stderr


def test_services(services):
    assert set(services) == LONG_RUNNING | {"migrate"}
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_no_key_that_older_versions_refuse(compose):
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_what_runs_long_has_a_health_check_and_starts_again(services, name):
    assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert services[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["api", "worker", "worker-gpu"])
def test_work_begins_after_the_migrations(services, name):
    conditions = {other: need["condition"] for other, need in services[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "redis": "service_healthy",
    }


def test_no_container_has_privileges_and_ours_have_a_read_only_root(services):
    for name, service in services.items():
        assert service["read_only"] is (name != "postgres"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_the_proxy_is_published_and_by_default_on_loopback(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"proxy": ["${LIVERSEG_PUBLISH:-127.0.0.1:8421}:8421"]}


def test_the_proxy_stands_before_two_nodes_at_least(services):
    assert services["api"]["deploy"] == {"mode": "replicated", "replicas": 2}
    assert services["proxy"]["depends_on"] == {"api": {"condition": "service_healthy"}}
    assert re.search(r"^ *server-template \w+ \d+ api:8421 check ", PROXY.read_text(), re.MULTILINE)


def test_a_worker_may_end_while_another_goes_on(services):
    assert services["worker"]["deploy"] == {"mode": "replicated", "replicas": 2}
    assert "replicas" not in services["worker-gpu"]["deploy"]  # one for all devices of the host


def test_haproxy_accepts_its_file():
    found = shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if found is None:
        pytest.skip("haproxy is not installed (Debian: apt-get install haproxy)")
    done = subprocess.run([found, "-c", "-f", PROXY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_data_lies_in_named_volumes_and_nothing_else_of_the_host_but_a_file_to_read(compose, services):
    mounts = {name: service["volumes"] for name, service in services.items() if "volumes" in service}
    home = ["home:/var/lib/liverseg"]
    assert mounts == {
        "postgres": ["postgres:/var/lib/postgresql"],  # the path of the images since Postgres 18
        "redis": ["redis:/data"],
        "api": home,
        "proxy": ["./docker/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"],
        "worker": home,
        "worker-gpu": home,
    }
    assert set(compose["volumes"]) == {"postgres", "redis", "home"}


def test_no_secret_is_written_down(services):
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{variable} must come from the environment"
            assert not re.search(r"//[^@/]*:[^@/]*@", str(value)), f"{variable} holds a password"


def test_images_of_others_are_pinned_and_run_as_their_own_users(services):
    others = {name: service for name, service in services.items() if "build" not in service}
    assert set(others) == {"postgres", "redis", "proxy"}
    for service in others.values():
        assert re.fullmatch(r"[a-z/]+:\d[\w.-]*", service["image"])
        assert service["user"] not in ("root", "0")


def test_every_built_image_has_its_dockerfile_and_target(services):
    for service in services.values():
        if "build" in service:
            text = (ROOT / service["build"]["dockerfile"]).read_text()
            assert f" AS {service['build'].get('target', 'wheel')}\n" in text


def final_stages(path):
    """The stages of a Dockerfile that become images: those with a CMD."""
    stages = re.split(r"^FROM ", path.read_text(), flags=re.MULTILINE)[1:]
    return [stage for stage in stages if re.search("^CMD ", stage, re.MULTILINE)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_do_not_run_as_root(path):
    stages = final_stages(path)
    assert stages
    for stage in stages:
        assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["10001:10001"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_everything_installed_is_locked(path):
    installs = re.findall(r"pip (?:--python \S+ )?install (.*)", path.read_text())
    assert installs
    for words in installs:
        assert "--require-hashes" in words or "--no-index" in words


def test_the_api_image_has_no_tensorflow():
    lock = re.findall(r"requirements/(\w+\.txt)", (ROOT / "docker" / "api.Dockerfile").read_text())
    assert set(lock) == {"build.txt", "base.txt"}
    for name in set(lock):
        assert not re.search("^(tensorflow|keras|jax)", (ROOT / "requirements" / name).read_text(), re.MULTILINE)


def test_the_build_context_holds_no_more_than_is_named():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    copied = {
        word.split("/")[0]
        for path in DOCKERFILES
        for words in re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text(), re.MULTILINE)
        for word in words.split()
    }
    assert copied == {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--failure-threshold", "style", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("commands", "missing"),
    [
        ({}, "neither Docker with a registry nor podman is here"),
        ({"podman": "exit 1"}, "podman does not run here"),
        ({"podman": '[ "$1" = info ]'}, "without mmdebstrap there are no stand-ins"),
    ],
)
def test_where_it_cannot_be_run_the_reason_is_told(commands, missing, tmp_path, monkeypatch):
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(engine, "STORE", tmp_path / "store")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(engine.NoEngine, match=f"{missing}.* podman, runc, netavark"):
        engine.find()
