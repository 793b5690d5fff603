"""The sender's half of the broker, as several threads of an API use it for the first time."""

import subprocess
import sys
from pathlib import Path

import kombu.pools

from store import broker
from tests.conftest import broker_client

FIRST_USE = """
import sys, threading
from store import broker

threads, raised = [], []

def ask():
    try:
        broker.waiting("default")
    except broker.Unreachable:
        pass
    except BaseException as error:
        raised.append(error)

class Meanwhile:
    def find_spec(self, name, path=None, target=None):
        # Whichever thread it is that loads; the next one starts while it is in the middle of that.
        if name.startswith(("celery", "kombu")) and len(threads) < 50:
            threads.append(threading.Thread(target=ask, daemon=True))
            threads[-1].start()
            threads[-1].join(0.02)

sys.meta_path.insert(0, Meanwhile())
ask()
for thread in threads:
    thread.join()
print(len(threads), raised)
"""


def test_threads_that_use_it_while_another_loads_it(tmp_path: Path, monkeypatch):
    """Celery and kombu replace themselves in ``sys.modules`` while they load, and each is met half there."""
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path))
    monkeypatch.delenv("LIVERSEG_BROKER_URL", raising=False)
    done = subprocess.run([sys.executable, "-P", "-c", FIRST_USE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    threads, _, raised = done.stdout.strip().partition(" ")
    assert int(threads) > 10
    assert raised == "[]"


def test_who_has_asked_the_broker_needs_no_other_connection_to_send(database: Path):
    """Each connection asks a name server, which may take long: not when a run is to begin."""
    client = broker_client(database)
    broker.producer.cache_clear()
    kombu.pools.reset()  # else what was connected by an earlier test is taken

    def connections() -> set[str]:
        return {one["id"] for one in client.client_list()}

    broker.waiting("default")
    before = connections()
    broker.send("default", 1, 1)
    broker.send("gpu", 1, 1)
    assert broker.waiting("gpu") == 1
    assert connections() == before
