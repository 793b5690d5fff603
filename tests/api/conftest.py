"""A real API process, and runs in every state, made through the ledger's own functions."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from api.commands.main import main
from liverseg_core.data.manifest import SliceEntry
from store import artifacts, endings, presence, scores
from store.database import transaction
from store.endings import Ending
from store.queue import Work
from store.settings import settings
from tests import factories, processes

Command = Callable[..., Result]


@contextmanager
def serving(home: Path, *words: str, **environment: str) -> Iterator[str]:
    """An API process on a free port; its address."""
    command = [sys.executable, "-P", "-m", "api.serve", "--port", "0", *words]
    with (home / "test-api.log").open("a") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | environment,
        )
    try:
        line = process.stdout.readline()
        assert "ready at" in line, (home / "test-api.log").read_text()
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="package")  # not the session: its upkeep would take part in the other rooms' tests
def api_url(services: Path) -> Iterator[str]:
    with serving(services) as url:
        yield url


@pytest.fixture
def web(database: Path, api_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api_url, timeout=60) as client:
        yield client


@pytest.fixture
def count_rows(count_rows: Callable[[], dict[str, int]], web: httpx.Client) -> Callable[[], dict[str, int]]:
    """The same, once the API has announced what it knows."""

    def count() -> dict[str, int]:
        processes.all_announced()
        return count_rows()

    return count


BOOTSTRAP = "correct-horse-battery-staple-and-more"


@pytest.fixture(scope="package")
def guarded_url(services: Path) -> Iterator[str]:
    """An API that was started with a token."""
    with serving(services, LIVERSEG_TOKEN=BOOTSTRAP) as url:
        yield url


@pytest.fixture
def enter(database: Path, guarded_url: str) -> Iterator[Callable[[str], httpx.Client]]:
    """A client of the guarded API that shows a token."""
    with ExitStack() as clients:

        def client(token: str) -> httpx.Client:
            made = httpx.Client(base_url=guarded_url, timeout=60, headers={"authorization": f"Bearer {token}"})
            return clients.enter_context(made)

        yield client


@pytest.fixture
def admin(enter: Callable[[str], httpx.Client]) -> httpx.Client:
    """Shows ``LIVERSEG_TOKEN``."""
    return enter(BOOTSTRAP)


@pytest.fixture
def member(admin: httpx.Client, enter: Callable[[str], httpx.Client]) -> Callable[..., httpx.Client]:
    """Makes a token, and its project where there is none of that name; a client that shows it."""

    def join(project: str, scope: str = "write", **fields: str) -> httpx.Client:
        if project not in [one["name"] for one in admin.get("/v1/projects").json()["projects"]]:
            assert admin.post("/v1/projects", json={"name": project}).status_code == 201
        body = {"name": f"{project}-{scope}", "scope": scope, "project": project, **fields}
        made = admin.post("/v1/tokens", json=body)
        assert made.status_code == 201, made.text
        return enter(made.json()["secret"])

    return join


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.tiny_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def phantom(web: httpx.Client, archive: Path) -> dict[str, Any]:
    """The data set ``phantom``, imported over HTTP."""
    answer = web.post("/v1/datasets?name=phantom", content=archive.read_bytes())
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def submit(web: httpx.Client, phantom: dict[str, Any]) -> Callable[..., list[int]]:
    """Submits a tiny spec, changed by sections; the ids of the runs."""

    def send(*, spec: dict[str, Any] | None = None, **fields: Any) -> list[int]:
        body = {"spec": factories.tiny_spec(**(spec or {})), "references": False, **fields}
        answer = web.post("/v1/experiments", json=body)
        assert answer.status_code == 201, answer.text
        return [run["id"] for run in answer.json()["runs"]]

    return send


@pytest.fixture
def claim(submit: Callable[..., list[int]]) -> Callable[[], Work]:
    """Claims the best queued run, as a worker would."""

    return processes.claim


@pytest.fixture
def finished(submit: Callable[..., list[int]], claim: Callable[[], Work], tmp_path: Path) -> Callable[..., int]:
    """A succeeded run with two epochs, made-up scores and one file; its id. ``each``: other values, by slice."""

    def finish(
        *,
        spec: dict[str, Any] | None = None,
        each: Callable[[SliceEntry], dict[str, Any]] = lambda _: {},
        **score: Any,
    ) -> int:
        (run,) = submit(spec=spec, reuse=False)
        work = claim()
        file = tmp_path / "weights.npz"
        file.write_bytes(b"weights of a run")
        wanted = [e for e in work.manifest.slices if e.part != "train"]
        for epoch in (1, 2):
            with transaction() as session:
                factories.store_epoch(session, work.claim, factories.epoch_record(epoch), {"epoch": epoch})
        with transaction() as session:
            made = [factories.slice_score(e.part, e.scan, e.slice, **{**score, **each(e)}) for e in wanted]
            files = {kind: artifacts.put(file) for kind in ("log", "weights")}
            scores.finish(session, work.claim, made, files, 2, Ending(exit_code=0))
        assert work.claim.run_id == run
        return run

    return finish


@pytest.fixture
def dead(submit: Callable[..., list[int]], claim: Callable[[], Work]) -> int:
    """A run whose only allowed attempt crashed."""
    (run,) = submit()
    with transaction() as session:
        endings.crash(session, claim().claim, Ending(exit_code=-9, message="killed"), 1)
    return run


@pytest.fixture
def liverseg(database: Path, api_url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process, its output no terminal."""
    monkeypatch.setenv("LIVERSEG_URL", api_url)
    settings.cache_clear()

    def run(*words: str | Path, code: int = 0, given: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(main, [str(word) for word in words], input=given)
        assert result.exit_code == code, (result.output, result.exception)
        assert "\x1b" not in result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def worker_there(database: Path) -> None:
    """A worker of the default pool that stays there, however long the test takes."""
    with transaction() as session:
        one = presence.Presence("host-1:1", "host-1", "default", slots=1, threads=2, version="1.2.3")
        presence.here(session, one)
        session.execute(text("UPDATE workers SET seen_at = clock_timestamp() + interval '1 hour'"))
