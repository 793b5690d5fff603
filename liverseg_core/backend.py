"""What must be said to TensorFlow (or JAX) itself; everything else goes through Keras.

Every module that computes takes ``keras`` from here, so that what must be said before its import is said.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

# TensorFlow leaves oneDNN off where the CPU lacks AVX-512; a step at 256 pixels then takes four times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# On a GPU TensorFlow takes all memory at its start, and a second slot would find none.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras as keras
import numpy as np
from numpy.typing import NDArray

from liverseg_core.errors import SpecError, TrainingFailed
from liverseg_core.origin import processor
from liverseg_core.spec import ExperimentSpec, Precision

OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}


def prepare_backend(spec: ExperimentSpec, threads: int | None = None) -> None:
    """Make the process ready for one run: an empty session, seeds, determinism, thread count.

    Determinism and the thread count hold for the rest of the process. Another thread count gives other bits, each
    reproducible, so whoever wants equal results pins it.

    Args:
        spec: ``training.seed`` and ``training.deterministic`` are used.
        threads: threads of one operation; None leaves the backend's choice.

    Raises:
        RuntimeError: another thread count than this process already computes with.
    """
    keras.utils.clear_session()
    if keras.backend.backend() == "tensorflow":
        _prepare_tensorflow(spec.training.deterministic, threads)
    keras.utils.set_random_seed(spec.training.seed)


def _prepare_tensorflow(deterministic: bool, threads: int | None) -> None:
    import tensorflow as tf

    if threads is not None and tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def compile_model(model: keras.Model, spec: ExperimentSpec, loss: Any, metrics: Sequence[Any] = ()) -> None:
    """Compile ``model`` with the spec's optimizer, its variables made, so that they can be restored.

    TensorFlow runs without XLA: on CPUs it gained nothing and cost ten seconds at the start. In float16 gradients of
    single pixels would vanish, so the loss is scaled for them: twofold again after 2,000 steps, by half where a
    gradient overflows, and that step changes no weight.
    """
    optimizer = OPTIMIZERS[spec.training.optimizer](learning_rate=spec.training.learning_rate)
    if spec.training.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    jit = keras.backend.backend() != "tensorflow"
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics), jit_compile=jit)
    optimizer.build(model.trainable_variables)


def check_precision(spec: ExperimentSpec) -> None:
    """Refuse to train in float16 where no GPU is: processors compute it by way of float32, many times slower.

    Raises:
        SpecError: that is asked for.
    """
    if spec.training.precision == "mixed_float16" and device().startswith("cpu"):
        raise SpecError(
            "training.precision",
            "is for GPUs, and this worker trains on the processor, which would be many times slower; choose float32, "
            "or label the workers with GPUs and say so in `needs`",
            spec.training.precision,
        )


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Layers that are made meanwhile compute so; their variables are float32 in any case."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def batch_normalization(momentum: float, name: str) -> keras.layers.Layer:
    """``keras.layers.BatchNormalization`` over the last axis, by the backend's fused operation where it has one.

    On CPUs TensorFlow's own takes a third less time for a whole step than Keras's chain of elementwise operations.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.layers.BatchNormalization(momentum=momentum, name=name)
    return _FusedBatchNormalization(momentum=momentum, name=name)


class _FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """The same variables and values as its base, up to rounding."""

    def call(self, inputs: Any, training: bool | None = None, mask: None = None) -> Any:  # noqa: ARG002
        from tensorflow.compat.v1.nn import fused_batch_norm

        # In float32, as Keras does it: on CPUs the operation takes three times as long for numbers of 16 bits.
        given, inputs = inputs.dtype, keras.ops.cast(inputs, "float32")
        own = {"scale": self.gamma.value, "offset": self.beta.value, "epsilon": self.epsilon}
        if not training:
            known = {"mean": self.moving_mean.value, "variance": self.moving_variance.value}
            return keras.ops.cast(fused_batch_norm(inputs, **own, **known, is_training=False)[0], given)
        result, mean, variance = fused_batch_norm(inputs, **own, is_training=True)
        count = keras.ops.cast(keras.ops.size(inputs[..., 0]), variance.dtype)
        unscaled = variance * (count - 1) / count  # TensorFlow divides by n - 1, Keras by n
        for running, new in ((self.moving_mean, mean), (self.moving_variance, unscaled)):
            running.assign(running * self.momentum + new * (1 - self.momentum))
        return keras.ops.cast(result, given)


Sums = NDArray[np.float64]


class Pieces(Protocol):
    """Sums over a batch that is computed in pieces, and their gradient; each call draws its dropout anew."""

    def sums(self, x: Any, y: Any, training: bool) -> Sums:
        """``sums(y, model(x))`` [K] of one piece."""

    def gradient(self, x: Any, y: Any, slopes: Sums) -> list[Any]:
        """Gradient of ``slopes . sums(y, model(x))`` by each trainable variable, for one piece in training."""

    def apply(self, gradient: list[Any]) -> None:
        """One step of the optimizer."""


