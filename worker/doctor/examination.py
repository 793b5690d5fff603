"""All checks, in the order in which a worker would stumble over what they find."""

from collections.abc import Iterator, Sequence

from liverseg_core.errors import InputError
from store.settings import settings
from worker.doctor import device, folders, host, ledger, messages
from worker.doctor.findings import Finding, Level, fail


def examine(slots: int, devices: Sequence[str]) -> Iterator[Finding]:
    """Everything about a worker that would be started so; findings come as they are made."""
    try:
        settings()
    except InputError as error:
        yield fail("settings", str(error), "correct it; everything else depends on it")
        return
    expected_mb, newest = None, None
    connection = ledger.connect()
    if isinstance(connection, Finding):
        yield connection
    else:
        with connection:
            sound = True
            for finding in ledger.examine(connection, settings().pool):
                sound = sound and finding.level is not Level.FAIL
                yield finding
            if sound:
                expected_mb, newest = ledger.expected_mb(connection), ledger.newest_data_set(connection)
    yield messages.examine()
    yield from folders.examine(newest)
    yield host.memory_for(slots * max(1, len(devices)), expected_mb)
    yield host.slots(slots, devices)
    yield from device.examine(devices)
