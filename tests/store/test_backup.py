"""Backups in the middle of everything: whole, or refused; files that are lost are told."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from liverseg_core.errors import InputError
from store import artifacts, backup, bundled, deletion, presence, queue, tidy, usage, wishes
from store.backup import BackupFailed, back_up, restore
from store.database import transaction
from store.deletion import Selection
from store.models import DEFAULT_PROJECT, Worker
from store.queue import Claim, LeaseLost
from store.settings import settings
from store.verify import verify
from tests import factories
from tests.conftest import forget_caches
from tests.store import ledger


def quiet(_: str) -> None:
    pass


@pytest.fixture
def phantom(database: Path, tmp_path: Path) -> None:
    for path in settings().artifacts.glob("??/*"):
        path.unlink()
    factories.import_phantom(tmp_path)


@pytest.fixture
def elsewhere(services: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From ``call`` on this process has an empty database and home of its own."""
    admin = bundled.database_url(services)

    def move() -> None:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("CREATE DATABASE restored")
        monkeypatch.setenv("LIVERSEG_DATABASE_URL", make_url(admin).set(database="restored").render_as_string())
        monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path / "new-home"))
        forget_caches()

    yield move
    monkeypatch.undo()
    forget_caches()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")


def finish_one(folder: Path, number: int) -> int:
    """A run that has succeeded with a file of its own."""
    held = ledger.claimed()
    (folder / "weights").write_bytes(b"weights %d" % number)
    with_files = {"weights": artifacts.put(folder / "weights")}
    ledger.finish(held, files=with_files)
    return held.run_id


def test_a_backup_taken_while_runs_finish_and_are_deleted_has_every_file(
    phantom: None, elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tidy, "YOUNG_S", 0.0)  # files would be removed at once, were it not for the lock
    runs = [finish_one(tmp_path, number) for number in range(40)]
    enough, made = threading.Event(), []

    def go_on() -> None:
        """Every round one more run is done, and the oldest is deleted with its file."""
        number = 1000
        while not enough.is_set():
            runs.append(finish_one(tmp_path, number))
            with transaction() as session:
                planned = deletion.plan(session, DEFAULT_PROJECT, "run", Selection((runs.pop(0),)), hold=True)
                deletion.carry_out(session, DEFAULT_PROJECT, planned, "anna")
            tidy.tidy()
            number += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        made.extend(back_up(tmp_path / f"kept-{number}", quiet) for number in range(3))
    finally:
        enough.set()
        thread.join()
    assert [one.missing for one in made] == [[], [], []]
    assert len({one.dump_sha256 for one in made}) == 3
    elsewhere()
    assert restore(tmp_path / "kept-2", quiet) == []
    with transaction() as session:
        names = usage.named(session)
    assert len(names) == made[2].files
    assert all(map(artifacts.intact, names))
    assert any(run > 40 for (run,) in ledger.rows("SELECT id FROM runs"))  # some of it came meanwhile


def broken(files: bool = True) -> list[str]:
    with transaction() as session:
        return [one.name for one in verify(session, files) if not one.holds]


def test_runs_that_were_going_on_are_queued_again_without_a_crash(phantom: None, elsewhere, tmp_path: Path):
    finish_one(tmp_path, 1)
    held, stopping = ledger.claimed(), ledger.claimed()
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, stopping.run_id)
        presence.here(session, presence.Presence("w", "host", "default", 1, 1, "1"))
    back_up(tmp_path / "kept", quiet)
    elsewhere()
    restore(tmp_path / "kept", quiet)
    assert [(ledger.run(one.run_id).state, ledger.run(one.run_id).crashes) for one in (held, stopping)] == [
        ("queued", 0), ("cancelled", 0),
    ]  # fmt: skip
    with transaction() as session:
        assert session.query(Worker).count() == 0
        with pytest.raises(LeaseLost):  # a worker of before, that somebody forgot to stop, writes nothing
            queue.owned(session, held)
    assert ledger.claim().claim == Claim(held.run_id, held.fence + 1)


