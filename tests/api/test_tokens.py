"""Projects and tokens over HTTP and by command: who gets in, with what, and until when."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

import httpx
import pytest
from fastapi import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api.callers import KEPT_S, Keyring
from api.rates import Rates
from api.security import Guard
from store import tokens
from store.database import transaction
from store.settings import settings
from tests.api.conftest import BOOTSTRAP, Command, serving
from tests.factories import tiny_spec
from tests.processes import wait_for

Member = Callable[..., httpx.Client]
Enter = Callable[[str], httpx.Client]


def make(client: httpx.Client, **fields: str) -> httpx.Response:
    return client.post("/v1/tokens", json={"name": "anna", **fields})


def problem_at(answer: httpx.Response, status: int = 422) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["errors"][0]["path"]


# ---- making and ending them ----------------------------------------------------------------------------------


def test_a_secret_is_shown_once(admin: httpx.Client):
    made = make(admin, scope="read")
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.json()["secret"]
    (listed,) = admin.get("/v1/tokens").json()["tokens"]
    assert listed == {name: value for name, value in made.json().items() if name != "secret"}
    assert secret not in admin.get("/v1/tokens").text
    assert (listed["name"], listed["scope"], listed["project"]) == ("anna", "read", "default")
    assert (listed["created_by"], listed["expires_at"], listed["revoked_at"]) == ("bootstrap", None, None)


def test_a_token_gets_in_until_it_is_revoked(admin: httpx.Client, enter: Enter):
    made = make(admin).json()
    client = enter(made["secret"])
    assert client.get("/v1/runs").status_code == 200
    ended = admin.post(f"/v1/tokens/{made['id']}/revoke")
    assert ended.status_code == 200
    assert ended.json()["revoked_at"]
    assert client.get("/v1/runs").status_code == 401  # at once in this process
    again = admin.post(f"/v1/tokens/{made['id']}/revoke")
    when = {"last_used_at": ANY}  # written down after whoever used it has been answered
    assert again.json() == ended.json() | when


def test_who_did_it_is_kept(admin: httpx.Client, enter: Enter, archive: Path):
    anna, bert = (make(admin, name=name, scope="admin").json() for name in ("anna", "bert"))
    as_anna, as_bert = enter(anna["secret"]), enter(bert["secret"])
    assert as_anna.post("/v1/projects", json={"name": "other"}).json()["created_by"] == "anna"
    assert [one["created_by"] for one in as_bert.get("/v1/projects").json()["projects"]] == ["anna", None]
    dataset = as_anna.post("/v1/datasets?name=phantom", content=archive.read_bytes())
    again = as_bert.post("/v1/datasets?name=phantom", content=archive.read_bytes())  # the same, so it stays hers
    assert (dataset.json()["created_by"], again.json()["created_by"]) == ("anna", "anna")
    body = {"files": [{"name": "t.csv", "text": "Name,Dice\na,50\n"}]}
    for client, name in ((as_anna, "anna"), (as_bert, "bert")):  # replaced, so it is his
        table = client.post("/v1/tables?name=t", json=body)
        assert (table.status_code, table.json()["created_by"]) == (201, name)
    assert as_anna.get("/v1/tables").json()["tables"][0]["created_by"] == "bert"
    more = make(admin, name="carl").json()
    assert more["revoked_by"] is None
    for client in (as_bert, as_anna):
        ended = client.post(f"/v1/tokens/{more['id']}/revoke").json()
        assert ended["revoked_by"] == "bert"  # the first one


def test_a_revocation_counts_soon_in_other_processes(admin: httpx.Client, enter: Enter):
    made = make(admin).json()
    client = enter(made["secret"])
    assert client.get("/v1/runs").status_code == 200
    with transaction() as session:
        tokens.revoke(session, made["id"])
    time.sleep(KEPT_S)
    assert client.get("/v1/runs").status_code == 401


def test_use_is_told(admin: httpx.Client, enter: Enter):
    made = make(admin).json()
    assert made["last_used_at"] is None
    enter(made["secret"]).get("/v1/runs")
    # Right after the answer, which does not wait for it.
    wait_for("its use to be told", lambda: admin.get("/v1/tokens").json()["tokens"][0]["last_used_at"])


def test_tokens_come_in_pages(admin: httpx.Client):
    for name in ("a", "b", "c"):
        make(admin, name=name)
    first = admin.get("/v1/tokens?limit=2").json()
    assert [one["name"] for one in first["tokens"]] == ["c", "b"]
    second = admin.get(f"/v1/tokens?limit=2&before={first['next']}").json()
    assert ([one["name"] for one in second["tokens"]], second["next"]) == (["a"], None)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "local"}, "name"),
        ({"scope": "root"}, "scope"),
        ({"project": "nowhere"}, "project"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),  # in no zone
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_at": 4102444800}, "expires_at"),
        ({"secret": "mine"}, "secret"),
    ],
)
def test_what_cannot_be_a_token(admin: httpx.Client, fields: dict[str, str], path: str):
    assert problem_at(make(admin, **fields)) == path
    assert admin.get("/v1/tokens").json()["tokens"] == []


def test_what_is_not_there_cannot_be_changed(admin: httpx.Client):
    assert problem_at(admin.post("/v1/tokens/9/revoke"), 404) == "token"
    assert problem_at(admin.patch("/v1/projects/9", json={"name": "x"}), 404) == "project"


def test_a_project_gets_another_name_and_its_tokens_stay(admin: httpx.Client, member: Member):
    client = member("liver")
    (project,) = [one for one in admin.get("/v1/projects").json()["projects"] if one["name"] == "liver"]
    assert admin.patch(f"/v1/projects/{project['id']}", json={"name": "hepar"}).json()["name"] == "hepar"
    assert problem_at(admin.patch(f"/v1/projects/{project['id']}", json={"name": "default"})) == "name"
    assert problem_at(admin.post("/v1/projects", json={"name": "hepar"})) == "name"
    assert client.get("/v1/runs").status_code == 200
    assert [one["project"] for one in admin.get("/v1/tokens").json()["tokens"]] == ["hepar"]


# ---- what they may do ----------------------------------------------------------------------------------------


def test_who_reads_may_not_write(member: Member):
    reader = member("default", "read")
    assert reader.get("/v1/runs").status_code == 200
    for path in ("/v1/experiments", "/v1/runs/1/cancel", "/runs/1/cancel"):
        refused = reader.post(path)
        assert refused.status_code == 403
        assert "write" in refused.json()["detail"]


def test_who_reads_is_offered_no_button(member: Member, archive: Path):
    reader, writer = member("default", "read"), member("default", "write")
    assert writer.post("/v1/datasets?name=x", content=archive.read_bytes()).status_code == 201
    (run,) = writer.post("/v1/experiments", json={"spec": tiny_spec("x"), "references": False}).json()["runs"]
    for path in (f"/runs/{run['id']}", f"/fragments/runs/{run['id']}", "/datasets/x"):
        offered, shown = (client.get(path, headers={"accept": "text/html"}) for client in (writer, reader))
        assert 'method="post"' in offered.text, path
        assert shown.status_code == 200
        assert 'method="post"' not in shown.text, path


def test_who_writes_may_not_administer(member: Member):
    writer = member("default", "write")
    assert writer.post("/v1/runs/1/cancel").status_code == 404
    for method, path in [
        ("GET", "/v1/tokens"),
        ("POST", "/v1/tokens"),
        ("POST", "/v1/tokens/1/revoke"),
        ("GET", "/v1/projects"),
        ("POST", "/v1/projects"),
        ("PATCH", "/v1/projects/1"),
    ]:
        refused = writer.request(method, path)
        assert refused.status_code == 403, path
        assert "admin" in refused.json()["detail"]


def test_who_administers_makes_tokens_of_any_project(member: Member, enter: Enter):
    admin = member("liver", "admin")
    own = make(admin, name="bob").json()
    assert (own["project"], own["created_by"]) == ("liver", "liver-admin")
    other = make(admin, name="eve", project="default").json()
    assert other["project"] == "default"
    assert enter(other["secret"]).get("/v1/runs").status_code == 200


def test_who_asks_is_known_by_name_to_what_answers(database: Path):
    """The guard around an app that says whom it was told of."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{Request(scope).state.actor}")(scope, receive, send)

    async def actor(keyring: Keyring, secret: str | None) -> str:
        guard = Guard(app, keyring, Rates(0), 1)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            return (await client.get("/")).text

    assert asyncio.run(actor(Keyring(None, local=True), None)) == "local"
    with transaction() as session:
        _, secret = tokens.issue(session, 1, "anna", tokens.Scope.READ, "local")
    assert asyncio.run(actor(Keyring(None, local=True), secret)) == "anna"
    assert asyncio.run(actor(Keyring("long", local=False), "long")) == "bootstrap"


