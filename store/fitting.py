"""Why no worker that is there can take a run: its version, its labels, trouble of theirs, or memory."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from store import peaks, presence
from store.models import Run, Worker


class Crew:
    """The workers of a pool that are there to stay.

    Args:
        pool: its name.
        workers: in the order in which they are named.
    """

    def __init__(self, pool: str, workers: Sequence[Worker]) -> None:
        self.pool, self.workers = pool, workers
        self._told: dict[tuple[object, ...], str | None] = {}

    def why_none(self, run: Run, memory_mb: int | None) -> str | None:
        """Why none of them can take ``run`` now, in words; None: one can.

        ``memory_mb``: what runs like it took, MiB; None: nobody knows.
        """
        key = (run.needs, tuple(sorted(run.labels.items())), memory_mb)
        if key not in self._told:  # thousands wait for the same few things
            self._told[key] = self._why_none(run.needs, run.labels, memory_mb or 0)
        return self._told[key]

    def _why_none(self, needs: int, labels: Mapping[str, str], memory_mb: int) -> str | None:
        new = [one for one in self.workers if one.work_version >= needs]
        if not new:
            older = f" of work version {needs} or newer" if self.workers else ""
            return f"no worker{older} is there for pool {self.pool}; start one with `liverseg-worker start`"
        fit = [one for one in new if labels.items() <= one.labels.items()]
        if not fit:
            return self._unlabelled(labels)
        willing = [one for one in fit if one.trouble is None]
        if not willing:
            return str(fit[0].trouble)
        left = [one.memory_mb for one in willing if one.memory_mb is not None]
        if len(left) < len(willing) or max(left) >= memory_mb:
            return None
        return (
            f"runs like it took {memory_mb:,} MiB of memory, and the most that a worker of pool {self.pool} has left "
            f"is {max(left):,} MiB; it waits until there is more"
        )

    def _unlabelled(self, labels: Mapping[str, str]) -> str:
        asked = [f"{name}={value}" for name, value in sorted(labels.items())]
        words = " ".join(f"--label {one}" for one in asked)
        return (
            f"no worker of pool {self.pool} has label {' and '.join(asked)}; start one with "
            f"`liverseg-worker start --pool {self.pool} {words}`"
        )


def crew(session: Session, pool: str, lease_s: float) -> Crew:
    """Who is there in ``pool`` now."""
    return Crew(pool, presence.takers(session, pool, lease_s))


def why_none(session: Session, run: Run, lease_s: float) -> str | None:
    """As :meth:`Crew.why_none`, of the run's own pool, by what the ledger knows."""
    known = peaks.known(session, [run.cost])
    return crew(session, run.pool, lease_s).why_none(run, known.get(run.cost))
