"""Webhooks as the API takes and tells them; a secret is told once."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from store.models import Delivery, Webhook
from store.receivers import LONGEST_URL, URL
from store.webhooks import Event, Wanted

EventWord = Literal["run.ended", "experiment.ended"]
StateWord = Literal["cancelled", "dead", "failed", "succeeded"]


class WebhookBody(BaseModel):
    """Where messages go, and of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        pattern=URL, max_length=LONGEST_URL, strict=True, description="everybody in the project may see it"
    )
    events: list[EventWord] = Field(
        [Event.RUN_ENDED.value, Event.EXPERIMENT_ENDED.value], min_length=1, max_length=2, description="what to tell"
    )
    states: list[StateWord] = Field(
        ["cancelled", "dead", "failed", "succeeded"],
        min_length=1,
        max_length=4,
        description="in which states runs end that `run.ended` tells of",
    )

    @property
    def wanted(self) -> Wanted:
        """The same in one order, each word once."""
        return Wanted(self.url, tuple(sorted(set(self.events))), tuple(sorted(set(self.states))))


class WebhookSwitch(BaseModel):
    """Whether messages are sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: Annotated[bool, Field(strict=True)]


class DeliveryOut(BaseModel):
    """A message: ``message`` is its id for the receiver, ``done_at`` when it was taken or, of a test, was over.

    ``status`` and ``error`` are of the last of its ``attempts``; null: nobody answered, nothing went wrong.
    """

    message: str
    event: str
    created_at: datetime
    attempts: int
    attempted_at: datetime | None
    status: int | None
    error: str | None
    done_at: datetime | None

    @classmethod
    def of(cls, one: Delivery) -> "DeliveryOut":
        return cls(**{name: getattr(one, name) for name in cls.model_fields})


class WebhookOut(BaseModel):
    """A webhook without its secret.

    While it is not ``active``, ``off_by`` says who switched it off (null: the service itself) and ``off_reason`` why.
    ``failures``: attempts in a row that failed; ``due_at``: when the next one is made.
    """

    id: int
    url: str
    events: list[str]
    states: list[str]
    active: bool
    off_at: datetime | None
    off_by: str | None
    off_reason: str | None
    failures: int
    due_at: datetime | None
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, hook: Webhook, **more: object) -> "WebhookOut":
        same = {name: getattr(hook, name) for name in WebhookOut.model_fields if name != "active"}
        return cls(**same, active=hook.off_at is None, **more)


class NewWebhookOut(WebhookOut):
    """A new webhook; ``secret`` signs its messages, and is told again to the same request with the same key alone."""

    secret: str


class WebhookDetail(WebhookOut):
    """A webhook with its last messages, newest first, and how many it has not taken yet."""

    waiting: int
    deliveries: list[DeliveryOut]


class WebhookList(BaseModel):
    """Webhooks, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    webhooks: list[WebhookOut]
    next: int | None
