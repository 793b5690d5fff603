"""Claim, lease, release, reap: what each does, and what a worker that lost its run cannot do."""

import pytest
from sqlalchemy import text

from store import batches, endings, experiments, queue, scores, views, waiting, wishes
from store.batches import Batch, Finished, Steps
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT, Run
from store.queue import Claim, Known, LeaseLost
from store.states import IllegalMove, Outcome, State
from store.verify import verify
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def attempts(run_id):
    columns = "number, outcome, exit_code, message, ended_at IS NOT NULL"
    return ledger.rows(f"SELECT {columns} FROM attempts WHERE run_id = :run ORDER BY 1", run=run_id)


def moves(run_id):
    return [
        move for (move,) in ledger.rows("SELECT move FROM run_events WHERE run_id = :run ORDER BY id", run=run_id)
    ]


def write(change, *arguments):
    with transaction() as session:
        return change(session, *arguments)


# --- claim -----------------------------------------------------------------------------------------------------


def test_nothing_to_claim_is_none():
    assert ledger.claim() is None


def test_claim_takes_priority_first_then_age():
    first, second, third, fourth = ledger.submit(seeds=4)
    ledger.execute("UPDATE runs SET priority = 5 WHERE id IN (:a, :b)", a=third, b=fourth)
    ledger.execute("UPDATE runs SET priority = -1 WHERE id = :a", a=first)
    assert [ledger.claim().claim.run_id for _ in range(4)] == [third, fourth, second, first]
    assert ledger.claim() is None


def test_claim_keeps_to_its_pool():
    run, other = ledger.submit(seeds=2)
    ledger.execute("UPDATE runs SET pool = 'gpu' WHERE id = :a", a=run)
    assert ledger.claim("gpu").claim.run_id == run
    assert ledger.claim("gpu") is None
    assert ledger.claim("default").claim.run_id == other


def test_claim_skips_a_locked_run_and_takes_the_next():
    best, next_best = ledger.submit(seeds=2)
    with transaction() as session:
        session.execute(text("SELECT 1 FROM runs WHERE id = :a FOR UPDATE"), {"a": best})
        assert ledger.claim().claim.run_id == next_best  # does not wait
    assert ledger.claim().claim.run_id == best


def test_claim_gives_what_a_worker_needs(phantom):
    (run,) = ledger.submit()
    work = ledger.claim(worker="host-a:1")
    assert work.claim == Claim(run, 1)
    assert (work.kind, work.weights, work.checkpoint) == ("train", None, None)
    assert work.spec["training"]["batch_size"] == 4
    assert (work.manifest.to_json(), work.content_hash) == (phantom.manifest, phantom.content_hash)
    assert work.dataset_artifact == phantom.artifact
    assert attempts(run) == [(1, "running", None, None, False)]
    (left,) = ledger.rows("SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM runs")[0]
    assert ledger.LEASE_S - 5 < left <= ledger.LEASE_S


def test_the_first_start_is_kept_and_the_fence_rises():
    (run,) = ledger.submit()
    write(endings.release, ledger.claim().claim, Ending())
    first_start = ledger.run(run).started_at
    assert ledger.claim().claim.fence == 2
    assert ledger.run(run).started_at == first_start


def test_an_attempt_knows_where_it_resumes():
    held = ledger.claimed()
    write(factories.store_epoch, held, factories.epoch_record(1), ledger.CHECKPOINT)
    write(endings.release, held, Ending())
    assert ledger.claim().checkpoint == ledger.CHECKPOINT | {"before": None}
    assert ledger.rows("SELECT number, resumed_from FROM attempts ORDER BY 1") == [(1, 0), (2, 1)]


# --- fencing ---------------------------------------------------------------------------------------------------

