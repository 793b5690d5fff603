"""From ends of runs to messages for webhooks: written, handed to whoever sends them, and what became of them.

Every end of a run is a row of ``run_events``, written in the transaction that ends it, by workers of any version.
That table is the outbox: it is followed here, and an end becomes a delivery for each webhook that wants it, once.
"""

import json
import random
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import marks, results, views
from store.database import alone
from store.marks import Mark
from store.measure import Measure
from store.models import Delivery, Experiment, Project, Run, RunEvent, Webhook
from store.queue import seconds_from_now
from store.receivers import SEND_S, Answer
from store.settings import settings
from store.states import FINAL, REMARKS, State
from store.webhooks import Event

CHUNK = 200
"""Ends that are read at once."""

LEASE_S = 30.0
"""How long a process that claimed a message has for it; see :func:`in_time`."""

FIRST_S, LONGEST_S = 5.0, 86_400.0
"""Waits after the first failure, and at most; each is four times the one before."""

MOST_FAILURES = 10
"""In a row, after which a webhook is switched off: a day to two and a quarter after the first."""

KEPT_S = 30 * 86_400.0
"""How long messages are kept, sent or not."""

PROFILE = "overview"
"""Of the scores that a message holds."""


# ---- from moves to messages ----------------------------------------------------------------------------------


def gather(session: Session, mark: Mark | None) -> Mark | None:
    """Write a delivery for each end of a run or an experiment that a webhook wants and has none for yet.

    Does nothing where another process is at it.

    Args:
        session: an open session that has written nothing.
        mark: what the last call of this process gave.

    Returns what the next call of this process needs.
    """
    if not alone(session, 5):
        return mark
    least = session.scalar(select(func.min(Webhook.seen)).where(Webhook.off_at.is_(None)))
    newest = marks.newest(session)
    if least is None or least >= newest:
        return None
    mark = mark or marks.drawn(session, newest)
    settled = marks.complete(session, mark)
    on = select(Webhook).where(Webhook.off_at.is_(None))
    # One that is just being removed is passed over; the others stay until this is committed.
    hooks = session.scalars(on.with_for_update(read=True, key_share=True, skip_locked=True)).all()
    for ends in _new_ends(session, hooks):
        _write(session, hooks, ends)
    if not settled:
        return mark
    passed = update(Webhook).where(Webhook.id.in_([hook.id for hook in hooks]), Webhook.seen < mark.newest)
    session.execute(passed.values(seen=mark.newest), execution_options={"synchronize_session": False})
    return None


End = Row[int, datetime, str, Run, str, str]
"""Of a run: id and time of the move, the state reached, the run, and the names of its experiment and project."""

ENDS = (
    select(RunEvent.id, RunEvent.at, RunEvent.state, Run, Experiment.name.label("experiment"), Project.name)
    .join(Run, Run.id == RunEvent.run_id)
    .join(Experiment, Experiment.id == Run.experiment_id)
    .join(Project, Project.id == Run.project_id)
    .where(
        RunEvent.state.in_(FINAL),
        RunEvent.move.not_in(REMARKS),
        Run.kind != "reference",  # nobody submitted those
    )
    .order_by(RunEvent.id)
    .limit(CHUNK)
)


def _new_ends(session: Session, hooks: Sequence[Webhook]) -> Iterator[Sequence[End]]:
    last = min((hook.seen for hook in hooks), default=0)
    own = ENDS.where(Run.project_id.in_({hook.project_id for hook in hooks}))
    while hooks and (ends := session.execute(own.where(RunEvent.id > last)).all()):
        yield ends
        last = ends[-1].id


