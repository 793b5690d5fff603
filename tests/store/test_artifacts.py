"""Files by content hash: whole or not at all."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store import artifacts
from store.artifacts import Stored
from store.settings import settings
from tests.conftest import forget_caches

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, example 1


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path / "home"))
    forget_caches()
    yield tmp_path / "home"
    monkeypatch.undo()
    forget_caches()


def written(folder, content, name="file"):
    (folder / name).write_bytes(content)
    return folder / name


def files():
    return sorted(path for path in settings().artifacts.rglob("*") if path.is_file())


@pytest.mark.parametrize(("content", "sha256"), [(b"", EMPTY_SHA256), (b"abc", ABC_SHA256)])
def test_put_stores_under_the_hash(tmp_path, home, content, sha256):
    assert artifacts.put(written(tmp_path, content)) == Stored(sha256, len(content))
    place = home / "artifacts" / sha256[:2] / sha256
    assert artifacts.locate(sha256) == place
    assert place.read_bytes() == content
    assert files() == [place]
    assert artifacts.intact(sha256)


def test_a_large_file_is_copied_whole(tmp_path):
    content = bytes(range(256)) * 4096 * 3 + b"end"  # three blocks and a bit
    stored = artifacts.put(written(tmp_path, content))
    assert stored == Stored(hashlib.sha256(content).hexdigest(), len(content))
    assert artifacts.locate(stored.sha256).read_bytes() == content


def test_the_same_content_is_stored_once(tmp_path):
    first = artifacts.put(written(tmp_path, b"abc", "one"))
    second = artifacts.put(written(tmp_path, b"abc", "two"))
    assert first == second
    assert len(files()) == 1


def test_damage_is_seen_and_healed_by_putting_again(tmp_path):
    stored = artifacts.put(written(tmp_path, b"abc"))
    artifacts.locate(stored.sha256).write_bytes(b"abd")
    assert not artifacts.intact(stored.sha256)
    artifacts.put(tmp_path / "file")
    assert artifacts.intact(stored.sha256)


def test_what_is_not_there_is_not_intact():
    assert not artifacts.intact(ABC_SHA256)


@pytest.mark.parametrize("forged", ["../../../etc/passwd", "", "abc", ABC_SHA256.upper(), ABC_SHA256 + "\n"])
def test_what_is_no_hash_never_becomes_a_path(forged):
    with pytest.raises(ValueError, match="SHA-256"):
        artifacts.locate(forged)


def test_a_missing_source_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        artifacts.put(tmp_path / "missing")
    assert files() == []


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_error_in_the_middle_leaves_nothing(tmp_path, monkeypatch, where):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], full)
    with pytest.raises(OSError, match="No space"):
        artifacts.put(written(tmp_path, b"abc"))
    assert files() == []


KILLED = """
import sys, time
from store import artifacts
artifacts.os.fsync = lambda descriptor: (print("written", flush=True), time.sleep(60))
artifacts.put(artifacts.Path(sys.argv[1]))
"""


def test_a_kill_in_the_middle_leaves_no_artifact(tmp_path, home):
    source = written(tmp_path, b"abc")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not artifacts.locate(ABC_SHA256).exists()
    assert [path.name[:5] for path in files()] == [".new-"]  # nothing that any row could name
    assert artifacts.put(source).sha256 == ABC_SHA256
    assert artifacts.intact(ABC_SHA256)


GROWING = """
import sys
path = sys.argv[1]
while True:
    with open(path, "ab") as file:
        file.write(b"x" * 4096)
"""


def test_a_source_that_grows_meanwhile_is_stored_under_the_hash_of_what_was_stored(tmp_path):
    source = written(tmp_path, b"x" * 4096)
    with subprocess.Popen([sys.executable, "-c", GROWING, str(source)]) as process:
        while source.stat().st_size < 1 << 16:
            time.sleep(0.01)
        try:
            stored = artifacts.put(source)
        finally:
            process.kill()
    assert artifacts.intact(stored.sha256)
    assert artifacts.locate(stored.sha256).stat().st_size == stored.bytes


def test_a_file_of_the_store_is_not_copied_again(home, tmp_path):
    (tmp_path / "maps").write_bytes(b"maps")
    first = artifacts.put(tmp_path / "maps")
    place = artifacts.locate(first.sha256)
    before = place.stat().st_ino
    assert artifacts.put(place) == first
    assert place.stat().st_ino == before
