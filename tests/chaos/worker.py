"""``liverseg-worker`` whose trainers make their results up: ``python -m tests.chaos.worker DEVICE start --slots 2``.

Each has a device of its own, as workers on several hosts have; workers of one device would take turns.
"""

import os
import sys

from worker import child, command

TRAINER = "tests.chaos.trainer"

if __name__ == "__main__":
    child.TRAINER = (sys.executable, "-m", TRAINER)
    os.environ["LIVERSEG_DEVICE"] = sys.argv.pop(1)
    command.main()
