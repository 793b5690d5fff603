"""The description of an experiment: one frozen model from the request to Table 6.

Defaults are the study's Table 1. Unknown keys, wrong types and non-finite numbers are refused. Nothing here
imports more than pydantic, so it loads in milliseconds.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from liverseg_core.errors import SpecError

TRAINING_VERSION = 1
"""Raised by hand when the same spec begins to give other weights."""

EVALUATION_VERSION = 1
"""Raised by hand when the same weights begin to give other scores."""

ScanNumber = Annotated[int, Field(strict=True, ge=0, le=10**9)]


COPYING = ("paper-2019", "right-angles")
"""Augmentations that add changed copies to an epoch, three samples a slice in all, as the study's did."""

FOLD_KINDS = ("subject-folds", "leave-one-subject-out")
"""Kinds of split whose lists follow from the subjects of the data set."""


Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
"""Dtype policies, as Keras calls them: of the mixed ones variables are float32."""


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

    kind: Literal["given", "scans", "subject-folds", "leave-one-subject-out"] = Field(
        "given",
        description="given: the folders of the data set; scans: the lists below; subject-folds: one of `folds` "
        "groups of subjects validates; leave-one-subject-out: one subject validates",
    )
    train: tuple[ScanNumber, ...] = Field((), description="scans of the train part, for kind scans")
    val: tuple[ScanNumber, ...] = Field((), description="scans of the val part, for kind scans")
    test: tuple[ScanNumber, ...] = Field((), description="scans of the test part, for kind scans")
    folds: Annotated[int, Field(strict=True, ge=2, le=1000)] | None = Field(
        None, description="how many folds, for kind subject-folds"
    )
    fold: int = Field(0, strict=True, ge=0, lt=1000, description="which fold validates, from 0")
    override: str = Field(
        "",
        max_length=500,
        strict=True,
        description="why the same subject or pixels may be on both sides; printed under every table it touches",
    )

    @field_validator("train", "val", "test")
    @classmethod
    def _rising(cls, listed: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(listed))  # as Exclude: a set must not have several hashes; twice is refused below

    @model_validator(mode="after")
    def _lists_fit_the_kind(self) -> "Split":
        lists = (self.train, self.val, self.test)
        if self.kind == "given" and any(lists):
            raise ValueError("train, val and test lists belong to kind 'scans'; remove them or set kind: scans")
        if self.kind in FOLD_KINDS and any(lists):
            raise ValueError(f"kind '{self.kind}' makes its own lists; remove train, val and test")
        if self.kind == "scans" and not (self.train and self.val):
            raise ValueError("kind 'scans' needs a train and a val list of scan numbers")
        self._check_folds()
        everyone = [scan for part in lists for scan in part]
        twice = sorted({scan for scan in everyone if everyone.count(scan) > 1})
        if twice:
            raise ValueError(f"scans {twice} are listed more than once; a scan belongs to one part")
        return self

    def _check_folds(self) -> None:
        if (self.kind == "subject-folds") != (self.folds is not None):
            raise ValueError("folds belongs to kind 'subject-folds', and that needs it; the two go together")
        if self.fold and self.kind not in FOLD_KINDS:
            raise ValueError("fold belongs to the kinds 'subject-folds' and 'leave-one-subject-out'")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold counts from 0, so with {self.folds} folds it is at most {self.folds - 1}")


class DatasetChoice(Section):
    """Which data set, and which of it."""

    id: str = Field(
        min_length=1, max_length=200, strict=True, description="name or content hash of an imported data set"
    )
    exclude: Exclude = Exclude()
    split: Split = Split()


class Augmentation(Section):
    """How each train sample is changed: one draw for image and mask, new at every epoch.

    Masks move with their images and are read by nearest neighbour; grey values change in images alone.
    """

    rotation: float = Field(0, strict=True, ge=0, le=180, description="largest angle either way, degrees")
    scale: float = Field(0, strict=True, ge=0, lt=1, description="largest change of size, fraction")
    shift: float = Field(
        0, strict=True, ge=0, lt=1, description="largest shift along each axis, fraction of the side"
    )
    flip: bool = Field(False, strict=True, description="mirror left and right, every second time")
    right_angles: bool = Field(False, strict=True, description="turn by 0, 90, 180 or 270 degrees")
    brightness: float = Field(0, strict=True, ge=0, le=1, description="largest number added to grey values (0..1)")
    contrast: float = Field(
        0, strict=True, ge=0, lt=1, description="largest change of contrast about the mean, fraction"
    )
    noise: float = Field(
        0, strict=True, ge=0, le=1, description="standard deviation of noise added to grey values (0..1)"
    )


def _name_or_section(value: Any) -> str:
    return "(section)" if isinstance(value, dict | Augmentation) else "(name)"


