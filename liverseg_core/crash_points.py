"""Places where a test makes a process die, one by one, to show that dying there does no harm.

``LIVERSEG_CRASH_AT=point:file`` kills the first process that comes to ``point`` with SIGKILL, as a power cut would,
and leaves ``file`` behind, so that the next one passes. Where it is not set, a point costs a comparison.
"""

import os
import signal
from pathlib import Path

TRAINER, WORKER, API = "trainer", "worker", "api"

POINTS = {
    "claimed": (WORKER, "a run is claimed, its trainer not started"),
    "file-written": (TRAINER, "a checkpoint is on disk under its temporary name"),
    "checkpoint-saved": (TRAINER, "a checkpoint has its name, nobody has been told of it"),
    "epoch-heard": (WORKER, "an epoch has come through the pipe, it is not spooled"),
    "steps-spooled": (WORKER, "losses of steps are spooled, not sent"),
    "epoch-spooled": (WORKER, "an epoch is spooled, not sent"),
    "batch-stored": (WORKER, "a batch is committed, its spool file not removed"),
    "artifacts-stored": (WORKER, "the files of a result are in the store, the run has not ended"),
    "ended": (WORKER, "the end of an attempt is committed, its worker does not know"),
    "stopped": (WORKER, "a trainer has ended because it was asked to, nobody has been told"),
    "submitted": (API, "a submission is committed, nothing is announced or answered"),
    "announced": (API, "an announcement is sent, its row is still in the outbox"),
    "reaped": (API, "a run is taken back from a lost worker, nothing is announced"),
    "reconciled": (API, "lost announcements are made again, nothing is sent"),
    "message-sent": (API, "a webhook's receiver has taken a message, the ledger does not know"),
    "wished": (API, "a cancel or pause is committed and not answered"),
}
"""Which process dies at each, and what is true then."""

_wanted, _, _file = os.environ.get("LIVERSEG_CRASH_AT", "").partition(":")


def crash_point(name: str) -> None:
    """Die here, if that is wanted and nobody has died here yet; ``name`` is one of ``POINTS``."""
    if name == _wanted:
        _die_once(Path(_file))


def _die_once(marker: Path) -> None:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
