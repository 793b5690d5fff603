"""The invariants of the ledger, each one query over the live database that must find nothing.

Two are about time and hold once nothing has been away for a while (``TIMED``): after an outage the reaper waits a
lease, so that a stop may take two.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from liverseg_core.data.manifest import select as chosen_slices
from liverseg_core.spec import ExperimentSpec
from store import artifacts, summaries
from store.datasets import manifest_of
from store.models import Artifact, Dataset, Run, RunEvent, SliceScore
from store.settings import settings
from store.states import FINAL, REMARKS, State, target

AT_ONCE = 100
"""Runs whose scores are read at once."""

SHOWN = 5
"""How many violations of one invariant are named."""


@dataclass(frozen=True)
class Finding:
    """One invariant and what breaks it: nothing, where it holds."""

    name: str
    broken: Sequence[str]

    @property
    def holds(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        if self.holds:
            return f"holds   {self.name}"
        more = f" and {len(self.broken) - SHOWN} more" if len(self.broken) > SHOWN else ""
        return f"BROKEN  {self.name}: {'; '.join(self.broken[:SHOWN])}{more}"


def verify(session: Session, files: bool = True) -> list[Finding]:
    """Every invariant in order.

    Args:
        session: an open session; nothing is written.
        files: also read and hash every artifact of succeeded runs.
    """
    found = [Finding(name, list(_rows(session, query))) for name, query in QUERIES.items()]
    found += [Finding(name, list(check(session))) for name, check in CHECKS.items()]
    if files:
        found.append(Finding("every artifact of a succeeded run is there and has its hash", list(_damaged(session))))
    return found


def _rows(session: Session, query: str) -> Any:
    values = {
        "lease": settings().lease_s,
        "grace": settings().grace_s,
        "announced": settings().reannounce_s + 15,
        "crashes": settings().max_crashes,
    }
    for row in session.execute(text(query), {name: one for name, one in values.items() if f":{name}" in query}):
        yield ", ".join(f"{key} {value}" for key, value in row._mapping.items())


QUERIES = {
    "at most one attempt of a run is live": """
        SELECT run_id AS run, count(*) AS live FROM attempts WHERE outcome = 'running' GROUP BY run_id
        HAVING count(*) > 1""",
    "a run is owned if and only if its last attempt is live and it has a lease": """
        SELECT r.id AS run, r.state FROM runs r LEFT JOIN attempts a ON a.run_id = r.id AND a.number = r.fence
        WHERE (r.state IN ('running', 'stopping')) <> (coalesce(a.outcome, '') = 'running')
           OR (r.state IN ('running', 'stopping')) <> (r.lease_until IS NOT NULL)""",
    "fencing numbers only rise, by one a claim": """
        SELECT r.id AS run, r.fence, count(a.number) AS attempts FROM runs r LEFT JOIN attempts a ON a.run_id = r.id
        GROUP BY r.id HAVING count(a.number) <> r.fence OR coalesce(max(a.number), 0) <> r.fence""",
    "every accepted submission has its runs": """
        SELECT e.id AS experiment FROM experiments e LEFT JOIN runs r ON r.experiment_id = e.id
        GROUP BY e.id HAVING count(r.id) = 0""",
    "no record belongs to an attempt that is not there": """
        SELECT DISTINCT x.run_id AS run, x.attempt FROM (
            SELECT run_id, attempt FROM epochs UNION SELECT run_id, attempt FROM step_losses
            UNION SELECT run_id, attempt FROM receipts UNION SELECT run_id, attempt FROM artifacts) x
        LEFT JOIN attempts a ON a.run_id = x.run_id AND a.number = x.attempt WHERE a.number IS NULL""",
    "no record was stored after its attempt had ended, but by a successor on its behalf": """
        SELECT e.run_id AS run, e.attempt, e.epoch FROM epochs e
        JOIN attempts a ON a.run_id = e.run_id AND a.number = e.attempt
        WHERE e.at > a.ended_at AND NOT EXISTS (
            SELECT 1 FROM attempts b WHERE b.run_id = a.run_id AND b.number > a.number AND b.started_at < e.at)""",
    "epochs are numbered from 1 without a gap, one value each": """
        SELECT run_id AS run, count(*) AS epochs, max(epoch) AS last FROM epochs WHERE archived_at IS NULL
        GROUP BY run_id HAVING count(*) <> max(epoch) OR min(epoch) <> 1""",
    "the checkpoint is that of the last epoch": """
        SELECT r.id AS run, r.checkpoint->>'epoch' AS checkpoint, max(e.epoch) AS last FROM runs r
        LEFT JOIN epochs e ON e.run_id = r.id AND e.archived_at IS NULL WHERE r.reused_from IS NULL
        GROUP BY r.id HAVING coalesce((r.checkpoint->>'epoch')::int, 0) <> coalesce(max(e.epoch), 0)""",
    "no step is recorded twice": """
        SELECT s.run_id AS run, s.epoch, s.first FROM step_losses s JOIN step_losses t
        ON t.run_id = s.run_id AND t.epoch = s.epoch AND (t.attempt, t.first) <> (s.attempt, s.first)
        WHERE s.archived_at IS NULL AND t.archived_at IS NULL AND t.first >= s.first
          AND t.first < s.first + cardinality(s.losses)""",
    "succeeded means exactly one successful attempt, and only then": """
        SELECT r.id AS run, r.state, count(a.number) AS succeeded FROM runs r
        LEFT JOIN attempts a ON a.run_id = r.id AND a.outcome = 'succeeded' WHERE r.reused_from IS NULL
        GROUP BY r.id HAVING count(a.number) <> (r.state = 'succeeded')::int""",
    "a succeeded run has files, or somebody gave them up": """
        SELECT r.id AS run, r.kind FROM runs r
        WHERE r.state = 'succeeded' AND r.reused_from IS NULL AND r.kind IN ('train', 'evaluate', 'predict')
          AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.run_id = r.id)
          AND NOT EXISTS (SELECT 1 FROM deletions d WHERE d.run_id = r.id)""",
    "only succeeded runs have scores": """
        SELECT DISTINCT s.run_id AS run FROM slice_scores s JOIN runs r ON r.id = s.run_id
        WHERE r.state <> 'succeeded'""",
    "a queued run is announced, or its pool is busy": """
        SELECT r.id AS run, r.announced_at FROM runs r WHERE r.state = 'queued'
        AND r.announced_at < clock_timestamp() - make_interval(secs => :announced)
        AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.pool = r.pool)
        AND NOT EXISTS (SELECT 1 FROM runs q WHERE q.pool = r.pool AND q.state IN ('running', 'stopping'))""",
    "what was asked to stop has stopped within grace and two leases": """
        SELECT r.id AS run, max(e.at) AS asked FROM runs r JOIN run_events e ON e.run_id = r.id
        WHERE r.state = 'stopping' AND e.move IN ('cancel', 'pause') GROUP BY r.id
        HAVING max(e.at) < clock_timestamp() - make_interval(secs => :grace + 2 * :lease)""",
    "crashes stay below the limit": """
        SELECT id AS run, crashes FROM runs WHERE crashes < 0 OR (crashes >= :crashes AND state <> 'dead')""",
    "a requeue says who asked for it": """
        SELECT run_id AS run, at FROM run_events WHERE move = 'requeue' AND actor IS NULL""",
    "runs, experiments and data sets that belong together are of one project": """
        SELECT r.id AS run FROM runs r JOIN experiments e ON e.id = r.experiment_id JOIN datasets d
        ON d.id = r.dataset_id LEFT JOIN runs s ON s.id = coalesce(r.reused_from, r.scored_from)
        WHERE e.project_id <> r.project_id OR d.project_id <> r.project_id
           OR coalesce(s.project_id, r.project_id) <> r.project_id""",
    "reused runs point to succeeded ones and have no attempt": """
        SELECT r.id AS run FROM runs r JOIN runs s ON s.id = r.reused_from
        WHERE s.state <> 'succeeded' OR r.fence <> 0 OR r.state <> 'succeeded'""",
}
"""What each query finds is a violation of the sentence before it."""

TIMED = (
    "a queued run is announced, or its pool is busy",
    "what was asked to stop has stopped within grace and two leases",
)
"""Those that hold once nothing has been away for a while; all others hold in every snapshot."""


def _misfolded(session: Session) -> Any:
    """Runs whose events do not lead, arrow by arrow, to their state; final states that changed."""
    states: dict[int, State | None] = {}
    for run, move, said in session.execute(
        select(RunEvent.run_id, RunEvent.move, RunEvent.state).order_by(RunEvent.run_id, RunEvent.id)
    ):
        before = states.get(run)
        if move in REMARKS and said == before:
            continue
        if move in REMARKS or target(move, before) != said or (before in FINAL and move != "requeue"):
            yield f"run {run}: {move} from {before} to {said}"
        states[run] = State(said)
    for run, state in session.execute(select(Run.id, Run.state)):
        if states.get(run) != state:
            yield f"run {run} is {state}, its events say {states.get(run)}"


def _scored_runs(session: Session) -> Iterator[Sequence[Run]]:
    """Runs that own scores, ``AT_ONCE`` at a time: the rows of ten thousand runs are no thing to hold in memory."""
    query = select(Run).where(Run.state == State.SUCCEEDED, Run.reused_from.is_(None), Run.kind != "predict")
    last = 0
    while runs := session.scalars(query.where(Run.id > last).order_by(Run.id).limit(AT_ONCE)).all():
        yield runs
        last = runs[-1].id


def _unscored(session: Session) -> Any:
    """Succeeded runs without exactly one score for each evaluated slice."""
    for runs in _scored_runs(session):
        scored = _slices_by_run(session, [run.id for run in runs])
        for run in runs:
            wanted = _to_score(manifest_of(session.get_one(Dataset, run.dataset_id)), run)
            if scored.get(run.id, set()) != wanted:
                yield f"run {run.id}: {len(scored.get(run.id, set()))} scores for {len(wanted)} slices"


def _slices_by_run(session: Session, runs: Sequence[int]) -> dict[int, set[tuple[str, int, int]]]:
    found: dict[int, set[tuple[str, int, int]]] = {}
    query = select(SliceScore.run_id, SliceScore.part, SliceScore.scan, SliceScore.slice)
    for run_id, part, scan, number in session.execute(query.where(SliceScore.run_id.in_(runs))):
        found.setdefault(run_id, set()).add((part, scan, number))
    return found


def _to_score(manifest: Manifest, run: Run) -> set[tuple[str, int, int]]:
    chosen = chosen_slices(manifest, ExperimentSpec.parse(run.spec).dataset)
    slices = ((part, manifest.slices[index]) for part in ("val", "test") for index in chosen[part])
    return {(part, one.scan, one.slice) for part, one in slices}


def _untrue_summaries(session: Session) -> Any:
    for runs in _scored_runs(session):
        yield from summaries.untrue(session, runs)


CHECKS: dict[str, Callable[[Session], Any]] = {
    "the events of a run, folded, give its state, and no final state changes but by requeue": _misfolded,
    "a succeeded run has a score for every evaluated slice": _unscored,
    "summaries say what the slices say": _untrue_summaries,
}


def _damaged(session: Session) -> Any:
    query = select(Artifact.run_id, Artifact.kind, Artifact.sha256).join(Run, Run.id == Artifact.run_id)
    intact: dict[str, bool] = {}
    for run, kind, sha256 in session.execute(query.where(Run.state == State.SUCCEEDED)):
        if sha256 not in intact:
            intact[sha256] = artifacts.intact(sha256)
        if not intact[sha256]:
            yield f"run {run}: {kind} {sha256[:12]}"
