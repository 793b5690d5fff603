"""Driver and devices: what the machine has, and what a trainer sees of it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from worker.doctor.findings import Finding, fail, ok, warn
from worker.slots import CPU, surroundings

PATIENCE_S = 180
SMI = ("nvidia-smi", "--query-gpu=index,uuid,name,driver_version,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """A device as the driver tells of it; ``free_mb``: MiB that nobody has taken."""

    index: str
    uuid: str
    name: str
    driver: str
    free_mb: str

    @property
    def called(self) -> str:
        return f"{self.index} ({self.name})"


def examine(devices: Sequence[str]) -> Iterator[Finding]:
    """``devices``: those that the worker is to be started for; none: what its surroundings name."""
    driver, gpus = _driver(devices)
    yield driver
    for name in devices or (None,):
        yield _device(name, gpus)


def _driver(devices: Sequence[str]) -> tuple[Finding, list[Gpu]]:
    wanted = [name for name in devices if name != CPU]
    if shutil.which(SMI[0]) is None:
        if wanted:
            told = f"there is no {SMI[0]}, so no NVIDIA driver, but devices {', '.join(wanted)} are asked for"
            return fail("driver", told, "install the driver, or leave out --devices to train on the processor"), []
        return ok("driver", "no NVIDIA driver; trainers use the processor"), []
    done = subprocess.run(SMI, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode:
        told = f"{SMI[0]} says: {' '.join((done.stdout + done.stderr).split())[:300]}"
        return fail("driver", told, "load the kernel module that fits the driver (a reboot after its upgrade)"), []
    gpus = [Gpu(*(field.strip() for field in row)) for row in csv.reader(done.stdout.splitlines())]
    told = ", ".join(f"{one.called} with {one.free_mb} MiB free" for one in gpus)
    return ok("driver", f"NVIDIA {gpus[0].driver if gpus else 'without devices'}: {told or 'none'}"), gpus


def _device(name: str | None, gpus: Sequence[Gpu]) -> Finding:
    check = f"device {name}" if name else "device"
    seen = look(name)
    if "problem" in seen:
        return fail(check, f"a trainer cannot start: {seen['problem']}", seen["todo"])
    told = f"TensorFlow {seen['tensorflow']} sees {', '.join(seen['gpus']) or seen['provenance']['processor']}"
    if not seen["computes"]:
        return fail(check, f"{told}, and it computes wrongly", "take the device out of use")
    if name not in (None, CPU) and len(seen["gpus"]) != 1:
        have = ", ".join(one.called for one in gpus) or "none"
        todo = f"name one of those that are there ({have}), or install liverseg[gpu] for this driver"
        return fail(check, f"TensorFlow {seen['tensorflow']} sees no GPU by this name", todo)
    if gpus and not seen["gpus"] and name is None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return warn(check, f"{told}, and none of the GPUs", "install liverseg[gpu]; or say --devices cpu to be sure")
    if seen["liverseg"] != version("liverseg"):
        told = f"trainers are of liverseg {seen['liverseg']}, this worker of {version('liverseg')}"
        return fail(check, told, "install liverseg once into one environment")
    return ok(check, told if seen["gpus"] else f"{told}; {_sixteen_bits(seen['bfloat16'])}")


def _sixteen_bits(bfloat16: float | None) -> str:
    if bfloat16 is None:
        return "it does not compute bfloat16"
    return f"a convolution in bfloat16 takes {bfloat16:.2f} of its time in float32"


def look(name: str | None) -> dict[str, Any]:
    """What ``worker.doctor.sight`` says with this device; ``problem`` and ``todo`` where it says nothing."""
    around = surroundings(name) if name else {}
    words = [sys.executable, "-P", "-m", "worker.doctor.sight"]
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **around}
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        told = f"TensorFlow did not load within {PATIENCE_S} s"
        return {"problem": told, "todo": "look for a hung device (`dmesg`), or leave it out with --devices"}
    if done.returncode:
        last = " ".join((done.stderr.strip().splitlines() or ["nothing was said"])[-1].split())[:300]
        told = f"its process ended with status {done.returncode} ({last})"
        return {"problem": told, "todo": "mend the installation of liverseg[worker] or liverseg[gpu]"}
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "missing" in seen:
        return {"problem": f"{seen['missing']} is not installed", "todo": "install liverseg[worker] or liverseg[gpu]"}
    return seen
