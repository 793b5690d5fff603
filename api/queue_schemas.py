"""What the API tells of the queue."""

from typing import Any

from pydantic import BaseModel, Field

from store.forecast import Place, PoolQueue, Working


class QueuedOut(BaseModel):
    """A run in a pool; of another project's only kind, state and times are told."""

    run: int | None
    name: str | None
    kind: str
    state: str
    priority: int
    position: int | None = Field(description="place in line, from 1; null for a run that a worker has")
    progress: dict[str, Any] | None
    starts_s: float | None = Field(
        description="seconds from now until it begins, at the latest; null: no run like those before it has finished"
    )
    ends_s: float | None = Field(description="the same until it ends; training may stop early")
    waits: str | None = Field(None, description="why no worker that is there can take it; null: one can")

    @classmethod
    def of(cls, one: Place | Working, project: int) -> "QueuedOut":
        place = one if isinstance(one, Place) else None
        own = one.run.project_id == project
        return cls(
            run=one.run.id if own else None,
            name=one.run.name if own else None,
            kind=one.run.kind,
            state=one.run.state,
            priority=one.run.priority,
            position=place.position if place else None,
            progress=one.run.progress if own and place is None else None,
            starts_s=place.starts_s if place else None,
            ends_s=one.ends_s,
            waits=place.waits if own and place else None,
        )


class PoolOut(BaseModel):
    """A pool; ``slots``: how many runs its workers can carry at once; ``waiting``: the first ones of ``count``."""

    pool: str
    slots: int
    running: list[QueuedOut]
    waiting: list[QueuedOut]
    count: int

    @classmethod
    def of(cls, found: PoolQueue, project: int, limit: int) -> "PoolOut":
        return cls(
            pool=found.pool,
            slots=found.slots,
            running=[QueuedOut.of(one, project) for one in found.running],
            waiting=[QueuedOut.of(one, project) for one in found.waiting[:limit]],
            count=len(found.waiting),
        )


class QueueOut(BaseModel):
    """Pools by name."""

    pools: list[PoolOut]
