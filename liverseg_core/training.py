"""One experiment from its spec to its scores."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from liverseg_core import checkpoints
from liverseg_core.backend import compile_model, keras, out_of_memory_named, provenance
from liverseg_core.backend import prepare_backend as prepare_backend
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, Selection, check_runnable, select, training_hash
from liverseg_core.data.sampling import Batch, make_batch, steps_per_epoch
from liverseg_core.errors import Interrupted, TrainingFailed, WeightsError
from liverseg_core.evaluation import evaluate
from liverseg_core.losses import loss_for
from liverseg_core.networks import build_network
from liverseg_core.records import EpochRecord, Events, ExperimentResult
from liverseg_core.spec import EarlyStopping, ExperimentSpec
from liverseg_core.tensorboard import write_events
from liverseg_core.weights import read_weights, write_weights


def run_experiment(
    spec: ExperimentSpec,
    manifest: Manifest,
    cache: SliceCache,
    workdir: Path,
    events: Events,
    resume_from: Path | None = None,
) -> ExperimentResult:
    """Train as ``spec`` says, then score the val and test parts.

    Call :func:`prepare_backend` first. With the same spec, data, thread count and versions the result is the same
    bit for bit, resumed or not (``training.deterministic``).

    Args:
        spec: the experiment.
        manifest: the data set that ``spec.dataset`` names.
        cache: its slices at ``spec.data.image_size``.
        workdir: gets ``checkpoints/epoch-00001.npz`` and so on, ``weights.npz`` and ``probabilities.npz``.
        events: is told of every step and epoch, and asked whether to stop.
        resume_from: a checkpoint of the same spec and data.

    Raises:
        SpecError: spec and data do not fit.
        WeightsError: ``resume_from`` is damaged or belongs to another experiment.
        TrainingFailed: ``loss-not-finite`` or ``device-out-of-memory``.
        Interrupted: ``events`` asked to stop.
    """
    check_runnable(spec, manifest)
    with out_of_memory_named():
        training = _Training(spec, manifest, cache, workdir, events)
        if resume_from is not None:
            training.resume(resume_from)
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
        model = _build(spec)
        model.set_weights(arrays)
        return _score(spec, manifest, cache, workdir, events, model, ())


def stopped_early(history: Sequence[EpochRecord], rule: EarlyStopping) -> bool:
    """Whether the monitored value has not improved for ``rule.patience`` epochs (any improvement counts)."""
    if rule.patience is None or not history:
        return False
    return history[-1].epoch - best_epoch(history, rule) >= rule.patience


def best_epoch(history: Sequence[EpochRecord], rule: EarlyStopping) -> int:
    """The epoch with the lowest val loss (or highest val Dice), the first of equals; 0 where none is done."""
    sign = 1 if rule.monitor == "val_loss" else -1
    return min(history, key=lambda record: sign * getattr(record, rule.monitor)).epoch if history else 0


def _build(spec: ExperimentSpec) -> keras.Model:
    model = build_network(spec.data.image_size, spec.model, spec.training.seed)
    compile_model(model, spec, loss_for(spec.training, spec.model.head))
    return model


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
        self, spec: ExperimentSpec, manifest: Manifest, cache: SliceCache, workdir: Path, events: Events
    ) -> None:
        events.phase("building")
        self.spec, self.cache, self.events = spec, cache, events
        self.folder = workdir / "checkpoints"
        self.chosen: Selection = select(manifest, spec.dataset)
        self.steps = steps_per_epoch(len(self.chosen["train"]), spec)
        self.training_hash = training_hash(spec, manifest)
        self.model = _build(spec)
        self.history: list[EpochRecord] = []
        self.best: checkpoints.Arrays = []

    def resume(self, path: Path) -> None:
        checkpoint = checkpoints.load(path)
        if checkpoint.training_hash != self.training_hash:
            raise WeightsError(path.name, "belongs to another experiment; resume only with the same spec and data")
        checkpoints.restore(self.model, checkpoint)
        self.history, self.best = list(checkpoint.history), checkpoint.best

    def run(self) -> None:
        """Train to the end, then put the wanted epoch's weights into the model."""
        self.events.phase("training")
        options = self.spec.training
        pace = _Pace(options.epochs, self.steps, options.batch_size)
        while len(self.history) < options.epochs and not stopped_early(self.history, options.early_stopping):
            self._finish(self._epoch(len(self.history) + 1, pace))
        if options.early_stopping.restore == "best":
            self.model.set_weights(self.best)

    def _epoch(self, epoch: int, pace: "_Pace") -> EpochRecord:
        start = time.monotonic()
        losses = [self._step(epoch, step, batch, pace) for step, batch in enumerate(self._batches(epoch))]
        trained = time.monotonic() - start
        self._refuse_broken_weights(epoch)
        loss, val_loss = float(np.mean(losses)), self._validate(epoch)
        pace.epoch_done(time.monotonic() - start)
        return EpochRecord(
            epoch=epoch,
            loss=loss,
            dice=1 - loss,
            val_loss=val_loss,
            val_dice=1 - val_loss,
            learning_rate=self.spec.training.learning_rate,
            seconds=time.monotonic() - start,
            images_per_second=self.steps * self.spec.training.batch_size / trained,
        )

    def _batches(self, epoch: int) -> Iterator[Batch]:
        return _one_ahead(
            lambda step: make_batch(self.cache, self.chosen["train"], self.spec, epoch, step), self.steps
        )

    def _step(self, epoch: int, step: int, batch: Batch, pace: "_Pace") -> float:
        """One step of the optimizer; its loss before the step."""
        loss = float(self.model.train_on_batch(*batch))
        self._refuse_not_finite(loss, f"epoch {epoch}, step {step + 1}")
        pace.step_done()
        self.events.step(epoch, step + 1, self.steps, pace.images_per_second, pace.seconds_left(epoch, step + 1))
        _stop_if_asked(self.events)
        return loss

    def _validate(self, epoch: int) -> float:
        """Loss over the whole val part in order: batch losses weighted by their numbers of slices.

        The last batch may be smaller. Batch Dice is a ratio of sums, so the value depends on the batch size.
        """
        indices, size = self.chosen["val"], self.spec.training.batch_size
        total = 0.0
        for start in range(0, len(indices), size):
            _stop_if_asked(self.events)
            rows = list(indices[start : start + size])
            images, masks = self.cache.images[rows][..., None], self.cache.masks[rows][..., None]
            total += len(rows) * float(self.model.test_on_batch(images, masks))
        self._refuse_not_finite(total, f"epoch {epoch}, validation")
        return total / len(indices)

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
        state = checkpoints.take(self.model, self.training_hash, provenance(), self.history, self.best)
        checkpoints.save(path, state)
        self.events.epoch(record, path)


