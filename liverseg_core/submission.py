"""What a person sends: a spec and how it is multiplied, and how such a request becomes concrete specs."""

import itertools
import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec, Section, Split

MAX_RUNS = 10_000
"""The most runs that one experiment may expand to."""

MAX_DEPTH = 30
"""How deep a submission may be nested."""

Override = dict[str, Any]

LABEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$"
"""Names and values of labels."""

Label = Annotated[str, Field(pattern=LABEL, strict=True)]
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$", strict=True)]


class Submission(Section):
    """What a person sends: a spec and how it is multiplied.

    ``grid`` is a Cartesian product over dotted paths, ``variants`` a list of named sets of changes, ``folds`` a
    cross-validation, ``seeds`` explicit repeats; together they multiply (variant, then grid, then fold, then seed).
    """

    spec: dict[str, Any] = Field(description="an ExperimentSpec; every cell is checked against it")
    grid: dict[str, list[Any]] = Field({}, description="dotted path -> list of values")
    variants: list[Override] = Field([], description="explicit sets of dotted path -> value, e.g. with a name each")
    folds: Annotated[int, Field(strict=True, ge=2, le=1000)] | Literal["subject"] | None = Field(
        None, description="a run a fold: how many folds the subjects are dealt into, or `subject`: a fold a subject"
    )
    seeds: Annotated[int, Field(strict=True, ge=1, le=MAX_RUNS)] | list[Annotated[int, Field(strict=True)]] | None = (
        Field(None, description="how many repeats (seeds 0, 1, ...), or the seeds themselves")
    )
    pool: PoolName | None = Field(None, description="the pool whose workers take the runs; left out: the API's own")
    needs: dict[Label, Label] = Field(
        {}, max_length=10, description="labels that a worker must have to take the runs, e.g. {gpu: h200}"
    )

    def count(self, subjects: int = 0) -> int:
        """How many runs this expands to, without expanding.

        Args:
            subjects: how many subjects the data set has in train and val; only ``folds: subject`` asks.

        Raises:
            SpecError: an empty grid axis or seed list, a cell twice, or more than ``MAX_RUNS`` runs.
        """
        self._check_axes()
        folds = subjects if self.folds == "subject" else self.folds or 1
        factors = [len(values) for values in self.grid.values()]
        total = math.prod([*factors, max(1, len(self.variants)), folds, len(self._seeds() or [0])])
        if total > MAX_RUNS:
            raise SpecError(
                "grid", f"gives {total:,} runs, the most is {MAX_RUNS:,} an experiment; make the grid smaller", total
            )
        return total

    def expand(self, subjects: int = 0) -> list[ExperimentSpec]:
        """Every concrete spec, in order; ``subjects`` as for :meth:`count`.

        Raises:
            SpecError: as :meth:`count`, or the first cell that is no valid spec, with its path.
        """
        self.count(subjects)
        repeats = [{**fold, **seed} for fold in self._fold_changes(subjects) for seed in self._seed_changes()]
        return [
            ExperimentSpec.parse(_apply(self.spec, {**changes, **repeat}), where)
            for where, changes in self._cells()
            for repeat in repeats
        ]

    def dataset_id(self) -> str:
        """The one data set of a submission with ``folds: subject``.

        Raises:
            SpecError: cells name different data sets, or the first one is no valid spec.
        """
        paths = {*self.grid, *(path for variant in self.variants for path in variant)}
        if paths & {"dataset", "dataset.id"}:
            raise SpecError("folds", "'subject' needs one data set; submit each of them on its own", self.folds)
        where, changes = next(self._cells())
        return ExperimentSpec.parse(_apply(self.spec, changes), where).dataset.id

    def _check_axes(self) -> None:
        for path, values in self.grid.items():
            if not values:
                raise SpecError(f"grid.{path}", "an empty list gives no run; list at least one value", values)
            _refuse_twice(f"grid.{path}", values)
            if any(path in variant for variant in self.variants):
                raise SpecError(f"grid.{path}", "replaces what variants set there; keep one of the two", values)
        self._check_seeds()

    def _check_seeds(self) -> None:
        seeds = self._seeds()
        if seeds is None:
            return
        if not seeds:
            raise SpecError("seeds", "an empty list gives no run; list at least one seed", self.seeds)
        _refuse_twice("seeds", seeds)
        if "training.seed" in self.grid:
            raise SpecError("seeds", "replaces grid.training.seed in every cell; keep one of the two", self.seeds)
        for number, variant in enumerate(self.variants):
            if "training.seed" in variant:
                told = f"replaces variants[{number}] training.seed in every cell; keep one of the two"
                raise SpecError("seeds", told, self.seeds)

    def _seeds(self) -> list[int] | None:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def _seed_changes(self) -> list[Override]:
        seeds = self._seeds()
        return [{}] if seeds is None else [{"training.seed": seed} for seed in seeds]

    def _fold_changes(self, subjects: int) -> list[Override]:
        if self.folds is None:
            return [{}]
        if self.folds == "subject":
            kind, more, count = "leave-one-subject-out", {}, subjects
        else:
            kind, more, count = "subject-folds", {"dataset.split.folds": self.folds}, self.folds
        return [{"dataset.split.kind": kind, **more, "dataset.split.fold": fold} for fold in range(count)]

    def _cells(self) -> Iterator[tuple[str, Override]]:
        """Variants times grid; where each stands and what it changes."""
        paths = list(self.grid)
        for number, variant in enumerate(self.variants or [{}]):
            where = f"variants[{number}]" if self.variants else "spec"
            for values in itertools.product(*self.grid.values()):
                changes = {**variant, **dict(zip(paths, values, strict=True))}
                if self.folds is not None:
                    refuse_own_split(_apply(self.spec, changes))
                yield where, changes


def _refuse_twice(path: str, values: Sequence[Any]) -> None:
    seen: set[Hashable] = set()
    for value in values:
        # 1 and 1.0 are one value, 1 and true are two.
        key = (value, type(value) is bool) if isinstance(value, Hashable) else json.dumps(value, sort_keys=True)
        if key in seen:
            raise SpecError(path, "lists a value twice, which would give the same run twice; list it once", value)
        seen.add(key)


def refuse_own_split(spec: Mapping[str, Any], folds: str = "folds") -> None:
    """Refuse what ``folds`` would overwrite; the written override of the leak guard may stay.

    Args:
        spec: as it was sent in.
        folds: where the folds come from: the field, or a file.

    Raises:
        SpecError: it has a split of its own.
    """
    dataset = spec.get("dataset")
    split = dataset.get("split") if isinstance(dataset, dict) else None
    if not isinstance(split, dict):
        return
    usual = Split().model_dump(mode="json")
    own = sorted(key for key, value in split.items() if key != "override" and value != usual.get(key))
    if own:
        raise SpecError(folds, f"makes the split itself; leave out {folds}, or dataset.split", split)


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