# ---- from none to the first one ------------------------------------------------------------------------------


def test_the_first_token_shuts_the_door_and_the_last_one_opens_it(database: Path):
    with serving(database) as url, httpx.Client(base_url=url, timeout=60) as anybody:
        assert anybody.get("/v1/runs").status_code == 200
        assert problem_at(make(anybody, scope="write")) == "scope"  # else nobody could make another
        made = make(anybody, scope="admin").json()
        assert made["created_by"] == "local"
        assert anybody.get("/v1/runs").status_code == 401
        assert anybody.get("/", headers={"accept": "text/html"}).status_code == 401
        assert anybody.get("/healthz").status_code == 200
        bearer = {"authorization": f"Bearer {made['secret']}"}
        assert anybody.get("/v1/runs", headers=bearer).status_code == 200
        assert anybody.post(f"/v1/tokens/{made['id']}/revoke", headers=bearer).status_code == 200
        assert anybody.get("/v1/runs").status_code == 200


def test_a_token_made_elsewhere_shuts_the_door_soon(database: Path):
    with serving(database) as url:
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 200
        with transaction() as session:
            tokens.issue(session, 1, "anna", tokens.Scope.READ, "local")
        time.sleep(KEPT_S)
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 401


def test_a_ledgers_token_in_the_servers_environment_stays_what_it_is(database: Path):
    """Whoever has exported a token for the command and starts an API gives nobody more rights by it."""
    with transaction() as session:
        _, secret = tokens.issue(session, 1, "anna", tokens.Scope.READ, "local")
    with serving(database, LIVERSEG_TOKEN=secret) as url:
        bearer = {"authorization": f"Bearer {secret}"}
        assert httpx.get(f"{url}/v1/runs", headers=bearer, timeout=60).status_code == 200
        assert httpx.post(f"{url}/v1/runs/1/cancel", headers=bearer, timeout=60).status_code == 403
        with transaction() as session:
            tokens.revoke(session, 1)
        time.sleep(KEPT_S)
        for headers in (bearer, {}):
            assert httpx.get(f"{url}/v1/runs", headers=headers, timeout=60).status_code == 401