NamedOrOwn = Annotated[
    Annotated[Literal["none", "paper-2019", "right-angles", "small-rotations"], Tag("(name)")]
    | Annotated[Augmentation, Tag("(section)")],
    Discriminator(_name_or_section),
]
"""A named augmentation or one's own; told apart first, so that an error is about the one that was meant."""


class DataOptions(Section):
    """How slices become batches."""

    shuffle: bool = Field(True, strict=True, description="reshuffle the whole train part each epoch")
    image_size: int = Field(
        256,
        strict=True,
        ge=16,
        le=2048,
        description="network input size in pixels, square; divisible by model.subpixel * 2**model.depth",
    )
    crop: Annotated[int, Field(strict=True, ge=16, le=2048)] | None = Field(
        None,
        description="train on square cut-outs of so many pixels of the slices at image_size: around a lesion where "
        "sampling draws a slice for its lesion, anywhere else; null: whole slices. Scored are always whole slices",
    )
    augmentation: NamedOrOwn = Field(
        "none",
        description="paper-2019: the study's, as coded (image and mask rotate independently); right-angles: the same "
        "with one draw for both; small-rotations: up to 15 degrees, 10 % in size and place, grey values by 0.05; "
        "or a section of rotation, scale, shift, flip, right_angles, brightness, contrast, noise",
    )
    sampling: Literal["uniform", "lesion-balanced", "lesion-scan-balanced"] = Field(
        "uniform",
        description="lesion-balanced: every second sample of a batch is drawn from slices with lesion; "
        "lesion-scan-balanced: those come equally often from every scan that holds lesions",
    )
    batch_by: Literal["slices", "scan"] = Field(
        "slices",
        description="scan: a step takes all slices of one scan, computed training.batch_size at a time with the "
        "gradient of the whole",
    )
    min_lesion: int = Field(
        0,
        strict=True,
        ge=0,
        le=10**6,
        description="train lesions of fewer pixels (8-connected, native size) are trained as liver",
    )


class ModelOptions(Section):
    """The study's 2-D U-Net and its relatives."""

    network: Literal["unet", "unet-2.5d", "convlstm-unet"] = Field(
        "unet",
        description="unet: the study's; unet-2.5d: neighbouring slices as channels; convlstm-unet: neighbouring "
        "slices one after another through a convolutional LSTM",
    )
    window: int = Field(
        1,
        strict=True,
        ge=1,
        le=31,
        description="slices of one scan that the network sees, odd; the middle one is scored",
    )
    head: Literal["grey-sigmoid", "softmax"] = Field(
        "grey-sigmoid", description="grey-sigmoid: the study's one channel; softmax: background, liver, lesion"
    )
    normalization: Literal["none", "batch", "group", "instance"] = Field(
        "none", description="after every convolution but the last"
    )
    filters: int = Field(4, strict=True, ge=1, le=256, description="filters of the first block")
    depth: int = Field(4, strict=True, ge=1, le=6, description="number of 2x2 poolings")
    dropout: float = Field(0.5, strict=True, ge=0, lt=1, description="after the last encoder and the bottom block")
    subpixel: int = Field(
        1,
        strict=True,
        ge=1,
        le=8,
        description="every square of so many pixels a side enters the network as channels of one place and leaves it "
        "so (sub-pixel convolution): 2 computes a slice at a quarter of the cost, at its full resolution",
    )

    @model_validator(mode="after")
    def _window_fits_the_network(self) -> "ModelOptions":
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, so that one slice is in the middle; received {self.window}")
        if self.network == "unet" and self.window != 1:
            raise ValueError("network 'unet' sees one slice; for a window choose unet-2.5d or convlstm-unet")
        if self.network == "convlstm-unet" and self.window < 3:
            raise ValueError("network 'convlstm-unet' needs a window of at least 3 slices")
        return self


class EarlyStopping(Section):
    """When to stop before the last epoch, and which weights to keep."""

    patience: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        3, description="epochs without improvement before stopping; write null to never stop early"
    )
    monitor: Literal["val_loss", "val_dice"] = "val_loss"
    restore: Literal["best", "last"] = Field("best", description="which epoch's weights are evaluated")
    collapsed: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        None,
        description="stop after so many epochs in a row whose val Dice is an empty prediction's; null: train on",
    )


class Schedule(Section):
    """How the learning rate goes from step to step."""

    kind: Literal["constant", "cosine", "exponential", "step"] = Field(
        "constant",
        description="cosine: half a cosine down to `final`; exponential: evenly in logarithms; step: to a tenth "
        "after half and again after three quarters of the epochs",
    )
    warmup: int = Field(0, strict=True, ge=0, le=10_000, description="epochs of linear rise from zero at the start")
    final: float = Field(
        0.01, strict=True, gt=0, le=1, description="where cosine and exponential end, fraction of the learning rate"
    )


