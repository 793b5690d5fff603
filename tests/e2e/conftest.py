"""``liverseg`` as people run it: as a process with a home of its own, and signals."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.settings import settings
from tests.processes import processes_of, signal_all, wait_for

LIVERSEG = Path(sys.executable).parent / "liverseg"


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, so that sockets fit; outside the tests' own folders, so that its parents' modes mean something."""
    folder = Path(tempfile.mkdtemp(prefix="lv-up-", dir="/tmp"))
    yield folder
    signal_all(processes_of(folder))
    shutil.rmtree(folder)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lease that runs out on no machine, however busy: whoever has a run keeps it."""
    monkeypatch.setenv("LIVERSEG_LEASE_S", "60")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LIVERSEG_")}
    return own | {"LIVERSEG_HOME": str(home), "LIVERSEG_GRACE_S": "2", "TMPDIR": str(home)}


class Up:
    """A `liverseg` process with its output in a file."""

    def __init__(self, home: Path, *words: str) -> None:
        self.output = home / "output.txt"
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [str(LIVERSEG), *words], env=environment(home), stdout=out, stderr=out, start_new_session=True
            )

    def told(self, words: str, timeout: float = 90) -> None:
        def ready() -> bool:
            if words in self.output.read_text():
                return True
            assert self.process.poll() is None, self.output.read_text()
            return False

        wait_for(f"{words!r} in the output", ready, timeout)

    def stop(self, *signals: int) -> int:
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        return self.process.wait(60)
