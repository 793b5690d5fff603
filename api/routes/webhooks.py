"""Webhooks: a project's receivers of ends of runs and experiments."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

from api.callers import Asking, Project
from api.parameters import LARGEST_ID, Before, Limit
from api.problems import Problem, not_found
from api.routes.experiments import Key
from api.schemas import next_page
from api.webhook_schemas import (
    DeliveryOut,
    NewWebhookOut,
    WebhookBody,
    WebhookDetail,
    WebhookList,
    WebhookOut,
    WebhookSwitch,
)
from store import deliveries, models, receivers, webhooks
from store.database import transaction
from store.models import Webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

WebhookId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="id of a webhook")]
Last = Annotated[int, Query(ge=1, le=1000, description="most messages to tell, newest first")]

_asking = BoundedSemaphore(4)
"""Receivers that are asked something at once: each holds a thread that answers requests for as long as it takes."""


@contextmanager
def one_of_few() -> Iterator[None]:
    if not _asking.acquire(blocking=False):
        raise Problem(409, "too many receivers are being asked; ask again in a few seconds")
    try:
        yield
    finally:
        _asking.release()


@router.post("", status_code=201, responses={200: {"description": "the key was seen before"}})
def create(response: Response, caller: Asking, body: WebhookBody, key: Key = None) -> NewWebhookOut:
    """A new webhook with its secret; the same Idempotency-Key and body give the same one."""
    with one_of_few():  # it may wait for a name server
        receivers.check(body.url)
    with transaction() as session:
        hook, new = webhooks.add(session, caller.project, body.wanted, caller.actor, key)
        answer = NewWebhookOut.of(hook, secret=hook.secret)
    response.status_code = 201 if new else 200
    response.headers["Cache-Control"] = "no-store"
    assert isinstance(answer, NewWebhookOut)
    return answer


@router.get("")
def listing(project: Project, limit: Limit = 50, before: Before = None) -> WebhookList:
    """Webhooks, newest first, without secrets."""
    with transaction() as session:
        found = list(webhooks.listed(session, project, limit, before))
        return WebhookList(webhooks=[WebhookOut.of(one) for one in found], next=next_page(found, limit))


@router.get("/{webhook}")
def detail(project: Project, webhook: WebhookId, limit: Last = 20) -> WebhookDetail:
    """One webhook with its last messages, which are kept for 30 days."""
    with transaction() as session:
        return _detail(session, known_webhook(session, project, webhook), limit)


@router.patch("/{webhook}")
def switch(caller: Asking, webhook: WebhookId, body: WebhookSwitch) -> WebhookDetail:
    """Switch a webhook on or off; what ends while it is off is not told later."""
    with transaction() as session:
        hook = known_webhook(session, caller.project, webhook, hold=True)
        webhooks.switch(session, hook, body.active, caller.actor)
        return _detail(session, hook, 20)


@router.delete("/{webhook}")
def remove(project: Project, webhook: WebhookId) -> WebhookOut:
    """Remove a webhook and its messages; a message that is just on its way may still arrive."""
    with transaction() as session:
        hook = known_webhook(session, project, webhook, hold=True)
        answer = WebhookOut.of(hook)
        webhooks.remove(session, hook)
        return answer


@router.post("/{webhook}/test", responses={409: {"description": "too many receivers are being asked"}})
def test(caller: Asking, webhook: WebhookId) -> DeliveryOut:
    """Send a signed message of type `test` now, whether the webhook is on or off, and tell what became of it."""
    with transaction() as session:
        hook = known_webhook(session, caller.project, webhook)
        project = session.get_one(models.Project, hook.project_id).name
        data = {"webhook": hook.id, "project": project, "asked_by": caller.actor}
        made = deliveries.test_message(session, data)
    with one_of_few():
        answer = receivers.post(hook.url, hook.secret, **made)
    with transaction() as session:
        hook = known_webhook(session, caller.project, webhook, hold=True)
        return DeliveryOut.of(deliveries.record_test(session, hook, made, answer))


def known_webhook(session: Session, project: int, webhook: int, *, hold: bool = False) -> Webhook:
    """The project's webhook, or a 404."""
    found = webhooks.find(session, project, webhook, hold=hold)
    if found is None:
        raise not_found("webhook", webhook)
    return found


def _detail(session: Session, hook: Webhook, limit: int) -> WebhookDetail:
    last = [DeliveryOut.of(one) for one in webhooks.deliveries(session, hook.id, limit)]
    answer = WebhookDetail.of(hook, waiting=webhooks.waiting(session, hook.id), deliveries=last)
    assert isinstance(answer, WebhookDetail)
    return answer
