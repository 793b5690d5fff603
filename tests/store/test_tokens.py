"""Tokens: what is kept of them, until when they hold, and when they were used."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import func, update

from liverseg_core.errors import InputError
from store import bundled, tokens
from store.database import looking, transaction
from store.models import DEFAULT_PROJECT, Token
from store.tokens import Scope


def issue(name="anna", scope=Scope.WRITE, **more):
    with transaction() as session:
        return tokens.issue(session, DEFAULT_PROJECT, name, scope, "local", **more)


def live(secret):
    """The token, or None."""
    with looking() as connection:
        return tokens.live(connection, tokens.digest_of(secret))


def change(token, **values):
    with transaction() as session:
        session.execute(update(Token).where(Token.id == token.id).values(**values))


def test_a_secret_is_256_bits_and_says_what_it_is(database):
    _, first = issue("a")
    _, second = issue("b")
    assert first != second
    for secret in (first, second):
        assert secret.startswith("lvs_")
        # 43 characters of 6 bits hold 32 bytes; base64 wants one = to fill up.
        assert len(base64.urlsafe_b64decode(secret.removeprefix("lvs_") + "=")) == 32


def test_only_the_hash_is_kept(database):
    _, secret = issue()
    with psycopg.connect(bundled.database_url(database)) as connection:
        (row,) = connection.execute("SELECT * FROM tokens").fetchall()
        texts = [str(value) for value in row]
    assert hashlib.sha256(secret.encode()).hexdigest() in texts
    assert not any(secret in text or secret.removeprefix("lvs_") in text for text in texts)


def test_a_token_holds_until_it_is_revoked(database):
    token, secret = issue()
    assert live(secret).id == token.id
    with transaction() as session:
        ended = tokens.revoke(session, token.id).revoked_at
    assert live(secret) is None
    with transaction() as session:
        assert tokens.revoke(session, token.id).revoked_at == ended  # twice is once
        assert tokens.revoke(session, 10**9) is None


def test_a_token_holds_until_it_expires(database):
    token, secret = issue(expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert live(secret).id == token.id
    change(token, expires_at=func.now() - timedelta(microseconds=1))
    assert live(secret) is None


def test_an_expiry_lies_in_the_future(database):
    for past in (datetime(2020, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC)):
        with pytest.raises(InputError, match="future"):
            issue(expires_at=past)


def test_anybody_has_a_token_while_one_is_live(database):
    def any_live():
        with looking() as connection:
            return tokens.any_live(connection)

    assert not any_live()
    first, _ = issue("a")
    second, _ = issue("b", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert any_live()
    with transaction() as session:
        tokens.revoke(session, first.id)
    assert any_live()
    change(second, expires_at=func.now() - timedelta(seconds=1))
    assert not any_live()


def test_a_name_stands_for_one_token_for_good(database):
    token, _ = issue("anna")
    with transaction() as session:
        tokens.revoke(session, token.id)
    with pytest.raises(InputError, match="is or was"):
        issue("anna")  # else nobody could tell whose deeds are whose


@pytest.mark.parametrize("name", ["local", "bootstrap"])
def test_names_of_callers_without_a_token_are_reserved(database, name):
    with pytest.raises(InputError, match="reserved"):
        issue(name)


def test_use_is_remembered_to_the_minute(database):
    token, secret = issue()

    def is_due():
        with looking() as connection:
            return tokens.live(connection, tokens.digest_of(secret)).due

    assert is_due()
    with transaction() as session:
        tokens.touch(session, token.id)
    with transaction() as session:
        first = session.get_one(Token, token.id).last_used_at
    assert first is not None
    assert not is_due()
    change(token, last_used_at=first - timedelta(seconds=61))
    assert is_due()


def test_tokens_are_listed_with_their_projects(database):
    issue("a")
    token, _ = issue("b")
    with transaction() as session:
        assert [(one.name, project) for one, project in tokens.listed(session, 10)] == [
            ("b", "default"),
            ("a", "default"),
        ]
        assert [one.name for one, _ in tokens.listed(session, 1)] == ["b"]
        assert [one.name for one, _ in tokens.listed(session, 10, before=token.id)] == ["a"]


def test_scopes_include_each_other():
    assert Scope.READ < Scope.WRITE < Scope.ADMIN
    assert [scope.word for scope in Scope] == ["read", "write", "admin"]
