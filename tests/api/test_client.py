import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from api.client import ApiError, Client, Unreachable
from liverseg_core.phantom import draw_phantom
from tests.factories import tiny_spec


@pytest.fixture
def client(database: Path, api_url: str) -> Iterator[Client]:
    with Client(api_url) as made:
        yield made


def test_from_a_folder_to_a_comparison(client: Client, tmp_path: Path):
    draw_phantom(tmp_path / "slices", subjects=4, slices=4, size=32)
    told: list[tuple[int, int]] = []
    made = client.import_dataset(tmp_path / "slices", "phantom", progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > 0
    assert client.datasets() == [made]
    assert client.dataset("phantom") == made
    assert client.submit({"spec": tiny_spec(), "seeds": 2}, dry_run=True)["count"] == 2
    experiment = client.submit({"spec": tiny_spec(name="one"), "seeds": 2, "references": False})
    assert [one["id"] for one in client.experiments()] == [experiment["id"]]
    assert client.experiment(experiment["id"])["runs"] == experiment["runs"]
    assert [run["id"] for run in client.runs(name="one", state="queued")] == [2, 1]
    assert client.cancel(1)["state"] == "cancelled"
    assert client.run(1)["state"] == "cancelled"
    assert client.compare([2, 1])["rows"][0]["run"] == 2
    assert client.compare(experiment=1, format="csv").startswith("run,name,")
    assert client.ready()["ready"]


def test_results_of_a_finished_run(client: Client, finished: Callable[..., int], tmp_path: Path):
    run = finished()
    assert [epoch["epoch"] for epoch in client.epochs(run)] == [1, 2]
    assert len(client.images(run, sort="lesion_dice", limit=3)) == 3
    assert client.download(run, "weights", tmp_path / "w.npz").read_bytes() == b"weights of a run"
    with pytest.raises(ApiError) as caught:
        client.download(run, "nothing", tmp_path / "x.npz")
    assert caught.value.status == 404
    assert [file.name for file in tmp_path.iterdir() if "x.npz" in file.name] == []


def test_a_refusal_says_where_and_what(client: Client):
    with pytest.raises(ApiError) as caught:
        client.submit({"spec": tiny_spec("nope")})
    assert caught.value.status == 422
    assert str(caught.value).startswith("dataset.id: no such data set")
    assert str(caught.value).endswith("Received: 'nope'.")
    with pytest.raises(ApiError, match="there is no such run") as unknown:
        client.requeue(5)
    assert unknown.value.problem["status"] == 404


def test_nobody_there(tmp_path: Path):
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match="liverseg up"):
        client.ready()


class Flaky(http.server.BaseHTTPRequestHandler):
    """Lets ``lost`` requests go without an answer of its own, by ``loses``; answers the next one."""

    seen: ClassVar[list[tuple[str | None, bytes]]] = []
    lost: ClassVar[int] = 1
    loses: ClassVar[str] = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.headers["idempotency-key"], body))
        if len(self.seen) > self.lost:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"id": 1, "runs": []}')
        elif self.loses == BY_A_PROXY:
            self.send_response(502)
            self.end_headers()
            self.wfile.write(b'{"status": 502, "detail": "the node ended"}')

    def log_message(self, *_: object) -> None:
        pass


HANGING_UP, BY_A_PROXY = "a connection that is hung up", "a proxy that lost its node"


@pytest.fixture(params=[HANGING_UP, BY_A_PROXY])
def flaky(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Flaky.seen.clear()
    monkeypatch.setattr(Flaky, "loses", request.param)
    with http.server.HTTPServer(("127.0.0.1", 0), Flaky) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_lost_answer_is_asked_for_again_with_the_same_key(flaky: str):
    with Client(flaky) as client:
        assert client.submit({"spec": {"dataset": {"id": "x"}}}) == {"id": 1, "runs": []}
    (first, body), (second, again) = Flaky.seen
    assert first == second is not None
    assert len(first) == 36
    assert json.loads(body) == json.loads(again) == {"spec": {"dataset": {"id": "x"}}}


def test_a_data_set_whose_answer_was_lost_is_sent_again_from_its_first_byte(flaky: str, tmp_path: Path):
    draw_phantom(tmp_path / "slices", subjects=2, slices=4, size=32)
    with Client(flaky) as client:
        client.import_dataset(tmp_path / "slices", "phantom")
    (_, sent), (_, again) = Flaky.seen
    assert sent == again
    assert sent.startswith(b"PK")


def test_what_may_not_be_repeated_is_not(flaky: str):
    with Client(flaky) as client, pytest.raises((Unreachable, ApiError)):
        client._json("POST", "/v1/runs/1/requeue", json={})
    assert len(Flaky.seen) == 1


@pytest.mark.parametrize("flaky", [BY_A_PROXY], indirect=True)
def test_an_answer_that_stays_lost_ends_in_the_words_of_the_proxy(flaky: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Flaky, "lost", 99)
    monkeypatch.setattr("api.client.PAUSES_S", (0.01, 0.01))
    with Client(flaky) as client, pytest.raises(ApiError, match="the node ended") as caught:
        client.cancel(1)
    assert caught.value.status == 502
    assert len(Flaky.seen) == 3
