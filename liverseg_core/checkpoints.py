"""The state of a training between two steps, in one npz file that never needs unpickling.

Keras's own formats leave out the states of the dropout generators, so a run resumed from them differs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.backend import keras
from liverseg_core.errors import WeightsError
from liverseg_core.records import EpochRecord
from liverseg_core.weights import read_npz, write_npz

Arrays = list[NDArray[Any]]


@dataclass
class Begun:
    """The steps that are done of an epoch.

    Attributes:
        measured: the loss and the study's loss of each step, before it.
        seconds: how long they took.
    """

    measured: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next steps depend on.

    Attributes:
        training_hash: of the spec and data that it belongs to.
        provenance: backend, versions and hardware that computed it; equal ones give equal bits.
        history: one record an epoch, so ``len(history)`` epochs are done; early stopping is a function of it.
        weights: ``model.weights`` in order.
        random: states of every random generator (dropout) in order.
        optimizer: ``optimizer.variables`` in order: step counter, learning rate, moments.
        best: the best epoch's weights, empty where the last epoch's are wanted.
        begun: steps of the epoch that follows ``history``; none where it is not begun.
    """

    training_hash: str
    provenance: dict[str, str]
    history: tuple[EpochRecord, ...]
    weights: Arrays
    random: Arrays
    optimizer: Arrays
    best: Arrays
    begun: Begun = field(default_factory=Begun)


GROUPS = ("weights", "random", "optimizer", "best")


def take(
    model: keras.Model,
    training_hash: str,
    provenance: dict[str, str],
    history: Sequence[EpochRecord],
    best: Arrays,
    begun: Begun,
) -> Checkpoint:
    """The state of a compiled model as it is now."""
    return Checkpoint(
        training_hash=training_hash,
        provenance=provenance,
        history=tuple(history),
        weights=values_of(model.weights),
        random=values_of(random_states(model)),
        optimizer=values_of(model.optimizer.variables),
        best=best,
        begun=begun,
    )


def restore(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Bring a compiled model of the same spec back to ``checkpoint``.

    Raises:
        WeightsError: it was taken from another model.
    """
    places = (model.weights, random_states(model), model.optimizer.variables)
    kept = (checkpoint.weights, checkpoint.random, checkpoint.optimizer)
    for variables, values in zip(places, kept, strict=True):
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise WeightsError("checkpoint", "was taken from another model; start the run anew")
        assign(variables, values)


def assign(variables: Sequence[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint``, whole or not at all; on return it is on disk."""
    arrays = {
        f"{group}.{number:04d}": value for group in GROUPS for number, value in enumerate(getattr(checkpoint, group))
    }
    about = {
        "training_hash": checkpoint.training_hash,
        "provenance": checkpoint.provenance,
        "history": [asdict(record) for record in checkpoint.history],
        "begun": asdict(checkpoint.begun),
    }
    write_npz(path, {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays})


def load(path: Path) -> Checkpoint:
    """Read what :func:`save` wrote; every array is checked against its CRC-32.

    Raises:
        WeightsError: no such file, or it is damaged.
    """
    arrays = read_npz(path)
    try:
        about = json.loads(arrays.pop("about").tobytes())
        groups = {
            group: [arrays[name] for name in sorted(arrays) if name.startswith(f"{group}.")] for group in GROUPS
        }
        history = tuple(EpochRecord(**record) for record in about["history"])
        begun = _begun(**about["begun"]) if "begun" in about else Begun()  # older ones were all between two epochs
        return Checkpoint(about["training_hash"], about["provenance"], history, **groups, begun=begun)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(path.name, f"is no checkpoint of this version ({error})") from None


def _begun(measured: list[list[float]], seconds: float) -> Begun:
    return Begun([(loss, study_loss) for loss, study_loss in measured], seconds)


def weights_of(model: keras.Model) -> Arrays:
    """Copies of the model's weights in order."""
    return values_of(model.weights)


def values_of(variables: Sequence[Any]) -> Arrays:
    """Copies of variables in order."""
    return [np.asarray(variable).copy() for variable in variables]


def random_states(model: keras.Model) -> list[Any]:
    """The generators' states: variables that are neither weights nor the optimizer's or a metric's."""
    return [variable for variable in model.non_trainable_variables if variable.path.endswith("seed_generator_state")]
