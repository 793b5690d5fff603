"""Errors that the laboratory raises for its callers.

LiversegError
├── InputError          what a person gave cannot be used: says where, what was received, what to do
│   ├── SpecError       an experiment spec or a submission
│   ├── DataError       a data set, an image, a mask
│   └── WeightsError    a weights file
├── TrainingFailed      the run itself is at fault (loss not finite, data gone); retrying will not help
└── Interrupted         asked to stop; not a failure, the last checkpoint stands
"""

import errno
from typing import Any


class LiversegError(Exception):
    """Base of every error that liverseg raises on purpose."""


class InputError(LiversegError):
    """Something a person gave cannot be used.

    Args:
        path: where it is, e.g. ``training.learning_rate`` or ``val/masks/8_12.png``.
        problem: what is wrong and what to do, one sentence or two.
        received: the value that was received, if there is one to show.
    """

    def __init__(self, path: str, problem: str, received: Any = None) -> None:
        self.path = path
        self.problem = problem
        self.received = received
        stop = "" if problem.endswith((".", "?", "!")) else "."
        shown = "" if received is None else f"{stop} Received: {shorten(received)}."
        super().__init__(f"{path}: {problem}{shown}")


class SpecError(InputError):
    """A spec or submission that cannot be run."""


class DataError(InputError):
    """A data set, image or mask that cannot be used."""


class WeightsError(InputError):
    """A weights file that cannot be used."""


class TrainingFailed(LiversegError):
    """The run itself is at fault, so another attempt would fail too.

    Args:
        reason: short machine-readable class, e.g. ``loss-not-finite``.
        message: what happened and what to try.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Interrupted(LiversegError):
    """Training was asked to stop; the last checkpoint stands."""


def shorten(value: Any, limit: int = 120) -> str:
    """``repr(value)``, cut to ``limit`` characters, for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of an ``OSError`` that says that there is no space left."""
