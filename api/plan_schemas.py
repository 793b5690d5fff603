"""What the API tells of a submission that nobody has made yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from api.schemas import changed_settings
from api.tables import cost
from store.cautions import fewest_subjects
from store.experiments import Planned
from store.forecast import Experience
from store.peaks import cost_key


class PlannedOut(BaseModel):
    """A run that a submission would make; ``settings`` are those that differ from the defaults."""

    name: str
    settings: dict[str, Any]
    training_hash: str
    evaluation_hash: str
    reused_from: int | None
    kind: str
    scored_from: int | None
    leaks: list[str] = Field(description="who lies on both sides of the split, let pass by dataset.split.override")
    seconds: float | None = Field(description="what it takes at most; null: no run like it has finished here")
    memory_mb: int | None = Field(description="most memory that runs like it took, MiB; null as above")

    @classmethod
    def of(cls, planned: Planned, known: Mapping[str, Experience]) -> "PlannedOut":
        like = (
            None if planned.reused_from else known.get(cost_key(planned.kind, planned.spec.model_dump(mode="json")))
        )
        return cls(
            name=planned.spec.name,
            settings=changed_settings(planned.spec),
            training_hash=planned.training_hash,
            evaluation_hash=planned.evaluation_hash,
            reused_from=planned.reused_from,
            kind=planned.kind,
            scored_from=planned.scored_from.id if planned.scored_from else None,
            leaks=list(planned.leaks),
            seconds=0 if planned.reused_from else like.seconds(planned.spec.training.epochs) if like else None,
            memory_mb=like.memory_mb if like else None,
        )


class PlanOut(BaseModel):
    """What a submission would do, and what comparing its runs can show.

    ``subjects``: how many are scored, the fewest of any run or set of folds; ``reach``: the same as a sentence.
    ``seconds``: what the runs take at most, one after another, as far as runs like them have finished here;
    ``unknown``: of how many none has; ``memory_mb``: the most that one of them takes, as far as it is known;
    ``cost``: all three as a sentence.
    """

    count: int
    reused: int
    seconds: float
    unknown: int
    memory_mb: int | None
    cost: str
    subjects: int
    smallest_p: float
    reach: str
    runs: list[PlannedOut]

    @classmethod
    def of(cls, planned: Sequence[Planned], known: Mapping[str, Experience]) -> "PlanOut":
        from liverseg_core.statistics import reach, smallest_p  # NumPy is no part of the start

        subjects = fewest_subjects((one.dataset, one.spec.dataset) for one in planned)
        runs = [PlannedOut.of(one, known) for one in planned]
        reused = sum(one.reused_from is not None for one in planned)
        seconds = sum(one.seconds or 0 for one in runs)
        unknown = sum(one.seconds is None for one in runs)
        memory = max((one.memory_mb for one in runs if one.memory_mb is not None), default=None)
        return cls(
            count=len(planned),
            reused=reused,
            seconds=seconds,
            unknown=unknown,
            memory_mb=memory,
            cost=cost(len(planned) - reused, unknown, seconds, memory),
            subjects=subjects,
            smallest_p=smallest_p(subjects),
            reach=reach(subjects),
            runs=runs,
        )
