"""How far a trainer is, in a few bytes of shared memory that outlive it: read without asking, also after SIGKILL."""

import mmap
import struct
from pathlib import Path
from typing import Any

PHASES = ("starting", "loading", "building", "training", "evaluating", "predicting")
LAYOUT = struct.Struct("<4q")  # phase, epoch, step, signs of life


class Position:
    """Written by the trainer at every step, read by its supervisor.

    Args:
        path: the file behind it; made where absent.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != LAYOUT.size:
            path.write_bytes(bytes(LAYOUT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self._values = list(LAYOUT.unpack(self._memory[:]))

    def phase(self, name: str) -> None:
        self._write(PHASES.index(name), 0, 0)

    def step(self, epoch: int, step: int) -> None:
        """``step`` of ``epoch`` is done."""
        self._write(PHASES.index("training"), epoch, step)

    def alive(self) -> None:
        """Something went on that is no step: a batch was read, a slice was scored."""
        self._write(*self._values[:3])

    def _write(self, phase: int, epoch: int, step: int) -> None:
        self._values = [phase, epoch, step, self._values[3] + 1]
        self._memory[:] = LAYOUT.pack(*self._values)

    def read(self) -> tuple[int, ...]:
        """All four numbers; they change for as long as the trainer gets on."""
        return LAYOUT.unpack(self._memory[:])

    def place(self) -> dict[str, Any]:
        """Phase, epoch and step for the ledger; in training the last step that was done."""
        phase, epoch, step, _ = self.read()
        name = PHASES[phase] if 0 <= phase < len(PHASES) else PHASES[0]
        return {"phase": name, "epoch": epoch, "step": step} if epoch else {"phase": name}