WRITES = {
    "heartbeat": lambda s, c: queue.heartbeat(s, c, 30, {"phase": "training"}),
    "heartbeat with news": lambda s, c: queue.heartbeat(s, c, 30, None, Known({"device": "Some GPU"}, 700)),
    "record_epoch": lambda s, c: factories.store_epoch(s, c, factories.epoch_record(2), ledger.CHECKPOINT),
    "fall_back": lambda s, c: batches.fall_back(s, c, ledger.CHECKPOINT),
    "hold": lambda s, c: endings.hold(s, c, Ending(5, reason="disk-full")),
    "fail": lambda s, c: endings.fail(s, c, "loss-not-finite", Ending(1, "NaN")),
    "release": lambda s, c: endings.release(s, c, Ending(0)),
    "crash": lambda s, c: endings.crash(s, c, Ending(-9), 3),
    "finish": lambda s, c: scores.finish(s, c, [factories.slice_score()], {}, 1, Ending(0)),
}


@pytest.fixture
def reclaimed():
    """A claim that was lost: its run was taken back and claimed by another worker."""
    old = ledger.claimed()
    write(factories.store_epoch, old, factories.epoch_record(1), ledger.CHECKPOINT)
    write(endings.crash, old, Ending(-9), 3)
    new = ledger.claim(worker="another").claim
    assert new == Claim(old.run_id, old.fence + 1)
    return old


@pytest.mark.parametrize("name", WRITES)
def test_a_write_with_an_old_fence_is_refused_and_changes_nothing(name, reclaimed):
    before = ledger.everything()
    with pytest.raises(LeaseLost):
        write(WRITES[name], reclaimed)
    assert ledger.everything() == before


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("ending", ["fail", "release", "crash", "finish"])
def test_a_write_after_the_end_of_ones_own_attempt_is_refused(name, ending):
    held = ledger.claimed()
    write(WRITES[ending], held)
    before = ledger.everything()
    with pytest.raises(LeaseLost):
        write(WRITES[name], held)
    assert ledger.everything() == before


@pytest.mark.parametrize("name", WRITES)
def test_a_forged_claim_is_refused(name):
    held = ledger.claimed()
    before = ledger.everything()
    for forged in (Claim(held.run_id, held.fence + 1), Claim(held.run_id + 999, 1)):
        with pytest.raises(LeaseLost):
            write(WRITES[name], forged)
    assert ledger.everything() == before


# --- heartbeat -------------------------------------------------------------------------------------------------


def test_heartbeat_renews_the_lease_and_keeps_the_last_progress():
    held = ledger.claimed()
    before = ledger.run(held.run_id).lease_until
    assert write(queue.heartbeat, held, 60, {"phase": "training", "epoch": 2}) == State.RUNNING
    assert write(queue.heartbeat, held, 60) == State.RUNNING
    after = ledger.run(held.run_id)
    assert after.progress == {"phase": "training", "epoch": 2}
    assert 25 < (after.lease_until - before).total_seconds() < 40  # 60 s from now instead of 30


def test_heartbeat_tells_of_a_cancel():
    held = ledger.claimed()
    write(wishes.cancel, DEFAULT_PROJECT, held.run_id)
    assert write(queue.heartbeat, held, 30) == State.STOPPING


def test_an_owner_may_come_back_while_nobody_has_taken_its_run():
    held = ledger.claimed()
    expire(held.run_id)
    assert write(queue.heartbeat, held, 30) == State.RUNNING
    assert reap() == []


def test_what_heartbeats_told_of_an_attempt_outlives_its_worker():
    held = ledger.claimed()
    seen = "SELECT provenance, peak_memory_mb FROM attempts"
    write(queue.heartbeat, held, 30, None, Known(None, 300))
    assert ledger.rows(seen) == [(None, 300)]
    write(queue.heartbeat, held, 30, None, Known({"device": "Some GPU"}, 700))
    write(queue.heartbeat, held, 30)
    assert ledger.rows(seen) == [({"device": "Some GPU"}, 700)]
    expire(held.run_id)
    assert reap() == [held.run_id]
    assert ledger.rows("SELECT outcome, exit_code FROM attempts") == [("lost", None)]
    assert ledger.rows(seen) == [({"device": "Some GPU"}, 700)]


