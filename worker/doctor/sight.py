"""What a trainer would see: loads TensorFlow as one does and says so as JSON, in a process of its own.

python -m worker.doctor.sight
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

from worker.trainer import NOT_NEEDED

TIMES = 7


def look() -> dict[str, Any]:
    """Versions, devices by name, whether the first of them computes, and what bfloat16 takes on a processor."""
    sys.modules.update(dict.fromkeys(NOT_NEEDED))  # type: ignore[arg-type]  # as a trainer does
    try:
        from liverseg_core import backend, training  # noqa: F401 - what a trainer loads
    except ImportError as error:
        return {"missing": error.name or str(error)}
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(one) for one in gpus]
    with tf.device("GPU:0" if gpus else "CPU:0"):
        product = float(tf.reduce_sum(tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64)))))
    return {
        "liverseg": version("liverseg"),
        "tensorflow": tf.__version__,
        "cuda": tf.sysconfig.get_build_info().get("cuda_version"),
        "gpus": [str(one.get("device_name", "GPU")) for one in details],
        "computes": product == 64.0**3,
        "bfloat16": None if gpus else _bfloat16(),
        "provenance": backend.provenance(),
    }


def _bfloat16() -> float | None:
    """What a convolution as in the network takes, of its time in float32; None: it cannot be computed."""
    import tensorflow as tf

    try:
        return _convolution_s("bfloat16") / _convolution_s("float32")
    except tf.errors.OpError:
        return None


def _convolution_s(dtype: str) -> float:
    """Seconds, the least of ``TIMES``."""
    import tensorflow as tf

    images, kernel = tf.ones((8, 64, 64, 16), dtype), tf.ones((3, 3, 16, 16), dtype)

    def once() -> float:
        start = time.perf_counter()
        tf.reduce_sum(tf.nn.conv2d(images, kernel, 1, "SAME")).numpy()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(TIMES))


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(look())}\n")