def test_a_second_backup_copies_what_is_new_and_the_first_stays_good_until_then(
    phantom: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = tmp_path / "kept"
    first = back_up(kept, quiet)
    finish_one(tmp_path, 1)
    copied: list[str] = []
    whole = backup.copied
    monkeypatch.setattr(
        backup, "copied", lambda origin, to: (copied.append(Path(to.name).name), whole(origin, to))[1]
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken_off:
        broken_off.setattr(backup, "_write_whole", full)
        with pytest.raises(OSError, match="No space"):
            back_up(kept, quiet)
    assert backup.read_about(kept) == first
    second = back_up(kept, quiet)
    assert copied == [f".new-{artifacts.sha256_of(tmp_path / 'weights')}"]
    assert (second.files, len(list(kept.glob("*.dump")))) == (first.files + 1, 1)


def test_files_that_are_lost_in_the_store_are_told_and_all_others_kept(phantom: None, elsewhere, tmp_path: Path):
    runs = [finish_one(tmp_path, number) for number in range(3)]
    files = [sha for (sha,) in ledger.rows("SELECT sha256 FROM artifacts ORDER BY run_id")]
    artifacts.locate(files[0]).unlink()
    artifacts.locate(files[1]).write_bytes(b"weighty 1")
    made = back_up(tmp_path / "kept", quiet)
    assert made.missing == sorted(files[:2])
    assert made.files == 4
    place = tmp_path / "kept" / "artifacts" / files[2][:2] / files[2]
    place.write_bytes(b"x" + place.read_bytes()[1:])  # and one rots in the backup
    elsewhere()
    assert restore(tmp_path / "kept", quiet) == sorted(files)
    assert ledger.rows("SELECT id FROM runs ORDER BY id") == [(run,) for run in runs]
    assert "every artifact of a succeeded run is there and has its hash" in broken()


def test_a_database_that_holds_anything_is_not_restored_into(phantom: None, tmp_path: Path):
    back_up(tmp_path / "kept", quiet)
    before = ledger.everything()
    with pytest.raises(InputError, match="has tables already"):
        restore(tmp_path / "kept", quiet)
    assert ledger.everything() == before


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda kept: (kept / "backup.json").unlink(), "holds no backup.json"),
        (lambda kept: (kept / "backup.json").write_text("{"), "holds no backup.json"),
        (lambda kept: next(kept.glob("*.dump")).write_bytes(b"cut"), "missing or damaged"),
        (lambda kept: next(kept.glob("*.dump")).unlink(), "missing or damaged"),
        (lambda kept: _say(kept, schema="9999"), "of a newer liverseg"),
        (lambda kept: _say(kept, format=2), "of a newer liverseg"),
    ],
)
def test_what_is_no_whole_backup_of_ours_is_refused(phantom: None, tmp_path: Path, harm, told: str):
    back_up(tmp_path / "kept", quiet)
    harm(tmp_path / "kept")
    with pytest.raises(InputError, match=told):
        backup.read_about(tmp_path / "kept")


def _say(kept: Path, **changes: object) -> None:
    about = json.loads((kept / "backup.json").read_text())
    (kept / "backup.json").write_text(json.dumps(about | changes))


def test_what_pg_dump_says_is_told_without_the_password(
    phantom: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    url = make_url(bundled.database_url(settings().home)).set(password="secret-word", database="nowhere")
    monkeypatch.setattr("store.backup.database.url", lambda: url.render_as_string(hide_password=False))
    with pytest.raises(BackupFailed, match=r'pg_dump failed: .*database "nowhere" does not exist') as told:
        back_up(tmp_path / "kept", quiet)
    assert "secret-word" not in str(told.value)
    assert not (tmp_path / "kept" / "backup.json").exists()
