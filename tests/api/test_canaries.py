"""Marked secrets and marked people's names, followed to everything that anybody could read."""

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import func, select

from liverseg_core.phantom import draw_phantom
from store import bundled
from store.database import transaction
from store.models import Base, RunEvent
from store.settings import settings
from tests import factories, processes
from tests.api.conftest import Command, serving
from tests.api.test_predictions import zipped

PASSWORD = "canary-password-5fb1"
BOOTSTRAP = "canary-bootstrap-9e37"
HOOK = "canary-hook-77aa"
PERSON = "Mustermann_Erika_1955"
PAGE = {"accept": "text/html"}


def database_url(home: Path, host: str | None = None) -> str:
    """The bundled Postgres by a URL with a password, which it takes for good whatever it is."""
    where = f"@{host}/liverseg" if host else f"@/liverseg?host={bundled.socket_folder(home)}"
    return f"postgresql://app:{PASSWORD}{where}"


def rows(home: Path) -> str:
    """Every row of every table as text."""
    with psycopg.connect(bundled.database_url(home)) as connection:
        found = [
            row[0]
            for table in Base.metadata.sorted_tables
            for row in connection.execute(f"SELECT t::text FROM {table.name} t").fetchall()
        ]
    assert found
    return "\n".join(found)


def files(home: Path) -> dict[str, bytes]:
    """Everything below the home but the servers' own data: logs, artifacts, caches, checkpoints, scratch."""
    paths = [path for path in home.rglob("*") if path.is_file() and not {"postgres", "valkey"} & set(path.parts)]
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


def everything_told(client: httpx.Client) -> str:
    """What the API answers to whoever asks for everything that needs no id, and about run 1 and its data set."""
    known = client.get("/openapi.json").json()["paths"]
    paths = [path for path in known if "{" not in path and path != "/v1/events"]
    paths += ["/", "/datasets", "/docs", "/openapi.json", "/runs/1", "/v1/runs/1", "/v1/datasets/phantom"]
    paths += [
        "/comparisons?runs=1",
        "/v1/runs/1/images",
        "/v1/runs/1/artifacts",
        "/nothing",
        "/v1/comparisons?runs=1",
    ]
    told = [client.get(path, headers=headers).text for path in paths for headers in ({}, PAGE)]
    return "\n".join([*told, *first_of_stream(client, "/v1/events?after=0")])


def first_of_stream(client: httpx.Client, path: str) -> list[str]:
    """The lines up to the end of the newest move; then nothing happens for the rest of a minute."""
    with transaction() as session:
        newest = f"id: {session.scalar(select(func.max(RunEvent.id)))}"
    found: list[str] = []
    with client.stream("GET", path) as answer:
        for line in answer.iter_lines():
            found.append(line)
            if not line and newest in found:
                break
    assert "event: move" in found
    assert newest in found
    return found


@pytest.fixture
def home(database: Path) -> Path:
    """Its log of the API begins anew, and nothing in it is from other tests."""
    for name in ("test-api.log", "artifacts", "cache", "checkpoints", "scratch"):
        place = database / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    return database


