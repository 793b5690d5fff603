import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from api.client import Client
from api.schemas import RunOut
from store import artifacts, endings, queue, scores, waiting
from store.database import transaction
from store.endings import Ending
from store.models import Run
from store.queue import WORK_VERSION, Claim, Known, Work
from store.reasons import ADVICE
from tests import factories, processes
from tests.api.conftest import Command

Submit = Callable[..., list[int]]


def test_runs_are_filtered_and_paged(web: httpx.Client, submit: Submit):
    submit(spec={"name": "Alpha 100%"})
    submit(spec={"name": "beta"}, seeds=3)
    web.post("/v1/runs/4/cancel")

    def ids(query: str) -> list[int]:
        return [run["id"] for run in web.get(f"/v1/runs?{query}").json()["runs"]]

    assert ids("") == [4, 3, 2, 1]
    assert ids("state=queued") == [3, 2, 1]
    assert ids("state=cancelled") == [4]
    assert ids("experiment=2") == [4, 3, 2]
    assert ids("name=ALPHA") == [1]
    assert ids("name=0%25") == [1]  # neither % nor _ is a wildcard
    assert ids("name=_eta") == ids("name=/") == []
    assert ids("limit=2") == [4, 3]
    assert ids("limit=2&before=3") == [2, 1]
    assert web.get("/v1/runs?limit=2").json()["next"] == 3
    assert web.get("/v1/runs?limit=5").json()["next"] is None


def test_the_list_shows_what_each_run_shows(web: httpx.Client, submit: Submit):
    """Though the database writes the list and pydantic the run."""
    notes = 'quote " backslash \\ newline \n tab \t umlaut ü kanji 肝 emoji 🫀 <b>&amp;'
    submit(
        spec={
            "name": "“first”",
            "notes": notes,
            "tags": ["a", "b c"],
            "training": {"batch_size": 8, "learning_rate": 1e-7},
        }
    )
    processes.claim()
    submit(spec={"training": {"batch_size": 8, "learning_rate": 0.1 + 0.2, "epochs": 7}})
    submit(spec={"name": "ended"})
    with transaction() as session:
        session.get_one(Run, 1).progress = {"epoch": 1, "of": 30, "rate": 1.5e-9, "what": "ünter\u2028"}
    web.post("/v1/runs/3/cancel")
    listed = web.get("/v1/runs").json()["runs"]
    assert [run["id"] for run in listed] == [3, 2, 1]
    assert listed[2]["progress"]["rate"] == 1.5e-9
    assert listed[1]["epochs_total"] == 7
    for run in listed:
        whole = web.get(f"/v1/runs/{run['id']}").json()
        assert set(run) == set(RunOut.model_fields)
        # Two spellings of one moment are the same: ``+00:00`` and ``Z``, with or without six zeros.
        assert RunOut(**run) == RunOut(**{name: whole[name] for name in RunOut.model_fields})


def test_a_list_holds_the_fields_and_settings_that_are_asked_for(web: httpx.Client, submit: Submit):
    submit(spec={"training": {"batch_size": 8, "learning_rate": 1e-7}})
    submit(spec={"name": "second"})
    asked = "name,training.learning_rate,dataset.exclude.scans,name"
    assert web.get("/v1/runs", params={"fields": asked, "kind": "train"}).json() == {
        "runs": [
            {"id": 2, "name": "second", "training.learning_rate": 0.001, "dataset.exclude.scans": []},
            {"id": 1, "name": "", "training.learning_rate": 1e-7, "dataset.exclude.scans": []},
        ],
        "next": None,
    }
    with Client(str(web.base_url)) as client:
        assert client.runs(fields=["state"], name="second") == [{"id": 2, "state": "queued"}]


def test_a_queued_run_says_why_it_waits(web: httpx.Client, submit: Submit, worker_there: None):
    submit(seeds=3)
    told = [web.get(f"/v1/runs/{run}").json()["waits"] for run in (1, 2, 3)]
    assert told == [
        "next in pool default; waits for a free worker",
        "1 run ahead in pool default",
        "2 runs ahead in pool default",
    ]


def test_a_run_that_nobody_can_take_says_so(web: httpx.Client, submit: Submit):
    (run,) = submit()
    gone = "no worker is there for pool default; start one with `liverseg-worker start`"
    assert web.get(f"/v1/runs/{run}").json()["waits"] == gone


