"""Runs that train nothing: carried out in a process that stays, under the same lease and fence as any other."""

import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from sqlalchemy import text

from liverseg_core import references as predictors
from liverseg_core import scoring
from liverseg_core.data.cache import open_cache
from liverseg_core.data.manifest import select
from liverseg_core.errors import SpecError
from liverseg_core.metrics import soft_facts, to_fixed_point
from liverseg_core.spec import ExperimentSpec
from store import artifacts, datasets, deletion, experiments, queue, scores, scorings, views, wishes
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT, Dataset, LesionComponent, Run
from store.references import PREDICTORS
from store.settings import settings
from store.upkeep import Upkeep
from tests import factories, processes
from worker import scoring as standby
from worker.attempt import attempt
from worker.reporting import INTERRUPTED
from worker.waiting import Waiting


def once() -> int | None:
    return attempt("default", "test-worker", threads=1)


def submit(**sections) -> int:
    with transaction() as session:
        made = experiments.submit(session, DEFAULT_PROJECT, factories.submission(factories.tiny_spec(**sections)))
        return made.runs[0].id


def rescore(run_id: int, **evaluation) -> int:
    with transaction() as session:
        made = scorings.submit_rescores(session, DEFAULT_PROJECT, [run_id], evaluation)
        return made.runs[0].id


def add_references(**sections) -> list[int]:
    spec = ExperimentSpec.parse(factories.tiny_spec(**sections))
    with transaction() as session:
        dataset = datasets.resolve(session, DEFAULT_PROJECT, "phantom")
        return [run.id for run in scorings.add_references(session, DEFAULT_PROJECT, [(spec, dataset)])]


def counts(run_id: int) -> list[tuple]:
    with transaction() as session:
        columns = ", ".join(f"n{truth}{found}" for truth in range(3) for found in range(3))
        query = f"SELECT scan, slice, {columns} FROM slice_scores WHERE run_id = :run ORDER BY part, scan, slice"
        return [tuple(row) for row in session.execute(text(query), {"run": run_id})]


def kept(run_id: int) -> dict[str, str]:
    with transaction() as session:
        return scores.files(session, run_id)


@pytest.fixture
def trained(database: Path, tmp_path: Path) -> int:
    """A finished run whose network was replaced by noise about the truth, so that nothing has to be trained."""
    factories.import_phantom(tmp_path)
    run_id = submit()
    with transaction() as session:
        work = queue.claim(session, "default", "w", "host", 60)
    manifest, spec = work.manifest, ExperimentSpec.parse(work.spec)
    cache = open_cache(artifacts.locate(work.dataset_artifact), manifest, 32, settings().cache)
    random, maps, soft = np.random.default_rng(0), {}, {}
    chosen = select(manifest, spec.dataset)
    parts = {part: chosen[part] for part in ("val", "test")}
    for part, indices in parts.items():
        for index in indices:
            entry = manifest.slices[index]
            p = np.clip(cache.masks[index] + random.normal(0, 0.2, (32, 32)), 0, 1).astype(np.float32)
            maps[f"{part}/{entry.key}"] = to_fixed_point(p)
            soft[part, entry.scan, entry.slice] = soft_facts(cache.masks[index], p)
    np.savez(tmp_path / "probabilities.npz", **maps)
    (tmp_path / "weights.npz").write_bytes(b"weights")
    found, lesions = scoring.rescore(
        manifest, cache.labels, tmp_path / "probabilities.npz", parts, soft, spec.evaluation
    )
    files = {kind: artifacts.put(tmp_path / f"{kind}.npz") for kind in ("weights", "probabilities")}
    with transaction() as session:
        scores.finish(session, work.claim, found, files, 2, Ending(0), lesions)
    return run_id


def test_dropping_every_lesion_leaves_liver_in_truth_and_prediction(trained: int) -> None:
    run_id = rescore(trained, min_lesion=10**6)
    assert once() == run_id
    run = processes.get_run(run_id)
    assert (run.state, run.kind, run.scored_from, run.fence) == ("succeeded", "rescore", trained, 1)
    before, after = counts(trained), counts(run_id)
    assert any(sum(row[8:]) for row in before)  # there was lesion
    for old, new in zip(before, after, strict=True):
        _, _, n00, n01, n02, n10, n11, n12, n20, n21, n22 = old
        assert new == (*old[:2], n00, n01 + n02, 0, n10 + n20, n11 + n12 + n21 + n22, 0, 0, 0, 0)


def test_a_rescored_run_keeps_the_files_of_its_original_and_can_be_scored_again(trained: int) -> None:
    first = rescore(trained, min_lesion=3)
    once()
    assert kept(first) == kept(trained)
    second = rescore(first, min_lesion=10**6)
    assert once() == second
    assert processes.get_run(second).state == "succeeded"
    assert processes.get_run(second).best_epoch == processes.get_run(trained).best_epoch