def test_a_resume_on_different_hardware_is_one_event_and_no_move():
    held = ledger.claimed()
    here = {"processor": "B", "threads": "2"}
    write(queue.heartbeat, held, 30, None, Known(here))
    assert moves(held.run_id) == ["submit", "claim"]
    elsewhere = here | {"changed_from": {"processor": "A", "threads": "1"}}
    for memory in (300, 700):  # the first commit's reply was lost
        write(queue.heartbeat, held, 30, None, Known(elsewhere, memory))
    told = "SELECT move, state, attempt, actor, detail FROM run_events WHERE move = 'elsewhere'"
    detail = "resumed on different hardware: processor A, then B; threads 1, then 2"
    assert ledger.rows(told) == [("elsewhere", "running", 1, "w", detail)]
    expire(held.run_id)
    assert reap() == [held.run_id]
    assert write(queue.heartbeat, held, 30, None, Known(elsewhere, 800)) == State.RUNNING  # taken up again
    ledger.finish(held)
    assert moves(held.run_id) == ["submit", "claim", "elsewhere", "crash", "reattach", "succeed"]
    with transaction() as session:
        folded = next(one for one in verify(session, files=False) if one.name.startswith("the events of a run"))
    assert folded.holds, str(folded)


def test_what_is_known_at_an_end_counts_over_what_heartbeats_told():
    held = ledger.claimed()
    write(queue.heartbeat, held, 30, None, Known({"device": "Some GPU"}, 700))
    write(endings.crash, held, Ending(-9, peak_memory_mb=900), 3)
    assert ledger.rows("SELECT provenance, peak_memory_mb FROM attempts") == [({"device": "Some GPU"}, 900)]


# --- the ends of an attempt ------------------------------------------------------------------------------------


def test_fail_says_why():
    held = ledger.claimed()
    write(endings.fail, held, "loss-not-finite", Ending(3, "epoch 2: the loss is NaN", 512, {"keras": "3.15"}))
    run = ledger.run(held.run_id)
    assert (run.state, run.reason, run.message) == ("failed", "loss-not-finite", "epoch 2: the loss is NaN")
    assert (run.lease_until, run.progress) == (None, None)
    assert run.finished_at is not None
    assert attempts(held.run_id) == [(1, "failed", 3, "epoch 2: the loss is NaN", True)]
    assert ledger.rows("SELECT peak_memory_mb, provenance FROM attempts") == [(512, {"keras": "3.15"})]


def test_release_burns_nothing_and_announces_again():
    held = ledger.claimed()
    for _ in range(5):  # more often than a run may crash
        write(endings.release, held, Ending(0, "asked to stop"))
        held = ledger.claim().claim
    run = ledger.run(held.run_id)
    assert (run.state, run.crashes, run.fence, run.finished_at) == ("running", 0, 6, None)
    assert [outcome for _, outcome, *_ in attempts(held.run_id)] == ["preempted"] * 5 + ["running"]
    assert ledger.rows("SELECT number FROM outbox ORDER BY id") == [(n,) for n in range(1, 7)]


def test_crashes_up_to_the_limit_then_dead_then_requeued():
    held = ledger.claimed()
    write(endings.crash, held, Ending(-9, "killed"), 3)
    assert ledger.run(held.run_id).state == "queued"
    write(endings.crash, ledger.claim().claim, Ending(-11, "segmentation fault"), 3)
    assert (ledger.run(held.run_id).state, ledger.run(held.run_id).crashes) == ("queued", 2)
    write(endings.crash, ledger.claim().claim, Ending(-9, "killed again"), 3)
    dead = ledger.run(held.run_id)
    assert (dead.state, dead.crashes, dead.reason) == ("dead", 3, "crashed-too-often")
    assert "3 attempts" in dead.message
    assert "killed again" in dead.message
    assert dead.finished_at is not None
    assert ledger.claim() is None

    back = write(wishes.requeue, DEFAULT_PROJECT, held.run_id)
    assert (back.state, back.crashes, back.reason, back.message) == ("queued", 0, None, None)
    assert back.finished_at is None
    again = ledger.claim().claim
    assert again.fence == 4  # still only rises
    write(endings.crash, again, Ending(-9), 3)
    assert ledger.run(held.run_id).state == "queued"
    assert moves(held.run_id)[-4:] == ["poison", "requeue", "claim", "crash"]


