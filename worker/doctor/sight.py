"""What a trainer would see: loads TensorFlow as one does and says so as JSON, in a process of its own.

python -m worker.doctor.sight
"""

import json
import sys
from importlib.metadata import version
from typing import Any

from worker.trainer import NOT_NEEDED


def look() -> dict[str, Any]:
    """Versions, devices by name, and whether the first of them computes."""
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
        "provenance": backend.provenance(),
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(look())}\n")
