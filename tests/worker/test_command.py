"""The ``liverseg-worker`` command: what it refuses before it starts anything."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from store.settings import settings
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