def test_unchanged_options_need_no_work_at_all(trained: int) -> None:
    run = processes.get_run(rescore(trained, min_lesion=0))
    assert (run.state, run.reused_from) == ("succeeded", trained)


def test_a_submission_that_changes_the_evaluation_alone_is_scored_not_trained(trained: int) -> None:
    assert processes.get_run(submit(evaluation={"threshold": 0.5})).kind == "rescore"
    flipped = processes.get_run(submit(evaluation={"flips": True}))
    assert (flipped.kind, flipped.weights) == ("evaluate", kept(trained)["weights"])
    assert processes.get_run(submit(training={"batch_size": 4, "epochs": 1})).kind == "train"


def test_maps_that_are_gone_fail_the_run_and_what_it_says_to_do_helps(trained: int) -> None:
    artifacts.locate(kept(trained)["probabilities"]).unlink()
    run_id = rescore(trained, min_lesion=3)
    once()
    run = processes.get_run(run_id)
    assert (run.state, run.reason) == ("failed", "bad-input")
    assert f"`liverseg delete {trained} --files --yes`" in run.message
    with transaction() as session:
        planned = deletion.plan(session, DEFAULT_PROJECT, "files", deletion.Selection((trained,)), hold=True)
        deletion.carry_out(session, DEFAULT_PROJECT, planned, "anna")
    again = processes.get_run(rescore(trained, min_lesion=3))
    assert (again.kind, again.scored_from, again.weights) == ("evaluate", trained, kept(trained)["weights"])


def test_maps_that_were_deleted_fail_a_run_that_still_wanted_them(trained: int) -> None:
    """A dead rescore keeps no maps; queued again, it finds none."""
    run_id = rescore(trained, min_lesion=3)
    with transaction() as session:
        session.execute(text("DELETE FROM artifacts WHERE kind = 'probabilities'"))
    once()
    run = processes.get_run(run_id)
    assert (run.state, run.reason) == ("failed", "bad-input")
    assert f"of run {trained} were deleted; submit the same settings again" in run.message


def test_only_succeeded_runs_with_scores_are_scored_anew(trained: int) -> None:
    waiting = submit(training={"batch_size": 4, "epochs": 1})
    for run_id in (waiting, 999):
        with pytest.raises(SpecError, match=r"only succeeded runs|no such run"):
            rescore(run_id, min_lesion=3)
    with pytest.raises(SpecError, match=r"evaluation\.min_lesion"):
        rescore(trained, min_lesion=-1)


def test_a_cancel_before_the_claim_ends_it_and_stores_nothing(trained: int) -> None:
    run_id = rescore(trained, min_lesion=3)
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    assert once() is None
    assert processes.get_run(run_id).state == "cancelled"
    assert counts(run_id) == []


