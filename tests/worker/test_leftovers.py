"""A worker removes the checkpoints on its host that nobody needs any more; ``store/test_tidy.py`` says which."""

from pathlib import Path

from store import endings, wishes
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from store.settings import settings
from tests import processes
from tests.store import ledger
from worker.here import Here


def test_a_worker_clears_up_when_it_starts(database: Path) -> None:
    ledger.dataset()
    cancelled = ledger.claimed()
    with transaction() as session:
        endings.release(session, cancelled, Ending())
        wishes.cancel(session, DEFAULT_PROJECT, cancelled.run_id)
    (queued,) = ledger.submit(seeds=[4])
    gone, kept = (settings().checkpoints / str(run) for run in (cancelled.run_id, queued))
    for place in (gone, kept):
        (place / "attempt-1").mkdir(parents=True)
    here = Here(slots=1, threads=1)
    here.start()
    processes.wait_for("the folder to go", lambda: not gone.exists(), timeout=30)
    here.stop()
    assert kept.exists()