class TrainingOptions(Section):
    """How the network is trained."""

    learning_rate: float = Field(1e-3, strict=True, gt=0, le=10)
    batch_size: int = Field(32, strict=True, ge=1, le=4096)
    epochs: int = Field(30, strict=True, ge=1, le=100_000)
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    loss: Literal[
        "dice", "lesion-dice", "dice-cross-entropy", "lesion-dice-cross-entropy", "tversky", "focal-tversky"
    ] = Field(
        "dice",
        description="dice: the study's, on grey values; lesion-dice: of the lesion class; dice-cross-entropy: Dice "
        "of liver and lesion plus cross-entropy; lesion-dice-cross-entropy; tversky, focal-tversky: of the lesion",
    )
    batch_dice: bool = Field(
        True,
        strict=True,
        description="Dice and Tversky losses over all pixels of a batch (of a scan with data.batch_by), as the "
        "study's; false: of each slice, then the mean, so that slices with little lesion count as much as others",
    )
    tversky_alpha: float = Field(
        0.3, strict=True, ge=0, le=1, description="weight of false positives in tversky losses"
    )
    tversky_beta: float = Field(
        0.7, strict=True, ge=0, le=1, description="weight of false negatives in tversky losses"
    )
    focal_gamma: float = Field(
        4 / 3, strict=True, ge=1, le=3, description="focal-tversky: (1 - Tversky index) to the power of 1 / this"
    )
    schedule: Schedule = Schedule()
    early_stopping: EarlyStopping = EarlyStopping()
    seed: int = Field(0, strict=True, ge=0, lt=2**31)
    deterministic: bool = Field(
        True, strict=True, description="the same bits from the same seed, a few percent slower"
    )
    precision: Precision = Field(
        "float32",
        description="in what the layers compute, as Keras calls its dtype policies; weights, output and loss are "
        "float32 throughout. mixed_bfloat16: faster on processors that compute it (AVX512_BF16), slower on others, "
        "not measured on GPUs; mixed_float16: with a scaled loss, on GPUs alone",
    )

    @model_validator(mode="after")
    def _can_learn(self) -> "TrainingOptions":
        if self.tversky_alpha + self.tversky_beta == 0:
            raise ValueError(
                "tversky_alpha and tversky_beta are both 0, so the loss would be constant; weigh one of them"
            )
        if self.schedule.warmup > self.epochs:
            raise ValueError(
                f"schedule.warmup {self.schedule.warmup} must not be more than epochs {self.epochs}, or the learning "
                "rate is never reached"
            )
        return self


class EvaluationOptions(Section):
    """How a trained network's output becomes labels and scores; changing these trains nothing."""

    threshold: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = Field(
        None,
        description="output (grey-sigmoid) or probability of lesion (softmax) from which a pixel is lesion; "
        "null: two thirds, or the most likely class",
    )
    min_lesion: int = Field(
        0,
        strict=True,
        ge=0,
        le=10**6,
        description="lesions of fewer pixels (8-connected, native size) count as liver in truth and prediction",
    )
    largest_component: bool = Field(
        False, strict=True, description="keep only the largest 26-connected liver of each scan's prediction"
    )
    flips: bool = Field(
        False, strict=True, description="mean of the prediction and the flipped prediction of a flipped slice"
    )