def _write(session: Session, hooks: Sequence[Webhook], ends: Sequence[End]) -> None:
    """The deliveries of some ends, in their order: a run's before that of its experiment."""
    over = _ended_experiments(session, ends)
    wanted: list[tuple[Webhook, Event, End]] = []
    for end in ends:
        for hook in hooks:
            if hook.project_id == end.Run.project_id and hook.seen < end.id:
                if Event.RUN_ENDED in hook.events and end.state in hook.states:
                    wanted.append((hook, Event.RUN_ENDED, end))
                if Event.EXPERIMENT_ENDED in hook.events and end.id in over:
                    wanted.append((hook, Event.EXPERIMENT_ENDED, end))
    keys = {(hook.id, event, end.id) for hook, event, end in wanted}
    columns = Delivery.webhook_id, Delivery.event, Delivery.move_id
    known = {tuple(row) for row in session.execute(select(*columns).where(tuple_(*columns).in_(keys)))}
    new = [one for one in wanted if (one[0].id, one[1], one[2].id) not in known]
    if not new:
        return
    told = _told(session, [(event, end) for _, event, end in new], over)
    rows = [
        {"webhook_id": hook.id, "event": event, "move_id": end.id, **message(event, end.at, told[event, end.id])}
        for hook, event, end in new
    ]
    session.execute(insert(Delivery).on_conflict_do_nothing(), rows)


def message(event: Event, at: datetime, data: dict[str, Any]) -> dict[str, str]:
    """The columns of a delivery that make up what is sent."""
    body = {"type": event, "timestamp": at.astimezone(UTC).isoformat(timespec="milliseconds"), "data": data}
    return {"message": f"msg_{uuid.uuid4().hex}", "body": json.dumps(body, ensure_ascii=False)}


def _ended_experiments(session: Session, ends: Sequence[End]) -> dict[int, dict[str, int]]:
    """For each of these ends that was the last one of its experiment: its move -> how many runs are in each state."""
    mine = {end.Run.experiment_id for end in ends}
    open_ = select(Run.experiment_id).where(Run.experiment_id.in_(mine), Run.state.not_in(FINAL))
    over = mine - set(session.scalars(open_))
    lasts = (
        select(func.max(RunEvent.id))
        .join(Run, Run.id == RunEvent.run_id)
        .where(Run.experiment_id.in_(over), RunEvent.state.in_(FINAL), RunEvent.move.not_in(REMARKS))
        .group_by(Run.experiment_id)
    )
    last = set(session.scalars(lasts))
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    by_state = select(Run.experiment_id, Run.state, func.count()).where(Run.experiment_id.in_(over))
    for experiment, state, count in session.execute(by_state.group_by(Run.experiment_id, Run.state)):
        counts[experiment][state] = count
    return {end.id: counts[end.Run.experiment_id] for end in ends if end.id in last}


# ---- what a message says -------------------------------------------------------------------------------------


def _told(
    session: Session, new: Sequence[tuple[Event, End]], over: dict[int, dict[str, int]]
) -> dict[tuple[Event, int], dict[str, Any]]:
    """(event, move) -> the data of its message."""
    runs = {end.id: end.Run for event, end in new if event == Event.RUN_ENDED and end.state == State.SUCCEEDED}
    scored = _headlines(session, list(runs.values()))
    return {
        (event, end.id): _run(end, scored) if event == Event.RUN_ENDED else _experiment(end, over[end.id])
        for event, end in new
    }


def _run(end: End, scored: dict[int, dict[str, Any]]) -> dict[str, Any]:
    run = end.Run
    return {
        "run": run.id,
        "name": run.name,
        "kind": run.kind,
        "state": end.state,
        "reason": run.reason if end.state == run.state else None,
        "reused_from": run.reused_from,
        "experiment": run.experiment_id,
        "experiment_name": end.experiment,
        "project": end.name,
        "scores": scored.get(run.id) if end.state == State.SUCCEEDED else None,
        "link": f"{settings().url}/runs/{run.id}",
    }


def _experiment(end: End, states: dict[str, int]) -> dict[str, Any]:
    number = end.Run.experiment_id
    return {
        "experiment": number,
        "name": end.experiment,
        "project": end.name,
        "runs": sum(states.values()),
        "states": states,
        "link": f"{settings().url}/comparisons?experiment={number}",
    }