@pytest.mark.parametrize("end", ["fail", "release", "crash", "finish"])
def test_a_cancel_that_came_first_wins(end):
    held = ledger.claimed()
    write(wishes.cancel, DEFAULT_PROJECT, held.run_id)
    write(WRITES[end], held)
    run = ledger.run(held.run_id)
    assert (run.state, run.crashes, run.reason, run.best_epoch) == ("cancelled", 0, None, None)
    assert [outcome for _, outcome, *_ in attempts(held.run_id)] == ["cancelled"]
    assert ledger.rows("SELECT count(*) FROM slice_scores") == [(0,)]
    assert moves(held.run_id) == ["submit", "claim", "cancel", "cancelled"]


# --- cancel and requeue ----------------------------------------------------------------------------------------


def in_state(state):
    """A run in ``state``, reached by real moves."""
    if state == State.QUEUED:
        return ledger.submit()[0]
    held = ledger.claimed()
    ends = {State.SUCCEEDED: "finish", State.FAILED: "fail", State.PAUSED: "hold"}
    if state in ends:
        write(WRITES[ends[state]], held)
    if state == State.DEAD:
        write(endings.crash, held, Ending(-9), 1)
    if state in (State.STOPPING, State.CANCELLED):
        write(wishes.cancel, DEFAULT_PROJECT, held.run_id)
    if state == State.CANCELLED:
        write(endings.release, held, Ending())
    assert ledger.run(held.run_id).state == state
    return held.run_id


@pytest.mark.parametrize(
    ("state", "reached"),
    [("queued", "cancelled"), ("running", "stopping"), ("stopping", "stopping"), ("cancelled", "cancelled")],
)
def test_cancel_twice_is_cancel_once(state, reached):
    run_id = in_state(State(state))
    assert write(wishes.cancel, DEFAULT_PROJECT, run_id).state == reached
    before = ledger.everything()
    assert write(wishes.cancel, DEFAULT_PROJECT, run_id).state == reached
    assert ledger.everything() == before


@pytest.mark.parametrize("state", ["succeeded", "failed", "dead"])
def test_an_ended_run_cannot_be_cancelled(state):
    run_id = in_state(State(state))
    before = ledger.everything()
    with pytest.raises(IllegalMove):
        write(wishes.cancel, DEFAULT_PROJECT, run_id)
    assert ledger.everything() == before


@pytest.mark.parametrize("state", [state for state in State if state not in (State.FAILED, State.CANCELLED)])
def test_only_a_failed_or_cancelled_run_is_tried_again(state):
    run_id = in_state(state)
    before = ledger.everything()
    with transaction() as session, pytest.raises(IllegalMove, match="only a failed or cancelled run can"):
        experiments.retry(session, DEFAULT_PROJECT, run_id)
    assert ledger.everything() == before  # although the transaction was committed


@pytest.mark.parametrize("state", [state for state in State if state != State.DEAD])
def test_only_a_dead_run_is_requeued(state):
    run_id = in_state(state)
    before = ledger.everything()
    with transaction() as session, pytest.raises(IllegalMove):
        wishes.requeue(session, DEFAULT_PROJECT, run_id)
    assert ledger.everything() == before  # although the transaction was committed


def test_a_cancelled_queued_run_is_not_claimed():
    (run,) = ledger.submit()
    cancelled = write(wishes.cancel, DEFAULT_PROJECT, run)
    assert cancelled.finished_at is not None  # readable after the transaction
    assert ledger.claim() is None


def test_another_projects_run_is_none():
    (run,) = ledger.submit()
    other = ledger.second_project()
    assert write(wishes.cancel, other, run) is None
    assert write(wishes.requeue, other, run) is None
    assert ledger.run(run).state == "queued"


def test_a_session_that_saw_an_older_state_still_moves_from_the_true_one():
    held = ledger.claimed()
    with transaction() as session:
        seen = views.run(session, DEFAULT_PROJECT, held.run_id)  # kept, else the session forgets it
        assert seen.state == "running"
        ledger.finish(held)
        with pytest.raises(IllegalMove):
            wishes.cancel(session, DEFAULT_PROJECT, held.run_id)
    assert ledger.run(held.run_id).state == "succeeded"


# --- epochs and checkpoints ------------------------------------------------------------------------------------


