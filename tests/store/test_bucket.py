"""A bucket over a bad line: torn downloads, other bytes than asked for, no answer; and what this host keeps of it."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from liverseg_core.errors import DataError, InputError, Interrupted
from store import artifacts, bucket, usage
from store.bucket import BLOCK
from store.settings import settings
from tests import processes, s3
from tests.conftest import forget_caches

MARKER = b"here-is-a-place-that-a-test-can-find"


@pytest.fixture
def server(s3_server):
    s3_server.clear()
    return s3_server


@pytest.fixture
def wire(server, tmp_path, monkeypatch):
    """The store of this process is a bucket behind a wire."""
    with s3.Wire(server.port) as wire:
        monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("LIVERSEG_DATA_CACHE_MB", "64")
        for name, value in server.surroundings(wire.port).items():
            monkeypatch.setenv(name, value)
        forget_caches()
        yield wire
    monkeypatch.undo()
    forget_caches()


def stored(tmp_path, size, seed=b""):
    """A file of ``size`` bytes in the bucket, and nothing of it here."""
    content = MARKER + hashlib.shake_128(seed).digest(size - len(MARKER))
    (tmp_path / "made").write_bytes(content)
    return artifacts.put(tmp_path / "made").sha256, content


def read(sha256, going_on=lambda: None):
    with artifacts.held(sha256, going_on) as path:
        return path.read_bytes()


def here():
    """What this host keeps, halves too."""
    return {path.name: path.stat().st_size for path in settings().fetched.glob("*")}


def test_a_file_comes_once(tmp_path, wire):
    sha256, content = stored(tmp_path, 1 << 20)
    wire.requests.clear()
    assert read(sha256) == content
    assert read(sha256) == content
    assert [one.split()[0] for one in wire.requests] == ["HEAD", "HEAD", "GET"]
    assert here() == {sha256: len(content)}


def test_a_large_file_goes_up_and_comes_down_in_blocks(tmp_path, wire):
    sha256, content = stored(tmp_path, 2 * BLOCK + 5)
    parts = [one for one in wire.requests if one.startswith("PUT")]
    assert len(parts) == 3
    assert all("partNumber=" in one for one in parts)
    signs = []
    wire.requests.clear()
    assert read(sha256, lambda: signs.append(1)) == content
    assert len(signs) == 3
    assert len([one for one in wire.requests if one.startswith("GET")]) == 3


def test_a_download_that_is_cut_again_and_again_goes_on_where_it_was(tmp_path, wire):
    sha256, content = stored(tmp_path, 5 * BLOCK)
    wire.came_down = 0
    wire.down = s3.cutting(after=BLOCK + BLOCK // 2)
    assert read(sha256) == content
    assert wire.came_down < 12 * BLOCK  # not from its start each time
    assert here() == {sha256: len(content)}


def test_a_line_that_carries_nothing_whole_is_told_and_leaves_half_a_file(tmp_path, wire, monkeypatch):
    monkeypatch.setattr(bucket, "TRIES", 2)
    sha256, content = stored(tmp_path, 2 * BLOCK)
    read_one = threading.Event()

    def one_block_then_none(piece, left=[BLOCK + BLOCK // 2]):  # noqa: B006 - the count
        left[0] -= len(piece)
        return piece if left[0] > 0 else None

    wire.down = one_block_then_none
    with pytest.raises(artifacts.Away, match="the artifact store is away"):
        read(sha256, read_one.set)
    assert read_one.is_set()
    assert here() == {f".part-{sha256}": BLOCK}  # nothing under a final name
    wire.down, wire.came_down = (lambda piece: piece), 0
    assert read(sha256) == content
    assert BLOCK < wire.came_down < BLOCK + BLOCK // 2


def test_a_bit_that_flips_on_the_way_is_seen_and_the_file_fetched_again(tmp_path, wire):
    sha256, content = stored(tmp_path, 1 << 20)
    wire.down = s3.flipping(1, MARKER)
    assert read(sha256) == content


def test_a_file_that_is_damaged_in_the_store_never_gets_its_name(tmp_path, server, wire):
    sha256, content = stored(tmp_path, 1 << 20)
    server.path_of(sha256).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="is damaged in the artifact store"):
        read(sha256)
    assert not (settings().fetched / sha256).exists()
    artifacts.put(tmp_path / "made")
    assert read(sha256) == content


def test_a_bit_that_flips_on_the_way_up_is_seen(tmp_path, wire):
    """The server refuses what is not what was signed, or it is read back and is not what was sent."""
    wire.up = s3.flipping(1, MARKER)
    sha256, _ = stored(tmp_path, 1 << 20)
    assert artifacts.intact(sha256)


def test_what_is_gone_is_said(tmp_path, server, wire):
    sha256, _ = stored(tmp_path, 1000)
    server.path_of(sha256).unlink()
    with pytest.raises(DataError, match="is gone from the artifact store"):
        read(sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "the artifact store is away (connection refused)"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong-a-secret"}, "the artifact store refuses what these credentials"),
        ({"LIVERSEG_ARTIFACTS": "s3://no-such-bucket"}, "the artifact store has no such bucket"),
        ({}, None),
    ],
)
def test_trouble_is_told_in_words_and_without_secrets(tmp_path, wire, monkeypatch, caplog, change, words):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    forget_caches()
    (tmp_path / "file").write_bytes(b"content")
    with caplog.at_level("DEBUG"):
        told = artifacts.trouble()
        if words is None:
            assert told is None
            return
        assert told.startswith(words)
        with pytest.raises(artifacts.Away, match="the artifact store") as error:
            artifacts.put(tmp_path / "file")
    said = " ".join([told, str(error.value), caplog.text])
    assert not any(secret in said for secret in (s3.KEY, s3.SECRET, "wrong-a-secret", "127.0.0.1"))


def test_a_server_that_falls_silent_is_away_within_half_a_minute(tmp_path, server, wire):
    sha256, _ = stored(tmp_path, 1000)
    server.freeze()
    begun = time.monotonic()
    try:
        told = artifacts.trouble()
        sizes_are_not_waited_for = [artifacts.size(sha256) for _ in range(3)]
    finally:
        server.thaw()
    assert told.startswith("the artifact store is away")
    assert time.monotonic() - begun < 80
    assert sizes_are_not_waited_for == [0, 0, 0]
    assert artifacts.trouble() is None


@pytest.mark.parametrize(
    "address", ["bucket", "s3://", "s3://UPPER", "s3://key:secret@bucket", "https://host/bucket", "s3://b/../c"]
)
def test_an_address_that_is_none_is_refused(monkeypatch, address):
    monkeypatch.setenv("LIVERSEG_ARTIFACTS", address)
    forget_caches()
    with pytest.raises(InputError, match=r"^LIVERSEG_ARTIFACTS: "):
        settings()
    monkeypatch.undo()
    forget_caches()


# ---- what this host keeps ----------------------------------------------------------------------------------------


def test_what_was_used_least_lately_goes_first(tmp_path, wire):
    """64 MiB at most: of five files of 20 MiB three are kept."""
    names = [stored(tmp_path, 20 << 20, bytes([number]))[0] for number in range(5)]
    for name in (*names[:3], names[0], names[3], names[4]):
        with artifacts.held(name):
            pass
        time.sleep(0.02)
    assert set(here()) == {names[0], names[3], names[4]}


def test_what_is_in_use_stays_however_little_room_there_is(tmp_path, wire):
    names = [stored(tmp_path, 30 << 20, bytes([number]))[0] for number in range(4)]
    with artifacts.held(names[0]) as first, artifacts.held(names[1]) as second:
        read(names[2])  # 90 MiB at once
        assert not artifacts.locate(names[2]).exists()
        assert (first.stat().st_size, second.stat().st_size) == (30 << 20, 30 << 20)
    read(names[3])
    assert set(here()) == {names[1], names[3]}


def test_a_file_larger_than_the_bound_is_used_and_goes(tmp_path, wire):
    sha256, content = stored(tmp_path, 70 << 20)
    assert read(sha256) == content
    assert here() == {}


HOLDS = """
import sys
from store import artifacts
with artifacts.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(sha256: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS, sha256], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ.copy()
    )


