"""Two projects and every operation there is: nothing of one is seen or changed from the other.

The operations come from the OpenAPI document and the pages' routes. One that fits none of the sorts below fails
``test_every_operation_is_of_a_known_sort``, so that nobody adds one without saying what it shows to whom.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from store import artifacts, datasets, projects, scores, tokens
from store.database import transaction
from store.endings import Ending
from store.models import Deletion
from tests import factories, processes
from tests.api.test_live import streamed
from tests.api.test_predictions import SLICES
from tests.conftest import forget_caches

Member = Callable[..., httpx.Client]
Json = dict[str, Any]

CANARY = "canary"
"""Stands in the name of everything that project A has."""
NOBODY = 10**9
"""An id that nothing has."""
PLACE = {"part": "val", "image": "2_3", "move": "cancel"}
"""An image that project A's run has scored."""
NO_KEY = "zzzzzzzz"
"""A key that no frozen comparison has."""


@dataclass(frozen=True, order=True)
class Operation:
    """One method of one path; ``tags`` are those of the OpenAPI document, none for a page."""

    method: str
    path: str
    tags: tuple[str, ...] = ()

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def is_page(self) -> bool:
        return not self.tags


def operations() -> list[Operation]:
    """Everything that the app answers, but static files and the document itself."""
    app = create_app()
    forget_caches()
    found = [
        Operation(method.upper(), path, tuple(operation["tags"]))
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    pages = [route for route in _routes(app.routes) if isinstance(route, APIRoute) and not route.include_in_schema]
    return sorted([*found, *(Operation(method, page.path, ()) for page in pages for method in page.methods)])


def _routes(routes: Any) -> Iterator[Any]:
    for route in routes:
        yield from _routes(route.original_router.routes) if hasattr(route, "original_router") else [route]


OPERATIONS = operations()

# ---- the sorts of operations ---------------------------------------------------------------------------------

ADMIN = "projects and tokens"
"""Tag of what is about the whole installation."""

DRAINING = {("POST", "/v1/workers/{worker}/drain"), ("POST", "/workers/{worker}/drain")}
"""About workers, which serve the whole installation."""

COMMON = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/profiles"), ("GET", "/docs"), ("GET", "/v1/workers")}
"""Tell everybody the same."""

LISTINGS = {
    ("GET", "/v1/experiments"): "experiments",
    ("GET", "/v1/runs"): "runs",
    ("GET", "/v1/datasets"): "datasets",
    ("GET", "/v1/tables"): "tables",
    ("GET", "/v1/comparisons/frozen"): "frozen",
    ("GET", "/v1/deletions"): "deletions",
    ("GET", "/v1/disk"): "datasets",
    ("GET", "/v1/webhooks"): "webhooks",
    ("GET", "/submit"): "",
    ("GET", "/comparisons/frozen"): "",
    ("GET", "/"): "",
    ("GET", "/fragments/runs"): "",
    ("GET", "/datasets"): "",
    ("GET", "/comparisons"): "",
}
"""Show what a project has: under this key, or on a page."""

NAMING = {
    ("GET", "/v1/comparisons"),
    ("GET", "/v1/comparisons/images"),
    ("GET", "/comparisons/images"),
    ("GET", "/comparisons/images/{part}/{image}"),
    ("POST", "/v1/experiments"),
    ("POST", "/v1/references"),
    ("POST", "/v1/rescores"),
    ("POST", "/v1/weights"),
    ("POST", "/v1/comparisons/frozen"),
    ("POST", "/comparisons/freeze"),
    ("POST", "/v1/deletions"),
    ("POST", "/submit"),
    ("POST", "/runs/{move}"),
}
"""Name something in query or body, see ``naming``."""

QUEUES = {("GET", "/v1/queue"), ("GET", "/queue"), ("GET", "/fragments/queue")}
"""Show what waits for the workers that projects share: of other projects' runs that they are there and no more."""

NUMBERS = {("GET", "/metrics")}
"""Tell how the whole installation does, and differ from one moment to the next."""

STREAMS = {("GET", "/v1/events")}
"""Go on for a minute, telling what happens in a project."""

MAKING = {("POST", "/v1/datasets"), ("POST", "/v1/tables"), ("POST", "/v1/webhooks")}
"""Make something that may have the name of another project's."""

HOOK = {"url": f"http://127.0.0.1:9/{CANARY}"}
"""Nobody listens there."""


def is_admins(one: Operation) -> bool:
    return ADMIN in one.tags or (one.method, one.path) in DRAINING


def sorts(one: Operation) -> list[str]:
    key = (one.method, one.path)
    found = {"admin": is_admins(one), "common": key in COMMON, "listing": key in LISTINGS}
    found |= {"naming": key in NAMING, "making": key in MAKING}
    found |= {"queue": key in QUEUES, "stream": key in STREAMS, "numbers": key in NUMBERS}
    found["path"] = bool(one.parameters) and not is_admins(one) and key not in NAMING
    return [name for name, fits in found.items() if fits]


def of_sort(name: str) -> list[Operation]:
    chosen = [one for one in OPERATIONS if sorts(one) == [name]]
    assert chosen
    return chosen


def test_every_operation_is_of_a_known_sort():
    assert {f"{one.method} {one.path}": sorts(one) for one in OPERATIONS if len(sorts(one)) != 1} == {}
    known = {(one.method, one.path) for one in OPERATIONS}
    assert {*COMMON, *LISTINGS, *NAMING, *MAKING, *QUEUES, *STREAMS, *NUMBERS} - known == set()


# ---- the two projects ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worlds:
    """Project A, which has everything, and B, which has nothing."""

    a: httpx.Client
    b: httpx.Client
    run: int
    experiment: int
    frozen: str
    webhook: int
    spare: int
    """Another one, to be removed."""
    admins: dict[str, httpx.Client]
    """By project: what they may and others may not is asked of them."""

    def asking(self, project: str, one: Operation) -> httpx.Client:
        """Who may ask this of a project."""
        return self.admins[project] if one.method == "DELETE" else getattr(self, project)

    def fill(self, one: Operation) -> str:
        """The path with A's own things in it."""
        known = {"run": self.run, "experiment": self.experiment, "kind": "weights", **PLACE}
        known["key"] = self.frozen
        known["webhook"] = self.spare if one.method == "DELETE" else self.webhook
        known |= {
            "pair": "0-2",
            "name": f"{CANARY}-table" if "/tables/" in one.path else f"{CANARY}-slices",
        }
        return one.path.format_map({name: known[name] for name in one.parameters})

    def miss(self, one: Operation) -> str:
        """The path with things that nobody has in it."""
        path = (
            self.fill(one)
            .replace(f"/{self.run}", f"/{NOBODY}")
            .replace(CANARY, "nobody")
            .replace(self.frozen, NO_KEY)
        )
        return re.sub(r"/webhooks/\d+", f"/webhooks/{NOBODY}", path)

    def unnamed(self, answer: httpx.Response) -> str:
        """What an answer says beside the ids and names that it was asked about."""
        ids = f"{self.run}|{self.experiment}|{self.webhook}|{self.spare}|{NOBODY}"
        return re.sub(rf"\b({ids})\b|{CANARY}|nobody|{self.frozen}|{NO_KEY}", "ASKED", answer.text)


@pytest.fixture
def worlds(member: Member, archive: Path, tmp_path: Path) -> Worlds:
    a, b = member("a"), member("b")
    made = a.post(f"/v1/datasets?name={CANARY}-slices", content=archive.read_bytes())
    assert made.status_code == 201, made.text
    table = {"files": [{"name": CANARY, "text": f"Name  Loss  Dice Coef.\n{CANARY}  3.663%  96.337%\n"}]}
    assert a.post(f"/v1/tables?name={CANARY}-table", json=table).status_code == 201
    spec = {**factories.tiny_spec(f"{CANARY}-slices"), "name": f"{CANARY}-run", "notes": CANARY, "tags": [CANARY]}
    answer = a.post("/v1/experiments", json={"spec": spec, "references": False})
    assert answer.status_code == 201, answer.text
    experiment, run = answer.json()["id"], answer.json()["runs"][0]["id"]
    finish(run, tmp_path)
    with transaction() as session:
        dataset = datasets.resolve(session, projects.named(session, "a").id, f"{CANARY}-slices")
        pair = {"scans": [0, 2], "score": 0.9, "slices": [1, 1]}
        dataset.similarity = {"threshold": 0.5, "compared": 6, "pairs": [pair], "next": None}
    frozen = a.post("/v1/comparisons/frozen", json={"runs": [run], "tables": [f"{CANARY}-table"]})
    assert frozen.status_code == 201, frozen.text
    lose()
    hooks = [a.post("/v1/webhooks", json=HOOK).json()["id"] for _ in range(2)]
    admins = {name: member(name, "admin") for name in ("a", "b")}
    return Worlds(a, b, run, experiment, frozen.json()["key"], *hooks, admins)


def lose() -> None:
    """Something that project A has deleted."""
    with transaction() as session:
        project = projects.named(session, "a").id
        told = {"actor": CANARY, "what": "dataset", "name": CANARY, "detail": {}, "bytes": 0, "files": []}
        session.add(Deletion(project_id=project, **told))


def finish(run: int, folder: Path) -> None:
    """End a run with epochs, scores, maps and weights."""
    work = processes.claim()
    assert work.claim.run_id == run
    evaluated = [one for one in work.manifest.slices if one.part != "train"]
    maps = {f"{one.part}/{one.key}": np.zeros((32, 32), np.uint16) for one in evaluated}
    np.savez_compressed(folder / "maps.npz", **maps)
    (folder / "weights.npz").write_bytes(b"weights")
    (folder / "trainer.log").write_text("loading\n")
    with transaction() as session:
        factories.store_epoch(session, work.claim, factories.epoch_record(1), {"epoch": 1})
    with transaction() as session:
        made = [factories.slice_score(one.part, one.scan, one.slice) for one in evaluated]
        files = {
            "probabilities": artifacts.put(folder / "maps.npz"),
            "weights": artifacts.put(folder / "weights.npz"),
            "log": artifacts.put(folder / "trainer.log"),
        }
        scores.finish(session, work.claim, made, files, 1, Ending(exit_code=0))


def ask(client: httpx.Client, one: Operation, path: str, **more: Any) -> httpx.Response:
    if path.endswith("/predictions"):
        more["content"] = SLICES
    if one.method == "PATCH":
        more["json"] = {"active": True} if "/webhooks/" in path else {"notes": CANARY}
    if one.is_page:
        more["headers"] = {"accept": "text/html"}
    if (one.method, one.path) in STREAMS:  # its status: it has no end
        with client.stream(one.method, path, **more) as answer:
            return answer
    return client.request(one.method, path, **more)


def everything_of(client: httpx.Client, worlds: Worlds) -> list[Json]:
    """What project A has, to see that nothing of it changed."""
    paths = [*(path for (_, path), key in LISTINGS.items() if key), f"/v1/runs/{worlds.run}"]
    return [client.get(path).json() for path in paths]


# ---- what is shown to whom -----------------------------------------------------------------------------------


def test_what_a_path_names_is_not_there_for_another_project(worlds: Worlds):
    before, wrong = everything_of(worlds.a, worlds), {}
    for one in of_sort("path"):
        path, missing = worlds.fill(one), worlds.miss(one)
        assert path != missing, one
        asking = worlds.asking("b", one)
        foreign, nothing = ask(asking, one, path), ask(asking, one, missing)
        if (foreign.status_code, worlds.unnamed(foreign)) != (404, worlds.unnamed(nothing)):
            wrong[f"{one.method} {path}"] = foreign.status_code, foreign.text
    assert wrong == {}
    assert everything_of(worlds.a, worlds) == before


def test_what_a_path_names_is_there_for_its_own_project(worlds: Worlds):
    """Without this the test above could pass because of a wrong path."""
    found = {}
    for one in of_sort("path"):
        dry = one.method == "DELETE" and "webhook" not in one.parameters
        more = {"params": {"dry_run": "true"}} if dry else {}
        found[f"{one.method} {one.path}"] = ask(worlds.asking("a", one), one, worlds.fill(one), **more).status_code
    # The run has ended, so that it can be moved no more; slices of 32 pixels are too small to check.
    expected = dict.fromkeys(found, 200)
    expected["POST /v1/runs/{run}/predictions"] = 201
    expected["DELETE /v1/datasets/{name}"] = 409  # its run refers to it
    expected["POST /runs/{run}/deletion"] = 303  # of its maps; asked last but for moves of the run
    expected["POST /v1/datasets/{name}/check"] = expected["POST /datasets/{name}/check"] = 422
    for move in ("cancel", "pause", "resume", "requeue", "retry"):
        expected[f"POST /v1/runs/{{run}}/{move}"] = 409
    expected["POST /v1/runs/{run}/first"] = 409
    assert found == expected


def test_listings_are_empty_for_another_project(worlds: Worlds):
    for one in of_sort("listing"):
        own, foreign = (ask(client, one, one.path, params=shown(one, worlds)) for client in (worlds.a, worlds.b))
        assert CANARY in own.text, one
        assert CANARY not in foreign.text, one
        key = LISTINGS[one.method, one.path]
        if key:
            assert foreign.json()[key] == [], one
            assert own.json()[key] != [], one


def test_streams_tell_of_ones_own_project_alone(worlds: Worlds, archive: Path):
    """What happens in A before and between B's own moves would be heard before the last of those."""
    assert worlds.b.post("/v1/datasets?name=own", content=archive.read_bytes()).status_code == 201
    anew = {"reuse": False, "references": False}
    (own,) = worlds.b.post("/v1/experiments", json={"spec": factories.tiny_spec("own"), **anew}).json()["runs"]
    spec = {**factories.tiny_spec(f"{CANARY}-slices"), "name": CANARY}
    assert worlds.a.post("/v1/experiments", json={"spec": spec, **anew}).status_code == 201
    assert worlds.b.post(f"/v1/runs/{own['id']}/cancel").status_code == 200
    for one in of_sort("stream"):
        with streamed(worlds.a, one.path, after="0") as events:
            assert any(CANARY in str(event) for event in events), one
        with streamed(worlds.b, one.path, after="0") as events:
            begin, *heard = [next(events) for _ in range(3)]
        assert begin["event"] == "begin", one
        moves = [(event["data"]["run"], event["data"]["move"]) for event in heard]
        assert moves == [(own["id"], "submit"), (own["id"], "cancel")], one
        assert CANARY not in str([begin, *heard]), one


def shown(one: Operation, worlds: Worlds) -> Json:
    """A comparison's page needs something to compare; of A's run it knows nothing in B."""
    return {"experiment": worlds.experiment} if one.path == "/comparisons" else {}


def test_filters_find_nothing_of_another_project(worlds: Worlds):
    for query in (f"experiment={worlds.experiment}", f"name={CANARY}", "state=succeeded", "kind=train"):
        assert worlds.a.get(f"/v1/runs?{query}").json()["runs"] != []
        assert worlds.b.get(f"/v1/runs?{query}").json()["runs"] == []


def form(dataset: str) -> dict[str, str]:
    """The fields of a page's form that describe a tiny spec."""
    tiny = {
        f"{section}.{name}": str(v)
        for section, some in factories.tiny_spec(dataset).items()
        for name, v in some.items()
    }
    return {**tiny, "key": "form"}


def naming(run: int, experiment: int, name: str) -> list[tuple[str, str, Json]]:
    """Requests that name a run, an experiment, a data set or a table."""
    spec = factories.tiny_spec(f"{name}-slices")
    own = {"spec": factories.tiny_spec(f"{name}-slices"), "references": False}
    return [
        ("GET", "/v1/comparisons", {"params": {"runs": run}}),
        ("GET", "/v1/comparisons", {"params": {"experiment": experiment}}),
        ("GET", "/v1/comparisons/images", {"params": {"runs": run}}),
        ("GET", "/v1/comparisons/images", {"params": {"experiment": experiment}}),
        ("GET", "/comparisons/images", {"params": {"runs": run}}),
        ("GET", "/comparisons/images/{part}/{image}", {"params": {"runs": run}}),
        ("POST", "/v1/experiments", {"json": own}),
        ("POST", "/v1/experiments", {"json": own, "params": {"dry_run": "true"}}),
        ("POST", "/v1/references", {"json": {"spec": spec}}),
        ("POST", "/v1/rescores", {"json": {"runs": [run], "evaluation": {"threshold": 0.4}}}),
        ("POST", "/v1/weights", {"params": {"spec": json.dumps(spec)}, "content": factories.keras_file(2, 2)}),
        ("POST", "/v1/comparisons/frozen", {"json": {"runs": [run]}}),
        ("POST", "/v1/comparisons/frozen", {"json": {"experiment": experiment}}),
        ("POST", "/comparisons/freeze", {"params": {"runs": run}}),
        ("POST", "/submit", {"data": form(f"{name}-slices")}),
        ("POST", "/runs/{move}", {"data": {"runs": run}}),
        ("POST", "/v1/deletions", {"json": {"runs": [run], "what": "files"}, "params": {"dry_run": "true"}}),
        (
            "POST",
            "/v1/deletions",
            {"json": {"experiment": experiment, "what": "files"}, "params": {"dry_run": "true"}},
        ),
    ]


def test_what_a_body_names_is_not_there_for_another_project(worlds: Worlds, count_rows: Callable[[], dict[str, int]]):
    owned, absent = naming(worlds.run, worlds.experiment, CANARY), naming(NOBODY, NOBODY, "nobody")
    assert {(method, path) for method, path, _ in owned} == NAMING
    before = count_rows()
    for (method, pattern, more), (_, _, other) in zip(owned, absent, strict=True):
        path = pattern.format_map(PLACE)
        foreign, nothing = worlds.b.request(method, path, **more), worlds.b.request(method, path, **other)
        assert foreign.status_code in (404, 422), (path, foreign.text)
        assert worlds.unnamed(foreign) == worlds.unnamed(nothing)
        assert foreign.status_code == nothing.status_code
    assert count_rows() == before
    for method, pattern, more in owned:
        expected = (409,) if "{move}" in pattern else (200, 201, 303)  # the run has ended
        assert worlds.a.request(method, pattern.format_map(PLACE), **more).status_code in expected, pattern


def test_a_queue_tells_of_other_projects_runs_that_they_wait_and_no_more(worlds: Worlds):
    body = {"spec": {**factories.tiny_spec(f"{CANARY}-slices"), "name": CANARY}, "reuse": False, "references": False}
    (run,) = worlds.a.post("/v1/experiments", json=body).json()["runs"]
    (own,), (foreign,) = (client.get("/v1/queue").json()["pools"] for client in (worlds.a, worlds.b))
    assert [(one["run"], one["name"]) for one in own["waiting"]] == [(run["id"], CANARY)]
    assert [(one["run"], one["name"]) for one in foreign["waiting"]] == [(None, None)]
    for one in of_sort("queue"):
        assert CANARY in ask(worlds.a, one, one.path).text
        told = ask(worlds.b, one, one.path).text
        assert CANARY not in told
        assert f"/runs/{run['id']}" not in told


def test_tables_and_runs_of_both_projects_cannot_be_compared(worlds: Worlds, archive: Path, tmp_path: Path):
    assert worlds.b.post("/v1/datasets?name=own", content=archive.read_bytes()).status_code == 201
    body = {"spec": factories.tiny_spec("own"), "references": False}
    (run,) = worlds.b.post("/v1/experiments", json=body).json()["runs"]
    assert run["reused_from"] is None  # A has trained just this on just these pixels
    finish(run["id"], tmp_path)
    own = {"runs": run["id"]}
    assert worlds.b.get("/v1/comparisons", params=own).status_code == 200
    assert worlds.b.get("/v1/comparisons", params={"runs": f"{run['id']},{worlds.run}"}).status_code == 404
    assert worlds.b.get("/v1/comparisons", params={**own, "tables": f"{CANARY}-table"}).status_code == 422
    assert worlds.b.get("/v1/comparisons", params={**own, "baseline": worlds.run}).status_code == 422


def test_both_projects_may_use_one_name(worlds: Worlds, archive: Path):
    before = everything_of(worlds.a, worlds)
    with_name = {
        "/v1/datasets": {"params": {"name": f"{CANARY}-slices"}, "content": archive.read_bytes()},
        "/v1/tables": {
            "params": {"name": f"{CANARY}-table"},
            "json": {"files": [{"name": "x", "text": "Name  Loss  Dice Coef.\nx  3.663%  96.337%\n"}]},
        },
        "/v1/webhooks": {"json": HOOK},
    }
    assert {("POST", path) for path in with_name} == MAKING
    for path, more in with_name.items():
        assert worlds.b.post(path, **more).status_code == 201
    assert everything_of(worlds.a, worlds) == before
    assert len(worlds.b.get("/v1/datasets").json()["datasets"]) == 1


def test_both_projects_may_use_one_idempotency_key(worlds: Worlds, archive: Path):
    worlds.b.post("/v1/datasets?name=own", content=archive.read_bytes())
    body = {"references": False, "reuse": False}
    mine = [
        client.post(
            "/v1/experiments", json={**body, "spec": factories.tiny_spec(name)}, headers={"Idempotency-Key": "today"}
        )
        for client, name in ((worlds.a, f"{CANARY}-slices"), (worlds.b, "own"))
    ]
    assert [answer.status_code for answer in mine] == [201, 201]
    assert mine[0].json()["id"] != mine[1].json()["id"]


def test_what_is_common_tells_everybody_the_same(worlds: Worlds):
    for one in of_sort("common"):
        own, foreign = (ask(client, one, one.path) for client in (worlds.a, worlds.b))
        assert (own.status_code, own.text) == (foreign.status_code, foreign.text)
        assert CANARY not in own.text


def test_numbers_of_the_installation_name_nothing_of_a_project(worlds: Worlds):
    for one in of_sort("numbers"):
        for client in (worlds.a, worlds.b):
            told = ask(client, one, one.path)
            assert told.status_code == 200
            assert "liverseg_claims_total" in told.text
            assert CANARY not in told.text


def test_deeds_are_told_by_the_name_of_a_token(worlds: Worlds):
    """Whatever makes or moves a run writes down who asked for it."""
    for method, path, more in naming(worlds.run, worlds.experiment, CANARY):
        if method == "POST" and "{move}" not in path and not more.get("params", {}).get("dry_run"):
            assert worlds.a.request(method, path, **{**more, **unequal(more)}).status_code in (200, 201, 303), path
    made = worlds.a.post(f"/v1/runs/{worlds.run}/predictions", content=SLICES).json()["runs"][0]["id"]
    assert worlds.a.post(f"/v1/runs/{made}/cancel").status_code == 200
    runs = worlds.a.get("/v1/runs").json()["runs"]
    told = {kind: {one["id"] for one in runs if one["kind"] == kind} for kind in ("train", "evaluate", "predict")}
    assert all(told.values())
    for run in runs:
        first, *more_events = worlds.a.get(f"/v1/runs/{run['id']}").json()["events"]
        assert (first["move"], first["actor"]) == ("submit", "a-write")
        assert {one["actor"] for one in more_events if one["move"] == "cancel"} <= {"a-write"}
    # Reference predictors are of whoever submitted what is compared with them.
    (reference, *_) = worlds.a.get("/v1/runs?kind=reference").json()["runs"]
    assert worlds.a.get(f"/v1/runs/{reference['id']}").json()["events"][0]["actor"] == "a-write"


def unequal(more: Json) -> Json:
    """A submission that is trained anew, since a reused run shows another's deeds."""
    return {"json": {**more["json"], "reuse": False}} if "references" in more.get("json", {}) else {}


# ---- who may do what -----------------------------------------------------------------------------------------


def test_what_changes_something_needs_write(worlds: Worlds, member: Member):
    reader, wrong = member("a", "read"), {}
    before = everything_of(worlds.a, worlds)
    for one in OPERATIONS:
        if not is_admins(one) and (one.method, one.path) not in COMMON:
            status = ask(reader, one, worlds.fill(one)).status_code
            if (status == 403) != (one.method not in ("GET", "HEAD")):
                wrong[one] = status
    assert wrong == {}
    assert everything_of(worlds.a, worlds) == before


def test_results_and_data_sets_are_deleted_by_administrators_alone(worlds: Worlds):
    """Whoever may write may delete what can be computed again."""
    run, dataset = f"/v1/runs/{worlds.run}", f"/v1/datasets/{CANARY}-slices"
    before = everything_of(worlds.a, worlds)
    for path in (run, dataset):
        assert worlds.a.delete(path).status_code == 403, path
    assert worlds.a.delete(f"{run}?dry_run=true").status_code == 200  # to look is no harm
    bulk = {"runs": [worlds.run], "what": "run"}
    assert worlds.a.post("/v1/deletions", json=bulk).status_code == 403
    assert worlds.a.post(f"/runs/{worlds.run}/deletion?what=run").status_code == 403
    assert everything_of(worlds.a, worlds) == before
    assert worlds.admins["b"].post("/v1/deletions", json=bulk).status_code == 404
    assert worlds.a.delete(f"{run}?what=files").status_code == 200
    assert worlds.admins["a"].delete(run).status_code == 200
    assert worlds.a.get(run).status_code == 410
    assert worlds.b.get(run).status_code == 404
    assert worlds.b.get("/v1/comparisons", params={"runs": worlds.run}).status_code == 404
    assert worlds.admins["a"].delete(dataset).status_code == 200
    assert worlds.a.get(dataset).status_code == 404
    told = [(one["what"], one["actor"]) for one in worlds.a.get("/v1/deletions").json()["deletions"]]
    assert told[:3] == [("dataset", "a-admin"), ("run", "a-admin"), ("files", "a-write")]


def test_what_is_about_the_installation_needs_admin(worlds: Worlds, member: Member):
    with transaction() as session:
        before = [(one.id, one.revoked_at) for one, _ in tokens.listed(session, 100)]
    for client in (worlds.b, member("b", "read")):
        for one in of_sort("admin"):
            path = one.path.format_map(dict.fromkeys(one.parameters, 1))
            assert client.request(one.method, path, json={"name": "mine"}).status_code == 403, one
    with transaction() as session:
        after = [(one.id, one.revoked_at) for one, _ in tokens.listed(session, 100)]
    assert after[1:] == before  # the reader's own is new


def test_without_a_token_nothing_is_told_but_health(worlds: Worlds, guarded_url: str):
    with httpx.Client(base_url=guarded_url, timeout=60) as nobody:
        for one in OPERATIONS:
            admin = is_admins(one)
            path = one.path.format_map(dict.fromkeys(one.parameters, 1)) if admin else worlds.fill(one)
            assert ask(nobody, one, path).status_code == (200 if one.tags == ("health",) else 401), one
