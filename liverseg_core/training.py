"""One experiment from its spec to its scores."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from liverseg_core import checkpoints
from liverseg_core.backend import changed_from, check_precision, keras, out_of_memory_named, provenance
from liverseg_core.backend import prepare_backend as prepare_backend
from liverseg_core.crash_points import crash_point
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, check_runnable, select, training_hash
from liverseg_core.data.sampling import Batch, TrainPart, ValPart
from liverseg_core.errors import DISK_FULL, Interrupted, TrainingFailed, WeightsError
from liverseg_core.evaluation import evaluate
from liverseg_core.losses import grey
from liverseg_core.networks import build_network
from liverseg_core.profiles import EPSILON
from liverseg_core.records import EpochRecord, Events, ExperimentResult, Step
from liverseg_core.schedules import learning_rate
from liverseg_core.spec import EarlyStopping, ExperimentSpec
from liverseg_core.steps import Measured, steps_for
from liverseg_core.tensorboard import write_events
from liverseg_core.weights import read_weights, write_weights

Job = tuple[int, int]

KEEP_EVERY_S = 300.0
"""How often the state within an epoch is kept unless told otherwise."""


def run_experiment(
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    workdir: Path,
    events: Events,
    resume_from: Path | None = None,
    begun: Sequence[Path] = (),
    keep_every_s: float = KEEP_EVERY_S,
) -> ExperimentResult:
    """Train as ``spec`` says, then score the val and test parts.

    Call :func:`prepare_backend` first. With the same spec, data, thread count and versions the result is the same
    bit for bit, resumed or not (``training.deterministic``).

    Args:
        spec: the experiment.
        manifest: the data set that ``spec.dataset`` names.
        cache: its slices at ``spec.data.image_size``.
        workdir: gets ``checkpoints/epoch-00001.npz`` and so on, ``weights.npz`` and ``probabilities.npz``; also
            ``checkpoints/begun.npz``, the state within an epoch.
        events: is told of every step and epoch, and asked whether to stop.
        resume_from: a checkpoint of the same spec and data.
        begun: such files ``begun.npz``; one that goes on from ``resume_from``, or from the start without it, saves
            its steps, and all others are ignored.
        keep_every_s: how often that state is kept, seconds; it is kept too when ``events`` asked to stop.

    Raises:
        SpecError: spec and data do not fit, e.g. no lesion to balance, or the device does not fit the spec.
        WeightsError: ``resume_from`` is damaged or belongs to another experiment.
        TrainingFailed: ``loss-not-finite`` or ``device-out-of-memory``.
        Interrupted: ``events`` asked to stop.
    """
    check_runnable(spec, manifest)
    check_precision(spec)
    with out_of_memory_named():
        training = _Training(spec, manifest, cache, workdir, events, keep_every_s)
        training.resume(resume_from, begun)
        training.run()
        return _score(spec, manifest, cache, workdir, events, training.model, training.history)


def evaluate_weights(
    spec: ExperimentSpec, manifest: Manifest, cache: SliceCache, weights: Path, workdir: Path, events: Events
) -> ExperimentResult:
    """Score weights that exist, as :func:`liverseg_core.weights.write_weights` wrote them; nothing is trained.

    Raises:
        WeightsError: the file does not fit ``spec.model``.
        TrainingFailed: ``device-out-of-memory``.
        Interrupted: ``events`` asked to stop.
    """
    arrays = read_weights(weights, spec.model)
    with out_of_memory_named():
        events.phase("building")
        model = build_network(spec.data.image_size, spec.model, spec.training.seed, spec.training.precision)
        model.set_weights(arrays)
        return _score(spec, manifest, cache, workdir, events, model, ())


def stopped_early(history: Sequence[EpochRecord], rule: EarlyStopping) -> bool:
    """Whether the monitored value has not improved for ``rule.patience`` epochs (any improvement counts)."""
    if rule.patience is None or not history:
        return False
    return history[-1].epoch - best_epoch(history, rule) >= rule.patience


def stays_empty(history: Sequence[EpochRecord], rule: EarlyStopping, empty: float) -> bool:
    """Whether the last ``rule.collapsed`` epochs scored as a prediction that finds nothing.

    Args:
        history: the epochs so far.
        rule: how many there must be; None: any number may.
        empty: what that prediction scores in ``val_dice``, see :meth:`_Training.empty_dice`.
    """
    last = history[-rule.collapsed :] if rule.collapsed is not None else []
    return len(last) == rule.collapsed and all(abs(record.val_dice - empty) <= EPSILON for record in last)


def best_epoch(history: Sequence[EpochRecord], rule: EarlyStopping) -> int:
    """The epoch with the lowest val loss (or highest val Dice), the first of equals; 0 where none is done."""
    sign = 1 if rule.monitor == "val_loss" else -1
    return min(history, key=lambda record: sign * getattr(record, rule.monitor)).epoch if history else 0


def _score(
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    workdir: Path,
    events: Events,
    model: keras.Model,
    history: Sequence[EpochRecord],
) -> ExperimentResult:
    events.phase("evaluating")
    weights, maps = workdir / "weights.npz", workdir / "probabilities.npz"
    write_weights(weights, checkpoints.weights_of(model), spec.model)
    chosen = select(manifest, spec.dataset)
    parts = {part: chosen[part] for part in ("val", "test")}
    scores, components = evaluate(model, spec, manifest, cache, parts, maps, between=lambda: _stop_if_asked(events))
    artifacts = {"weights": weights, "probabilities": maps}
    if history:  # of all epochs, those before a resume too
        artifacts["tensorboard"] = write_events(workdir / "events.out.tfevents", history)
    return ExperimentResult(
        scores=scores,
        components=components,
        artifacts=artifacts,
        best_epoch=best_epoch(history, spec.training.early_stopping),
        epochs=len(history),
    )


def _stop_if_asked(events: Events) -> None:
    if events.should_stop():
        raise Interrupted("asked to stop")


class _Training:
    """A model on its way through the epochs; ``history`` and the model are all its state."""

    def __init__(
        self,
        spec: ExperimentSpec,
        manifest: Manifest,
        cache: SliceCache,
        workdir: Path,
        events: Events,
        keep_every_s: float = KEEP_EVERY_S,
    ) -> None:
        events.phase("building")
        self.spec, self.events, self.keep_every_s = spec, events, keep_every_s
        self.folder = workdir / "checkpoints"
        chosen = select(manifest, spec.dataset)
        self.train_part = TrainPart(spec, manifest, cache, chosen["train"])
        self.val_part = ValPart(spec, manifest, cache, chosen["val"])
        self.training_hash = training_hash(spec, manifest)
        size = None if spec.data.crop else spec.data.image_size  # val slices are whole
        self.model = build_network(size, spec.model, spec.training.seed, spec.training.precision)
        self.steps = steps_for(self.model, spec)
        self.provenance = provenance()
        self.history: list[EpochRecord] = []
        self.best: checkpoints.Arrays = []
        self.begun = checkpoints.Begun()
        self.kept = time.monotonic()

    def resume(self, path: Path | None, begun: Sequence[Path]) -> None:
        checkpoint = None
        if path is not None:
            checkpoint = checkpoints.load(path)
            if checkpoint.training_hash != self.training_hash:
                told = "belongs to another experiment; resume only with the same spec and data"
                raise WeightsError(path.name, told)
        history = checkpoint.history if checkpoint else ()
        within = [found for one in begun if (found := self._within(one, history))]
        if within:
            checkpoint = max(within, key=lambda one: len(one.begun.measured))
        if checkpoint is None:
            return
        checkpoints.restore(self.model, checkpoint)
        self.history, self.best, self.begun = list(checkpoint.history), checkpoint.best, checkpoint.begun
        if changed := changed_from(checkpoint.provenance, self.provenance):
            self.events.resumed_elsewhere(changed)
        if self.begun.measured:
            self.events.resumed_within(len(history) + 1, [loss for loss, _ in self.begun.measured])

    def _within(self, path: Path, history: Sequence[EpochRecord]) -> checkpoints.Checkpoint | None:
        """The state within the epoch after ``history``; None: it is of another one, or damaged."""
        try:
            found = checkpoints.load(path)
        except (WeightsError, OSError):
            return None  # it would only have saved some steps
        return found if found.training_hash == self.training_hash and found.history == tuple(history) else None

    def run(self) -> None:
        """Train to the end, then put the wanted epoch's weights into the model."""
        self.events.phase("training")
        options = self.spec.training
        pace = _Pace(options.epochs, self.train_part.steps, self.train_part.samples, self._validation_steps())
        while len(self.history) < options.epochs and not self._stops():
            self._finish(self._epoch(len(self.history) + 1, pace))
        if options.early_stopping.restore == "best":
            self.model.set_weights(self.best)

    def _validation_steps(self) -> float:
        """About how many steps take as long as validation: one way through the network is a third of a step."""
        slices = sum(len(piece) for group in self.val_part.groups for piece in group)
        larger = (self.spec.data.image_size / (self.spec.data.crop or self.spec.data.image_size)) ** 2
        return slices * larger / 3 / (self.train_part.samples / self.train_part.steps)

    def _stops(self) -> bool:
        rule = self.spec.training.early_stopping
        if stopped_early(self.history, rule):
            return True
        return rule.collapsed is not None and stays_empty(self.history, rule, self.empty_dice)

    @cached_property
    def empty_dice(self) -> float:
        """``val_dice`` of a prediction that finds nothing: 1 / (sum y^2 + 1) of every group that is measured."""
        total, slices = 0.0, 0
        for group in self.val_part.groups:
            truth = [np.asarray(grey(self.val_part.piece(rows)[1]), np.float64) for rows in group]
            size = sum(map(len, truth))
            total, slices = total + size / (sum(float((y**2).sum()) for y in truth) + 1), slices + size
        return total / slices

    def _epoch(self, epoch: int, pace: "_Pace") -> EpochRecord:
        try:
            self._train(epoch, pace)
            start = time.monotonic()
            val_loss, val_study_loss = self._validate(epoch)
        except Interrupted:
            self._keep_begun()
            raise
        validated = time.monotonic() - start
        pace.epoch_done(validated)
        loss, study_loss = (float(np.mean(column)) for column in zip(*self.begun.measured, strict=True))
        trained, self.begun = self.begun.seconds, checkpoints.Begun()
        return EpochRecord(
            epoch=epoch,
            loss=loss,
            dice=1 - study_loss,
            val_loss=val_loss,
            val_dice=1 - val_study_loss,
            learning_rate=self._learning_rate(epoch, self.train_part.steps - 1),
            seconds=trained + validated,
            images_per_second=self.train_part.samples / trained,
        )

    def _train(self, epoch: int, pace: "_Pace") -> None:
        """The steps of an epoch that are not done yet."""
        start = time.monotonic() - self.begun.seconds
        for measured in self._steps(epoch, pace):
            self.begun.measured.append(measured)
            self.begun.seconds = time.monotonic() - start
            _stop_if_asked(self.events)
            if time.monotonic() - self.kept > self.keep_every_s:
                self._keep_begun()
        self._refuse_broken_weights(epoch)

    def _steps(self, epoch: int, pace: "_Pace") -> Iterator[Measured]:
        """Each step of the optimizer that is left, measured before it."""
        part, passes = self.train_part, self.steps.passes
        counts = [part.pieces(epoch, step) for step in range(part.steps)]
        left = range(len(self.begun.measured), part.steps)
        jobs = [(step, number) for step in left for _ in range(passes) for number in range(counts[step])]
        pieces = self._until_stopped(_one_ahead(lambda job: part.piece(epoch, *job), jobs))
        for step in left:
            self.model.optimizer.learning_rate = self._learning_rate(epoch, step)
            measured = self.steps.train(pieces, counts[step])
            self._refuse_not_finite(measured[0], f"epoch {epoch}, step {step + 1}")
            pace.step_done()
            remaining = pace.seconds_left(epoch, step + 1)
            done = Step(epoch, step + 1, part.steps, measured[0], pace.images_per_second, remaining)
            self.events.step(done)
            yield measured

    def _learning_rate(self, epoch: int, step: int) -> float:
        steps = self.train_part.steps
        return learning_rate(self.spec.training, (epoch - 1) * steps + step, steps)

    def _validate(self, epoch: int) -> Measured:
        """Means over the groups of the whole val part in order, weighted by their numbers of slices.

        A group is a batch, the last one perhaps smaller, or a scan. The study's Dice is a ratio of sums over a
        group, and so are most losses, so the values depend on the groups.
        """
        total, slices = np.zeros(2), 0
        for group in self.val_part.groups:
            pieces = self._until_stopped(self.val_part.piece(rows) for rows in group)
            size = sum(len(rows) for rows in group)
            total, slices = total + size * np.array(self.steps.test(pieces, len(group))), slices + size
        self._refuse_not_finite(float(total[0]), f"epoch {epoch}, validation")
        loss, study_loss = (total / slices).tolist()
        return loss, study_loss

    def _until_stopped(self, pieces: Iterator[Batch]) -> Iterator[Batch]:
        for piece in pieces:
            _stop_if_asked(self.events)
            yield piece

    def _refuse_not_finite(self, loss: float, when: str) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} at {when}")

    def _refuse_broken_weights(self, epoch: int) -> None:
        # ReLU and pooling may turn NaN into 0, so broken weights can hide behind a finite loss.
        if not all(np.isfinite(array).all() for array in checkpoints.weights_of(self.model)):
            raise self._diverged(f"weights became NaN or infinite in epoch {epoch}")

    def _diverged(self, what: str) -> TrainingFailed:
        advice = f"training.learning_rate {self.spec.training.learning_rate} is probably too high: try a tenth of it"
        return TrainingFailed("loss-not-finite", f"{what}; {advice}")

    def _finish(self, record: EpochRecord) -> None:
        """Book an epoch: history, best weights, checkpoint on disk, then the event."""
        self.history.append(record)
        rule = self.spec.training.early_stopping
        if rule.restore == "best" and best_epoch(self.history, rule) == record.epoch:
            self.best = checkpoints.weights_of(self.model)
        path = self.folder / f"epoch-{record.epoch:05d}.npz"
        state = self._state()
        _patiently(lambda: checkpoints.save(path, state))
        self.kept = time.monotonic()
        crash_point("checkpoint-saved")
        self.events.epoch(record, path)

    def _keep_begun(self) -> None:
        """Keep the state within an epoch, in a file that the next one replaces."""
        self.kept = time.monotonic()
        if self.begun.measured:
            with suppress(OSError):  # no room, say; then these steps are done again, to the same bits
                checkpoints.save(self.folder / "begun.npz", self._state())

    def _state(self) -> checkpoints.Checkpoint:
        about = self.training_hash, self.provenance
        return checkpoints.take(self.model, *about, self.history, self.best, self.begun)


