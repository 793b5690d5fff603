"""What benchmarks measure on can be made, and contradicts itself nowhere; what they count is right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from liverseg_core.spec import ModelOptions
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


def test_the_operations_of_a_step_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one pooling and one filter on 4 x 4 pixels; 2 * places * k * k * channels in * channels out."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from ceiling import convolutions, step_flop

    tiny = ModelOptions(filters=1, depth=1)
    assert [(layer.name, layer.flop) for layer in convolutions(tiny, 4)] == [
        ("encoder1_conv1", 2 * 16 * 9),
        ("encoder1_conv2", 2 * 16 * 9),
        ("bottom_conv1", 2 * 4 * 9 * 2),
        ("bottom_conv2", 2 * 4 * 9 * 2 * 2),
        ("decoder1_up", 2 * 16 * 4 * 2),
        ("decoder1_conv1", 2 * 16 * 9 * 2),
        ("decoder1_conv2", 2 * 16 * 9),
        ("decoder1_conv3", 2 * 16 * 9 * 2),
        ("output", 2 * 16 * 2),
    ]
    # 2,768 forward; as many by the kernels and by the inputs, of which the image needs none: 3 * 2,768 - 288.
    assert step_flop(tiny, 4, batch=2) == 2 * 8016