def test_a_batch_that_is_sent_twice_is_stored_once():
    held = ledger.claimed()
    batch = Batch(7, [Steps(1, 1, (0.5, 0.25))], [Finished(factories.epoch_record(1, loss=0.25), ledger.CHECKPOINT)])
    # The first commit's reply was lost, so the worker sends it again.
    assert [write(batches.record, held, batch) for _ in range(2)] == [True, False]
    assert ledger.rows("SELECT run_id, attempt, epoch, loss FROM epochs") == [(held.run_id, 1, 1, 0.25)]
    assert ledger.rows("SELECT attempt, epoch, first, losses FROM step_losses") == [(1, 1, 1, [0.5, 0.25])]
    assert ledger.run(held.run_id).checkpoint == ledger.CHECKPOINT | {"before": None}
    assert ledger.rows("SELECT run_id, attempt, batch FROM receipts") == [(held.run_id, 1, 7)]


def test_an_epoch_and_its_checkpoint_are_stored_together_or_not_at_all():
    held = ledger.claimed()
    with pytest.raises(ZeroDivisionError), transaction() as session:  # noqa: PT012 - the block is the subject
        factories.store_epoch(session, held, factories.epoch_record(1), ledger.CHECKPOINT)
        raise ZeroDivisionError
    assert ledger.run(held.run_id).checkpoint is None
    assert ledger.rows("SELECT count(*) FROM epochs") == [(0,)]


def test_a_resumed_attempt_goes_on_where_the_last_one_ended():
    held = ledger.claimed()
    write(factories.store_epoch, held, factories.epoch_record(1), ledger.CHECKPOINT)
    write(endings.crash, held, Ending(-9), 3)
    again = ledger.claim().claim
    write(factories.store_epoch, again, factories.epoch_record(2), ledger.CHECKPOINT | {"epoch": 2})
    with transaction() as session:
        assert [(one.epoch, one.attempt) for one in views.epochs(session, held.run_id)] == [(1, 1), (2, 2)]


def reclaimed_after(epochs):
    """A run that crashed after so many epochs, each with its checkpoint, and that is claimed again."""
    held = ledger.claimed()
    for epoch in range(1, epochs + 1):
        kept = ledger.CHECKPOINT | {"epoch": epoch, "path": f"/nowhere/{epoch}.npz"}
        write(factories.store_epoch, held, factories.epoch_record(epoch, loss=0.9), kept)
    write(endings.crash, held, Ending(-9), 3)
    return ledger.claim().claim


def live_and_archived():
    query = "SELECT attempt, epoch FROM epochs WHERE archived_at IS {} NULL ORDER BY epoch"
    return ledger.rows(query.format("")), ledger.rows(query.format("NOT"))


def test_falling_back_goes_to_the_checkpoint_before_and_archives_what_followed_it():
    again = reclaimed_after(epochs=3)
    assert ledger.run(again.run_id).checkpoint["before"]["epoch"] == 2
    newest = ledger.run(again.run_id).checkpoint
    for _ in range(2):  # the first answer got lost
        assert write(batches.fall_back, again, newest)["path"] == "/nowhere/2.npz"
    assert ledger.rows("SELECT resumed_from FROM attempts WHERE number = 2") == [(2,)]
    assert live_and_archived() == ([(1, 1), (1, 2)], [(1, 3)])
    write(factories.store_epoch, again, factories.epoch_record(3, loss=0.5), ledger.CHECKPOINT | {"epoch": 3})
    assert live_and_archived() == ([(1, 1), (1, 2), (2, 3)], [(1, 3)])


def test_falling_back_twice_begins_again():
    again = reclaimed_after(epochs=3)
    before = write(batches.fall_back, again, ledger.run(again.run_id).checkpoint)
    assert write(batches.fall_back, again, before) is None
    assert ledger.run(again.run_id).checkpoint is None
    assert ledger.rows("SELECT resumed_from FROM attempts WHERE number = 2") == [(0,)]
    assert live_and_archived() == ([], [(1, 1), (1, 2), (1, 3)])


