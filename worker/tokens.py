"""
A connection's token in this process: obtained once for all who need it, renewed ahead of its end and after a refusal.

See `worker.auth` for why a token never leaves its process.
"""

from __future__ import annotations

import asyncio
import copy
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from worker.errors import (
    Conflict,
    ContractBroken,
    Forbidden,
    Invalid,
    NotFound,
    NotSent,
    Paused,
    RateLimited,
    RelayError,
    TransportError,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from random import Random  # noqa: TID251 - the type alone: chance is an argument

    from worker.auth import Flow, Token
    from worker.rest import Request, Response

log = structlog.get_logger("planrelay.auth")

AHEAD: Final = timedelta(seconds=60)
"""How long before its end a token is renewed, at least; a tenth of its life for one that lives shorter than that."""

REFUSED_FOR: Final = 60.0
"""Seconds for which refused credentials are not tried again: they are a matter for the operator."""

FAILED_FOR: Final = 5.0
"""Seconds until the next try, when a renewal ahead of time failed (the old token still serves), or its answer made no
sense."""


class Tokens:
    """The token of one connection. `fetch` sends a flow's request and gives its 2xx answer, or raises its error."""

    def __init__(
        self,
        flow: Flow,
        *,
        name: str,
        now: Callable[[], datetime],
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
        learn: Callable[[str], None] = lambda _token: None,
    ) -> None:
        self._learn = learn
        self._flow = flow
        self._name = name
        self._now = now
        self._rng = rng
        self._clock = clock
        self._token: Token | None = None
        self._due = self._ends = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._refusal: RelayError | None = None
        self._refused_until = 0.0
        self._in_vain_until = 0.0

    async def authorization(self, fetch: Callable[[Request], Awaitable[Response]]) -> str:
        """
        Give the `Authorization` header, from a token that still lives; who needs a new one shares one renewal.

        Nothing of the caller's own request has been sent when this raises: `NotSent` where the vendor gave no token,
        `RateLimited` where it asked to wait, `Unauthorized` where it refused the credentials, now or a moment ago.
        """
        now = self._clock()
        if self._token is not None and now < self._ends:
            if now >= self._due and self._renewal is None:
                self._renew(fetch)  # nobody waits for it: the old one still serves
            return self._token.authorization
        return await self._renewed(fetch)

    async def replaced(self, refused: str, fetch: Callable[[Request], Awaitable[Response]]) -> str | None:
        """
        Give another header than the one that a 401 refused, None where there is none to be had.

        A token is renewed only if it is still the current one: of all the calls that it failed, the first renews it.
        """
        if self._token is not None and self._token.authorization != refused and self._clock() < self._ends:
            return self._token.authorization
        if self._clock() < self._in_vain_until:
            return None
        self._token = None  # nobody else need learn that it is dead
        authorization = await self._renewed(fetch)
        return None if authorization == refused else authorization

    def in_vain(self) -> None:
        """Take in that a token was refused that had just been renewed: more of them would not help for a while."""
        self._in_vain_until = self._clock() + REFUSED_FOR

    async def close(self) -> None:
        """Give up a renewal under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _renewed(self, fetch: Callable[[Request], Awaitable[Response]]) -> str:
        if self._refusal is not None and self._clock() < self._refused_until:
            raise copy.copy(self._refusal)
        try:
            # One caller that gives up must not take the token from the others.
            await asyncio.shield(self._renewal or self._renew(fetch))
        except RelayError as error:
            raise copy.copy(error) from None
        assert self._token is not None  # noqa: S101 - a renewal without an error has set it
        return self._token.authorization

    def _renew(self, fetch: Callable[[Request], Awaitable[Response]]) -> asyncio.Task[None]:
        self._renewal = asyncio.get_running_loop().create_task(self._obtain(fetch), name=f"token.{self._name}")
        self._renewal.add_done_callback(self._settled)
        return self._renewal

    def _settled(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled() and renewal.exception() is not None:
            self._due = max(self._clock() + FAILED_FOR, self._refused_until)

    async def _obtain(self, fetch: Callable[[Request], Awaitable[Response]]) -> None:
        began = self._clock()
        try:
            token = await self._drive(fetch)
        except (Unauthorized, Forbidden, Invalid, NotFound, Conflict) as error:
            refusal = Unauthorized(
                f"The vendor refuses the credentials of {self._name}: {error.message}",
                status=error.status,
                response=error.response,
            )
            log.warning("auth.refused", connection=self._name, status=error.status)
            raise self._refuse(refusal, REFUSED_FOR) from error
        except Paused as error:  # whoever comes next need not ask again
            raise self._refuse(error, REFUSED_FOR)  # noqa: B904 - the very error
        except ContractBroken as error:
            raise self._refuse(error, FAILED_FOR)  # noqa: B904 - the very error
        except Unavailable as error:
            if error.after is None:
                raise NotSent(f"No token: {error.message}", status=error.status, response=error.response) from error
            raise RateLimited(
                f"No token: {error.message}", after=error.after, status=error.status, response=error.response
            ) from error
        except TransportError as error:
            raise NotSent(f"No token: {error.message}") from error
        self._learn(token.authorization.rpartition(" ")[2])
        self._token, self._refusal = token, None
        self._ends = self._due = float("inf")
        if token.lifetime is not None:
            ahead = min(AHEAD, token.lifetime / 10) * self._rng.uniform(1, 1.5)
            self._ends = began + token.lifetime.total_seconds()
            self._due = self._ends - ahead.total_seconds()

    def _refuse(self, error: RelayError, seconds: float) -> RelayError:
        self._refusal, self._refused_until = error, self._clock() + seconds
        return error

    async def _drive(self, fetch: Callable[[Request], Awaitable[Response]]) -> Token:
        flow = self._flow.token(self._now())
        try:
            request = next(flow)
            while True:
                request = flow.send(await fetch(request))
        except StopIteration as done:
            token: Token = done.value
            return token