def test_another_process_holds_it_until_it_dies(tmp_path, wire):
    first, second = (stored(tmp_path, 40 << 20, bytes([number]))[0] for number in range(2))
    process = holder(first)
    assert process.stdout.readline() == b"held\n"
    read(second)
    assert set(here()) == {first}
    process.kill()
    process.wait()
    read(second)
    assert set(here()) == {second}
    process.stdin.close()
    process.stdout.close()


def test_processes_that_need_one_file_fetch_it_once(tmp_path, wire):
    sha256, content = stored(tmp_path, 3 * BLOCK)
    wire.came_down = 0
    wire.down = s3.slowly(0.005)
    several = [holder(sha256) for _ in range(3)]
    signs = []
    assert read(sha256, lambda: signs.append(1)) == content
    for process in several:
        assert process.communicate(b"", 60)[0] == b"held\n"
    assert len(content) < wire.came_down < len(content) + BLOCK // 2
    assert len(signs) >= 3  # it waited and said so, or fetched and said so


def test_a_kill_in_the_middle_leaves_half_and_another_process_goes_on(tmp_path, wire):
    sha256, content = stored(tmp_path, 4 * BLOCK)
    wire.down = s3.slowly(0.01)
    process = holder(sha256)
    half = settings().fetched / f".part-{sha256}"
    processes.wait_for("two blocks", lambda: half.exists() and half.stat().st_size >= 2 * BLOCK)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(here()) == {half.name}
    wire.down, wire.came_down = (lambda piece: piece), 0
    assert read(sha256) == content
    assert wire.came_down < 3 * BLOCK
    assert set(here()) == {sha256}
    process.stdin.close()
    process.stdout.close()


def test_whoever_waits_may_give_up(tmp_path, wire):
    sha256, _ = stored(tmp_path, 2 * BLOCK)
    wire.down = s3.slowly(0.05)
    process = holder(sha256)
    processes.wait_for("it to begin", lambda: f".part-{sha256}" in here())

    def give_up():
        raise Interrupted("asked to stop")

    with pytest.raises(Interrupted):
        read(sha256, give_up)
    wire.down = lambda piece: piece
    assert process.communicate(b"", 60)[0] == b"held\n"


def test_a_disk_that_is_smaller_than_the_bound(tmp_path, wire, monkeypatch):
    first, second = (stored(tmp_path, 1 << 20, bytes([number]))[0] for number in range(2))
    read(first)
    real = bucket._write

    def full_while_the_first_is_here(file, block):
        if (settings().fetched / first).exists():
            raise OSError(28, "No space left on device")
        real(file, block)

    monkeypatch.setattr(bucket, "_write", full_while_the_first_is_here)
    read(second)
    assert set(here()) == {second}


def test_uploads_bound_nothing(tmp_path, wire):
    sha256, _ = stored(tmp_path, 1000)
    assert not settings().fetched.exists()
    assert artifacts.put(Path(tmp_path / "made")).sha256 == sha256
    assert usage.folder_bytes(settings().home) == 0
