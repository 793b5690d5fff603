"""What must be true when the chaos is over, and the ledger is held against it row by row.

Each check yields what is wrong in words; nothing, where all is well.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import TrainingFailed
from liverseg_core.records import EpochRecord, LesionComponent, SliceScore
from liverseg_core.spec import ExperimentSpec
from store import artifacts, queue, scores, views
from store.models import Attempt, Dataset, Epoch, Experiment, Run, RunEvent, StepLosses
from store.settings import settings
from store.states import Outcome, State
from tests.chaos.made_up import Training, fate
from tests.chaos.promises import Promises

CRASHES = {"crash": 1, "poison": 1, "reattach": -1}
"""What a move adds to the crashes of its run."""
Row = tuple[Any, ...]


class Checks:
    """All of them, over one session.

    Args:
        session: an open session; nothing is written.
        promises: what the clients were told.
    """

    def __init__(self, session: Session, promises: Promises) -> None:
        self._session, self._promises = session, promises
        self._runs = session.scalars(select(Run).order_by(Run.id)).all()
        self._manifests = {one.id: Manifest.from_json(one.manifest) for one in session.scalars(select(Dataset))}
        self._computed: dict[int, Uninterrupted] = {}

    def every(self) -> dict[str, list[str]]:
        """Each check by its sentence, and what breaks it."""
        checks: dict[str, Callable[[], Iterator[str]]] = {
            "every answer of the API was one that it may give": lambda: iter(self._promises.broken),
            "a key gave one experiment, however often and where it was sent": lambda: iter(self._promises.twice()),
            "every accepted submission is there, and none that nobody sent": self._submissions,
            "every run has ended as it must": self._ends,
            "what was cancelled is what clients asked for": self._cancels,
            "a dead run died as often as the limit says, or twice at one step": self._deaths,
            "every epoch ever stored, put aside or not, is the uninterrupted one, bit for bit": self._epochs,
            "every step's loss ever stored is the uninterrupted one, and none is missing or twice": self._steps,
            "scores, lesions and weights are those of an uninterrupted run": self._results,
            "nothing is left of a run's checkpoints once it has ended": self._folders,
        }
        return {name: list(check()) for name, check in checks.items()}

    def _submissions(self) -> Iterator[str]:
        sent = {key: one.answered for key, one in self._promises.submissions.items()}
        for experiment in self._session.scalars(select(Experiment).where(Experiment.idempotency_key.is_not(None))):
            if experiment.idempotency_key not in sent:
                yield f"experiment {experiment.id} has key {experiment.idempotency_key}, which nobody sent"
        for key, answered in sent.items():
            if not answered:
                yield f"key {key} has no answer"
            for experiment_id, runs in answered:
                stored = tuple(run.id for run in self._runs if run.experiment_id == experiment_id)
                if stored != runs or len(runs) != len(self._promises.submissions[key].body["seeds"]):
                    yield f"experiment {experiment_id} was promised runs {runs} and has {stored}"

    def _ends(self) -> Iterator[str]:
        for run in self._runs:
            expected = expected_end(run)
            allowed = {State.CANCELLED} if run.id in self._promises.cancelled else {expected}
            if run.id in self._promises.perhaps:
                allowed |= {State.CANCELLED, expected}
            if State(run.state) not in allowed:
                yield f"run {run.id} is {run.state}, not {' or '.join(allowed)}: {run.message}"

    def _cancels(self) -> Iterator[str]:
        asked = set(self._session.scalars(select(RunEvent.run_id).where(RunEvent.move == "cancel")))
        for run_id in sorted(asked - self._promises.cancelled - self._promises.perhaps):
            yield f"run {run_id} was cancelled and nobody asked for it"
        for run_id in sorted(self._promises.cancelled - asked):
            yield f"cancelling run {run_id} was granted and is not in its events"

    def _deaths(self) -> Iterator[str]:
        for run in self._runs:
            crashes = 0
            for event in views.events(self._session, run.id):
                crashes = 0 if event.move == "requeue" else crashes + CRASHES.get(event.move, 0)
                if event.move == "poison" and crashes != settings().max_crashes and not self._at_one_step(event):
                    yield f"run {run.id} was called dead at attempt {event.attempt} after {crashes} crashes"
                if event.move == "crash" and crashes >= settings().max_crashes:
                    yield f"run {run.id} lives on after attempt {event.attempt}, crash {crashes}"
            if crashes != run.crashes:
                yield f"run {run.id} counts {run.crashes} crashes, its events say {crashes}"

    def _at_one_step(self, event: RunEvent) -> bool:
        """Whether the attempt that ended there died where the one that died before it had."""
        query = select(Attempt.died_at).where(Attempt.run_id == event.run_id, Attempt.number <= event.attempt)
        died = query.where(Attempt.outcome.in_([Outcome.CRASHED, Outcome.LOST])).order_by(Attempt.number.desc())
        places = [_step(place) for place in self._session.scalars(died.limit(2))]
        return len(places) == 2 and places[0] == places[1] is not None

    def _epochs(self) -> Iterator[str]:
        for run in self._trained():
            expected = self._uninterrupted(run).epochs
            stored = self._session.scalars(select(Epoch).where(Epoch.run_id == run.id).order_by(Epoch.epoch)).all()
            for row in stored:
                if expected.get(row.epoch) != _hexed(row):
                    yield f"run {run.id}, attempt {row.attempt}, epoch {row.epoch} holds other values"
            live = [row.epoch for row in stored if row.archived_at is None]
            complete = State(run.state) in (State.SUCCEEDED, State.FAILED)
            if live != list(range(1, len(expected) + 1 if complete else len(live) + 1)):
                yield f"run {run.id} is {run.state} with epochs {live}"

    def _steps(self) -> Iterator[str]:
        for run in self._trained():
            expected = self._uninterrupted(run).steps
            rows = self._session.scalars(select(StepLosses).where(StepLosses.run_id == run.id)).all()
            for row in rows:
                if expected[row.epoch][row.first - 1 :][: len(row.losses)] != [loss.hex() for loss in row.losses]:
                    yield f"run {run.id}, attempt {row.attempt}, epoch {row.epoch}, step {row.first}: other losses"
            live = Counter(
                (row.epoch, row.first + place)
                for row in rows
                if row.archived_at is None
                for place in range(len(row.losses))
            )
            every = Counter(
                (epoch, number + 1) for epoch, losses in expected.items() for number in range(len(losses))
            )
            if run.state == State.SUCCEEDED and live != every:
                yield f"run {run.id}: steps missing {sorted(every - live)}, more than once {sorted(live - every)}"

    def _results(self) -> Iterator[str]:
        for run in self._trained():
            found = (
                _rows(self._session, SliceScore, "slice_scores", run.id),
                _rows(self._session, LesionComponent, "lesion_components", run.id),
                scores.files(self._session, run.id).get("weights"),
            )
            expected = self._uninterrupted(run)
            wanted = (
                (expected.scores, expected.components, expected.weights)
                if run.state == "succeeded"
                else ([], [], None)
            )
            if found != wanted:
                yield f"run {run.id} is {run.state} and has other results"

    def _folders(self) -> Iterator[str]:
        for run_id in left_behind(self._session):
            yield f"of run {run_id}"

    def _trained(self) -> Iterator[Run]:
        return (run for run in self._runs if run.kind == "train" and run.reused_from is None)

    def _uninterrupted(self, run: Run) -> "Uninterrupted":
        if run.id not in self._computed:
            self._computed[run.id] = Uninterrupted(ExperimentSpec.parse(run.spec), self._manifests[run.dataset_id])
        return self._computed[run.id]


class Uninterrupted:
    """What a run gives that nothing interrupts, with floats in hex; computed here, in one go.

    Attributes:
        epochs: epoch -> its values.
        steps: epoch -> the loss of each step.
        scores: sorted rows.
        components: sorted rows.
        weights: SHA-256 of its artifact; None where it fails or dies.
    """

    def __init__(self, spec: ExperimentSpec, manifest: Manifest) -> None:
        training = Training(spec, manifest)
        self.epochs: dict[int, Row] = {}
        self.steps: dict[int, list[str]] = {}
        self.scores: list[Row] = []
        self.components: list[Row] = []
        self.weights: str | None = None
        try:
            while not training.done:
                self._epoch(training)
        except TrainingFailed:
            return
        self.scores = sorted(map(_plain, training.scores()))
        self.components = sorted(map(_plain, training.components()))
        with tempfile.TemporaryDirectory() as folder:
            training.save(Path(folder) / "weights.npz")
            self.weights = artifacts.sha256_of(Path(folder) / "weights.npz")

    def _epoch(self, training: Training) -> None:
        losses = list(training.epoch())
        record = training.finish(losses)
        self.epochs[record.epoch] = _hexed(record)
        self.steps[record.epoch] = [loss.hex() for loss in losses]


def left_behind(session: Session) -> list[int]:
    """Runs that have ended and still have a folder of checkpoints."""
    return queue.done(session, [int(one.name) for one in settings().checkpoints.iterdir() if one.name.isdecimal()])


def expected_end(run: Run) -> State:
    """Where the run ends if nobody cancels it."""
    if run.kind != "train" or run.reused_from is not None:
        return State.SUCCEEDED
    return fate(ExperimentSpec.parse(run.spec))


def _step(place: dict[str, Any] | None) -> tuple[int, int] | None:
    return (place["epoch"], place["step"]) if place and place.get("step") else None


def _hexed(row: Any) -> Row:
    return tuple(getattr(row, field.name).hex() for field in fields(EpochRecord)[1:])


def _plain(record: Any) -> Row:
    """Values as they stand in a row of the ledger, lists of counts one by one, floats in hex."""
    values: list[Any] = []
    for field in fields(record):
        value = getattr(record, field.name)
        values.extend(value if isinstance(value, tuple) else [value])
    return tuple(value.hex() if isinstance(value, float) else value for value in values)


def _rows(session: Session, record: type, table: str, run_id: int) -> list[Row]:
    columns = scores.COLUMNS[1:] if record is SliceScore else [field.name for field in fields(record)]
    found = session.execute(text(f"SELECT {', '.join(columns)} FROM {table} WHERE run_id = :run"), {"run": run_id})
    return sorted(tuple(value.hex() if isinstance(value, float) else value for value in row) for row in found)
