"""What goes with a run and what stands against it; what is left afterwards is true, and an audit line remains."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from liverseg_core.data.manifest import Manifest
from store import artifacts, datasets, deleted, deletion, endings, scores, scorings, tidy, usage, verify, wishes
from store.database import transaction
from store.deletion import Selection
from store.endings import Ending
from store.models import DEFAULT_PROJECT, Base, Dataset, Experiment, Run
from store.settings import settings
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def stored(content):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "made"
        place.write_bytes(content)
        return artifacts.put(place)


def finished(*, maps=b"maps", weights=b"weights", reuse=False, **fields):
    """A succeeded run with an epoch, a step, maps, weights and a log of its own; its id."""
    (run,) = ledger.submit(reuse=reuse, **fields)
    held = ledger.claim().claim
    assert held.run_id == run
    with transaction() as session:
        factories.store_epoch(session, held, factories.epoch_record(1), ledger.CHECKPOINT)
    files = {"probabilities": stored(maps), "weights": stored(weights), "log": stored(f"log {run}".encode())}
    with transaction() as session:
        rows = factories.scores_for(Manifest.from_json(session.get_one(Dataset, 1).manifest))
        assert scores.finish(session, held, rows, files, 1, Ending(0)) == "succeeded"
    return run


def plan(what, *runs, project=DEFAULT_PROJECT, **fields):
    with transaction() as session:
        return deletion.plan(session, project, what, Selection(runs, **fields))


def delete(what, *runs, actor="anna", **fields):
    with transaction() as session:
        planned = deletion.plan(session, DEFAULT_PROJECT, what, Selection(runs, **fields), hold=True)
        deletion.carry_out(session, DEFAULT_PROJECT, planned, actor)
    return [run.id for run in planned.runs]


def rescored(run, **evaluation):
    with transaction() as session:
        made = scorings.submit_rescores(session, DEFAULT_PROJECT, [run], evaluation or {"min_lesion": 3})
        return made.runs[0]


def why(planned):
    return {one.run: one.why for one in planned.stays}


def age(seconds=7200):
    """Make every stored file so old that it may go."""
    then = time.time() - seconds
    for path in settings().artifacts.rglob("*"):
        os.utime(path, (then, then))


def holds():
    with transaction() as session:
        assert [str(one) for one in verify.verify(session) if not one.holds] == []


def test_a_deleted_run_leaves_no_row_but_its_audit_line():
    run, other = finished(), finished(maps=b"other maps")
    before = ledger.rows("SELECT count(*) FROM slice_scores WHERE run_id = :run", run=other)
    told = plan("run", run)
    assert (told.rows["runs"], told.rows["slice_scores"], told.rows["artifacts"], told.rows["epochs"]) == (1, 8, 3, 1)
    assert told.experiments == [ledger.run(run).experiment_id]
    assert delete("run", run) == [run]
    for table in Base.metadata.sorted_tables:
        if "run_id" in table.columns and table.name != "deletions":
            assert ledger.rows(f"SELECT count(*) FROM {table.name} WHERE run_id = :run", run=run) == [(0,)], (
                table.name
            )
    assert ledger.rows("SELECT id FROM runs") == [(other,)]
    assert ledger.rows("SELECT count(*) FROM experiments") == [(1,)]
    assert ledger.rows("SELECT count(*) FROM slice_scores WHERE run_id = :run", run=other) == before
    with transaction() as session:
        (line,) = deleted.listing(session, DEFAULT_PROJECT, 10)
        assert deleted.deleted_runs(session, DEFAULT_PROJECT, [run, other]) == {run: line}
    assert (line.actor, line.what, line.run_id, line.detail["state"]) == ("anna", "run", run, "succeeded")
    assert len(line.files) == 3
    holds()


def test_every_table_with_rows_of_a_run_is_known():
    """A table that is added later and forgotten here would make every deletion fail, or leave rows behind."""
    own = {table.name for table in Base.metadata.sorted_tables if "run_id" in table.columns}
    assert own - {"deletions"} == {table.__tablename__ for table in deletion.OWN_ROWS}


def test_every_place_that_names_a_file_is_known():
    """A column of hashes that ``usage`` does not know would lose its files."""
    files = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name in ("sha256", "artifact", "weights", "images")
    }
    assert files == {"artifacts.sha256", "runs.weights", "runs.images", "datasets.artifact"}
    assert all(f"{name.split('.')[1]}" in usage._USES for name in files)


@pytest.mark.parametrize(
    ("state", "first"),
    [("queued", "is queued; cancel it first"), ("running", "is running; cancel it first")],
)
def test_a_run_that_has_not_ended_stays(state, first):
    if state == "queued":
        (run,) = ledger.submit(reuse=False)
    else:
        run = ledger.claimed().run_id
    for what in ("run", "files"):
        assert why(plan(what, run)) == {run: first}
        assert delete(what, run) == []
    assert ledger.run(run).state == state


def test_a_paused_and_a_stopping_run_stay():
    (paused,) = ledger.submit(reuse=False)
    with transaction() as session:
        wishes.pause(session, DEFAULT_PROJECT, paused)
    stopping = ledger.claimed().run_id
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, stopping)
    assert why(plan("run", paused, stopping)) == {
        paused: "is paused; cancel it first",
        stopping: "is being stopped; wait until it has ended",
    }
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, paused)
    assert delete("run", paused, stopping) == [paused]


def test_failed_cancelled_and_dead_runs_may_go():
    failed, dead = ledger.claimed(), ledger.claimed()
    with transaction() as session:
        endings.fail(session, failed, "bad-input", Ending(1))
        endings.crash(session, dead, Ending(-9), 1)
    (cancelled,) = ledger.submit(reuse=False)
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, cancelled)  # its announcement is in the outbox yet
    assert sorted(delete("run", failed.run_id, dead.run_id, cancelled)) == [failed.run_id, dead.run_id, cancelled]
    assert ledger.rows("SELECT count(*) FROM outbox WHERE run_id = :run", run=cancelled) == [(0,)]
    holds()


def test_a_run_goes_only_with_those_that_stand_on_it():
    original = finished()
    (showing,) = ledger.submit()
    assert ledger.run(showing).reused_from == original
    anew = rescored(original).id
    needs = why(plan("run", original))[original]
    assert (
        needs
        == f"run {showing} shows its result and run {anew} was scored from it; delete them too, in the same request"
    )
    # The rescore is queued, so it stays; hence the original does.
    planned = plan("run", original, showing, anew)
    assert [run.id for run in planned.runs] == [showing]
    assert set(why(planned)) == {original, anew}
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, anew)
    assert delete("run", original) == []
    assert sorted(delete("run", original, showing, anew)) == [original, showing, anew]
    assert ledger.rows("SELECT count(*) FROM runs") == [(0,)]
    holds()


def test_who_stays_keeps_the_chain_below_it():
    """The rescore of a rescore stays, so both below it do."""
    original = finished()
    middle = rescored(original).id
    held = ledger.claim().claim
    assert held.run_id == middle
    with transaction() as session:
        kept = {one.kind: artifacts.Stored(one.sha256, one.bytes) for one in usage.by_runs(session, [original])}
        rows = factories.scores_for(Manifest.from_json(session.get_one(Dataset, 1).manifest))
        scores.finish(session, held, rows, kept, 1, Ending(0))
    top = rescored(middle, min_lesion=9)
    assert (top.kind, top.scored_from) == ("rescore", middle)
    assert set(why(plan("run", original, middle))) == {original, middle}
    assert set(why(plan("run", original, middle, top.id))) == {original, middle, top.id}


def test_large_files_go_and_scores_stay():
    run = finished()
    folder = usage.checkpoint_folder(run) / "attempt-1" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "epoch-00001.npz").write_bytes(b"x" * 1000)
    told = plan("files", run)
    assert (told.bytes, told.rows) == (1000 + len(b"maps"), {"artifacts": 1})
    assert delete("files", run) == [run]
    assert delete("files", run) == [run]  # the checkpoints are there until the next pass
    age()
    assert tidy.tidy() == 2
    assert delete("files", run) == []
    assert set(ledger.rows("SELECT kind FROM artifacts")) == {("weights",), ("log",)}
    assert ledger.rows("SELECT count(*) FROM slice_scores") == [(8,)]
    assert not usage.checkpoint_folder(run).exists()
    holds()
    anew = rescored(run)
    assert (anew.kind, anew.scored_from) == ("evaluate", run)
    assert anew.weights == stored(b"weights").sha256


def test_maps_that_a_waiting_rescore_needs_stay():
    run = finished()
    anew = rescored(run).id
    assert why(plan("files", run)) == {run: f"run {anew} is to be scored from its maps; wait for that, or cancel it"}
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, anew)
    assert delete("files", run) == [run]


def test_a_reused_run_says_whose_files_they_are():
    original = finished()
    (showing,) = ledger.submit()
    assert why(plan("files", showing)) == {showing: f"shows the result of run {original}, which holds the files"}
    with transaction() as session:
        assert usage.of_run(session, session.get_one(Run, showing)).bytes == 0


def test_another_training_under_other_options_uses_the_run_that_has_its_maps():
    first = finished()
    delete("files", first)
    (second,) = ledger.submit(spec=factories.tiny_spec(evaluation={"min_lesion": 3}))
    assert (ledger.run(second).kind, ledger.run(second).scored_from) == ("evaluate", first)
    assert ledger.run(second).weights is not None


def test_bytes_that_others_hold_are_not_freed():
    first, second = finished(), finished()
    alone = len(f"log {first}")
    with transaction() as session:
        disk = usage.of_run(session, session.get_one(Run, first))
    assert (disk.bytes, disk.frees_run, disk.frees_files) == (len(b"mapsweights") + alone, alone, 0)
    assert {one.kind: one.shared for one in disk.parts} == {"log": [], "probabilities": [second], "weights": [second]}
    assert plan("run", first).bytes == alone
    assert plan("run", first, second).bytes == len(b"mapsweights") + 2 * alone
    with transaction() as session:
        whole = usage.of_project(session, DEFAULT_PROJECT)
    assert whole.kinds == {"log": 2 * alone, "weights": 7, "probabilities": 4}
    delete("run", first)
    age()
    assert tidy.tidy() == 1
    assert artifacts.intact(stored(b"maps").sha256)
    holds()


def test_what_fits_is_chosen_and_reference_predictors_are_not():
    spec = factories.tiny_spec() | {"tags": ["old"]}
    old, new = finished(spec=spec), finished()
    ledger.execute("UPDATE runs SET finished_at = finished_at - interval '40 days' WHERE id = :run", run=old)
    ledger.execute("UPDATE runs SET kind = 'reference' WHERE id = :run", run=new)
    assert [run.id for run in plan("run", older_than_days=30).runs] == [old]
    assert [run.id for run in plan("run", tag="old").runs] == [old]
    assert plan("run", tag="ol").runs == []
    assert plan("run", experiment=ledger.run(new).experiment_id).runs == []
    assert [run.id for run in plan("run", new).runs] == [new]
    assert plan("run", old, project=ledger.second_project()).runs == []


def test_a_data_set_goes_when_no_run_refers_to_it():
    run = finished()
    with transaction() as session:
        dataset = session.get_one(Dataset, 1)
        assert deletion.plan_dataset(session, dataset).stays == f"run {run} refers to it; delete it first"
    reference = finished()
    ledger.execute("UPDATE runs SET kind = 'reference' WHERE id = :run", run=reference)
    delete("run", run)
    cache = settings().cache / dataset.content_hash
    cache.mkdir(parents=True)
    (cache / "images").write_bytes(b"12345")
    with transaction() as session:
        planned = deletion.plan_dataset(session, session.get_one(Dataset, 1), hold=True)
        assert (planned.stays, planned.cache) == (None, 5)
        deletion.carry_out_dataset(session, planned, "anna")
    tidy.tidy()
    assert not cache.exists()
    for table in (Dataset, Run, Experiment):
        assert ledger.rows(f"SELECT count(*) FROM {table.__tablename__}") == [(0,)]
    with transaction() as session:
        assert [one.what for one in deleted.listing(session, DEFAULT_PROJECT, 10)] == ["dataset", "run", "run"]
        assert datasets.listed(session, DEFAULT_PROJECT) == []
    holds()


def test_a_key_may_be_used_again_after_its_experiment_went():
    with transaction() as session:
        from store import experiments

        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(), key="k")
    assert made.new
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, 1)
    delete("run", 1)
    with transaction() as session:
        again = experiments.submit(session, DEFAULT_PROJECT, factories.submission(), key="k")
    assert again.new
    assert again.experiment.id != made.experiment.id