def test_a_run_that_needs_a_newer_worker_waits_for_it(web: httpx.Client, submit: Submit, worker_there: None):
    (run,) = submit()
    with transaction() as session:
        assert session.get_one(Run, run).needs == WORK_VERSION  # an older worker would not know all of its settings
        assert queue.claim(session, "default", "old:1", "old", 30, version=WORK_VERSION - 1) is None
    with transaction() as session:
        session.get_one(Run, run).needs = WORK_VERSION + 1
        assert queue.claim(session, "default", "host-1:1", "host-1", 30) is None
        assert waiting.claimable(session, "default", 0) == 0
    told = web.get(f"/v1/runs/{run}").json()["waits"]
    assert told.startswith(f"no worker of work version {WORK_VERSION + 1} or newer is there for pool default")
    assert processes.claim("new:1", "new", version=WORK_VERSION + 1).claim.run_id == run


def test_pause_and_resume_twenty_times(web: httpx.Client, submit: Submit):
    """Queued and running in turn; the run loses nothing and knows who asked."""
    (run,) = submit()
    for turn in range(20):
        if turn % 2:
            held = processes.claim().claim
            assert web.post(f"/v1/runs/{run}/pause").json()["state"] == "stopping"
            assert web.post(f"/v1/runs/{run}/pause").json()["wish"] == "pause"  # twice is once
            assert web.post(f"/v1/runs/{run}/resume").status_code == 409  # its worker has not let go yet
            with transaction() as session:
                endings.release(session, held, Ending())
        else:
            assert web.post(f"/v1/runs/{run}/pause").json()["state"] == "paused"
        paused = web.get(f"/v1/runs/{run}").json()
        assert (paused["state"], paused["waits"], paused["crashes"]) == ("paused", "somebody paused it", 0)
        assert paused["next"] == "Resume it: it goes on from its start."
        assert web.post(f"/v1/runs/{run}/resume").json()["state"] == "queued"
    events = web.get(f"/v1/runs/{run}").json()["events"]
    assert [(one["move"], one["actor"]) for one in events if one["move"] in ("pause", "resume")] == [
        (move, "local") for _ in range(20) for move in ("pause", "resume")
    ]


def test_every_stop_says_why_and_what_next(web: httpx.Client, submit: Submit):
    (run,) = submit()
    place = {"phase": "training", "epoch": 2, "step": 7}
    for crash in (1, 2):
        held = processes.claim().claim
        if crash == 2:
            told = web.get(f"/v1/runs/{run}").json()["next"]
            assert told == (
                "Should its worker die, it goes on from its start within a minute. "
                "It has crashed once; 2 times more and it is dead."
            )
        with transaction() as session:
            ending = Ending(-11, "SIGSEGV", reason="signal", died_at=place, peak_memory_mb=700)
            endings.crash(session, held, ending, 3)
    dead = web.get(f"/v1/runs/{run}").json()
    assert (dead["state"], dead["reason"]) == ("dead", "crashes-at-the-same-step")  # the third would die there too
    assert dead["next"] == ADVICE["crashes-at-the-same-step"]
    assert [(one["reason"], one["died_at"], one["peak_memory_mb"]) for one in dead["attempts"]] == [
        ("signal", place, 700)
    ] * 2
    assert web.post(f"/v1/runs/{run}/requeue").json()["state"] == "queued"