# ---- by command ----------------------------------------------------------------------------------------------


@pytest.fixture
def as_admin(liverseg: Command, guarded_url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command as an administrator of the guarded API."""
    monkeypatch.setenv("LIVERSEG_URL", guarded_url)
    monkeypatch.setenv("LIVERSEG_TOKEN", BOOTSTRAP)
    settings.cache_clear()
    return liverseg


def test_projects_by_command(as_admin: Command):
    as_admin("project", "create", "liver")
    as_admin("project", "rename", "liver", "hepar")
    lines = as_admin("project", "list").output.splitlines()
    assert [line.split()[1] for line in lines] == ["Name", "hepar", "default"]
    assert "no such project" in as_admin("project", "rename", "liver", "x", code=2).output
    assert json.loads(as_admin("project", "list", "--json").output)["projects"][0]["name"] == "hepar"


def test_tokens_by_command(as_admin: Command, enter: Enter):
    made = as_admin("token", "create", "anna", "--scope", "read", "--expires", "90d")
    secret = made.stdout.strip()
    assert "\n" not in secret  # alone, so that TOKEN=$(liverseg token create ...) works
    assert "token 1 anna: read, project default, until 2" in made.stderr
    assert secret not in made.stderr
    assert enter(secret).get("/v1/runs").status_code == 200
    (token,) = json.loads(as_admin("token", "list", "--json").output)["tokens"]
    left = datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left < timedelta(days=90)
    assert as_admin("token", "revoke", "1").output == "token 1 anna: revoked\n"
    assert enter(secret).get("/v1/runs").status_code == 401
    listed = as_admin("token", "list").output
    assert "anna" in listed
    assert secret not in listed


@pytest.mark.parametrize(
    "words", [["--expires", "soon"], ["--expires", "0d"], ["--scope", "root"], ["--project", "x"]]
)
def test_tokens_that_a_command_cannot_make(as_admin: Command, words: list[str]):
    as_admin("token", "create", "anna", *words, code=2)
    assert json.loads(as_admin("token", "list", "--json").output)["tokens"] == []


def test_a_command_without_a_token_is_told_what_to_do(as_admin: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIVERSEG_TOKEN", "lvs_wrong")
    settings.cache_clear()
    told = as_admin("runs", code=2).output
    assert "LIVERSEG_TOKEN" in told
    assert "lvs_wrong" not in told
