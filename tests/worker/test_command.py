"""The ``liverseg-worker`` command: what it refuses before it starts anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from store.database import transaction
from store.settings import settings
from tests.conftest import forget_caches
from worker import app
from worker.command import main


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIVERSEG_POOL", "default")  # what the command sets must not outlive the test
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_a_pool_that_is_no_name_is_refused_in_words() -> None:
    result = CliRunner().invoke(main, ["start", "--pool", "X Y"])
    assert result.exit_code == 2
    assert "LIVERSEG_POOL" in result.stderr
    assert "'X Y'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_worker_lets_no_transaction_stand_for_longer_than_a_lease(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does instead of work here is to look at that limit."""
    found = []

    class Looks:
        def worker_main(self, _: list[str]) -> None:
            with transaction() as session:
                found.append(session.scalar(text("SHOW idle_in_transaction_session_timeout")))

    monkeypatch.setattr(app, "make_app", lambda *_: Looks())
    monkeypatch.setenv("LIVERSEG_WARM", "false")
    monkeypatch.setenv("LIVERSEG_LEASE_S", "7")
    forget_caches()
    try:
        assert CliRunner().invoke(main, ["start"]).exit_code == 0
    finally:
        forget_caches()
    assert found == ["7s"]
