"""The OpenAPI document: what holds for every operation, also for those that somebody adds later."""

import re
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.parameters import LARGEST_ID
from tests.conftest import forget_caches

Json = dict[str, Any]


def document() -> Json:
    app = create_app()
    forget_caches()
    return app.openapi()


DOCUMENT = document()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
UNPAGED = {
    "GET /v1/comparisons",  # was asked for by id
    "GET /v1/profiles",  # is in the code
    "GET /v1/workers",  # runs now, or did within a week
    "GET /v1/disk",  # a sum
    "GET /v1/queue",  # the head of a line
    "GET /v1/events",  # a stream
}
LISTED = [label for label in OPERATIONS if re.fullmatch(r"GET /v1/([a-z]+|comparisons/frozen)", label)]


@pytest.mark.parametrize("label", OPERATIONS)
def test_refusals_are_problems(label: str):
    refusals = OPERATIONS[label]["responses"]
    assert refusals["4XX"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    assert "503" in refusals
    assert "422" not in refusals  # FastAPI's own, which nobody sends


@pytest.mark.parametrize("label", OPERATIONS)
def test_bodies_refuse_unknown_keys(label: str):
    for media, content in OPERATIONS[label].get("requestBody", {}).get("content", {}).items():
        if media == "application/json":
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False
        else:
            assert media == "application/octet-stream"


@pytest.mark.parametrize("label", OPERATIONS)
def test_numbers_and_texts_in_addresses_have_bounds(label: str):
    for parameter in OPERATIONS[label].get("parameters", ()):
        options = [parameter["schema"], *parameter["schema"].get("anyOf", [])]
        for schema in options:
            if schema.get("type") == "integer" and parameter["name"] != "folds":  # bounded where it is used
                assert schema["maximum"] <= LARGEST_ID, parameter
            if schema.get("type") == "string" and parameter["name"] != "sort":  # one of a list
                assert {"enum", "const", "pattern", "maxLength"} & set(schema), parameter


@pytest.mark.parametrize("label", sorted({*LISTED} - UNPAGED))
def test_listings_come_in_pages(label: str):
    limit = next(one for one in OPERATIONS[label]["parameters"] if one["name"] == "limit")
    assert limit["schema"]["maximum"] == 1000
    schema = OPERATIONS[label]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "next" in DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["required"]


def test_a_token_is_needed_for_all_but_health():
    assert {one["type"] for one in DOCUMENT["components"]["securitySchemes"].values()} == {"http"}
    assert DOCUMENT["security"]
    free = {label for label, operation in OPERATIONS.items() if operation.get("security") == []}
    assert free == {"GET /healthz", "GET /readyz"}


def test_the_document_that_is_served_is_this_one(web: httpx.Client):
    assert web.get("/openapi.json").json() == DOCUMENT


def test_pages_of_data_sets_and_tables(web: httpx.Client, archive):
    for name in ("a", "b", "c"):
        assert web.post(f"/v1/datasets?name={name}", content=archive.read_bytes()).status_code == 201
        table = {"files": [{"name": "x", "text": "Name  Loss  Dice Coef.\nx  3.663%  96.337%\n"}]}
        assert web.post(f"/v1/tables?name={name}", json=table).status_code == 201
    for path, cursor, order in (("datasets", "before", "cba"), ("tables", "after", "abc")):
        first = web.get(f"/v1/{path}?limit=2").json()
        second = web.get(f"/v1/{path}?limit=2&{cursor}={first['next']}").json()
        assert [one["name"] for one in (*first[path], *second[path])] == list(order)
        assert second["next"] is None
