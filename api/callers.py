"""Who asks: the caller behind a request, found by its token, with its project and scope."""

import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.problems import Problem
from store import tokens
from store.database import is_outage, looking, transaction
from store.models import DEFAULT_PROJECT
from store.settings import settings
from store.tokens import Scope

KEPT_S = 2.0
"""How long an answer of the ledger is believed: by then a revocation counts in every API process."""

MOST_KEPT = 1_000


@dataclass(frozen=True)
class Caller:
    """Who a request is from."""

    actor: str
    """The token's name; ``local`` for anybody on this machine, ``bootstrap`` for ``LIVERSEG_TOKEN``."""
    project: int
    scope: Scope
    token: int | None = None
    """Id of the token; None for the two that have no row."""

    @property
    def may_write(self) -> bool:
        """Whether buttons would do anything."""
        return self.scope >= Scope.WRITE


LOCAL = Caller("local", DEFAULT_PROJECT, Scope.ADMIN)
BOOTSTRAP = Caller("bootstrap", DEFAULT_PROJECT, Scope.ADMIN)


def bootstrap_token() -> str | None:
    """``LIVERSEG_TOKEN``, unless it is one of the ledger's tokens, which have scopes and projects of their own."""
    token = settings().token
    return None if not token or token.startswith(tokens.PREFIX) else token


class Keyring:
    """Knows callers by their tokens; remembers what the ledger said for ``KEPT_S``.

    Args:
        bootstrap: a token that needs no ledger; None: there is none.
        local: whether everybody is let in who shows nothing, as long as no token exists.
    """

    def __init__(self, bootstrap: str | None, local: bool) -> None:
        self._bootstrap = bootstrap
        self._local = local and not settings().token
        self._kept: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        self._nobody_until = 0.0
        self._used: set[int] = set()
        self._lock = Lock()

    def recall(self, secret: str | None) -> Caller | None:
        """The caller as far as it is known without asking the ledger."""
        if secret and self._bootstrap and hmac.compare_digest(secret.encode(), self._bootstrap.encode()):
            return BOOTSTRAP
        now = time.monotonic()
        with self._lock:
            until, caller = self._kept.get(tokens.digest_of(secret), (0.0, None)) if secret else (0.0, None)
            if caller is not None and now < until:
                return caller
            return LOCAL if now < self._nobody_until else None

    def look_up(self, secret: str | None) -> Caller | None:
        """The caller as the ledger knows it; None: not let in.

        Raises:
            DBAPIError, TimeoutError: the database cannot say.
        """
        digest = tokens.digest_of(secret) if secret else None
        with looking() as connection:
            token = tokens.live(connection, digest) if digest else None
            open_to_all = self._local and token is None and not tokens.any_live(connection)
        if token is None or digest is None:
            return self._keep_open() if open_to_all else None
        caller = Caller(token.name, token.project_id, token.scope, token.id)
        with self._lock:
            self._kept[digest] = time.monotonic() + KEPT_S, caller
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            if token.due:
                self._used.add(token.id)
        return caller

    @property
    def owes(self) -> bool:
        """Whether :meth:`note_use` has something to do."""
        return bool(self._used)

    def note_use(self) -> None:
        """Write down which tokens were used, for which no answer need wait.

        Nobody's access depends on it: the database may be read-only for a while.
        """
        with self._lock:
            used, self._used = sorted(self._used), set()
        try:
            with transaction() as session:
                for token in used:
                    tokens.touch(session, token)
        except (DBAPIError, PoolTimeout) as error:
            if not is_outage(error):
                raise

    def forget(self) -> None:
        """Ask the ledger anew: a token was made or revoked here."""
        with self._lock:
            self._kept.clear()
            self._nobody_until = 0.0

    def _keep_open(self) -> Caller:
        with self._lock:
            self._nobody_until = time.monotonic() + KEPT_S
        return LOCAL


def caller_of(request: Request) -> Caller:
    """The caller that the guard found."""
    found: Caller = request.state.caller
    return found


# Dependencies are async where they wait for nothing: others cost a change of thread, each, at every request.


async def admins_only(request: Request) -> None:
    """A dependency of routes about the whole installation."""
    if caller_of(request).scope < Scope.ADMIN:
        raise lacks(Scope.ADMIN)


def lacks(needed: Scope) -> Problem:
    """403: the caller is known and may not do this."""
    return Problem(403, f"this needs a token of scope {needed.word}; ask an administrator for one")


async def _asking(request: Request) -> Caller:
    return caller_of(request)


async def _project_of(request: Request) -> int:
    return caller_of(request).project


Asking = Annotated[Caller, Depends(_asking)]
Project = Annotated[int, Depends(_project_of)]
"""The caller's project: what every query is about."""