def _one_ahead(make: Callable[[int], Batch], steps: int) -> Iterator[Batch]:
    """Every batch in order, each made in a second thread while the one before is in use."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(make, 0)
        for step in range(steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = maker.submit(make, step + 1)
            yield batch


@dataclass
class _Pace:
    """How fast it goes and how long it still takes, from the last steps and epochs."""

    epochs: int
    steps: int
    batch_size: int
    marks: deque[float] = field(default_factory=lambda: deque([time.monotonic()], maxlen=21))
    epoch_seconds: float | None = None

    def step_done(self) -> None:
        self.marks.append(time.monotonic())

    def epoch_done(self, seconds: float) -> None:
        """Start afresh after the pause for validation."""
        self.epoch_seconds = seconds
        self.marks.clear()
        self.marks.append(time.monotonic())

    @property
    def step_seconds(self) -> float:
        return (self.marks[-1] - self.marks[0]) / max(1, len(self.marks) - 1)

    @property
    def images_per_second(self) -> float:
        return self.batch_size / max(self.step_seconds, 1e-9)

    def seconds_left(self, epoch: int, step: int) -> float:
        """To the end of the last epoch, as if nothing stopped early."""
        whole = self.epoch_seconds or self.steps * self.step_seconds
        return (self.steps - step) * self.step_seconds + (self.epochs - epoch) * whole
