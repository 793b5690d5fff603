"""Files by content hash: whole or not at all; the same of a folder and of a bucket."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from liverseg_core.errors import DataError
from store import artifacts, tidy
from store.artifacts import Stored
from store.settings import settings
from store.stored import place_of
from tests import s3
from tests.conftest import forget_caches

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, example 1


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch) -> Callable[[str], Path]:
    """A new store of each kind; a function that says where it really keeps a file."""
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path / "home"))
    if request.param == "bucket":
        server = request.getfixturevalue("s3_server")
        server.clear()
        for name, value in server.surroundings().items():
            monkeypatch.setenv(name, value)
    forget_caches()
    yield server.path_of if request.param == "bucket" else artifacts.locate
    monkeypatch.undo()
    forget_caches()


def written(folder, content, name="file"):
    (folder / name).write_bytes(content)
    return folder / name


def files(place):
    return sorted(path for path in place("0" * 64).parent.parent.rglob("*") if path.is_file())


def read(sha256):
    with artifacts.held(sha256) as path:
        return path.read_bytes()


@pytest.mark.parametrize(("content", "sha256"), [(b"", EMPTY_SHA256), (b"abc", ABC_SHA256)])
def test_put_stores_under_the_hash(tmp_path, place, content, sha256):
    assert artifacts.put(written(tmp_path, content)) == Stored(sha256, len(content))
    assert place(sha256).read_bytes() == content
    assert files(place) == [place(sha256)]
    assert artifacts.there(sha256)
    assert artifacts.intact(sha256)
    assert artifacts.size(sha256) == len(content)
    assert 0 <= artifacts.age(sha256) + 1 < 60
    assert read(sha256) == content


def test_a_large_file_is_copied_whole(tmp_path, place):
    content = os.urandom(20 << 20) + b"end"  # several blocks and a bit
    stored = artifacts.put(written(tmp_path, content))
    assert stored == Stored(hashlib.sha256(content).hexdigest(), len(content))
    assert place(stored.sha256).read_bytes() == content
    assert read(stored.sha256) == content


def test_the_same_content_is_stored_once(tmp_path, place):
    first = artifacts.put(written(tmp_path, b"abc", "one"))
    second = artifacts.put(written(tmp_path, b"abc", "two"))
    assert first == second
    assert len(files(place)) == 1


def test_damage_is_seen_and_healed_by_putting_again(tmp_path, place):
    stored = artifacts.put(written(tmp_path, b"abc"))
    place(stored.sha256).write_bytes(b"abd")
    assert not artifacts.intact(stored.sha256)
    artifacts.put(tmp_path / "file")
    assert artifacts.intact(stored.sha256)


def test_what_is_not_there(place):
    assert not artifacts.intact(ABC_SHA256)
    assert not artifacts.there(ABC_SHA256)
    assert not artifacts.remove(place_of(ABC_SHA256))
    assert artifacts.size(ABC_SHA256) == 0
    assert artifacts.age(ABC_SHA256) == float("inf")
    with pytest.raises((DataError, FileNotFoundError)):
        read(ABC_SHA256)


def test_what_is_removed_is_gone(tmp_path, place):
    stored = artifacts.put(written(tmp_path, b"abc"))
    read(stored.sha256)
    assert artifacts.remove(place_of(stored.sha256))
    assert files(place) == []
    assert not artifacts.there(stored.sha256)
    assert artifacts.size(stored.sha256) == 0
    assert not artifacts.locate(stored.sha256).exists()


def test_what_lies_there_is_listed(tmp_path, place):
    content = {artifacts.put(written(tmp_path, text)).sha256: len(text) for text in (b"one", b"three")}
    place("0" * 64).parent.mkdir()
    (place("0" * 64).parent / "something-else").write_bytes(b"not ours")
    seen = {one.sha256: one for one in artifacts.listed()}
    assert {name: one.bytes for name, one in seen.items()} == content
    assert all(-1 < one.age_s < 60 for one in seen.values())
    assert all(artifacts.remove(one.name) for one in seen.values())
    assert [path.name for path in files(place)] == ["something-else"]


@pytest.mark.parametrize("forged", ["../../../etc/passwd", "", "abc", ABC_SHA256.upper(), ABC_SHA256 + "\n"])
def test_what_is_no_hash_never_becomes_a_path(place, forged):
    for use in (artifacts.locate, artifacts.there, artifacts.intact, artifacts.size, artifacts.age, read):
        with pytest.raises(ValueError, match="SHA-256"):
            use(forged)


def test_a_missing_source_leaves_nothing(tmp_path, place):
    with pytest.raises(FileNotFoundError):
        artifacts.put(tmp_path / "missing")
    assert files(place) == []


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_an_error_in_the_middle_leaves_nothing(tmp_path, place, monkeypatch, where):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], full)
    with pytest.raises(OSError, match="No space"):
        artifacts.put(written(tmp_path, b"abc"))
    assert files(place) == []


KILLED = """
import os, sys, time
from pathlib import Path
from store import artifacts
os.fsync = lambda descriptor: (print("written", flush=True), time.sleep(60))
artifacts.put(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_kill_in_the_middle_leaves_no_artifact(tmp_path, place):
    source = written(tmp_path, b"abc")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not artifacts.locate(ABC_SHA256).exists()
    assert [path.name[:5] for path in files(place)] == [".new-"]  # nothing that any row could name
    assert artifacts.put(source).sha256 == ABC_SHA256
    assert artifacts.intact(ABC_SHA256)
    os.utime(settings().artifacts / files(place)[0].name, (0, 0))
    assert [one.name[:5] for one in artifacts.listed() if one.age_s > tidy.ORPHAN_S] == [".new-"]


PUT = "import sys; from pathlib import Path; from store import artifacts; artifacts.put(Path(sys.argv[1]))"


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_a_kill_in_the_middle_of_an_upload_leaves_no_artifact(tmp_path, place, s3_server):
    source = written(tmp_path, os.urandom(40 << 20))
    sha256 = artifacts.sha256_of(source)
    with s3.Wire(s3_server.port) as wire:
        process = subprocess.Popen(
            [sys.executable, "-c", PUT, str(source)], env=os.environ | s3_server.surroundings(wire.port)
        )
        while not any("partNumber=2" in one for one in wire.requests):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not artifacts.there(sha256)
    assert artifacts.put(source).sha256 == sha256
    assert artifacts.intact(sha256)


GROWING = """
import sys
path = sys.argv[1]
while True:
    with open(path, "ab") as file:
        file.write(b"x" * 4096)
"""


def test_a_source_that_grows_meanwhile_is_stored_under_the_hash_of_what_was_stored(tmp_path, place):
    source = written(tmp_path, b"x" * 4096)
    with subprocess.Popen([sys.executable, "-c", GROWING, str(source)]) as process:
        while source.stat().st_size < 1 << 16:
            time.sleep(0.01)
        try:
            stored = artifacts.put(source)
        finally:
            process.kill()
    assert artifacts.intact(stored.sha256)
    assert place(stored.sha256).stat().st_size == stored.bytes


def test_a_file_of_the_store_is_not_copied_again(tmp_path, place):
    (tmp_path / "maps").write_bytes(b"maps")
    first = artifacts.put(tmp_path / "maps")
    before = place(first.sha256).stat()
    assert artifacts.put(artifacts.locate(first.sha256)) == first
    after = place(first.sha256).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
