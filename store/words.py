"""How runs are named in a sentence; of many the first twenty."""

from collections.abc import Sequence

MOST = 20


def numbers(runs: Sequence[int]) -> str:
    """``3, 4``, or ``1, 2, ... and 7 more``."""
    shown = ", ".join(map(str, runs[:MOST]))
    return shown if len(runs) <= MOST else f"{shown} and {len(runs) - MOST} more"


def named_runs(runs: Sequence[int]) -> str:
    """``run 3`` or ``runs 3, 4``; empty for none."""
    return f"run{'s' * (len(runs) > 1)} {numbers(runs)}" if runs else ""
