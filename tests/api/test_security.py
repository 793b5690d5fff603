import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from store import tokens
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.tokens import Scope
from tests.api.conftest import BOOTSTRAP as TOKEN
from tests.api.conftest import serving

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def guarded(database: Path, guarded_url: str) -> Iterator[httpx.Client]:
    """Shows nothing."""
    with httpx.Client(base_url=guarded_url, timeout=60) as client:
        yield client


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


PROTECTED = [
    ("GET", "/"),
    ("GET", "/runs/1"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/static/style.css"),
    ("GET", "/fragments/runs"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/datasets"),
    ("GET", "/v1/comparisons?runs=1"),
    ("GET", "/nothing"),
    ("POST", "/v1/experiments"),
    ("POST", "/v1/runs/1/cancel"),
    ("POST", "/v1/datasets?name=x"),
    ("POST", "/v1/weights?spec=x"),
    ("POST", "/runs/cancel"),
]

WRONG = [
    None,
    "Bearer",
    "Bearer wrong",
    f"Basic {TOKEN}",
    TOKEN,
    basic("wrong"),
    f"Token {TOKEN}",
    "Basic ÿ",
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_the_token_nothing_is_told(guarded: httpx.Client, method: str, path: str):
    for given in WRONG:
        headers = {"authorization": given.encode("latin-1")} if given else {}
        answer = guarded.request(method, path, headers=headers)
        assert answer.status_code == 401, given
        assert "Bearer" in answer.headers["www-authenticate"]
        assert TOKEN not in answer.text


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)])
def test_with_the_token_one_comes_through(guarded: httpx.Client, given: str, database: Path):
    for method, path in PROTECTED:
        answer = guarded.request(method, path, headers={"authorization": given})
        assert answer.status_code in (200, 404, 422), path


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token(guarded: httpx.Client, path: str):
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/runs/1/cancel", "/runs/1/cancel", "/v1/datasets?name=x"])
def test_another_sites_page_cannot_change_anything(web: httpx.Client, path: str, headers: dict[str, str]):
    answer = web.post(path, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (403, 403)


def test_a_page_of_this_site_can(web: httpx.Client):
    origin = str(web.base_url).rstrip("/")
    answer = web.post("/v1/runs/1/cancel", headers={"origin": origin, "sec-fetch-site": "same-origin"})
    assert answer.status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8421", "", "127.0.0.1.evil.example", "[::1"])
def test_a_name_that_resolves_here_does_not_get_in(web: httpx.Client, host: str):
    assert web.get("/v1/runs", headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:80"])
def test_loopback_names_get_in(web: httpx.Client, host: str):
    assert web.get("/v1/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/runs/9", "/v1/runs", "/v1/runs/9", "/healthz", "/static/live.js", "/nothing"]
)
def test_every_answer_carries_the_policy(web: httpx.Client, path: str):
    headers = web.get(path, headers={"accept": "text/html"}).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_a_token_is_needed(services: Path, host: str):
    command = [sys.executable, "-m", "api.serve", "--host", host, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "LIVERSEG_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_beyond_loopback_a_token_must_be_long(services: Path):
    command = [sys.executable, "-m", "api.serve", "--host", "0.0.0.0", "--port", "0"]
    surroundings = os.environ | {"LIVERSEG_TOKEN": "short-enough-to-be-guessed-12345"[:-1]}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "LIVERSEG_TOKEN has 31 characters" in done.stderr
    assert "short-enough" not in done.stderr


def test_a_token_that_was_made_elsewhere_would_let_nobody_in(database: Path):
    command = [sys.executable, "-m", "api.serve", "--port", "0"]
    surroundings = os.environ | {"LIVERSEG_TOKEN": "lvs_made-elsewhere"}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "made elsewhere" in done.stderr
    assert "lvs_" not in done.stderr


def test_beyond_loopback_with_a_token(services: Path):
    with serving(services, "--host", "0.0.0.0", LIVERSEG_TOKEN=TOKEN) as url:
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 401
        assert (
            httpx.get(f"{url}/v1/runs", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60).status_code == 200
        )
    assert TOKEN not in (services / "test-api.log").read_text()


def test_beyond_loopback_with_a_token_of_the_ledger(database: Path):
    with transaction() as session:
        _, secret = tokens.issue(session, DEFAULT_PROJECT, "anna", Scope.ADMIN, "local")
    with serving(database, "--host", "0.0.0.0") as url:
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 401
        bearer = {"authorization": f"Bearer {secret}"}
        assert httpx.get(f"{url}/v1/runs", headers=bearer, timeout=60).status_code == 200
        # The last token ends: beyond loopback that opens nothing, while on loopback it would.
        assert httpx.post(f"{url}/v1/tokens/1/revoke", headers=bearer, timeout=60).status_code == 200
        assert httpx.get(f"{url}/v1/runs", headers=bearer, timeout=60).status_code == 401
        assert httpx.get(f"{url}/v1/runs", timeout=60).status_code == 401


def test_a_bound_address_decides_not_the_name_in_the_request(database: Path):
    """Beyond loopback nobody gets in by writing a loopback name into the request."""
    with transaction() as session:
        made, _ = tokens.issue(session, DEFAULT_PROJECT, "anna", Scope.ADMIN, "local")
    with serving(database, "--host", "0.0.0.0") as url:
        with transaction() as session:
            tokens.revoke(session, made.id)
        assert httpx.get(f"{url}/v1/runs", headers={"host": "127.0.0.1"}, timeout=60).status_code == 401
