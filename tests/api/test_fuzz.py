"""The whole API under generated requests: no 5xx, and every answer as the OpenAPI document says.

A few requests for each operation, and a few hundred generated specs; ``make fuzz`` sends tens of thousands
(``LIVERSEG_FUZZ``: how many for each operation) and prints how many they were.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.specs.openapi import checks as conformance

from api.app import create_app
from liverseg_core.spec import ExperimentSpec
from store import bundled
from tests import factories
from tests.api.conftest import BOOTSTRAP, serving
from tests.api.test_predictions import SLICES
from tests.api.test_two_projects import finish
from tests.conftest import EMPTY, forget_caches

EXAMPLES = int(os.environ.get("LIVERSEG_FUZZ", "12"))
FUZZING = "LIVERSEG_FUZZ" in os.environ
LEAST = 20_000
"""Requests that `make fuzz` sends at least."""

HEADERS = {"authorization": f"Bearer {BOOTSTRAP}"}

CHECKS = (
    checks.not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_headers_conformance,
    conformance.response_schema_conformance,
)
"""Not whether everything that fits the schema is accepted: an id may be of nothing, a spec of no data set."""

SENT: Counter[tuple[str, int]] = Counter()
"""(operation, status) -> answers."""

SAFE = "/%;:@&=+$,~*'()!?.-_"
"""Sent as they are, beside letters and digits; so there are broken escapes among the addresses."""

quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FUZZING,  # `make test` sends the same every time
    database=None,
    phases=(Phase.generate,) if FUZZING else (Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def document() -> dict[str, Any]:
    """The OpenAPI document, in which a submission's spec is spelled out, so that many are ones that could be run."""
    app = create_app()
    forget_caches()
    made = deepcopy(app.openapi())
    schemas = made["components"]["schemas"]
    spec = ExperimentSpec.model_json_schema(ref_template="#/components/schemas/Spec{model}")
    schemas |= {f"Spec{name}": schema for name, schema in spec.pop("$defs").items()}
    schemas["Spec"] = spec
    for body in ("SubmitBody", "ReferenceBody"):
        schemas[body]["properties"]["spec"] = {"anyOf": [{"$ref": "#/components/schemas/Spec"}, {"type": "object"}]}
    return made


SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {one.ok().label: one.ok() for one in SCHEMA.get_all_operations()}


@pytest.fixture(scope="module")
def fuzzed(services: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API with a data set, a finished run, a table and a few tokens in it, that lets everything through."""
    with psycopg.connect(bundled.database_url(services), autocommit=True) as connection:
        connection.execute(EMPTY)
    with serving(services, LIVERSEG_TOKEN=BOOTSTRAP, LIVERSEG_RATE="0", LIVERSEG_STREAM_S="0.1") as url:
        with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as client:
            assert client.post("/v1/datasets?name=phantom", content=archive.read_bytes()).status_code == 201
            body = {"spec": factories.tiny_spec(), "references": False}
            (run,) = client.post("/v1/experiments", json=body).json()["runs"]
            finish(run["id"], tmp_path_factory.mktemp("maps"))
            assert client.post("/v1/experiments", json={**body, "reuse": False}).status_code == 201
            table = {"files": [{"name": "x", "text": "Name  Loss  Dice Coef.\nx  3.663%  96.337%\n"}]}
            assert client.post("/v1/tables?name=table", json=table).status_code == 201
            assert client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).status_code == 201
        yield url


def known(case: schemathesis.Case, number: int) -> None:
    """Point every second request at what is there: random ids and names hardly ever meet it."""
    there = {"run": 1 + number % 3, "experiment": 1, "kind": "weights", "image": "2_3", "part": "val"}
    there["webhook"] = 1 if case.method != "DELETE" else 10**9
    there["name"] = "table" if "/tables/" in case.path else "phantom"
    if number % 2 and case.path_parameters:
        case.path_parameters.update({name: there[name] for name in case.path_parameters if name in there})
    dry = case.method == "DELETE" and "webhook" not in case.path
    if dry or (case.method, case.path) == ("POST", "/v1/deletions"):
        case.query = {**(case.query or {}), "dry_run": "true"}  # the other operations need what is there
    if number % 2 and case.path == "/v1/comparisons":
        case.query = {**case.query, "runs": "1,2"} if number % 4 == 1 else {"runs": "1"}
    if number % 2 and case.path == "/v1/comparisons/frozen" and isinstance(case.body, dict):
        case.body = {"runs": [1]} if number % 4 == 1 else {"experiment": 1, "profile": "modern"}
    if number % 2 and isinstance(case.body, dict) and isinstance(case.body.get("spec"), dict):
        case.body["spec"] |= {"dataset": {"id": "phantom"}, "training": {"batch_size": 2}}
        case.body = case.body if number % 4 == 1 else {"spec": case.body["spec"]}


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_answers_are_as_the_document_says(fuzzed: str, label: str):
    numbers = itertools.count()
    uploads = {"POST /v1/datasets", "POST /v1/weights", "POST /v1/runs/{run}/predictions"}

    @quick
    @given(case=OPERATIONS[label].as_strategy())
    def send(case: schemathesis.Case) -> None:
        number = next(numbers)
        known(case, number)
        if label in uploads and number % 4 == 1:
            case.body = SLICES
        answer = case.call_and_validate(base_url=fuzzed, headers=HEADERS, checks=CHECKS, timeout=60)
        SENT[label, answer.status_code] += 1

    send()


@quick
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    path=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60),
    query=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60),
    prefix=st.sampled_from(["/", "/v1/", "/v1/runs/", "/v1/datasets/", "/static/", "/static/../", "/runs/1/images/"]),
    accept=st.sampled_from(["*/*", "text/html", "application/json", ""]),
)
def test_no_address_breaks_the_api(fuzzed: str, method: str, path: str, query: str, prefix: str, accept: str):
    target = quote(prefix + path, safe=SAFE) + "?" + quote(query, safe=SAFE)
    url = httpx.URL(fuzzed).copy_with(raw_path=target.encode())
    answer = httpx.request(method, url, headers={**HEADERS, "accept": accept}, timeout=60)
    SENT["any address", answer.status_code] += 1
    assert answer.status_code < 500, (method, str(url), answer.text)
    if answer.status_code >= 400 and method != "HEAD":
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/problem+json", "text/html"), (method, str(url))
    assert "Traceback" not in answer.text


def test_how_many_requests_were_sent(fuzzed: str, capsys: pytest.CaptureFixture[str]):
    total = sum(SENT.values())
    if FUZZING:
        with capsys.disabled():
            lines = [f"{count:7,}  {status}  {label}" for (label, status), count in sorted(SENT.items())]
            print("", *lines, f"{total:7,} requests, every answer as the document says", sep="\n")  # noqa: T201
    assert total >= (LEAST if FUZZING else 5 * len(OPERATIONS))
    assert {label for label, _ in SENT} == {*OPERATIONS, "any address"}
