"""How often, how long and how much one may ask."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from api import client as api_client
from api.callers import KEPT_S
from api.client import Client
from api.rates import MOST_BUCKETS, Rates
from store import bundled, tokens
from store.database import transaction
from tests.api.conftest import serving


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_holds_ten_seconds_and_fills_steadily(clock: Clock):
    rates = Rates(2, clock)
    # 2 a second for 10 s: 20 at once; the next one is there after 1/2 s, told as 1.
    assert [rates.wait_s("a") for _ in range(21)] == [0] * 20 + [1]
    clock.now += 0.5
    assert [rates.wait_s("a") for _ in range(2)] == [0, 1]
    clock.now += 1000  # it never holds more than full
    assert [rates.wait_s("a") for _ in range(21)] == [0] * 20 + [1]


def test_every_name_has_a_bucket_of_its_own(clock: Clock):
    rates = Rates(0.1, clock)
    # One in ten seconds: a bucket of one.
    assert [rates.wait_s(name) for name in ("a", "a", "b", "b")] == [0, 10, 0, 10]


def test_a_rate_of_zero_lets_everything_through(clock: Clock):
    rates = Rates(0, clock)
    assert not any(rates.wait_s("a") for _ in range(1000))


def test_buckets_do_not_pile_up(clock: Clock):
    rates = Rates(0.1, clock)
    for number in range(MOST_BUCKETS + 5):
        rates.wait_s(str(number))
    assert rates.wait_s(str(MOST_BUCKETS)) == 10  # remembered
    assert rates.wait_s("0") == 0  # forgotten: as good as full


@pytest.fixture
def slow(database: Path) -> Iterator[str]:
    """Lets a request in every 5 s, two at once."""
    with serving(database, LIVERSEG_RATE="0.2") as url:
        yield url


def test_who_asks_too_often_is_told_when_to_go_on(database: Path):
    # One in 1000 s: a bucket of one, which no slowness of this machine fills again.
    with serving(database, LIVERSEG_RATE="0.001") as url, httpx.Client(base_url=url, timeout=60) as web:
        answers = [web.get("/static/style.css") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert 900 <= int(refused.headers["retry-after"]) <= 1000
        assert web.get("/healthz").status_code == 429  # of the same address


def test_a_token_has_a_bucket_of_its_own(database: Path):
    with transaction() as session:
        secrets = [tokens.issue(session, 1, name, tokens.Scope.READ, "local")[1] for name in ("a", "b")]
    first, second = ({"authorization": f"Bearer {secret}"} for secret in secrets)
    for _ in range(5):
        with serving(database, LIVERSEG_RATE="0.2") as url, httpx.Client(base_url=url, timeout=60) as web:
            path, began = "/static/style.css", time.monotonic()
            mine = [web.get(path, headers=first).status_code for _ in range(3)]
            if time.monotonic() - began > KEPT_S / 2:
                continue  # this machine is so slow that the first token may have been looked up twice
            # Looking a token up costs one of the address's two; what follows costs the token alone.
            assert mine == [200, 200, 429]
            assert web.get(path, headers=second).status_code == 200
            assert web.get(path).status_code == 429  # the address has none left, so the ledger is not even asked
            return
    raise AssertionError("three requests took longer than a second, five times")


def test_the_client_waits_its_turn(slow: str, monkeypatch: pytest.MonkeyPatch):
    waits = []
    sleep = api_client.time.sleep
    monkeypatch.setattr(api_client.time, "sleep", lambda seconds: (waits.append(seconds), sleep(seconds)))
    with Client(slow) as client:
        for _ in range(100):  # a busy machine may ask so slowly that it is let in
            assert client.profiles()
            if waits:
                break
    assert waits
    assert all(1 <= wait <= 5 for wait in waits)


def test_a_statement_that_takes_too_long_is_ended(database: Path):
    with serving(database, LIVERSEG_STATEMENT_S="2") as url, httpx.Client(base_url=url, timeout=60) as web:
        with psycopg.connect(bundled.database_url(database)) as other:
            other.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            answer = web.get("/v1/runs")
        assert web.get("/v1/runs").status_code == 200
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "5"
    assert "too long" in answer.json()["detail"]
