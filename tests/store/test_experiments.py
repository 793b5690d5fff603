"""Submitting: all or nothing, once for one key, reuse of finished runs, many cells."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from store import deletion, endings, experiments, views, wishes
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def submit(key=None, reuse=True, project=DEFAULT_PROJECT, **fields):
    with transaction() as session:
        made = experiments.submit(session, project, factories.submission(**fields), key=key, reuse=reuse)
        return made.experiment.id, made.new


def plan(**fields):
    with transaction() as session:
        return experiments.plan(session, DEFAULT_PROJECT, factories.submission(**fields))


def refused(count_rows, **fields):
    """Submit what must be refused; the error, after checking that nothing was written."""
    before = count_rows()
    with pytest.raises(SpecError) as caught:
        submit(**fields)
    assert count_rows() == before
    return caught.value


def test_submit_writes_the_experiment_its_run_an_event_and_an_announcement(phantom):
    experiment, new = submit(spec=factories.tiny_spec(name="first", tags=["a", "b"], notes="why"))
    assert new
    (run_id,) = [one for (one,) in ledger.rows("SELECT id FROM runs")]
    run = ledger.run(run_id)
    assert (run.experiment_id, run.dataset_id, run.project_id) == (experiment, phantom.id, DEFAULT_PROJECT)
    assert (run.kind, run.state, run.pool, run.name, run.tags, run.notes) == (
        "train", "queued", "default", "first", ["a", "b"], "why",
    )  # fmt: skip
    assert run.spec["training"]["learning_rate"] == 1e-3  # defaults are written out
    assert run.announcements == 1
    assert run.announced_at is not None
    assert ledger.rows("SELECT run_id, pool, number FROM outbox") == [(run_id, "default", 1)]
    assert ledger.rows("SELECT move, state FROM run_events") == [("submit", "queued")]


def test_plan_writes_nothing_and_says_what_would_be_reused(count_rows):
    done = ledger.finished()
    before = count_rows()
    planned = plan(grid={"training.learning_rate": [1e-3, 1e-4]})
    assert [one.reused_from for one in planned] == [done, None]
    assert [one.spec.training.learning_rate for one in planned] == [1e-3, 1e-4]
    assert count_rows() == before


def test_variants_times_grid_times_seeds_in_that_order():
    submit(
        variants=[{"name": "a"}, {"name": "b", "model.filters": 4}],
        grid={"training.learning_rate": [1e-3, 1e-4], "training.optimizer": ["adam", "sgd"]},
        seeds=[5, 7],
    )
    cells = ledger.rows("""
      SELECT name, spec->'model'->'filters', spec->'training'->'learning_rate', spec->'training'->>'optimizer',
             spec->'training'->'seed' FROM runs ORDER BY id""")
    expected = [
        (name, filters, rate, optimizer, seed)
        for name, filters in (("a", 2), ("b", 4))
        for rate in (1e-3, 1e-4)
        for optimizer in ("adam", "sgd")
        for seed in (5, 7)
    ]
    assert cells == expected


# --- reuse -----------------------------------------------------------------------------------------------------


def test_a_finished_run_is_reused_and_needs_no_attempt():
    done = ledger.finished()
    submit(spec=factories.tiny_spec(name="another label"))
    again = ledger.run(done + 1)
    assert (again.state, again.reused_from, again.fence) == ("succeeded", done, 0)
    assert again.finished_at is not None
    assert views.source(again) == done
    assert ledger.rows("SELECT move FROM run_events WHERE run_id = :a", a=again.id) == [("reuse",)]
    assert ledger.claim() is None


def test_of_a_grid_the_new_cells_wait_and_the_known_one_is_shown_each_with_its_own_event():
    done = ledger.finished()
    with transaction() as session:
        asked = factories.submission(seeds=[0, 5, 6])
        made = experiments.submit(session, DEFAULT_PROJECT, asked, actor="ann")
    told = ledger.rows(
        "SELECT r.id, e.move, e.state, e.actor, r.state, r.announcements, r.announced_at IS NULL, "
        "r.finished_at IS NULL FROM run_events e JOIN runs r ON r.id = e.run_id WHERE r.experiment_id = :a "
        "ORDER BY e.id",
        a=made.experiment.id,
    )
    assert told == [
        (done + 1, "reuse", "succeeded", "ann", "succeeded", 0, True, False),
        (done + 2, "submit", "queued", "ann", "queued", 1, False, True),
        (done + 3, "submit", "queued", "ann", "queued", 1, False, True),
    ]
    sent = ledger.rows("SELECT run_id, pool, number FROM outbox WHERE run_id > :a ORDER BY id", a=done)
    assert sent == [(done + 2, "default", 1), (done + 3, "default", 1)]


def test_a_reused_run_is_never_reused_itself():
    done = ledger.finished()
    for _ in range(2):
        submit()
    assert ledger.rows("SELECT DISTINCT reused_from FROM runs WHERE id > :a", a=done) == [(done,)]


def test_the_oldest_result_is_reused():
    oldest, _ = ledger.finished(), ledger.finished()
    (planned,) = plan()
    assert planned.reused_from == oldest


@pytest.mark.parametrize(
    "fields",
    [
        {"spec": factories.tiny_spec(training={"batch_size": 2, "epochs": 2})},
        {"seeds": [1]},
        {"spec": factories.tiny_spec("other-content")},
    ],
)
def test_another_setting_seed_or_content_is_not_reused(fields):
    ledger.dataset("other-content", mark="b")
    ledger.finished()
    assert [one.reused_from for one in plan(**fields)] == [None]


def test_the_same_content_under_another_name_is_reused():
    ledger.dataset("second-name")
    done = ledger.finished()
    assert [one.reused_from for one in plan(spec=factories.tiny_spec("second-name"))] == [done]


@pytest.mark.parametrize("state", ["failed", "cancelled", "dead", "running", "queued"])
def test_only_success_is_reused(state):
    done = ledger.finished()
    ledger.execute("UPDATE runs SET state = :state WHERE id = :a", state=state, a=done)
    assert [one.reused_from for one in plan()] == [None]


def test_reuse_can_be_refused():
    done = ledger.finished()
    submit(reuse=False)
    assert (ledger.run(done + 1).state, ledger.run(done + 1).reused_from) == ("queued", None)


def test_another_projects_result_is_not_reused():
    ledger.finished()
    other = ledger.second_project()
    ledger.dataset(project=other)
    (run_id,) = ledger.submit(project=other)
    assert ledger.run(run_id).reused_from is None


# --- folds and the leak guard ----------------------------------------------------------------------------------


def people(**split) -> dict:
    return factories.tiny_spec() | {"dataset": {"id": "people", "split": split}}


def test_a_fold_a_subject_is_a_run_a_subject(count_rows):
    ledger.people("A", "B", "B", "C")
    submit(spec=people(), folds="subject", seeds=2)
    assert ledger.rows("""SELECT spec->'dataset'->'split'->>'kind', spec->'dataset'->'split'->'fold',
        spec->'training'->'seed' FROM runs ORDER BY id""") == [
        ("leave-one-subject-out", fold, seed) for fold in range(3) for seed in range(2)
    ]  # fmt: skip
    assert ledger.rows("SELECT count(DISTINCT training_hash) FROM runs") == [(6,)]


def test_a_fold_is_reused_for_as_long_as_its_subjects_are_the_same():
    ledger.people("A", "B", "C")
    done = ledger.finished(spec=people(), folds=2)  # fold 0 of two
    assert [one.reused_from for one in plan(spec=people(), folds=2)] == [done, None]
    assert [one.reused_from for one in plan(spec=people(), folds=3)] == [None] * 3


def test_more_folds_than_subjects_are_refused(count_rows):
    ledger.people("A", "B", "B")
    error = refused(count_rows, spec=people(), folds=3)
    assert (error.path, error.received) == ("dataset.split.folds", 3)
    assert "2 subjects" in error.problem


def test_the_same_person_on_both_sides_is_refused_by_name(count_rows):
    ledger.people("A", "F", "F")
    error = refused(count_rows, spec=people())
    assert error.path == "dataset.split"
    assert "subject F lies in train (scan 1) and in val (scan 2)" in error.problem
    assert "dataset.split.override" in error.problem


def test_folds_by_subject_mend_the_leak():
    ledger.people("A", "F", "F")
    assert [one.leaks for one in plan(spec=people(), folds="subject")] == [(), ()]


def test_a_written_override_lets_a_leak_pass_and_the_plan_tells_it():
    ledger.people("A", "F", "F")
    (planned,) = plan(spec=people(override="a test of the guard"))
    assert planned.leaks == ("subject F lies in train (scan 1) and in val (scan 2)",)
    submit(spec=people(override="a test of the guard"))
    assert ledger.rows("SELECT spec->'dataset'->'split'->>'override' FROM runs") == [("a test of the guard",)]


def test_imported_weights_pass_the_same_guard():
    ledger.people("A", "F", "F")
    with pytest.raises(SpecError, match=r"dataset\.split: subject F lies in train"), transaction() as session:
        experiments.submit_weights(session, DEFAULT_PROJECT, ExperimentSpec.parse(people()), "a" * 64)
    spec = ExperimentSpec.parse(people(override="as in the study"))
    with transaction() as session:
        assert experiments.submit_weights(session, DEFAULT_PROJECT, spec, "a" * 64).new


# --- idempotency keys ------------------------------------------------------------------------------------------


def test_fifty_parallel_submits_with_one_key_are_one_experiment(count_rows):
    with ThreadPoolExecutor(50) as threads:
        made = list(threads.map(lambda _: submit("k", seeds=3), range(50)))
    assert len({experiment for experiment, _ in made}) == 1
    assert [new for _, new in made].count(True) == 1
    rows = count_rows()
    assert (rows["experiments"], rows["runs"], rows["run_events"], rows["outbox"]) == (1, 3, 3, 3)


def test_the_same_key_with_another_body_is_refused(count_rows):
    submit("k")
    error = refused(count_rows, key="k", seeds=2)
    assert (error.path, error.received) == ("Idempotency-Key", "k")
    assert "new key" in error.problem


def test_the_same_body_with_another_key_or_none_is_a_new_experiment():
    made = [submit("k"), submit("l"), submit(), submit()]
    assert len({experiment for experiment, _ in made}) == 4
    assert all(new for _, new in made)


def test_a_key_belongs_to_its_project():
    other = ledger.second_project()
    ledger.dataset(project=other)
    first, second = submit("k"), submit("k", project=other, seeds=2)
    assert first[0] != second[0]
    assert second[1]


def test_a_refused_submission_does_not_use_up_its_key(count_rows):
    refused(count_rows, key="k", spec=factories.tiny_spec("no-such-data"))
    assert submit("k")[1]


# --- what is refused -------------------------------------------------------------------------------------------


def test_an_unknown_data_set_is_refused(count_rows):
    error = refused(count_rows, spec=factories.tiny_spec("no-such-data"))
    assert (error.path, error.received) == ("dataset.id", "no-such-data")


def test_another_projects_data_set_is_unknown(count_rows):
    ledger.dataset("theirs", project=ledger.second_project())
    assert refused(count_rows, spec=factories.tiny_spec("theirs")).path == "dataset.id"


def test_one_bad_cell_refuses_the_whole_grid(count_rows):
    error = refused(count_rows, grid={"training.batch_size": [2, 4, 9]})  # 8 train slices
    assert (error.path, error.received) == ("training.batch_size", 9)
    assert "8 training samples" in error.problem


def test_a_bad_exclusion_in_a_later_cell_is_found(count_rows):
    error = refused(count_rows, grid={"dataset.exclude.scans": [[], [1]]})  # scan 1 is in val
    assert error.path == "dataset.exclude.scans"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"spec": factories.tiny_spec(name="a\0b")}, "spec.name"),
        ({"spec": factories.tiny_spec(name="\ud800")}, "spec.name"),
        ({"spec": factories.tiny_spec(tags=["ok", "a\0b"])}, "spec.tags[1]"),
        ({"spec": factories.tiny_spec("a\0b")}, "spec.dataset.id"),
        ({"grid": {"training.learning_rate": [0.1, float("nan")]}}, "grid.training.learning_rate[1]"),
        ({"grid": {"a\0b": [1]}}, "grid"),
        ({"variants": [{"training.learning_rate": float("inf")}]}, "variants[0].training.learning_rate"),
    ],
)
def test_what_postgres_cannot_keep_is_refused_with_its_place(count_rows, fields, path):
    assert refused(count_rows, **fields).path == path


def test_a_thousand_cells():
    submit(grid={"training.learning_rate": [n / 1000 for n in range(1, 101)]}, seeds=10)
    assert ledger.rows(
        "SELECT count(*), count(DISTINCT training_hash), min(state), sum(announcements) FROM runs"
    ) == [(1000, 1000, "queued", 1000)]
    assert ledger.rows("SELECT count(DISTINCT run_id) FROM outbox") == [(1000,)]
    assert ledger.rows("SELECT count(*) FROM run_events") == [(1000,)]


def test_two_experiments_with_one_name_are_two():
    submit(spec=factories.tiny_spec(name="again"))
    submit(spec=factories.tiny_spec(name="again"))
    with transaction() as session:
        assert [one.name for one in views.experiments(session, DEFAULT_PROJECT, 10)] == ["again", "again"]


# --- trying again -------------------------------------------------------------------------------------------------


def retried(run_id, project=DEFAULT_PROJECT):
    with transaction() as session:
        made = experiments.retry(session, project, run_id, "somebody")
        return made and made.id


def test_a_cancelled_run_is_tried_again_as_another_one_that_is_linked_to_it(phantom):
    spec = factories.tiny_spec(name="first", tags=["a"], notes="why")
    submit(spec=spec, pool="far", needs={"gpu": "h200"})
    ((old,),) = ledger.rows("SELECT id FROM runs")
    with transaction() as session:
        wishes.edit(session, DEFAULT_PROJECT, old, {"priority": 7})
        wishes.cancel(session, DEFAULT_PROJECT, old)
    new = retried(old)
    before, run = ledger.run(old), ledger.run(new)
    assert (before.state, before.retry_of) == ("cancelled", None)
    assert (run.state, run.retry_of, run.fence, run.checkpoint) == ("queued", old, 0, None)
    for kept in experiments.KEPT_BY_RETRY:
        assert getattr(run, kept) == getattr(before, kept), kept
    assert (run.name, run.tags, run.notes, run.priority) == ("first", ["a"], "why", 7)
    assert (run.pool, run.labels) == ("far", {"gpu": "h200"})
    assert run.experiment_id != before.experiment_id
    assert ledger.rows(f"SELECT move, state, actor FROM run_events WHERE run_id = {new}") == [
        ("submit", "queued", "somebody")
    ]
    assert (new, "far", 1) in ledger.rows("SELECT run_id, pool, number FROM outbox")
    assert retried(old) == new  # asking twice is once
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, new)
    third = retried(old)
    assert third not in (old, new)
    with transaction() as session:
        assert views.retries(session, old) == [new, third]


def test_a_failed_run_whose_settings_have_succeeded_meanwhile_shows_that_result():
    failed = ledger.claimed()
    with transaction() as session:
        endings.fail(session, failed, "bad-input", Ending(1, "torn"))
    done = ledger.finished()
    run = ledger.run(retried(failed.run_id))
    assert (run.state, run.reused_from, run.retry_of) == ("succeeded", done, failed.run_id)


def test_a_run_of_another_project_is_not_tried_again():
    (run_id,) = ledger.submit()
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    assert retried(run_id, ledger.second_project()) is None


def test_ten_at_once_make_one():
    (run_id,) = ledger.submit()
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    with ThreadPoolExecutor(10) as pool:
        made = set(pool.map(lambda _: retried(run_id), range(10)))
    assert len(made) == 1


def test_a_run_that_was_tried_again_can_be_deleted():
    (run_id,) = ledger.submit()
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    new = retried(run_id)
    with transaction() as session:
        selected = deletion.Selection((run_id,))
        deletion.carry_out(session, DEFAULT_PROJECT, deletion.plan(session, DEFAULT_PROJECT, "run", selected), "me")
    assert ledger.run(new).retry_of is None


def test_a_rescore_tried_again_knows_the_epoch_of_its_weights():
    (run_id,) = ledger.submit()
    ledger.execute("UPDATE runs SET kind = 'rescore', best_epoch = 7, state = 'failed' WHERE id = :run", run=run_id)
    assert (ledger.run(retried(run_id)).kind, ledger.run(retried(run_id)).best_epoch) == ("rescore", 7)
