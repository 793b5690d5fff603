"""The host itself: memory for the slots that are asked for, and who has them."""

from collections.abc import Sequence

from worker import memory
from worker.doctor.findings import Finding, fail, ok, warn
from worker.slots import Slots

USUAL_MB = 2048
"""What a trainer takes, MiB, where no run has told yet."""

LEAST_MB = 1024
"""Below this TensorFlow does not even load, MiB."""


def memory_for(slots: int, expected_mb: int | None) -> Finding:
    """Whether ``slots`` trainers fit; ``expected_mb``: the most that one took so far."""
    left = memory.left_mb()
    if left is None:
        return warn("memory", "this system does not tell how much is left", "watch it while runs train")
    each = expected_mb or USUAL_MB
    told = f"{left:,} MiB left for {slots} slots; the largest run known took {each:,} MiB"
    if expected_mb is None:
        told = f"{left:,} MiB left for {slots} slots; none of the runs has told yet what it takes"
    if left < LEAST_MB:
        return fail("memory", told, "free some, or give this host no worker")
    if left < slots * each:
        return warn("memory", told, "start with fewer --slots; a run waits until what runs like it took is left")
    return ok("memory", told)


def slots(count: int, devices: Sequence[str]) -> Finding:
    """Who has the slots that a worker would fill."""
    try:
        of = Slots(count, "liverseg-worker doctor", devices)
        in_use = of.in_use()
    except OSError as error:
        return fail("slots", f"cannot be looked at ({error.strerror})", "see what is told of home")
    if not in_use:
        return ok("slots", f"all {of.total} are free")
    told = f"{len(in_use)} of {of.total} are in use by {', '.join(sorted(set(in_use)))}"
    if len(in_use) < of.total:
        return ok("slots", told)
    return warn("slots", told, "another worker for the same device waits; give it another --devices or no start")