def _patiently(save: Callable[[], None]) -> None:
    """Try again for some seconds where the disk is full: older checkpoints are being deleted meanwhile."""
    for wait_s in (1, 2, None):
        try:
            return save()
        except OSError as error:
            if error.errno not in DISK_FULL or wait_s is None:
                raise
        time.sleep(wait_s)
    return None


def _one_ahead(make: Callable[[Job], Batch], jobs: Sequence[Job]) -> Iterator[Batch]:
    """What ``make`` makes of each job in order, each in a second thread while the one before is in use."""
    if not jobs:
        return
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(make, jobs[0])
        for following in jobs[1:]:
            batch = coming.result()
            coming = maker.submit(make, following)
            yield batch
        yield coming.result()


@dataclass
class _Pace:
    """How fast it goes and how long it still takes, from the last steps and the last validation.

    ``steps`` and ``samples`` are those of one epoch; ``validation_steps`` is what validation takes, guessed, in
    steps.
    """

    epochs: int
    steps: int
    samples: int
    validation_steps: float
    marks: deque[float] = field(default_factory=lambda: deque([time.monotonic()], maxlen=21))
    validation_seconds: float | None = None
    building_seconds: float | None = None
    """What the first step took, in which the graph is traced: it says nothing of the others."""

    def step_done(self) -> None:
        self.marks.append(time.monotonic())
        if self.building_seconds is None:
            self.building_seconds = self.marks[-1] - self.marks[0]
            self.marks.popleft()

    def epoch_done(self, validation_seconds: float) -> None:
        """Start afresh after the pause for validation."""
        self.validation_seconds = validation_seconds
        self.marks.clear()
        self.marks.append(time.monotonic())

    @property
    def step_seconds(self) -> float:
        if len(self.marks) < 2:
            return self.building_seconds or 0.0
        return (self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)

    @property
    def images_per_second(self) -> float:
        return self.samples / self.steps / max(self.step_seconds, 1e-9)

    def seconds_left(self, epoch: int, step: int) -> float:
        """To the end of the last epoch, as if nothing stopped early."""
        validation = self.validation_seconds
        if validation is None:
            validation = self.validation_steps * self.step_seconds
        later = (self.epochs - epoch) * (self.steps * self.step_seconds + validation)
        return (self.steps - step) * self.step_seconds + validation + later
