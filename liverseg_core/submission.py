"""What a person sends: a spec and how it is multiplied, and how such a request becomes concrete specs."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec, Section

MAX_RUNS = 10_000
"""The most runs that one experiment may expand to."""

MAX_DEPTH = 30
"""How deep a submission may be nested."""

Override = dict[str, Any]


class Submission(Section):
    """What a person sends: a spec and how it is multiplied.

    ``grid`` is a Cartesian product over dotted paths, ``variants`` a list of named sets of changes, ``seeds``
    explicit repeats; together they multiply (variant, then grid, then seed).
    """

    spec: dict[str, Any] = Field(description="an ExperimentSpec; every cell is checked against it")
    grid: dict[str, list[Any]] = Field({}, description="dotted path -> list of values")
    variants: list[Override] = Field([], description="explicit sets of dotted path -> value, e.g. with a name each")
    seeds: Annotated[int, Field(strict=True, ge=1, le=MAX_RUNS)] | list[Annotated[int, Field(strict=True)]] | None = (
        Field(None, description="how many repeats (seeds 0, 1, ...), or the seeds themselves")
    )

    def count(self) -> int:
        """How many runs this expands to, without expanding.

        Raises:
            SpecError: an empty grid axis or seed list, or more than ``MAX_RUNS`` runs.
        """
        for path, values in self.grid.items():
            if not values:
                raise SpecError(f"grid.{path}", "an empty list gives no run; list at least one value", values)
        seeds = self._seeds()
        if seeds is not None and not seeds:
            raise SpecError("seeds", "an empty list gives no run; list at least one seed", self.seeds)
        factors = [len(values) for values in self.grid.values()]
        total = math.prod([*factors, max(1, len(self.variants)), len(seeds) if seeds else 1])
        if total > MAX_RUNS:
            raise SpecError(
                "grid", f"gives {total:,} runs, the most is {MAX_RUNS:,} an experiment; make the grid smaller", total
            )
        return total

    def expand(self) -> list[ExperimentSpec]:
        """Every concrete spec, in order.

        Raises:
            SpecError: as :meth:`count`, or the first cell that is no valid spec, with its path.
        """
        self.count()
        return [ExperimentSpec.parse(_apply(self.spec, changes), where) for where, changes in self._cells()]

    def _seeds(self) -> list[int] | None:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def _cells(self) -> Iterator[tuple[str, Override]]:
        seeds = self._seeds()
        repeats: list[Override] = [{}] if seeds is None else [{"training.seed": seed} for seed in seeds]
        paths = list(self.grid)
        for number, variant in enumerate(self.variants or [{}]):
            where = f"variants[{number}]" if self.variants else "spec"
            for values in itertools.product(*self.grid.values()):
                for repeat in repeats:
                    yield where, {**variant, **dict(zip(paths, values, strict=True)), **repeat}


def _apply(base: Mapping[str, Any], changes: Override) -> dict[str, Any]:
    """A copy of ``base`` with every dotted path of ``changes`` set."""
    spec: dict[str, Any] = json.loads(json.dumps(base))
    for path, value in changes.items():
        set_path(spec, path, value)
    return spec


def set_path(spec: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path of a plain spec, in place.

    Raises:
        SpecError: something on the way is no section.
    """
    *parents, leaf = path.split(".")
    place = spec
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise SpecError(path, f"{parent!r} is not a section, so nothing can be set below it", place)
    place[leaf] = value


def check_storable(value: Any, path: str = "", depth: int = 0) -> None:
    """Refuse what JSON or Postgres cannot hold, wherever it stands: NaN, infinity, NUL, half a surrogate pair.

    Raises:
        SpecError: with the path of the first such value.
    """
    if depth > MAX_DEPTH:
        raise SpecError(path, f"is nested deeper than {MAX_DEPTH} levels; make it flatter")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_storable(key, path or "spec", depth)
            check_storable(inner, f"{path}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            check_storable(inner, f"{path}[{number}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(path, "must be a finite number", value)
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= mark <= "\udfff" for mark in value)):
        raise SpecError(path, "holds a character that cannot be stored (NUL or half a surrogate pair)", value)
