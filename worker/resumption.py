"""Where a new attempt goes on: from what an earlier worker of this host left, at the newest intact checkpoint."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from store import artifacts, batches
from store.batches import Batch
from store.queue import Claim
from worker.patience import persist
from worker.spool import left_behind

log = logging.getLogger(__name__)


def checkpoint(claim: Claim, known: dict[str, Any] | None, folder: Path) -> str | None:
    """The checkpoint file to go on from; None: training begins at its start.

    Args:
        claim: of the new attempt.
        known: the newest checkpoint in the database.
        folder: of the run, with one folder an attempt.

    Raises:
        LeaseLost: the run is no longer this claim's.
    """
    known = _adopted(claim, known, folder)
    while known is not None:
        if _intact(known):
            return str(known["path"])
        log.warning("run %s: checkpoint %s is gone or damaged", claim.run_id, known["path"])
        known = persist(partial(batches.fall_back, claim=claim, unreadable=known))
    return None


def _adopted(claim: Claim, known: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """Hand in the epochs that a dead worker had computed while the database was away; the newest checkpoint then."""
    for number in range(1, claim.fence):
        for batch in _following(list(left_behind(folder / f"attempt-{number}" / "spool")), known):
            log.info("run %s: batch %s of attempt %s is handed in late", claim.run_id, batch.number, number)
            persist(partial(_record, claim=claim, batch=batch, of=number))
            known = batch.epochs[-1].checkpoint if batch.epochs else known
    return known


def _record(session: Session, claim: Claim, batch: Batch, of: int) -> bool:
    return batches.record(session, claim, batch, of)


def _following(spooled: list[Batch], known: dict[str, Any] | None) -> list[Batch]:
    """Those that go on from the checkpoint ``known``, up to the last whole epoch whose checkpoint file is intact."""
    last, good = known["epoch"] if known else 0, 0
    fresh = [batch for batch in spooled if not batch.epochs or batch.epochs[-1].record.epoch > last]
    for place, batch in enumerate(fresh):
        for one in batch.epochs:
            if one.record.epoch != last + 1 or not _intact(one.checkpoint):
                return fresh[:good]
            last = one.record.epoch
        good = place + 1 if batch.epochs else good
    return fresh[:good]


def _intact(checkpoint: dict[str, Any]) -> bool:
    path = Path(checkpoint["path"])
    return path.is_file() and artifacts.sha256_of(path) == checkpoint["sha256"]
