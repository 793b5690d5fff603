"""Files of the store as a trainer or scoring process gets them: it waits while that is away, as a result does."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from liverseg_core.errors import Interrupted

LOOK_AGAIN_S = 1.0
"""How often it looks whether the store is there again."""


class Tells(Protocol):
    """What :class:`worker.trainer.Reporter` can do."""

    def tell(self, event: str, **fields: object) -> None: ...
    def should_stop(self) -> bool: ...


@contextmanager
def fetched(place: str | Path, reporter: Tells) -> Iterator[Path]:
    """A file that a job names, on this host for as long as the context is open, however long its store is away.

    Args:
        place: where it lies or will lie, see :func:`store.artifacts.locate`.
        reporter: is told why it waits, and asked whether to stop.

    Raises:
        DataError: it is gone from the store, or damaged there.
        Interrupted: asked to stop.
    """

    def going_on() -> None:
        if reporter.should_stop():
            raise Interrupted("asked to stop")

    with ExitStack() as stack:
        yield _waited_for(Path(place).name, reporter, going_on, stack)


def _waited_for(sha256: str, reporter: Tells, going_on: Callable[[], None], stack: ExitStack) -> Path:
    from store import artifacts  # here: until it fetches, a process that waits for work loads no store

    told = ""
    while True:
        going_on()
        try:
            path = stack.enter_context(artifacts.held(sha256, going_on))
        except artifacts.Away as error:
            waits = f"It waits for a file that it needs: {error}"
        else:
            if told:
                reporter.tell("progress", phase="loading")
            return path
        if waits != told:
            reporter.tell("progress", phase="waiting for the artifact store", waits=waits)
            told = waits
        time.sleep(LOOK_AGAIN_S)