class ExperimentSpec(Section):
    """One concrete experiment: everything that decides a result, and three labels that do not."""

    name: str = Field("", max_length=200, strict=True)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=60, strict=True)], ...] = Field((), max_length=50)
    notes: str = Field("", max_length=10_000, strict=True)
    dataset: DatasetChoice
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    training: TrainingOptions = TrainingOptions()
    evaluation: EvaluationOptions = EvaluationOptions()

    @model_validator(mode="after")
    def _options_fit_each_other(self) -> "ExperimentSpec":
        copies = self.data.augmentation in COPYING
        if self.data.augmentation == "paper-2019" and (self.model.window > 1 or self.model.head == "softmax"):
            raise ValueError("data.augmentation 'paper-2019' needs single slices and grey masks; choose another")
        if self.data.batch_by == "scan" and (copies or self.data.sampling != "uniform"):
            raise ValueError(
                "data.batch_by 'scan' takes each slice of a scan once; set data.sampling to uniform and "
                f"data.augmentation to none, small-rotations or a section instead of {' or '.join(COPYING)}"
            )
        if self.data.batch_by == "scan" and self.model.normalization == "batch":
            raise ValueError(
                "data.batch_by 'scan' computes a scan in pieces, whose batch statistics would differ; "
                "set model.normalization to group or instance"
            )
        if copies and self.data.sampling != "uniform":
            raise ValueError(
                f"data.sampling '{self.data.sampling}' draws slices, not the copies of this augmentation; "
                "use a section"
            )
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> "ExperimentSpec":
        crop = self.data.crop
        if crop is None:
            return self
        if crop > self.data.image_size:
            raise ValueError(f"data.crop {crop} is larger than data.image_size {self.data.image_size}; take less")
        if self.data.augmentation in COPYING:
            raise ValueError(f"data.crop cuts no copies; set data.augmentation to other than {' or '.join(COPYING)}")
        if self.data.batch_by == "scan":
            raise ValueError("data.crop cuts samples, while data.batch_by 'scan' takes whole slices; leave one out")
        if self.model.network == "convlstm-unet":
            raise ValueError("data.crop needs a network that takes any size: unet or unet-2.5d")
        return self

    @model_validator(mode="after")
    def _size_fits_the_poolings(self) -> "ExperimentSpec":
        depth, subpixel = self.model.depth, self.model.subpixel
        step = subpixel * 2**depth
        times = f", times model.subpixel {subpixel}" if subpixel > 1 else ""
        why = f"2 to the power of model.depth {depth}{times}"
        for name, size in (("image_size", self.data.image_size), ("crop", self.data.crop or step)):
            if size % step:
                below = size // step * step
                raise ValueError(
                    f"data.{name} must be divisible by {step} ({why}); "
                    f"received {size}, take {f'{below} or ' if below else ''}{below + step}"
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

    def training_hash(self, content_hash: str, scans: Mapping[str, Sequence[int]] | None = None) -> str:
        """SHA-256 over everything that decides the trained weights.

        Fields at their default are left out, so that a field added later changes no old hash; the labels and
        the data set's name do not count, its content does.

        Args:
            content_hash: content hash of the data set that ``dataset.id`` names.
            scans: for the kinds of ``FOLD_KINDS``, what the fold came to (part -> scans), since subjects are no
                part of a data set's content. See ``liverseg_core.data.manifest.training_hash``.
        """
        kept = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "tags", "notes", "evaluation"})
        kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key != "id"}
        kept["dataset"].get("split", {}).pop("override", None)
        if not kept["dataset"].get("split", True):
            del kept["dataset"]["split"]
        resolved = {} if scans is None else {"scans": {part: list(scans[part]) for part in sorted(scans)}}
        return _sha256({"version": TRAINING_VERSION, "content": content_hash, **kept, **resolved})

    def evaluation_hash(self) -> str:
        """SHA-256 over everything that decides how weights are scored."""
        return _sha256(
            {"version": EVALUATION_VERSION, **self.evaluation.model_dump(mode="json", exclude_defaults=True)}
        )

    def settings(self) -> dict[str, Any]:
        """Every setting by dotted path, e.g. ``{"training.learning_rate": 0.001, ...}``; labels left out."""
        return dict(_flatten(self.model_dump(mode="json", exclude={"name", "tags", "notes"})))


def spec_error(error: ValidationError, where: str = "spec") -> SpecError:
    """The first problem of a pydantic error as a :class:`SpecError`, which names where the others are."""
    problem, *others = error.errors(include_url=False, include_context=False)
    path = _path(problem, where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"no such field; {_alike(path)}see the fields at /docs or in `liverseg submit --help`"
    if problem["type"] == "model_type":
        message = "must be a section of fields, such as `dataset: {id: my-slices}` or `training: {epochs: 30}`"
    received = problem["input"] if problem["loc"] else None  # a whole spec is no help in a message
    more = [one for one in dict.fromkeys(_path(one, where) for one in others) if one != path]
    if more:
        message += f"; also wrong: {', '.join(more[:10])}{' and more' if len(more) > 10 else ''}"
    return SpecError(path, message, received)


def _path(problem: ErrorDetails, where: str) -> str:
    return ".".join(str(part) for part in problem["loc"] if not str(part).startswith("(")) or where


def _alike(path: str) -> str:
    """The field beside it that is spelt most like it, as a question; empty where none is."""
    parent, _, name = path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    known = {one.removeprefix(prefix).partition(".")[0] for one in _every_path() if one.startswith(prefix)}
    found = difflib.get_close_matches(name, sorted(known), 1)
    found = found or [one for one in sorted(_every_path()) if one.rpartition(".")[2] == name]  # in another section
    return f"did you mean {found[0]}? Otherwise " if found else ""


@cache
def _every_path() -> frozenset[str]:
    usual = ExperimentSpec.model_validate({"dataset": {"id": "any"}})
    return frozenset({*usual.settings(), *ExperimentSpec.model_fields})


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
