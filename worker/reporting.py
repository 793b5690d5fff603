"""How work that was carried out, or not, is told to the supervisor: one event and an exit status."""

import traceback
from collections.abc import Callable

from liverseg_core.errors import DISK_FULL, InputError, Interrupted, TrainingFailed
from liverseg_core.records import VALUES, ExperimentResult, LesionComponent, SliceScore

DONE, CRASHED, FAILED, INTERRUPTED, FULL = 0, 1, 3, 4, 5
"""Exit statuses of a trainer process, and those that a scoring process tells of a job."""


def report(tell: Callable[..., None], carry_out: Callable[[], ExperimentResult]) -> int:
    """Carry out, tell ``result``, ``failed`` or ``crashed`` (nothing when interrupted), and return the status."""
    try:
        result = carry_out()
    except Interrupted:
        return INTERRUPTED
    except TrainingFailed as error:
        tell("failed", reason=error.reason, message=str(error))
        return FAILED
    except OSError as error:
        if error.errno not in DISK_FULL:
            return _crashed(tell, error)
        tell("disk-full", message=f"no space left: {error}")
        return FULL
    except InputError as error:
        tell("failed", reason="bad-input", message=str(error))
        return FAILED
    except Exception as error:  # the edge: the supervisor counts it as a crash and shows this text
        return _crashed(tell, error)
    tell(
        "result",
        scores=[*map(VALUES[SliceScore], result.scores)],
        components=[*map(VALUES[LesionComponent], result.components)],
        artifacts={kind: str(path) for kind, path in result.artifacts.items()},
        best_epoch=result.best_epoch,
    )
    return DONE


def _crashed(tell: Callable[..., None], error: Exception) -> int:
    traceback.print_exc()
    tell("crashed", message=f"{type(error).__name__}: {error}")
    return CRASHED
