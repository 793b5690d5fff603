"""What must be said to TensorFlow (or JAX) itself; everything else goes through Keras.

Every module that computes takes ``keras`` from here, so that what must be said before its import is said.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# TensorFlow leaves oneDNN off where the CPU lacks AVX-512; a step at 256 pixels then takes four times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras as keras

from liverseg_core.errors import TrainingFailed
from liverseg_core.spec import ExperimentSpec

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


def compile_model(model: keras.Model, spec: ExperimentSpec, loss: Any) -> None:
    """Compile ``model`` with the spec's optimizer, its variables made, so that they can be restored.

    TensorFlow runs without XLA: on CPUs it gained nothing and cost ten seconds at the start.
    """
    optimizer = OPTIMIZERS[spec.training.optimizer](learning_rate=spec.training.learning_rate)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=keras.backend.backend() != "tensorflow")
    optimizer.build(model.trainable_variables)


def provenance() -> dict[str, str]:
    """Backend and versions, which may change bits without changing the spec."""
    found = {"backend": keras.backend.backend(), "keras": keras.__version__, "cores": str(os.cpu_count())}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found["tensorflow"] = tf.__version__
        found["threads"] = str(tf.config.threading.get_intra_op_parallelism_threads())
    return found


def device() -> str:
    """What computes: the model of the first GPU where TensorFlow has one, else Keras's name, e.g. ``cpu:0``."""
    name = str(keras.distribution.list_devices()[0])
    if keras.backend.backend() != "tensorflow":
        return name
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
