"""What a worker offers for one more run."""

from worker import load, memory
from worker.load import Attempts


def test_what_runs_will_still_take_is_not_offered(monkeypatch):
    monkeypatch.setattr(memory, "left_mb", lambda: 10_000)
    monkeypatch.setattr(load.trainers, "resident_mb", lambda: 0)
    attempts = Attempts()
    assert attempts.offer().memory_mb == 10_000
    with attempts.carries(7, 3000), attempts.carries(8, 0):
        assert attempts.running == 2
        assert attempts.offer().memory_mb == 7000
        attempts.grown(7, 2500)
        attempts.grown(8, 900)
        assert attempts.offer().memory_mb == 9500
        attempts.grown(7, 4000)  # more than any before it
        assert attempts.offer().memory_mb == 10_000
    attempts.grown(7, 1)  # a late heartbeat
    assert (attempts.running, attempts.offer().memory_mb) == (0, 10_000)


def test_what_the_trainer_has_that_waits_for_the_run_is_offered(monkeypatch):
    monkeypatch.setattr(memory, "left_mb", lambda: 1000)
    monkeypatch.setattr(load.trainers, "resident_mb", lambda: 600)
    assert Attempts().offer().memory_mb == 1600


def test_where_the_system_tells_nothing_everything_fits(monkeypatch):
    monkeypatch.setattr(memory, "left_mb", lambda: None)
    assert Attempts().offer().memory_mb is None
