"""Migrations lead from nothing to the models, once, however many ask for it."""

import ast
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import make_url

from store import bundled, schema
from store import database as db
from tests.conftest import forget_caches


@pytest.fixture
def empty(services, monkeypatch):
    """An empty database beside the one of the other tests, as this process's own."""
    admin = bundled.database_url(services)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    url = make_url(admin).set(database="empty").render_as_string()
    monkeypatch.setenv("LIVERSEG_DATABASE_URL", url)
    forget_caches()
    yield url
    monkeypatch.undo()
    forget_caches()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty WITH (FORCE)")


def test_upgrade_from_nothing_gives_the_models(empty):
    assert not schema.is_current()
    schema.upgrade()
    assert schema.is_current()
    command.check(schema.config())  # raises where the models and the database differ
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT id, name FROM projects").fetchall() == [(1, "default")]


def test_the_newest_migration_is_alembics():
    (head,) = ScriptDirectory.from_config(schema.config()).get_heads()
    assert schema.newest() == head


def test_upgrade_twice_changes_nothing(empty):
    schema.upgrade()
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("INSERT INTO projects (name) VALUES ('kept')")
        schema.upgrade()
        assert connection.execute("SELECT name FROM projects ORDER BY id").fetchall() == [("default",), ("kept",)]


def test_two_upgrades_at_once(empty):
    words = [sys.executable, "-m", "store.schema", "upgrade"]
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda _: subprocess.run(words, capture_output=True, text=True), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert schema.is_current()
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (1,)


def test_downgrade_leaves_nothing(empty):
    schema.upgrade()
    command.downgrade(schema.config(), "base")
    with psycopg.connect(empty) as connection:
        left = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert left == [("alembic_version",)]


VERSIONS = list(schema.FOLDER.glob("versions/[0-9]*.py"))
HEAD = max(int(path.name[:4]) for path in VERSIONS)


def operations(path):
    """The calls of ``op`` in a migration's ``upgrade``: (name, call)."""
    module = ast.parse(path.read_text())
    upgrade = next(one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == "upgrade")
    calls = [one for one in ast.walk(upgrade) if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
    return [(one.func.attr, one) for one in calls if ast.unparse(one.func.value) == "op"]


ADDING = {"add_column", "create_table", "create_index", "create_foreign_key", "create_unique_constraint", "f"}


@pytest.mark.parametrize("path", sorted(VERSIONS), ids=lambda path: path.stem)
def test_a_migration_only_adds_so_that_older_processes_go_on(path):
    """What they read stays as it is, and what they write without knowing of a new column is accepted."""
    if path.name.startswith("0001"):
        return
    found = operations(path)
    assert found
    assert {name for name, _ in found} <= ADDING
    columns = [ast.unparse(call) for name, call in found if name == "add_column"]
    assert [one for one in columns if "nullable=False" in one and "server_default" not in one] == []


@pytest.fixture
def migrations_without_notes(tmp_path, monkeypatch):
    """A copy of the migrations in which runs have no notes, so that the models are one column ahead."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    first = folder / "versions" / "0001_first_tables.py"
    line = '        sa.Column("notes", sa.Text(), nullable=False),\n'
    assert first.read_text().count(line) == 1
    first.write_text(first.read_text().replace(line, ""))
    monkeypatch.setattr(schema, "FOLDER", folder)
    return folder


def test_revision_writes_the_next_migration(empty, migrations_without_notes):
    schema.upgrade()
    path = schema.revision("Notes on a run")
    assert path == migrations_without_notes / "versions" / f"{HEAD + 1:04}_notes_on_a_run.py"
    written = path.read_text()
    assert f'revision = "{HEAD + 1:04}"' in written
    assert f'down_revision = "{HEAD:04}"' in written
    assert 'op.add_column("runs", sa.Column("notes", sa.Text(), nullable=False))' in written
    assert written.count("op.") == 2  # there and back, nothing else
    schema.upgrade()
    command.check(schema.config())


def test_revision_against_an_outdated_database_is_refused(empty, migrations_without_notes):
    with pytest.raises(CommandError, match="not up to date"):
        schema.revision("too early")
    assert len(list(migrations_without_notes.glob("versions/*.py"))) == len(VERSIONS)


def test_revision_makes_its_own_database(services, migrations_without_notes, monkeypatch):
    monkeypatch.setenv("LIVERSEG_HOME", str(migrations_without_notes / "unused"))
    forget_caches()
    try:
        schema.main(["revision", "notes"])
    finally:
        monkeypatch.undo()
        forget_caches()
    assert (migrations_without_notes / "versions" / f"{HEAD + 1:04}_notes.py").exists()
    assert not (migrations_without_notes / "unused").exists()
    assert db.url() == db.dialect(bundled.database_url(services))


@pytest.mark.parametrize("words", [["revision"], ["revision", " "], ["downgrade"], ["upgrade", "now"]])
def test_other_words_are_refused_with_the_usage(words):
    with pytest.raises(SystemExit, match=r"python -m store\.schema upgrade"):
        schema.main(words)
