"""Webhooks of a project: who is told of ends of its runs and experiments, of which, and whether at present."""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.errors import InputError, SpecError
from store import marks
from store.models import Delivery, Webhook
from store.receivers import PREFIX
from store.states import FINAL

MOST = 20
"""Webhooks of a project."""


class Event(StrEnum):
    """What a webhook is told."""

    RUN_ENDED = "run.ended"
    """A run reached a final state; a dead one that is requeued may do so again."""
    EXPERIMENT_ENDED = "experiment.ended"
    """The last of its runs did."""
    TEST = "test"
    """Somebody asked for it."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asks of a new webhook.

    Attributes:
        url: where messages go; :func:`store.receivers.check` has looked at it.
        events: which are told.
        states: of those, which ends of runs.
    """

    url: str
    events: tuple[str, ...] = (Event.RUN_ENDED, Event.EXPERIMENT_ENDED)
    states: tuple[str, ...] = tuple(sorted(FINAL))


def add(
    session: Session, project_id: int, wanted: Wanted, actor: str, key: str | None = None
) -> tuple[Webhook, bool]:
    """A new webhook with a new secret, and whether it is new: its idempotency key may have been used before.

    It is told of what ends from now on, but perhaps not of what is being written just now.

    Raises:
        SpecError: the key was used with another request.
        InputError: the project has too many.
    """
    digest = hashlib.sha256(json.dumps(asdict(wanted), sort_keys=True).encode()).hexdigest()
    same = select(Webhook).where(Webhook.project_id == project_id, Webhook.idempotency_key == key)
    found = session.scalar(same) if key is not None else None
    if found is None:
        if session.scalars(select(func.count()).where(Webhook.project_id == project_id)).one() >= MOST:
            raise InputError("url", f"would be webhook {MOST + 1} of this project; remove one first")
        values = {"project_id": project_id, "created_by": actor, "idempotency_key": key, "request_hash": digest}
        values |= {**asdict(wanted), "secret": new_secret(), "seen": marks.newest(session)}
        values |= {"events": list(wanted.events), "states": list(wanted.states)}
        # A second request with the key waits here until the first has committed, then finds its row.
        made = session.scalar(insert(Webhook).values(**values).on_conflict_do_nothing().returning(Webhook))
        if made is not None:
            return made, True
        found = session.scalars(same).one()
    if found.request_hash != digest:
        raise SpecError("Idempotency-Key", "was used before with another body; use a new key", key)
    return found, False


def new_secret() -> str:
    """256 random bits as the specification writes them."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def listed(session: Session, project_id: int, limit: int, before: int | None = None) -> Sequence[Webhook]:
    """Webhooks of the project, newest first."""
    query = select(Webhook).where(Webhook.project_id == project_id)
    if before is not None:
        query = query.where(Webhook.id < before)
    return session.scalars(query.order_by(Webhook.id.desc()).limit(limit)).all()


def find(session: Session, project_id: int, webhook_id: int, *, hold: bool = False) -> Webhook | None:
    """The project's webhook, its row locked where it is to be changed; None where the project has no such one."""
    query = select(Webhook).where(Webhook.project_id == project_id, Webhook.id == webhook_id)
    return session.scalar(query.with_for_update() if hold else query)


def deliveries(session: Session, webhook_id: int, limit: int) -> Sequence[Delivery]:
    """The last messages for a webhook, newest first."""
    query = select(Delivery).where(Delivery.webhook_id == webhook_id)
    return session.scalars(query.order_by(Delivery.id.desc()).limit(limit)).all()


def waiting(session: Session, webhook_id: int) -> int:
    """How many messages a webhook has not taken yet."""
    query = select(func.count()).where(Delivery.webhook_id == webhook_id, Delivery.done_at.is_(None))
    return session.scalars(query).one()


def switch(session: Session, webhook: Webhook, on: bool, actor: str) -> None:
    """Switch a webhook on or off; the caller holds its row.

    While it is off nothing is sent, and what ends is not told later. What waited before goes on when it is on again.
    """
    if on and webhook.off_at is not None:
        webhook.seen = marks.newest(session)
        webhook.off_at = webhook.off_by = webhook.off_reason = webhook.due_at = None
        webhook.failures = 0
    elif not on and webhook.off_at is None:
        webhook.off_at, webhook.off_by = func.clock_timestamp(), actor
    session.flush()
    session.refresh(webhook)


def remove(session: Session, webhook: Webhook) -> None:
    """Remove a webhook and its messages; the caller holds its row, so that none is added meanwhile."""
    session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
    session.execute(delete(Webhook).where(Webhook.id == webhook.id))
