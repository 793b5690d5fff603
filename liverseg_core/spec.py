"""The description of an experiment: one frozen model from the request to Table 6.

Defaults are the study's Table 1. Unknown keys, wrong types and non-finite numbers are refused. Nothing here
imports more than pydantic, so it loads in milliseconds.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from liverseg_core.errors import SpecError

TRAINING_VERSION = 1
"""Raised by hand when the same spec begins to give other weights."""

EVALUATION_VERSION = 1
"""Raised by hand when the same weights begin to give other scores."""

MAX_RUNS = 10_000
"""The most runs that one experiment may expand to."""

MAX_DEPTH = 30
"""How deep a submission may be nested."""

ScanNumber = Annotated[int, Field(strict=True, ge=0, le=10**9)]


class Section(BaseModel):
    """Base of every part of a spec: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Exclude(Section):
    """What to leave out of the *train* part; val and test are never thinned."""

    scans: tuple[ScanNumber, ...] = Field((), description="scan numbers to drop from train")
    slices: tuple[Annotated[str, Field(pattern=r"^\d{1,9}_\d{1,9}$")], ...] = Field(
        (), description="slices to drop from train, as SCAN_SLICE"
    )

    @field_validator("scans", "slices")
    @classmethod
    def _in_order(cls, listed: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(set(listed)))  # the order of a list that means a set must not change the hash


class Split(Section):
    """Which scans train, which validate, which test."""

    kind: Literal["given", "scans"] = Field(
        "given", description="given: the folders of the data set; scans: the lists below"
    )
    train: tuple[ScanNumber, ...] = ()
    val: tuple[ScanNumber, ...] = ()
    test: tuple[ScanNumber, ...] = ()

    @model_validator(mode="after")
    def _lists_fit_the_kind(self) -> "Split":
        lists = (self.train, self.val, self.test)
        if self.kind == "given" and any(lists):
            raise ValueError("train, val and test lists belong to kind 'scans'; remove them or set kind: scans")
        if self.kind == "scans" and not (self.train and self.val):
            raise ValueError("kind 'scans' needs a train and a val list of scan numbers")
        everyone = [scan for part in lists for scan in part]
        twice = sorted({scan for scan in everyone if everyone.count(scan) > 1})
        if twice:
            raise ValueError(f"scans {twice} are listed more than once; a scan belongs to one part")
        return self


class DatasetChoice(Section):
    """Which data set, and which of it."""

    id: str = Field(
        min_length=1, max_length=200, strict=True, description="name or content hash of an imported data set"
    )
    exclude: Exclude = Exclude()
    split: Split = Split()


class DataOptions(Section):
    """How slices become batches."""

    shuffle: bool = Field(True, strict=True, description="reshuffle the whole train part each epoch")
    image_size: int = Field(
        256, strict=True, ge=16, le=2048, description="network input size in pixels, square; divisible by 2**depth"
    )
    augmentation: Literal["none", "paper-2019"] = Field(
        "none", description="paper-2019: the study's, as coded (image and mask rotate independently)"
    )


class ModelOptions(Section):
    """The study's 2-D U-Net."""

    filters: int = Field(4, strict=True, ge=1, le=256, description="filters of the first block")
    depth: int = Field(4, strict=True, ge=1, le=6, description="number of 2x2 poolings")
    dropout: float = Field(0.5, strict=True, ge=0, lt=1, description="after the last encoder and the bottom block")


class EarlyStopping(Section):
    """When to stop before the last epoch, and which weights to keep."""

    patience: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        3, description="epochs without improvement before stopping; null: never stop early"
    )
    monitor: Literal["val_loss", "val_dice"] = "val_loss"
    restore: Literal["best", "last"] = Field("best", description="which epoch's weights are evaluated")


class TrainingOptions(Section):
    """How the network is trained."""

    learning_rate: float = Field(1e-3, strict=True, gt=0, le=10)
    batch_size: int = Field(32, strict=True, ge=1, le=4096)
    epochs: int = Field(30, strict=True, ge=1, le=100_000)
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    early_stopping: EarlyStopping = EarlyStopping()
    seed: int = Field(0, strict=True, ge=0, lt=2**31)
    deterministic: bool = Field(True, strict=True, description="the same bits from the same seed, 3 to 5 % slower")


class ExperimentSpec(Section):
    """One concrete experiment: everything that decides a result, and three labels that do not."""

    name: str = Field("", max_length=200, strict=True)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=60, strict=True)], ...] = Field((), max_length=50)
    notes: str = Field("", max_length=10_000, strict=True)
    dataset: DatasetChoice
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    training: TrainingOptions = TrainingOptions()

    @model_validator(mode="after")
    def _size_fits_the_poolings(self) -> "ExperimentSpec":
        step = 2**self.model.depth
        if self.data.image_size % step:
            raise ValueError(
                f"data.image_size must be divisible by {step} (2 to the power of model.depth {self.model.depth}); "
                f"received {self.data.image_size}, nearest: {max(step, self.data.image_size // step * step)}"
            )
        return self

    @classmethod
    def parse(cls, value: Any, where: str = "spec") -> "ExperimentSpec":
        """Make a spec from plain data (parsed JSON or YAML).

        Raises:
            SpecError: with the path of the first problem, what was received and what to do.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise spec_error(error, where) from None

    def training_hash(self, content_hash: str) -> str:
        """SHA-256 over everything that decides the trained weights.

        Fields at their default are left out, so that a field added later changes no old hash; the labels and
        the data set's name do not count, its content does.

        Args:
            content_hash: content hash of the data set that ``dataset.id`` names.
        """
        kept = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "tags", "notes"})
        kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key != "id"}
        return _sha256({"version": TRAINING_VERSION, "content": content_hash, **kept})

    def evaluation_hash(self) -> str:
        """SHA-256 over everything that decides how weights are scored; no option of it exists yet."""
        return _sha256({"version": EVALUATION_VERSION})

    def settings(self) -> dict[str, Any]:
        """Every setting by dotted path, e.g. ``{"training.learning_rate": 0.001, ...}``; labels left out."""
        return dict(_flatten(self.model_dump(mode="json", exclude={"name", "tags", "notes"})))


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


def spec_error(error: ValidationError, where: str = "spec") -> SpecError:
    """The first problem of a pydantic error as a :class:`SpecError`."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in problem["loc"]) or where
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such field; see the fields at /docs or in `liverseg submit --help`"
    received = problem["input"] if problem["loc"] else None  # a whole spec is no help in a message
    return SpecError(path, message, received)


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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
