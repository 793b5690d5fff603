"""A wall clock that is off by LIVERSEG_TEST_CLOCK_H hours, for a process with this folder in PYTHONPATH.

Python loads it before anything else. The monotonic clock stays as it is, as on a machine whose clock is set wrong.
"""

import datetime
import os
import time

HOURS = float(os.environ["LIVERSEG_TEST_CLOCK_H"])
SECONDS = HOURS * 3600
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
_localtime, _gmtime = time.localtime, time.gmtime


class _Kind(type(_datetime)):
    """Times made by C code are times too."""

    def __instancecheck__(cls, one):
        return isinstance(one, _datetime)


class Shifted(_datetime, metaclass=_Kind):
    """``datetime.datetime`` whose now is another."""

    @classmethod
    def now(cls, tz=None):
        return _datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return _datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


time.time = lambda: _time() + SECONDS
time.time_ns = lambda: _time_ns() + int(SECONDS * 1e9)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
datetime.datetime = Shifted