def test_reference_predictors_are_runs_scored_once(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    waiting = submit()
    ids = add_references()
    assert [once() for _ in ids] == ids  # they come before what was submitted earlier
    assert processes.get_run(waiting).state == "queued"
    found = {processes.get_run(run_id).predictor: counts(run_id) for run_id in ids}
    assert tuple(found) == PREDICTORS
    for row in found["perfect"]:
        assert [row[place] for place in (3, 4, 5, 7, 8, 9)] == [0] * 6  # nothing off the diagonal
    for row, truth in zip(found["empty"], found["perfect"], strict=True):
        assert (row[2], row[5], row[8]) == (truth[2], truth[6], truth[10])  # all that there is, called background
    assert add_references() == []
    assert len(add_references(evaluation={"min_lesion": 5})) == len(PREDICTORS)
    assert add_references(evaluation={"threshold": 0.5}) == []  # no probability, no threshold


def test_lesions_are_stored_with_the_scores(database: Path, tmp_path: Path) -> None:
    factories.import_phantom(tmp_path)
    perfect = add_references()[2]
    for _ in PREDICTORS:
        once()
    with transaction() as session:
        rows = session.query(LesionComponent).filter_by(run_id=perfect).all()
    assert rows
    assert {row.iou for row in rows} == {1.0}
    assert sum(row.pixels for row in rows if row.predicted and row.slice is not None) == sum(
        row[10] for row in counts(perfect)
    )


def test_the_names_of_the_predictors_are_those_of_the_laboratory() -> None:
    assert predictors.PREDICTORS == PREDICTORS


# --- the process that scores --------------------------------------------------------------------------------------


def pids() -> list[int]:
    """Of the scoring processes that wait."""
    return [child.pid for child in standby.scorers._idle]


def test_a_scoring_process_stays_for_the_next_run_and_is_replaced_where_it_died(trained: int) -> None:
    first = rescore(trained, min_lesion=3)
    once()
    (process,) = pids()
    runs = [first]
    for pixels, ending in ((4, signal.SIGKILL), (5, signal.SIGTERM), (6, None)):
        runs.append(rescore(trained, min_lesion=pixels))
        once()
        assert pids() == [process]
        if ending:
            os.kill(process, ending)
            processes.wait_for("it to be gone", standby.scorers._idle[0].ended)
            runs.append(rescore(trained, min_lesion=10 * pixels))
            once()
            (other,) = pids()
            assert other != process
            process = other
    assert {processes.get_run(run).state for run in runs} == {"succeeded"}


def test_a_scoring_process_that_dies_at_work_is_a_crash_and_the_run_is_taken_again(
    trained: int, held_up: Callable[[], None]
) -> None:
    run_id = rescore(trained, min_lesion=3)
    thread = begun(run_id)
    scorer().kill()
    thread.join(30)
    run = processes.get_run(run_id)
    assert (run.state, run.crashes, outcomes(run_id)) == ("queued", 1, ["crashed"])
    with transaction() as session:
        assert views.attempts(session, run_id)[0].reason == "killed"
    held_up()
    once()
    assert processes.get_run(run_id).state == "succeeded"


def test_a_scoring_process_that_somebody_else_asks_to_end_gives_its_run_back(
    trained: int, held_up: Callable[[], None]
) -> None:
    """As whoever ends a group of processes does, worker and all."""
    run_id = rescore(trained, min_lesion=3)
    thread = begun(run_id)
    wait_until_scoring(run_id)
    scorer().terminate()
    thread.join(30)
    run = processes.get_run(run_id)
    assert (run.state, run.crashes, outcomes(run_id)) == ("queued", 0, ["preempted"])
    assert not pids()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIVERSEG_STALL_S", "2")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_a_process_that_does_not_even_read_its_job_is_killed(
    trained: int, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "scorers", Waiting((sys.executable, "-c", "import time; time.sleep(600)")))
    told = standby.job
    monkeypatch.setattr(standby, "job", lambda work, position: told(work, position) | {"more": "x" * 2**20})
    run_id = rescore(trained, min_lesion=3)
    assert once() == run_id
    with transaction() as session:
        assert views.attempts(session, run_id)[0].reason == "stalled"


def test_a_scoring_that_hangs_is_killed(trained: int, held_up: Callable[[], None], quick: None) -> None:
    """As on a network disk that does not answer: it gives no sign, and does not hear that it shall end."""
    run_id = rescore(trained, min_lesion=3)
    thread = begun(run_id)
    process = scorer()
    process.suspend()
    thread.join(30)
    assert not thread.is_alive()
    assert not lives(process)
    assert outcomes(run_id) == ["crashed"]
    with transaction() as session:
        assert views.attempts(session, run_id)[0].reason == "stalled"


def test_a_scoring_process_ends_with_its_worker(
    trained: int, held_up: Callable[[], None], tmp_path: Path, upkeep: Upkeep
) -> None:
    run_id, log = rescore(trained, min_lesion=3), tmp_path / "worker.log"
    doomed = processes.start_worker(log)
    wait_until_running(run_id)
    process = scorer(doomed.pid)
    doomed.kill()  # it alone
    doomed.wait()
    processes.wait_for("it to be gone", lambda: not lives(process), timeout=60)


def test_a_job_that_was_asked_to_end_says_no_more_and_leaves_no_process(
    trained: int, held_up: Callable[[], None]
) -> None:
    with transaction() as session:
        scorings.submit_rescores(session, DEFAULT_PROJECT, [trained], {"min_lesion": 3})
        work = queue.claim(session, "default", "w", "host", 60)
    place = settings().home / "position"
    work_of_it = standby.Scorer(standby.job(work, place))
    assert work_of_it.next_event(30) == {"event": "progress", "phase": "scoring"}
    work_of_it.ask()
    processes.wait_for("it to end", lambda: work_of_it.next_event(1) is None and work_of_it.ended())
    assert work_of_it.kill() == INTERRUPTED
    assert not scorers()


