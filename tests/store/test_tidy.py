"""Files go when no row names them and they are old enough; what a crash leaves behind is found."""

import os
import shutil
import threading
import time

import pytest

from store import artifacts, endings, tidy, usage, wishes
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.settings import settings
from tests.store import ledger
from tests.store.test_deletion import age, delete, finished, holds, stored

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    for name in ("artifacts", "checkpoints", "cache", "scratch"):
        shutil.rmtree(database / name, ignore_errors=True)
    yield ledger.dataset()
    for name in ("artifacts", "checkpoints", "cache", "scratch"):
        shutil.rmtree(database / name, ignore_errors=True)


def names():
    return sorted(path.name for path in settings().artifacts.rglob("*") if path.is_file())


def checkpoints(run):
    folder = usage.checkpoint_folder(run) / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"12345")
    return usage.checkpoint_folder(run)


def older(path, seconds=2 * tidy.ORPHAN_S):
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_young_files_wait_and_old_ones_go():
    run = finished()
    delete("run", run)
    assert tidy.tidy() == 0
    assert len(names()) == 3
    assert ledger.rows("SELECT count(*) FROM deletions WHERE tidied_at IS NULL") == [(1,)]
    with transaction() as session:
        assert usage.of_project(session, DEFAULT_PROJECT).leaving == len(f"mapsweightslog {run}")
    age()
    assert tidy.tidy() == 3
    assert names() == []
    assert ledger.rows("SELECT count(*) FROM deletions WHERE tidied_at IS NULL") == [(0,)]
    assert tidy.tidy() == 0


def test_a_crash_between_commit_and_removal_is_made_good():
    """Nothing but the row remembers what was to go; a file that is gone already does no harm."""
    delete("run", finished())
    age()
    next(path for path in settings().artifacts.rglob("*") if path.is_file()).unlink()
    assert tidy.tidy() == 2
    assert ledger.rows("SELECT count(*) FROM deletions WHERE tidied_at IS NULL") == [(0,)]


def test_content_that_came_back_meanwhile_stays():
    delete("run", finished())
    again = finished()
    age()
    assert tidy.tidy() == 1  # the first one's log
    assert len(names()) == 3
    assert ledger.rows("SELECT count(*) FROM artifacts WHERE run_id = :run", run=again) == [(3,)]
    holds()


def test_whoever_is_just_storing_is_waited_for():
    """A row that names the file of a deleted run, not committed yet, keeps the file."""
    delete("run", finished())
    age()
    sha256 = artifacts.sha256_of(stored_place(b"weights"))
    inside, go_on = threading.Event(), threading.Event()

    def storing():
        with transaction() as session:
            tidy.storing(session, [sha256])
            inside.set()
            go_on.wait(60)
            session.execute(ledger.text("UPDATE datasets SET artifact = :sha"), {"sha": sha256})

    thread = threading.Thread(target=storing)
    thread.start()
    assert inside.wait(60)
    assert tidy.tidy() == 0
    go_on.set()
    thread.join(60)
    assert tidy.tidy() == 2
    assert names() == [sha256]


def stored_place(content):
    return artifacts.locate(stored_old(content))


def stored_old(content):
    sha256 = stored(content).sha256
    older(artifacts.locate(sha256))
    return sha256


def test_a_row_cannot_name_a_file_that_was_removed():
    delete("run", finished())
    sha256 = stored_old(b"weights")
    age()
    tidy.tidy()
    with pytest.raises(tidy.FileGone, match=sha256), transaction() as session:
        tidy.storing(session, [sha256])


def test_checkpoints_of_ended_runs_go_and_those_that_may_be_needed_stay():
    succeeded = finished()
    failed, dead, requeued, running = (ledger.claimed() for _ in range(4))
    with transaction() as session:
        endings.fail(session, failed, "bad-input", Ending(1))
        endings.crash(session, dead, Ending(-9), 1)
        endings.crash(session, requeued, Ending(-9), 1)
    (cancelled,) = ledger.submit(reuse=False)
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, cancelled)  # no worker is there to remove anything
    every = [succeeded, failed.run_id, dead.run_id, requeued.run_id, running.run_id, cancelled]
    kept = {run: checkpoints(run) for run in (*every, 999)}
    assert tidy.tidy() == 3
    assert [run for run in kept if kept[run].exists()] == [dead.run_id, requeued.run_id, running.run_id, 999]
    delete("files", dead.run_id, requeued.run_id)
    with transaction() as session:
        wishes.requeue(session, DEFAULT_PROJECT, requeued.run_id)  # before the checkpoints went: it keeps them
    assert tidy.tidy() == 1
    assert [run for run in kept if kept[run].exists()] == [requeued.run_id, running.run_id, 999]
    assert list(settings().checkpoints.glob(".gone-*")) == []


def test_orphans_are_found_and_what_is_known_or_young_is_not():
    run = finished()
    artifact = artifacts.locate(stored(b"whose worker died").sha256)
    half = settings().artifacts / ".new-abc"
    upload = settings().scratch / "upload-abc"
    cache, own = (settings().cache / name for name in ("c" * 64, ledger.run(run) and _content()))
    for folder in (upload, cache, own):
        folder.mkdir(parents=True)
    half.write_bytes(b"half")
    unknown, known = checkpoints(999), checkpoints(run)
    with transaction() as session:
        assert tidy.orphans(session) == []
    age(2 * tidy.ORPHAN_S)
    for path in (half, upload, cache, own, unknown, known):
        older(path)
    with transaction() as session:
        found = tidy.orphans(session)
        assert {one.path for one in found} == {artifact, half, upload, cache, unknown}
        assert {one.path: one.bytes for one in found}[artifact] == len(b"whose worker died")
        assert tidy.remove_orphans(session) == found
        assert tidy.orphans(session) == []
    assert known.exists()
    assert len(names()) == 3
    holds()


def _content():
    return ledger.rows("SELECT content_hash FROM datasets")[0][0]


def test_the_size_of_a_folder_that_a_worker_removes_meanwhile_is_told(tmp_path):
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            for attempt in range(20):
                (tmp_path / "7" / f"attempt-{attempt}").mkdir(parents=True)
                (tmp_path / "7" / f"attempt-{attempt}" / "file").write_bytes(b"12345")
            shutil.rmtree(tmp_path / "7")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        ends = time.monotonic() + 2
        sizes = set()
        while time.monotonic() < ends:
            sizes.add(usage.folder_bytes(tmp_path))
    finally:
        over.set()
        other.join()
    assert len(sizes) > 1
    assert max(sizes) <= 100
