"""A minute of chaos with one seed; ``make chaos`` takes others and lasts longer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = 8


@pytest.mark.timeout(1800)  # a minute of chaos, and then as long as this machine takes to come to rest
def test_a_minute_of_chaos() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--seed", str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert told.startswith(f"chaos: seed {SEED}, 60 s\n")
    counts = {name.strip(): int(value) for name, value in re.findall(r"^  (.+?) +(\d+)$", told, re.MULTILINE)}
    assert counts["kills and stops"] > 0
    assert counts["runs succeeded"] > 0
    assert counts["invariants and checks looked at"] > 25