def pieces_of(model: keras.Model, sums: Callable[[Any, Any], Any]) -> Pieces:
    """The backend's :class:`Pieces` of ``sums(y, p)``."""
    return (_TensorFlowPieces if keras.backend.backend() == "tensorflow" else _JaxPieces)(model, sums)


class _TensorFlowPieces:
    def __init__(self, model: keras.Model, sums: Callable[[Any, Any], Any]) -> None:
        import tensorflow as tf

        def forward(x: Any, y: Any, training: bool) -> Any:
            return sums(y, model(x, training=training))

        def gradient(x: Any, y: Any, slopes: Any) -> Any:
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(slopes * forward(x, y, True))
            return tape.gradient(value, [variable.value for variable in model.trainable_variables])

        # Pieces differ in size: without a free axis each size would be traced anew.
        self._forward, self._gradient = (tf.function(step, reduce_retracing=True) for step in (forward, gradient))
        self._tensor, self._model = tf.convert_to_tensor, model

    def sums(self, x: Any, y: Any, training: bool) -> Sums:
        return np.asarray(self._forward(self._tensor(x), self._tensor(y), training), np.float64)

    def gradient(self, x: Any, y: Any, slopes: Sums) -> list[Any]:
        found: list[Any] = self._gradient(self._tensor(x), self._tensor(y), self._tensor(slopes, "float32"))
        return found

    def apply(self, gradient: list[Any]) -> None:
        self._model.optimizer.apply(gradient, self._model.trainable_variables)


class _JaxPieces:
    def __init__(self, model: keras.Model, sums: Callable[[Any, Any], Any]) -> None:
        import jax

        def weighted(trainable: Any, fixed: Any, x: Any, y: Any, slopes: Any, training: bool) -> Any:
            p, fixed = model.stateless_call(trainable, fixed, x, training=training)
            found = sums(y, p)
            return (found * slopes).sum(), (found, fixed)

        self._model = model
        self._forward = jax.jit(weighted, static_argnames="training")
        self._gradient = jax.jit(jax.grad(weighted, has_aux=True), static_argnames="training")

    def sums(self, x: Any, y: Any, training: bool) -> Sums:
        _, (found, fixed) = self._forward(*self._state(), x, y, np.float32(0), training=training)
        self._keep(fixed)
        return np.asarray(found, np.float64)

    def gradient(self, x: Any, y: Any, slopes: Sums) -> list[Any]:
        found, (_, fixed) = self._gradient(*self._state(), x, y, slopes.astype(np.float32), training=True)
        self._keep(fixed)
        return list(found)

    def apply(self, gradient: list[Any]) -> None:
        # Whether a step is left out is decided within JAX, where nothing may be assigned.
        optimizer, weights = self._model.optimizer, self._model.trainable_variables
        before = [v.value for v in optimizer.variables], gradient, [v.value for v in weights]
        for variables, values in zip((weights, optimizer.variables), optimizer.stateless_apply(*before), strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _state(self) -> tuple[list[Any], list[Any]]:
        model = self._model
        return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]

    def _keep(self, fixed: list[Any]) -> None:
        for variable, value in zip(self._model.non_trainable_variables, fixed, strict=True):
            variable.assign(value)


def provenance() -> dict[str, str]:
    """Backend, versions and hardware, which may change bits without changing the spec."""
    found = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "device": device(),
    }
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        versions = {"tensorflow": tf.__version__}
        versions["threads"] = str(tf.config.threading.get_intra_op_parallelism_threads())
    else:
        import jax

        versions = {"jax": jax.__version__}
    return found | versions


DECIDE_BITS = ("backend", "keras", "numpy", "tensorflow", "jax", "processor", "device", "threads")
"""Parts of :func:`provenance` that must be equal for equal bits."""


def changed_from(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What ``then`` had otherwise than ``now`` of what decides bits; what either does not say is not compared."""
    pinned = now.get("threads", "0") != "0"  # else there are as many threads as cores
    names = DECIDE_BITS if pinned else (*DECIDE_BITS, "cores")
    return {name: then[name] for name in names if name in then and name in now and then[name] != now[name]}


def device() -> str:
    """What computes: the model of the first GPU where there is one, else Keras's name, e.g. ``cpu:0``."""
    name = str(keras.distribution.list_devices()[0])
    if keras.backend.backend() != "tensorflow":
        import jax

        first = jax.devices()[0]
        return name if first.platform == "cpu" else str(first.device_kind)
    import tensorflow as tf

    found = tf.config.get_visible_devices("GPU")
    return str(tf.config.experimental.get_device_details(found[0]).get("device_name", name)) if found else name


@contextmanager
def out_of_memory_named() -> Iterator[None]:
    """Turn a device's out-of-memory error, whichever backend raised it, into :class:`TrainingFailed`."""
    try:
        yield
    except Exception as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or _is_exhausted(error)):
            raise
        raise TrainingFailed(
            "device-out-of-memory",
            "the device ran out of memory; lower training.batch_size, data.image_size or model.filters",
        ) from error


def _is_exhausted(error: Exception) -> bool:
    return type(error).__name__ == "ResourceExhaustedError"