def scorers(worker: int | None = None) -> list[psutil.Process]:
    """The scoring processes of this or another process."""
    return [one for one in psutil.Process(worker).children() if "worker.scorer" in processes.words_of(one)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def scorer(worker: int | None = None) -> psutil.Process:
    """The one that there is, or will be in a moment."""
    (found,) = processes.wait_for("a scoring process", lambda: scorers(worker))
    return found


@pytest.fixture(autouse=True)
def no_scorer_waits() -> Iterator[None]:
    standby.scorers.end()
    yield
    standby.scorers.end()


# --- interruptions, with the work held up in the middle by a lock on the slices -----------------------------------


@pytest.fixture
def held_up(trained: int, database: Path) -> Iterator[Callable[[], None]]:
    """Scoring anew waits for the cached slices until this is called."""
    content = dataset_of(trained).content_hash
    home = database / "cache" / content
    shutil.rmtree(home)
    home.mkdir()
    lock = (home / "lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock.close
    lock.close()


def dataset_of(run_id: int) -> Dataset:
    with transaction() as session:
        return datasets.of(session, session.get_one(Run, run_id))


def outcomes(run_id: int) -> list[str]:
    with transaction() as session:
        return [row.outcome for row in views.attempts(session, run_id)]


def exit_code(run_id: int) -> int | None:
    with transaction() as session:
        return views.attempts(session, run_id)[0].exit_code


def begun(run_id: int) -> threading.Thread:
    """An attempt in a thread of its own, which has claimed the run."""
    thread = threading.Thread(target=once)
    thread.start()
    wait_until_running(run_id)
    return thread


def wait_until_scoring(run_id: int) -> None:
    """Its process is there, and has been heard of."""
    processes.wait_for("it to score", lambda: (processes.get_run(run_id).progress or {}).get("phase") == "scoring")


def wait_until_running(run_id: int) -> None:
    processes.wait_for("the run to start", lambda: processes.get_run(run_id).state == "running")


def test_a_cancel_in_the_middle_ends_it_and_stores_nothing(trained: int, held_up: Callable[[], None]) -> None:
    run_id = rescore(trained, min_lesion=3)
    thread = begun(run_id)
    wait_until_scoring(run_id)
    with transaction() as session:
        wishes.cancel(session, DEFAULT_PROJECT, run_id)
    thread.join(30)
    assert (processes.get_run(run_id).state, outcomes(run_id)) == ("cancelled", ["cancelled"])
    assert exit_code(run_id) == INTERRUPTED  # it heard, and was not killed
    assert (counts(run_id), kept(run_id)) == ([], {})


def test_a_lost_lease_in_the_middle_writes_nothing(trained: int, held_up: Callable[[], None]) -> None:
    run_id = rescore(trained, min_lesion=3)
    thread = begun(run_id)
    with transaction() as session:  # as the reaper and another worker would
        session.execute(text("UPDATE runs SET fence = fence + 1 WHERE id = :run"), {"run": run_id})
    time.sleep(1)
    held_up()
    thread.join(30)
    assert not thread.is_alive()
    assert (processes.get_run(run_id).state, outcomes(run_id)) == ("running", ["running"])
    assert (counts(run_id), kept(run_id)) == ([], {})


def test_a_worker_killed_in_the_middle_is_replaced(
    trained: int, held_up: Callable[[], None], tmp_path: Path, upkeep: Upkeep
) -> None:
    run_id, log = rescore(trained, min_lesion=3), tmp_path / "worker.log"
    doomed = processes.start_worker(log)
    wait_until_running(run_id)
    processes.kill_tree(doomed)
    held_up()
    with processes.worker(log):
        assert processes.wait_for_end(run_id).state == "succeeded", log.read_text()
    assert outcomes(run_id) == ["lost", "succeeded"]
    assert len(counts(run_id)) == len(counts(trained))


def test_a_worker_that_drains_in_the_middle_gives_it_back(
    trained: int, held_up: Callable[[], None], tmp_path: Path, upkeep: Upkeep
) -> None:
    run_id, log = rescore(trained, min_lesion=3), tmp_path / "worker.log"
    with processes.worker(log) as worker:
        wait_until_scoring(run_id)
        worker.terminate()
    assert (processes.get_run(run_id).state, processes.get_run(run_id).crashes) == ("queued", 0)
    assert outcomes(run_id) == ["preempted"]
    assert exit_code(run_id) == INTERRUPTED


def test_the_maps_of_the_original_are_not_copied(trained: int) -> None:
    place = artifacts.locate(kept(trained)["probabilities"])
    before = place.stat().st_ino
    run_id = rescore(trained, min_lesion=3)
    once()
    assert kept(run_id) == kept(trained)
    assert place.stat().st_ino == before


def test_weights_imported_for_other_slices_are_other_work(trained: int) -> None:
    """Their scores under one evaluation must never stand for each other."""
    hashes = []
    for sections in ({}, {"data": {"image_size": 64}}):
        spec = ExperimentSpec.parse(factories.tiny_spec(**sections))
        with transaction() as session:
            made = experiments.submit_weights(session, DEFAULT_PROJECT, spec, "1" * 64)
            hashes.append(made.runs[0].training_hash)
    assert hashes[0] != hashes[1]