def test_lost_and_preempted_attempts_are_listed_with_what_is_known_of_them(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work], liverseg: Command
):
    """A trainer on a GPU whose host vanished, then one on a processor that was asked to stop."""
    submit()
    lost = claim().claim
    on_gpu = {"host": "host-1", "processor": "Some Processor 7", "device": "Some GPU"}
    with transaction() as session:
        factories.store_epoch(session, lost, factories.epoch_record(1), {"epoch": 1})
        queue.heartbeat(session, lost, 60, None, Known(on_gpu, 3200))
        session.execute(text("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'"))
    with transaction() as session:
        endings.reap(session, 0, 3)  # where the API was not quicker
    preempted = claim().claim
    with transaction() as session:
        endings.release(session, preempted, Ending(4, None, 1500, on_gpu | {"device": "cpu:0"}))
    attempts = web.get(f"/v1/runs/{lost.run_id}").json()["attempts"]
    columns = ("outcome", "host", "device", "exit_code", "resumed_from", "peak_memory_mb")
    assert [tuple(one[name] for name in columns) for one in attempts] == [
        ("lost", "host-1", "Some GPU", None, 0, 3200),
        ("preempted", "host-1", "Some Processor 7", 4, 1, 1500),
    ]
    told = [" ".join(line.split()) for line in liverseg("show", lost.run_id).stdout.splitlines()]
    assert "Attempt Outcome Host Device Exit code Resumed from epoch Peak memory, MiB Started Ended Message" in told
    assert any(line.startswith("1 lost host-1 Some GPU - 0 3,200 ") for line in told)
    assert any(line.startswith("2 preempted host-1 Some Processor 7 4 1 1,500 ") for line in told)
    html = web.get(f"/runs/{lost.run_id}", headers={"accept": "text/html"}).text
    found = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)]
    assert "Attempt Outcome Host Device Exit code Resumed after Time Peak memory" in found
    assert any(re.fullmatch(r"1 lost: lost host-1 Some GPU \u2013 \u2013 .+ 3,200 MiB", row) for row in found)
    assert any(re.fullmatch(r"2 preempted host-1 Some Processor 7 4 epoch 1 .+ 1,500 MiB", row) for row in found)


def test_a_run_resumed_on_different_hardware_is_marked(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work], liverseg: Command
):
    (run,) = submit()
    with transaction() as session:
        factories.store_epoch(session, claim().claim, factories.epoch_record(1), {"epoch": 1})
        endings.release(session, Claim(run, 1), Ending())
    assert web.get(f"/v1/runs/{run}").json()["resumed_elsewhere"] is None
    with transaction() as session:
        there = {"processor": "<b>", "changed_from": {"processor": "A"}}
        queue.heartbeat(session, claim().claim, 60, None, Known(there))
    told = "Resumed on different hardware: attempt 2 after epoch 1 (processor A, then <b>)."
    found = web.get(f"/v1/runs/{run}").json()
    assert found["resumed_elsewhere"] == told
    assert found["events"][-1]["detail"] == "resumed on different hardware: processor A, then <b>"
    assert f"Hardware {told}" in [" ".join(line.split()) for line in liverseg("show", run).stdout.splitlines()]
    html = web.get(f"/runs/{run}", headers={"accept": "text/html"}).text
    assert (
        '<p class="warning">Resumed on different hardware: attempt 2 after epoch 1 (processor A, then &lt;b&gt;).'
        in html
    )


def test_a_full_disk_pauses_with_the_reason(web: httpx.Client, submit: Submit):
    (run,) = submit()
    held = processes.claim().claim
    with transaction() as session:
        endings.hold(session, held, Ending(5, "no space left", reason="disk-full"))
    paused = web.get(f"/v1/runs/{run}").json()
    assert (paused["state"], paused["waits"]) == ("paused", "disk-full: no space left")
    assert web.post(f"/v1/runs/{run}/resume").json()["reason"] is None


def test_workers_are_listed_with_what_they_carry(web: httpx.Client, submit: Submit, worker_there: None):
    submit()
    processes.claim()
    (one,) = web.get("/v1/workers").json()["workers"]
    assert (one["name"], one["alive"], one["runs"], one["slots"]) == ("host-1:1", True, 1, 1)
    with transaction() as session:
        session.execute(text("UPDATE workers SET seen_at = seen_at - interval '2 hours'"))
    (one,) = web.get("/v1/workers").json()["workers"]
    assert one["alive"] is False


def test_a_finished_run_shows_everything(web: httpx.Client, finished: Callable[..., int]):
    run = web.get(f"/v1/runs/{finished()}").json()
    assert (run["state"], run["best_epoch"], run["waits"]) == ("succeeded", 2, None)
    assert [event["move"] for event in run["events"]] == ["submit", "claim", "succeed"]
    (attempt,) = run["attempts"]
    assert (attempt["number"], attempt["worker"], attempt["outcome"], attempt["exit_code"]) == (
        1,
        "host-1:1",
        "succeeded",
        0,
    )
    assert [(file["kind"], file["bytes"]) for file in run["artifacts"]] == [("log", 16), ("weights", 16)]