def test_steps_past_the_checkpoint_are_archived_at_the_next_claim():
    held = ledger.claimed()
    write(factories.store_epoch, held, factories.epoch_record(1), ledger.CHECKPOINT)
    write(batches.record, held, Batch(2, [Steps(1, 1, (0.5,)), Steps(2, 1, (0.4, 0.3))]))
    write(endings.crash, held, Ending(-9), 3)
    ledger.claim()
    rows = ledger.rows("SELECT epoch, first, losses, archived_at IS NULL FROM step_losses ORDER BY epoch")
    assert rows == [(1, 1, [0.5], True), (2, 1, [0.4, 0.3], False)]


# --- reap ------------------------------------------------------------------------------------------------------


def expire(run_id):
    ledger.execute("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :a", a=run_id)


def reap(lease_s=0.0, max_crashes=3):
    return write(endings.reap, lease_s, max_crashes)


def test_reap_takes_only_what_has_run_out():
    living, lost = ledger.claimed(), ledger.claimed()
    expire(lost.run_id)
    assert reap() == [lost.run_id]
    assert ledger.run(living.run_id).state == "running"
    assert (ledger.run(lost.run_id).state, ledger.run(lost.run_id).crashes) == ("queued", 1)
    assert [outcome for _, outcome, *_ in attempts(lost.run_id)] == [Outcome.LOST]
    assert reap() == []


def test_reap_counts_towards_dead():
    held = ledger.claimed()
    expire(held.run_id)
    assert reap(max_crashes=1) == [held.run_id]
    assert ledger.run(held.run_id).state == "dead"


def test_reap_ends_a_cancelled_run_whose_worker_is_gone():
    held = ledger.claimed()
    write(wishes.cancel, DEFAULT_PROJECT, held.run_id)
    expire(held.run_id)
    assert reap() == [held.run_id]
    assert (ledger.run(held.run_id).state, ledger.run(held.run_id).crashes) == ("cancelled", 0)


def paused_and_resumed(held):
    """Its worker died while it was to pause, which counts as no crash."""
    write(wishes.pause, DEFAULT_PROJECT, held.run_id)
    expire(held.run_id)
    assert reap() == [held.run_id]
    write(wishes.resume, DEFAULT_PROJECT, held.run_id)


def requeued(held):
    expire(held.run_id)
    assert reap(max_crashes=1) == [held.run_id]
    write(wishes.requeue, DEFAULT_PROJECT, held.run_id)


@pytest.mark.parametrize("lost", [paused_and_resumed, requeued])
def test_a_lost_worker_does_not_come_back_after_somebody_decided(lost):
    """It would give back a crash that was not counted, or that the requeue has forgiven."""
    held = ledger.claimed()
    lost(held)
    before = ledger.everything()
    with pytest.raises(LeaseLost):
        write(queue.heartbeat, held, 30)
    assert ledger.everything() == before
    assert ledger.claim().claim == Claim(held.run_id, 2)
    assert ledger.run(held.run_id).crashes == 0


def test_reap_waits_a_lease_after_the_start_of_postgres():
    held = ledger.claimed()
    expire(held.run_id)
    (age,) = ledger.rows("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8")[0]
    assert reap(lease_s=age + 60) == []
    assert ledger.run(held.run_id).state == "running"
    assert reap(lease_s=age) == [held.run_id]


def test_reap_does_not_wait_for_a_run_that_its_worker_is_ending():
    held = ledger.claimed()
    expire(held.run_id)
    with transaction() as session:
        queue.owned(session, held)
        assert reap() == []


def test_counts_of_the_queue():
    ledger.submit(seeds=3)
    ledger.execute("UPDATE runs SET pool = 'gpu' WHERE id = 3")
    with transaction() as session:
        assert waiting.queued(session) == {"default": 2, "gpu": 1}
        assert [views.ahead(session, session.get_one(Run, number)) for number in (1, 2, 3)] == [0, 1, 0]


def test_imported_weights_are_queued_as_an_evaluation():
    with transaction() as session:
        spec = factories.submission().expand()[0]
        made = experiments.submit_weights(session, DEFAULT_PROJECT, spec, "f" * 64)
    work = ledger.claim()
    assert (work.kind, work.weights) == ("evaluate", "f" * 64)
    assert ledger.run(work.claim.run_id).experiment_id == made.experiment.id