def _headlines(session: Session, runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    """Run -> what the overview shows of it, for those that have scores."""
    if not runs:
        return {}
    found = {}
    for number, parts in results.read(session, runs, Measure.of(PROFILE, None)).items():
        run = next(one for one in runs if one.id == number)
        part = views.shown_part(run, parts)
        if part is not None:
            found[number] = {"profile": PROFILE, "part": part, **parts[part].scores.numbers}
    return found


# ---- handing out, and what became of it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Claimed:
    """A message that this process, and until ``until`` no other, is to send."""

    webhook: int
    url: str
    secret: str
    until: datetime
    delivery: int
    message: str
    body: str


DUE = text("""
    SELECT id FROM webhooks WHERE off_at IS NULL
        AND coalesce(due_at <= clock_timestamp(), true) AND coalesce(claimed_until <= clock_timestamp(), true)
        AND EXISTS (SELECT FROM webhook_deliveries d WHERE d.webhook_id = webhooks.id AND d.done_at IS NULL)
    ORDER BY claimed_until NULLS FIRST, id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED""")
"""Locks the webhooks that are due, those first that have waited longest since their last message."""

CLAIM = text("""
    UPDATE webhooks SET claimed_until = clock_timestamp() + make_interval(secs => :lease_s)
    FROM unnest(CAST(:due AS bigint[])) AS due (id) CROSS JOIN LATERAL (
        SELECT id, message, body FROM webhook_deliveries d WHERE d.webhook_id = due.id AND d.done_at IS NULL
        ORDER BY id LIMIT 1
    ) first
    WHERE webhooks.id = due.id
    RETURNING webhooks.id AS webhook, url, secret, claimed_until AS until, first.id AS delivery, message, body""")
"""The oldest message of each webhook of ``due``. One statement for both would see webhooks as they are when it locks
them, but messages as they were when it began, and could send again what was taken in between."""


def claim(session: Session, most: int) -> list[Claimed]:
    """Take up to ``most`` messages of as many webhooks; messages of one webhook are sent one after the other."""
    due = session.scalars(DUE, {"most": most}).all()
    if not due:
        return []
    rows = session.execute(CLAIM, {"due": due, "lease_s": LEASE_S}).mappings()
    return [Claimed(**row) for row in rows]


def settle(session: Session, sent: Claimed, answer: Answer) -> None:
    """Keep what became of a message: taken, or tried again later; a webhook that fails too often is switched off."""
    hook = session.get(Webhook, sent.webhook, with_for_update=True)
    if hook is None:  # removed meanwhile
        return
    now, taken = func.clock_timestamp(), answer.error is None
    tried = {"attempts": Delivery.attempts + 1, "attempted_at": now, "status": answer.status, "error": answer.error}
    one = update(Delivery).where(Delivery.id == sent.delivery, Delivery.done_at.is_(None))
    session.execute(one.values(**tried, **({"done_at": now} if taken else {})))
    if hook.claimed_until != sent.until:  # this took longer than the lease, and another process is at it
        return
    hook.claimed_until = now
    hook.failures = 0 if taken else hook.failures + 1
    hook.due_at = None if taken else seconds_from_now(wait_s(hook.failures))
    if hook.failures >= MOST_FAILURES and hook.off_at is None:
        hook.off_at, hook.off_by = now, None
        hook.off_reason = f"{hook.failures} attempts in a row failed; the last: {answer.error}"


def wait_s(failures: int) -> float:
    """How long to wait after so many failures in a row: from half to all of 5 s, 20 s, 80 s ..., a day at most."""
    return min(LONGEST_S, FIRST_S * 4.0 ** (failures - 1)) * random.uniform(0.5, 1)  # nosec B311  # noqa: S311


def in_time(waited_s: float) -> bool:
    """Whether a message that was claimed so long ago may still be sent, so that nobody else does at the same time."""
    return waited_s < LEASE_S - 2 * SEND_S


def test_message(session: Session, data: dict[str, Any]) -> dict[str, str]:
    """What a test sends, by the database's clock."""
    return message(Event.TEST, session.scalars(select(func.clock_timestamp())).one(), data)


def record_test(session: Session, webhook: Webhook, made: dict[str, str], answer: Answer) -> Delivery:
    """Keep what became of a test, which is not tried again."""
    now = func.clock_timestamp()
    kept = Delivery(webhook_id=webhook.id, event=Event.TEST, **made, attempts=1, attempted_at=now, done_at=now)
    kept.status, kept.error = answer.status, answer.error
    session.add(kept)
    session.flush()
    session.refresh(kept)
    return kept


def forget(session: Session) -> int:
    """Remove messages that are kept no longer; how many went."""
    old = delete(Delivery).where(Delivery.created_at < seconds_from_now(-KEPT_S)).returning(Delivery.id)
    return len(session.scalars(old).all())
