"""How runs are named in a sentence; of many the first twenty."""

from collections import Counter
from collections.abc import Sequence

MOST = 20


def told_apart(names: Sequence[str], runs: Sequence[Sequence[int]]) -> list[str]:
    """The names of rows; those that several rows share with their runs: ``Shuffled, run 3``."""
    times = Counter(names)
    return [
        f"{name}, {named_runs(some)}" if some and times[name] > 1 else name
        for name, some in zip(names, runs, strict=True)
    ]


def numbers(runs: Sequence[int]) -> str:
    """``3, 4``, or ``1, 2, ... and 7 more``."""
    shown = ", ".join(map(str, runs[:MOST]))
    return shown if len(runs) <= MOST else f"{shown} and {len(runs) - MOST} more"


def named_runs(runs: Sequence[int]) -> str:
    """``run 3`` or ``runs 3, 4``; empty for none."""
    return f"run{'s' * (len(runs) > 1)} {numbers(runs)}" if runs else ""