def test_no_secret_reaches_anything_that_can_be_read(
    home: Path, archive: Path, liverseg: Command, monkeypatch: pytest.MonkeyPatch
):
    surroundings = {"LIVERSEG_TOKEN": BOOTSTRAP, "LIVERSEG_DATABASE_URL": database_url(home)}
    told = []
    with (
        serving(home, **surroundings, LIVERSEG_STATEMENT_S="1") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        client.headers["authorization"] = f"Bearer {BOOTSTRAP}"
        secret = client.post("/v1/tokens", json={"name": "anna", "scope": "admin"}).json()["secret"]
        client.headers["authorization"] = f"Bearer {secret}"
        assert client.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 201
        hook = client.post("/v1/webhooks", json={"url": f"http://127.0.0.1:9/{HOOK}"}).json()
        # Reference predictors are scored by the worker itself, which leaves artifacts, scores and a log.
        (first, *_) = client.post("/v1/references", json={"spec": factories.tiny_spec()}).json()["runs"]
        for name, value in surroundings.items():
            monkeypatch.setenv(name, value)
        with processes.worker(home / "worker.log"):
            monkeypatch.undo()
            assert processes.wait_for_end(first["id"]).state == "succeeded"
        assert client.post(f"/v1/webhooks/{hook['id']}/test").json()["error"]  # nobody is there
        body = {"spec": factories.tiny_spec(), "references": False}
        (told_of,) = client.post("/v1/experiments", json=body).json()["runs"]
        assert client.post(f"/v1/runs/{told_of['id']}/cancel").status_code == 200
        path = f"/v1/webhooks/{hook['id']}"
        processes.wait_for("a failure", lambda: client.get(path).json()["failures"], 20)
        told.append(client.get(path).text)
        told.append(everything_told(client))
        told += refusals(client, secret, home)
        told += commands(liverseg, url, secret, monkeypatch)
    secrets = [secret, BOOTSTRAP, PASSWORD]
    sinks = {"rows": rows(home), "answers": "\n".join(told)}
    sinks |= {name: content.decode("latin-1") for name, content in files(home).items()}
    assert {"test-api.log", "worker.log"} <= set(sinks)
    assert any(name.startswith("artifacts") for name in sinks)
    assert "anna" in sinks["rows"]
    assert "anna" in sinks["answers"]
    assert {name: word for name, text in sinks.items() for word in secrets if word in text} == {}
    # A webhook's secret must be kept, since messages are signed with it; its address is shown to its project.
    assert [name for name, text in sinks.items() if hook["secret"] in text] == ["rows"]
    assert {name for name, text in sinks.items() if HOOK in text} == {"rows", "answers"}


def refusals(client: httpx.Client, secret: str, home: Path) -> list[str]:
    """Every kind of refusal, among them those that the API writes into its log."""
    found = [
        client.get(f"/v1/runs?token={secret}"),
        client.get(f"/v1/runs/{secret}"),
        client.post("/v1/tokens", json={"name": secret}),
        client.post("/v1/experiments", json={"spec": {"name": secret, secret: secret}}),
        client.post("/v1/experiments", content=f'{{"{secret}": ', headers={"content-type": "application/json"}),
        client.get("/v1/runs", headers={"authorization": f"Bearer {secret}x"}),
        client.get(f"/{secret}", headers=PAGE),
    ]
    assert [answer.status_code for answer in found] == [422, 422, 422, 422, 422, 401, 404]
    with psycopg.connect(bundled.database_url(home), autocommit=True) as connection:
        connection.execute("ALTER TABLE printed_tables RENAME TO gone")
        broken = client.post("/v1/tables?name=x", json={"files": [{"name": "x", "text": "Name  Loss\nx  3.6%\n"}]})
        connection.execute("ALTER TABLE gone RENAME TO printed_tables")
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        late = client.get("/v1/runs")
        connection.execute("ROLLBACK")
    assert [broken.status_code, late.status_code] == [500, 503]
    log = (home / "test-api.log").read_text()
    assert "Traceback" in log
    assert "took too long" in log
    assert "Traceback" not in broken.text
    return [answer.text for answer in (*found, broken, late)]


def commands(liverseg: Command, url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LIVERSEG_URL", url)
    monkeypatch.setenv("LIVERSEG_TOKEN", secret)
    monkeypatch.setenv("LIVERSEG_DATABASE_URL", f"postgresql://app:{PASSWORD}@nowhere/liverseg")
    settings.cache_clear()
    good = ["runs", "token list", "token list --json", "project list", "dataset list", "show 1", "compare 1"]
    found = [liverseg(*words.split()).output for words in good]
    found += [
        liverseg(*words.split(), code=2).output for words in ("show 99", "token revoke 99", "runs --state lost")
    ]
    monkeypatch.setenv("LIVERSEG_TOKEN", f"{secret}-not")
    settings.cache_clear()
    return [*found, liverseg("runs", code=2).output]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0.1:no", "[::1"])
def test_a_database_that_cannot_be_reached_tells_no_password(home: Path, host: str):
    """In the log of the API, in its answers, and where it refuses to start."""
    surroundings = os.environ | {"LIVERSEG_DATABASE_URL": database_url(home, host)}
    command = [sys.executable, "-m", "api.serve", "--port", "0", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "LIVERSEG_" in done.stderr
    if host == "127.0.0.1:1":
        with serving(home, LIVERSEG_DATABASE_URL=surroundings["LIVERSEG_DATABASE_URL"]) as url:
            answers = [httpx.get(url + path, timeout=60, headers=PAGE) for path in ("/v1/runs", "/", "/readyz")]
        assert [answer.status_code for answer in answers] == [503, 503, 503]
        log = (home / "test-api.log").read_text()
        assert "the database is away" in log
        assert not any(PASSWORD in text for text in (log, *(answer.text for answer in answers)))


# ---- people --------------------------------------------------------------------------------------------------


def test_the_folder_that_slices_come_from_is_told_nowhere(home: Path, liverseg: Command, tmp_path: Path):
    folder = tmp_path / PERSON / "CT Abdomen"
    draw_phantom(folder, subjects=4, slices=4, size=32)
    (folder / f"{PERSON}.txt").write_text(PERSON)  # other files at the top are left out
    (folder / "subjects.json").unlink(missing_ok=True)
    made = liverseg("dataset", "import", folder, "--name", "phantom", "--json").stdout
    with httpx.Client(base_url=settings().url, timeout=60) as client:
        answers = [client.get(path, headers=PAGE).text for path in ("/datasets", "/datasets/phantom", "/v1/datasets")]
    sinks = {"rows": rows(home), "answers": "\n".join([made, *answers])}
    sinks |= {name: content.decode("latin-1") for name, content in files(home).items()}
    assert any(name.startswith("artifacts") for name in sinks)
    found = {name for name, text in sinks.items() if re.search("Mustermann|Erika|CT Abdomen", text + name)}
    assert found == set()


@pytest.mark.parametrize("path", ["/v1/datasets?name=x", "/v1/runs/1/predictions"])
@pytest.mark.parametrize("name", [f"{PERSON}.png", f"{PERSON}/1_1.png", f"train/images/{PERSON}.png"])
def test_a_file_named_after_a_person_is_refused_and_kept_nowhere(
    home: Path, web: httpx.Client, finished, path: str, name: str
):
    assert finished() == 1
    processes.all_announced()
    before = rows(home)
    refused = web.post(path, content=zipped({name: b"", "1_1.png": b""}))
    assert refused.status_code == 422
    assert "SCAN_SLICE.png" in refused.text
    assert rows(home) == before
    assert not any(b"Mustermann" in content or "Mustermann" in place for place, content in files(home).items())


def telling(archive: bytes) -> bytes:
    """The same zip, in which every picture tells a person's name wherever a PNG can, and every entry too."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(out, "w") as bundle:
        for name in given.namelist():
            info = zipfile.ZipInfo(name)
            info.comment = PERSON.encode()
            bundle.writestr(info, named(given.read(name)) if name.endswith(".png") else given.read(name))
    return out.getvalue()


def named(png: bytes) -> bytes:
    texts = {b"tEXt": b"PatientName\0", b"iTXt": b"PatientName\0\0\0\0\0", b"eXIf": b"MM\0*\0\0\0\x08", b"prVt": b""}
    chunks = [(kind, before + PERSON.encode()) for kind, before in texts.items()]
    chunks.append((b"zTXt", b"PatientName\0\0" + zlib.compress(PERSON.encode(), 0)))  # level 0: readable as it is
    made = [struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b)) for kind, b in chunks]
    return png[:33] + b"".join(made) + png[33:]


def test_what_a_picture_tells_beside_its_pixels_reaches_no_sink(home: Path, web: httpx.Client, archive: Path):
    """From an upload to the stored archive, the cache, overlays, masks, logs and answers."""
    told = telling(archive.read_bytes())
    assert told.count(PERSON.encode()) > 5 * 8
    made = web.post("/v1/datasets?name=phantom", content=told)
    assert made.status_code == 201, made.text
    plain = web.post("/v1/datasets?name=plain", content=archive.read_bytes()).json()
    assert made.json()["content_hash"] == plain["content_hash"]
    body = {"spec": factories.tiny_spec(training={"batch_size": 4, "epochs": 1}), "references": False}
    (run,) = web.post("/v1/experiments", json=body).json()["runs"]
    with processes.worker(home / "worker.log"):
        assert processes.wait_for_end(run["id"]).state == "succeeded"
        with zipfile.ZipFile(archive) as given:
            slices = zipped({n.rpartition("/")[2]: given.read(n) for n in given.namelist() if "val/images" in n})
        answer = web.post(f"/v1/runs/{run['id']}/predictions", content=telling(slices))
        assert answer.status_code == 201, answer.text
        (masks,) = answer.json()["runs"]
        assert processes.wait_for_end(masks["id"]).state == "succeeded"
    drawn = [web.get(f"/v1/runs/{run['id']}/figures/{name}.png") for name in ("worst", "curves")]
    assert [answer.status_code for answer in drawn] == [200, 200]
    sinks = {
        "rows": rows(home),
        "answers": everything_told(web),
        "drawn": "".join(a.content.decode("latin-1") for a in drawn),
    }
    sinks |= {name: content.decode("latin-1") for name, content in files(home).items()}
    assert sum(name.startswith("artifacts") for name in sinks) > 5
    assert any(name.startswith("cache") for name in sinks)
    assert {name for name, text in sinks.items() if PERSON in text + name} == set()
    kept = [path for path in (home / "artifacts").rglob("*") if path.is_file() and zipfile.is_zipfile(path)]
    pictures = [zipfile.ZipFile(path).read(n) for path in kept for n in zipfile.ZipFile(path).namelist()]
    assert not any(kind in picture for picture in pictures for kind in (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"prVt"))