def test_epochs_come_in_order(web: httpx.Client, finished: Callable[..., int]):
    epochs = web.get(f"/v1/runs/{finished()}/epochs").json()["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert (epochs[0]["dice"], epochs[0]["val_dice"], epochs[0]["learning_rate"]) == (0.5, 0.4, 0.001)


def test_images_are_sorted_and_paged(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    rows = web.get(f"/v1/runs/{run}/images?sort=lesion_dice&descending=true&limit=3").json()["images"]
    assert len(rows) == 3
    # counts (58 2 0 | 3 26 1 | 0 4 6): lesion TP 6, FP 1, FN 4 -> 12/17; liver TP 37, wrong 2 + 3 -> 74/79
    assert rows[0]["lesion_dice"] == pytest.approx(12 / 17)
    assert rows[0]["liver_dice"] == pytest.approx(74 / 79)
    everything = web.get(f"/v1/runs/{run}/images?limit=5000").json()["images"]
    assert web.get(f"/v1/runs/{run}/images?limit=2&offset=1").json()["images"] == everything[1:3]
    of_test = web.get(f"/v1/runs/{run}/images?part=test").json()["images"]
    assert 0 < len(of_test) < len(everything)
    assert of_test == [one for one in everything if one["part"] == "test"]


def test_a_file_is_downloaded(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    answer = web.get(f"/v1/runs/{run}/artifacts/weights")
    assert answer.content == b"weights of a run"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == f'attachment; filename="run-{run}-weights.npz"'
    log = web.get(f"/v1/runs/{run}/artifacts/log").headers["content-disposition"]
    assert log == f'attachment; filename="run-{run}-log.log"'
    assert web.get(f"/v1/runs/{run}/artifacts/probabilities").status_code == 404


def test_a_file_that_is_gone_is_said_to_be_gone(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    sha256 = web.get(f"/v1/runs/{run}/artifacts").json()["artifacts"][0]["sha256"]
    artifacts.locate(sha256).unlink()
    assert web.get(f"/v1/runs/{run}/artifacts/weights").status_code == 410


def test_cancelling_twice_is_once(web: httpx.Client, submit: Submit):
    (run,) = submit()
    first = web.post(f"/v1/runs/{run}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert first.json()["finished_at"] is not None
    assert web.post(f"/v1/runs/{run}/cancel").status_code == 200
    assert [event["move"] for event in web.get(f"/v1/runs/{run}").json()["events"]] == ["submit", "cancel"]


def test_a_running_run_is_asked_to_stop(web: httpx.Client, submit: Submit, claim: Callable[[], Work]):
    (run,) = submit()
    work = claim()
    with transaction() as session:
        queue.heartbeat(session, work.claim, 60, {"phase": "building"})
    assert web.get(f"/v1/runs/{run}").json()["progress"] == {"phase": "building"}
    assert web.post(f"/v1/runs/{run}/cancel").json()["state"] == "stopping"


def test_a_move_that_comes_too_late_tells_the_true_state(web: httpx.Client, finished: Callable[..., int]):
    run = finished()
    for move in ("cancel", "requeue"):
        answer = web.post(f"/v1/runs/{run}/{move}")
        assert (answer.status_code, answer.json()["state"]) == (409, "succeeded")
        assert answer.json()["detail"].startswith(f"run {run} is succeeded, so it cannot be ")
    assert web.get(f"/v1/runs/{run}").json()["state"] == "succeeded"


def test_a_dead_run_is_queued_again(web: httpx.Client, dead: int):
    assert web.get(f"/v1/runs/{dead}").json()["reason"] == "crashed-too-often"
    answer = web.post(f"/v1/runs/{dead}/requeue")
    assert (answer.status_code, answer.json()["state"], answer.json()["crashes"]) == (200, "queued", 0)
    assert web.post(f"/v1/runs/{dead}/requeue").status_code == 409


PATHS = [
    "/v1/runs/9",
    "/v1/runs/9/epochs",
    "/v1/runs/9/images",
    "/v1/runs/9/artifacts",
    "/v1/runs/9/artifacts/weights",
]


@pytest.mark.parametrize(("method", "path"), [("GET", path) for path in PATHS] + [
    ("POST", "/v1/runs/9/cancel"), ("POST", "/v1/runs/9/requeue")])  # fmt: skip
def test_an_unknown_run_is_not_found(web: httpx.Client, method: str, path: str):
    answer = web.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["errors"] == [{"path": "run", "message": "there is no such run", "received": 9}]


def test_a_run_of_another_project_is_not_found(web: httpx.Client, submit: Submit, database: Path):
    from sqlalchemy import text

    (run,) = submit()
    with transaction() as session:
        other = session.scalar(text("INSERT INTO projects (name) VALUES ('other') RETURNING id"))
        session.execute(text("UPDATE runs SET project_id = :other"), {"other": other})
    try:
        assert web.get("/v1/runs").json()["runs"] == []
        for method, path in [("GET", p.replace("9", str(run))) for p in PATHS] + [("POST", f"/v1/runs/{run}/cancel")]:
            assert web.request(method, path).status_code == 404, path
        assert web.get(f"/v1/comparisons?runs={run}").status_code == 404
    finally:
        with transaction() as session:
            session.execute(text("UPDATE runs SET project_id = 1"))
            session.execute(text("DELETE FROM projects WHERE id <> 1"))


def test_hostile_progress_or_messages_do_no_harm(web: httpx.Client, submit: Submit, claim: Callable[[], Work]):
    submit()
    work = claim()
    with transaction() as session:
        queue.heartbeat(session, work.claim, 60, {"phase": "<img src=x>"})
    page = web.get("/", headers={"accept": "text/html"}).text
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_every_attempt_without_a_result_keeps_the_end_of_its_log(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work], liverseg: Command
):
    (run,) = submit()
    with transaction() as session:
        endings.crash(session, claim().claim, Ending(1, "KeyError: 'x'", log="in x\nKeyError: 'x'\n"), 3)
    second = claim().claim
    with transaction() as session:  # the end of its log came with a heartbeat, then nothing
        queue.heartbeat(session, second, 60, {"phase": "training", "epoch": 1, "step": 2, "log": "epoch 1\n"})
        session.execute(text("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'"))
        assert endings.reap(session, 0, 3) == [run]
    third = claim().claim
    with transaction() as session:
        endings.fail(session, third, "loss-not-finite", Ending(3, "the loss became nan", log="<b>nan</b>\n"))
    for number, log in ((1, "in x\nKeyError: 'x'\n"), (2, "epoch 1\n"), (3, "<b>nan</b>\n")):
        answer = web.get(f"/v1/runs/{run}/logs?attempt={number}")
        assert (answer.text, answer.headers["content-type"]) == (log, "text/plain; charset=utf-8")
        assert liverseg("logs", run, "--attempt", number).output.splitlines() == log.splitlines()
    assert web.get(f"/v1/runs/{run}/logs").text == "<b>nan</b>\n"  # of a failed run, the last attempt's
    assert web.get(f"/v1/runs/{run}/logs?attempt=4").status_code == 404
    attempts = web.get(f"/v1/runs/{run}").json()["attempts"]
    assert [one["has_log"] for one in attempts] == [True] * 3
    assert "log" not in attempts[1]["died_at"]
    assert (
        f'href="/v1/runs/{run}/logs?attempt=2&amp;lines=10000"'
        in web.get(f"/runs/{run}", headers={"accept": "text/html"}).text
    )


def test_the_log_is_told_while_a_run_goes_on_and_afterwards(
    web: httpx.Client, submit: Submit, claim: Callable[[], Work], finished: Callable[..., int], liverseg: Command
):
    (run,) = submit()
    answer = web.get(f"/v1/runs/{run}/logs")
    assert (answer.status_code, "no log: it has not begun" in answer.json()["detail"]) == (404, True)
    with transaction() as session:
        queue.heartbeat(session, claim().claim, 60, {"phase": "training", "log": "loading\nepoch 1\nepoch 2\n"})
    answer = web.get(f"/v1/runs/{run}/logs")
    assert (answer.headers["content-type"], answer.text) == (
        "text/plain; charset=utf-8",
        "loading\nepoch 1\nepoch 2\n",
    )
    assert web.get(f"/v1/runs/{run}/logs?lines=1").text == "epoch 2\n"
    done = finished(spec={"model": {"filters": 3, "depth": 2}})
    assert web.get(f"/v1/runs/{done}/logs").text == "weights of a run"  # the file that the fixture keeps as its log
    assert liverseg("logs", run, "--lines", 2).output == "epoch 1\nepoch 2\n"
    assert "attempt 1 of this run left no log" in web.get(f"/v1/runs/{done}/logs?attempt=1").json()["detail"]
    with transaction() as session:
        sha256 = scores.files(session, done)["log"]
    artifacts.locate(sha256).unlink()
    assert web.get(f"/v1/runs/{done}/logs").status_code == 410
