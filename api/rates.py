"""How many requests each token or address may send: a bucket each that fills at a steady rate."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

BURST_S = 10
"""A full bucket holds the requests of this many seconds."""

MOST_BUCKETS = 10_000


class Rates:
    """Buckets by name, for one process; used by its event loop alone, so it needs no lock.

    Args:
        rate: requests a second; 0: any number.
        clock: seconds that only rise.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._most = max(1.0, rate * BURST_S)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str) -> int:
        """Take one request out of the bucket: 0, or whole seconds until there is one to take."""
        if not self.rate:
            return 0
        now = self._clock()
        held, since = self._buckets.pop(name, (self._most, now))
        held = min(self._most, held + (now - since) * self.rate)
        enough = held >= 1
        self._buckets[name] = held - enough, now
        while len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)  # the one not used for longest, so the fullest
        return 0 if enough else math.ceil((1 - held) / self.rate)
