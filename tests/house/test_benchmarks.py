"""What benchmarks measure on can be made, and contradicts itself nowhere."""

import os
import subprocess
import sys
from pathlib import Path

from store import bundled

ROOT = Path(__file__).parents[2]


def test_a_filled_ledger_keeps_every_invariant(tmp_path: Path) -> None:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("LIVERSEG_")}
    surroundings |= {"PYTHONPATH": str(ROOT), "LIVERSEG_HOME": str(tmp_path)}

    def told(*words: str | Path) -> str:
        done = subprocess.run([sys.executable, *words], env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    filled = told(ROOT / "benchmarks" / "filling.py", "--runs", "20", "--home", tmp_path)
    assert filled.startswith("20 runs in ")
    postgres = bundled.start_postgres(tmp_path)
    try:
        told("-P", "-m", "api.commands.main", "verify", "--no-files")
    finally:
        postgres.stop()
