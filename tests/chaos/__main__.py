"""The chaos runner: ``python -m tests.chaos --seconds 600 --seed 7``, or ``make chaos``.

It starts the real stack with trainers that make their results up, breaks it at random for a while, lets it come to
rest, and holds the ledger against all that must be true. Exit status 0: all of it holds. What is done and when
follows from the seed; what it hits depends on the machine as well.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random, SystemRandom

from tests.chaos.stack import enter


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long things are broken (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat its plan (default: a new one)")
    chosen = parser.parse_args()
    seed = SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    print(f"chaos: seed {seed}, {chosen.seconds:g} s", flush=True)
    home = Path(tempfile.mkdtemp(prefix="lv-chaos-", dir="/tmp"))
    enter(home)
    from tests.chaos.run import Chaos  # reads the settings

    broken = Chaos(home, Random(seed)).run(chosen.seconds)
    if not broken:
        shutil.rmtree(home)
        print(f"chaos: seed {seed}: all of it holds")
        return 0
    print(f"chaos: seed {seed}: BROKEN; logs and files are kept in {home}")
    for line in broken:
        print(f"  {line}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
