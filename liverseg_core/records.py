"""What an experiment yields: plain frozen records, no database rows.

They are the only shapes in which results leave the laboratory; the trainer sends them to its supervisor
as JSON and the ledger stores them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One finished epoch.

    ``loss`` and ``dice`` are means over the training batches, ``val_loss`` and ``val_dice`` over the whole
    val part in order; Dice in 0..1. ``epoch`` counts from 1.
    """

    epoch: int
    loss: float
    dice: float
    val_loss: float
    val_dice: float
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The facts stored about one evaluated slice; every ratio is derived from them.

    Attributes:
        part: ``val`` or ``test``.
        scan: scan number.
        slice: slice number within the scan.
        counts: 3 x 3 confusion matrix at the mask's native size, row = truth, column = prediction,
            row by row; classes 0 background, 1 parenchyma, 2 lesion. Nine pixel counts.
        quantised: the same at network size, of the study's quantised labels (profile ``paper-2019-fig4``).
        tp, fp, fn: pixel counts at network size, truth ``y > 0``, prediction ``p > 0.5`` (``paper-2019``).
        dice, dice_liver, dice_tumor: the study's soft scores at network size, 0..1 (``paper-2019``).
    """

    part: str
    scan: int
    slice: int
    counts: tuple[int, ...]
    quantised: tuple[int, ...]
    tp: int
    fp: int
    fn: int
    dice: float
    dice_liver: float
    dice_tumor: float


@dataclass(frozen=True, slots=True)
class LesionComponent:
    """One connected lesion of the truth or of the prediction at the mask's native size.

    Attributes:
        part: ``val`` or ``test``.
        scan: scan number.
        slice: slice number of an 8-connected component of one slice; None for a 26-connected one of the whole scan.
        predicted: whether it belongs to the prediction; False: to the truth.
        number: from 1, within its (part, scan, slice, predicted).
        pixels: its size, pixels of one slice or voxels of the scan.
        iou: intersection over union with its partner in the one-to-one matching at IoU > 0; 0 where it has none.
            It is matched at a threshold t where iou > t.
    """

    part: str
    scan: int
    slice: int | None
    predicted: bool
    number: int
    pixels: int
    iou: float


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What a finished training or evaluation leaves behind.

    ``artifacts`` maps a kind (``weights``, ``probabilities``) to a file in the work folder.
    ``best_epoch`` and ``epochs`` are 0 where nothing was trained.
    """

    scores: tuple[SliceScore, ...]
    components: tuple[LesionComponent, ...]
    artifacts: dict[str, Path]
    best_epoch: int
    epochs: int


VALUES: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    record: attrgetter(*(field.name for field in fields(record))) for record in (SliceScore, LesionComponent)
}
"""Values of a record in the order of its fields; ``dataclasses.astuple`` copies deeply and takes ten times longer."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the optimizer: ``number`` (from 1) of ``steps`` of ``epoch``.

    ``loss`` is that of its batch before the step; ``seconds_left`` counts to the last epoch's end.
    """

    epoch: int
    number: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float


class Events(Protocol):
    """Where a running experiment reports to; also how it learns that it should stop."""

    def phase(self, name: str) -> None:
        """A new phase begins: ``loading``, ``building``, ``training``, ``evaluating``."""

    def resumed_elsewhere(self, changed_from: dict[str, str]) -> None:
        """The checkpoint gone on from was computed on other hardware, with other versions or another thread count.

        So the result may differ in its bits from an uninterrupted one's. ``changed_from``: what was other there.
        """

    def resumed_within(self, epoch: int, losses: Sequence[float]) -> None:
        """The first steps of ``epoch`` were done before an interruption and are not done again; their ``losses``."""

    def step(self, step: "Step") -> None:
        """A step is done."""

    def epoch(self, record: EpochRecord, checkpoint: Path) -> None:
        """An epoch is done and ``checkpoint`` is safely on disk; older ones may be deleted once this is booked."""

    def should_stop(self) -> bool:
        """Whether to stop at the next step (then ``Interrupted`` is raised)."""
