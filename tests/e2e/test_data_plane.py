"""An API and two workers that share no folder: a bucket, Postgres and Valkey are all that they have in common."""

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from store import artifacts, bundled, experiments, usage, views
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.standing import standing
from store.upkeep import Upkeep
from store.verify import verify
from tests import factories, processes, s3
from tests.api.conftest import serving
from tests.conftest import forget_caches

CACHE_MB = 1


@pytest.fixture
def homes(
    database: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], dict[str, str]]]:
    """The surroundings of a process with a home of its own, by its name."""
    s3_server.clear()
    root = Path(tempfile.mkdtemp(prefix="lv-homes-", dir="/tmp"))
    shared = s3_server.surroundings() | {
        "LIVERSEG_DATABASE_URL": bundled.database_url(database),
        "LIVERSEG_BROKER_URL": bundled.broker_url(database),
        "LIVERSEG_DATA_CACHE_MB": str(CACHE_MB),
    }
    for name, value in (shared | {"LIVERSEG_HOME": str(root / "test")}).items():
        monkeypatch.setenv(name, value)
    forget_caches()
    yield lambda name: {"LIVERSEG_HOME": str(root / name), "LIVERSEG_DEVICE": name}
    monkeypatch.undo()
    forget_caches()
    shutil.rmtree(root)


def submit(web: httpx.Client, **fields: object) -> int:
    answer = web.post("/v1/experiments", json={"spec": factories.tiny_spec(), "references": False, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["runs"][0]["id"]


def finished(run: int, log: Path) -> None:
    assert processes.wait_for_end(run).state == "succeeded", (processes.get_run(run).message, log.read_text())


def picture(web: httpx.Client, address: str) -> np.ndarray:
    answer = web.get(address)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.array(image)


def test_hosts_that_share_nothing_but_a_bucket(
    homes: Callable[[str], dict[str, str]], tmp_path: Path, s3_server: s3.Server
) -> None:
    first, second, api = homes("first"), homes("second"), homes("api")
    log = tmp_path / "worker.log"
    Path(api["LIVERSEG_HOME"]).mkdir(parents=True)
    with serving(Path(api["LIVERSEG_HOME"]), **api) as url, httpx.Client(base_url=url, timeout=60) as web:
        archive = factories.tiny_archive(tmp_path)
        assert web.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 201
        run = submit(web)
        with processes.worker(log, **first):
            finished(run, log)

        # The API has none of the run's files and draws its overlay.
        assert held(api) == set()
        one = web.get(f"/v1/runs/{run}/images?limit=1").json()["images"][0]
        tile = f"/v1/runs/{run}/images/{one['part']}/{one['scan']}_{one['slice']}/overlay.png"
        assert picture(web, tile).shape[:2] == (32, 32)
        assert picture(web, f"/v1/runs/{run}/figures/worst.png?rows=1").size
        with transaction() as session:
            files = {each.kind: each for each in views.artifacts(session, run)}
        assert held(api) == {dataset_of(run), files["probabilities"].sha256}
        for kind, file in files.items():
            content = web.get(f"/v1/runs/{run}/artifacts/{kind}").content
            assert (len(content), artifacts.sha256_of(written(tmp_path, content))) == (file.bytes, file.sha256)
        assert "loading" in web.get(f"/v1/runs/{run}/logs").text

        # A worker that has nothing yet evaluates the same weights, and scores the same maps anew.
        with processes.worker(log, **second):
            rescored = web.post("/v1/rescores", json={"runs": [run], "evaluation": {"threshold": 0.4}})
            assert rescored.status_code == 201, rescored.text
            finished(rescored.json()["runs"][0]["id"], log)
            again = submit(web, reuse=False)
            finished(again, log)
        assert not (Path(second["LIVERSEG_HOME"]) / "artifacts").exists()

    with transaction() as session:
        assert [str(each) for each in verify(session) if not each.holds] == []
        assert [each.host for each in views.attempts(session, again)]
        results = [
            {each.kind: each.sha256 for each in views.artifacts(session, each_run)} for each_run in (run, again)
        ]
    assert results[0]["weights"] == results[1]["weights"]  # the same training on another host
    for home in (first, second, api):
        assert usage.folder_bytes(Path(home["LIVERSEG_HOME"]) / "fetched") <= CACHE_MB << 20
    told = log.read_text() + (Path(api["LIVERSEG_HOME"]) / "test-api.log").read_text()
    assert not any(secret in told for secret in (s3.KEY, s3.SECRET))
    assert not any(secret in dump() for secret in (s3.KEY, s3.SECRET))


def test_a_worker_of_another_host_takes_a_run_from_a_dead_one(
    homes: Callable[[str], dict[str, str]], tmp_path: Path, upkeep: Upkeep
) -> None:
    """Checkpoints stay on their host: it says that it may begin anew, does so, and every epoch is there once."""
    factories.import_phantom(tmp_path)
    with transaction() as session:
        training = {"batch_size": 4, "epochs": 40, "early_stopping": {"patience": None}}
        spec = factories.tiny_spec(training=training)
        run = experiments.submit(session, DEFAULT_PROJECT, factories.submission(spec)).runs[0].id
    log = tmp_path / "worker.log"
    worker = processes.start_worker(log, **homes("first"))
    processes.wait_for_epoch(run, 2)
    processes.kill_tree(worker)
    shutil.rmtree(homes("first")["LIVERSEG_HOME"])  # the other host cannot see it
    processes.wait_for("it to be taken back", lambda: processes.get_run(run).state == "queued")
    with transaction() as session:
        said = standing(session, views.run(session, DEFAULT_PROJECT, run)).next
    assert re.match(r"It goes on after epoch \d+ \(from its start on a host without that checkpoint\)", said)
    with processes.worker(log, **homes("second")):
        finished(run, log)
    with transaction() as session:
        assert [one.epoch for one in views.epochs(session, run)] == list(range(1, 41))
        assert [(one.outcome, one.resumed_from) for one in views.attempts(session, run)] == [
            ("lost", 0),
            ("succeeded", 0),
        ]
        assert [str(each) for each in verify(session) if not each.holds] == []


def held(home: dict[str, str]) -> set[str]:
    """What a host has fetched."""
    return {path.name for path in (Path(home["LIVERSEG_HOME"]) / "fetched").glob("*")}


def dataset_of(run: int) -> str:
    from store.models import Dataset

    with transaction() as session:
        return session.get_one(Dataset, views.run(session, DEFAULT_PROJECT, run).dataset_id).artifact


def written(folder: Path, content: bytes) -> Path:
    (folder / "downloaded").write_bytes(content)
    return folder / "downloaded"


def dump() -> str:
    """Every row of every table as text."""
    from sqlalchemy import text

    from store.models import Base

    with transaction() as session:
        tables = [session.execute(text(f"SELECT t::text FROM {name} t")) for name in Base.metadata.tables]
        return "\n".join(str(row) for rows in tables for row in rows)
