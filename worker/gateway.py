"""
The one way from a slice to its system: gate, sign-in, wire, and the short waits.

`Gateway.send` takes an endpoint and what goes into it, and gives a 2xx answer or raises an error of the tree. In
between it fills in the connection's overrides, waits for a permit (`worker.throttle`), signs the request
(`worker.auth`), sends it once (`worker.transport`) and tells the gate what came back.

A wait of at most `retry.inline_wait` is spent here, and counted as it would be if the command were parked for it; a
longer one is raised. Only what can't have taken effect, or does no harm twice, is sent again here: a replayable
request, and any request that certainly did not leave this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from worker import tracing
from worker.backoff import vendor_wait
from worker.errors import (
    Busy,
    DeadlineExceeded,
    Invalid,
    NotSent,
    RateLimited,
    RelayError,
    TransportError,
    Unanswered,
    Unauthorized,
    Unavailable,
    Waitable,
)
from worker.rest import Body, Endpoint, Headers, Query, Request, Response, raise_for_status
from worker.transport import Download
from worker.wire import Observer, Wire

if TYPE_CHECKING:
    from datetime import datetime

    from config.connections import Connection
    from worker.throttle import Permit
    from worker.tokens import Tokens

__all__ = ["Download", "Gateway", "Observer", "Parts", "Response", "Tally", "Wire"]

POINTS_HEADER: Final = "X-Rate-Limit-Remaining"
"""What is left of a vendor's window (planview_admin.txt, "Working with Rate Limits"); vendors without one lack it."""

MOST_INLINE: Final = 3
"""Waits in a row that one request spends in the call; a vendor that still says no has its command parked."""

CLOCK_GRAIN: Final = 0.01
"""Seconds by which a timer may ring before the deadline that it was set to."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Tally:
    """What a command has used up: `attempt` its number from 1, waits that were asked for, requests on the wire."""

    attempt: int = 1
    deferrals: int = 0
    http_requests: int = 0


_Transmit = Callable[[contextlib.AsyncExitStack, Request, Mapping[str, str], "Permit"], Awaitable[Answer]]
_Count = Callable[[int, Headers, timedelta | None], None]


class Parts(TypedDict, total=False):
    """What goes into a request: `path` fills the endpoint's `{fields}`, `timeout` replaces `http.request_timeout`."""

    path: Mapping[str, str] | None
    query: Query | None
    json: Any
    form: Mapping[str, str] | None
    body: Body | None
    headers: Mapping[str, str] | None
    timeout: timedelta | None


class Gateway:
    """One command's way to its system; cheap to make."""

    def __init__(
        self,
        wire: Wire,
        connection: Connection,
        *,
        attempt: int = 1,
        bulk: bool = False,
        deadline: datetime | None = None,
    ) -> None:
        """Make one; `attempt` is the command's, `bulk` its operation's, `deadline` when it must have ended."""
        self.connection = connection
        self.tally = Tally(attempt)
        self.on_permit: Callable[[], Awaitable[None]] | None = None
        """Awaited once, before the first request goes out."""
        self._wire = wire
        self._system = wire.systems[connection.system]
        self._bulk = bulk
        self._retry = attempt > 1
        """Whether the next request is made again, here or by an earlier attempt of the command."""
        self._knows = -1
        """The closing of the gate that was waited for already."""
        self._deadline = math.inf
        if deadline is not None:
            self._deadline = time.monotonic() + (deadline - wire.clock()).total_seconds()

    async def send(self, endpoint: Endpoint, **parts: Unpack[Parts]) -> Response:
        """Send one request of the connection's system and give its 2xx answer, whole; raises the error tree."""
        async with self._exchange(self._request(endpoint, parts), self._answer) as response:
            return response

    @contextlib.asynccontextmanager
    async def stream(self, endpoint: Endpoint, **parts: Unpack[Parts]) -> AsyncIterator[Download]:
        """
        Send one request and give its 2xx answer to be read as it comes; raises the error tree.

        The request counts as in flight while the context lasts. Its timeout counts between two chunks.
        """
        async with self._exchange(self._request(endpoint, parts), self._download) as download:
            yield download

    # One request, and the waits between its tries

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request, transmit: _Transmit[Answer]) -> AsyncIterator[Answer]:
        tokens = self._wire.tokens(self.connection)
        refusal: Unauthorized | None = None
        used = ""
        waits = 0
        while True:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    if refusal is None:
                        used = await tokens.authorization(self._fetch)
                    else:
                        used = await self._replaced(tokens, used, refusal)
                    answer = await self._try(stack, request, used, transmit)
                except _Refused as error:
                    if refusal is not None:  # by a token that had just been renewed: final
                        tokens.in_vain()
                        raise error.unauthorized from None
                    refusal, wait = error.unauthorized, timedelta(0)
                except RelayError as error:
                    wait = self._inline(error, request, waits)
                    waits += 1
                else:
                    yield answer
                    return
            await self._sleep(wait)

    async def _replaced(self, tokens: Tokens, used: str, refusal: Unauthorized) -> str:
        authorization = await tokens.replaced(used, self._fetch)
        if authorization is None:
            raise refusal
        return authorization

    async def _try(
        self, stack: contextlib.AsyncExitStack, request: Request, authorization: str, transmit: _Transmit[Answer]
    ) -> Answer:
        permit = await self._permit(stack, retry=self._retry)
        self._retry = False
        if self.on_permit is not None:
            tell, self.on_permit = self.on_permit, None
            await tell()
        try:
            return await transmit(stack, request, self._headers(request, authorization), permit)
        except Unauthorized as error:
            raise _Refused(error) from None
        except Unanswered as error:
            if time.monotonic() + CLOCK_GRAIN < self._deadline:
                raise
            raise DeadlineExceeded(f"{error.message} worker.command_deadline has passed.") from error

    async def _permit(self, stack: contextlib.AsyncExitStack, *, retry: bool) -> Permit:
        max_wait = min(self._wire.retry.inline_wait, self._left())
        admission = self._wire.throttle.permit(
            self.connection, max_wait=max_wait, bulk=self._bulk, retry=retry, knows=self._knows
        )
        permit = await stack.enter_async_context(admission)
        self.tally.deferrals += permit.deferrals
        return permit

    def _inline(self, error: RelayError, request: Request, waits: int) -> timedelta:
        """Give the wait after which the request is sent again here, and count it; else raise `error`."""
        retry = self._wire.retry
        deferred = False
        match error:
            case Waitable(status=None):
                raise error  # our own gate: whatever may be waited here was
            case NotSent():
                wait = self._wire.backoff.wait(self.tally.attempt, self._wire.rng)
            case Unavailable(counts=True) | TransportError() if request.replayable:
                wait = self._wire.backoff.wait(self.tally.attempt, self._wire.rng)
                if isinstance(error, Waitable) and error.after is not None:
                    wait = max(wait, vendor_wait(error.after, self._wire.rng))
            case RateLimited() | Busy() | Unavailable() if error.after is not None and request.replayable:
                deferred = True
                # 0 means "allowed now", not "hammer": our own shortest wait still applies.
                wait = vendor_wait(max(error.after, retry.backoff_initial), self._wire.rng)
            case _:
                raise error
        if wait > retry.inline_wait or time.monotonic() + wait.total_seconds() > self._deadline or waits >= MOST_INLINE:
            raise error
        if deferred:
            self.tally.deferrals += 1
        elif self.tally.attempt < retry.max_attempts:
            self.tally.attempt += 1
            self._retry = True
        else:
            raise error
        self._wire.observer.retry(self._system.name, _reason(error))
        return wait

    async def _sleep(self, wait: timedelta) -> None:
        until = time.monotonic() + wait.total_seconds()
        left = wait.total_seconds()
        while left > 0:
            await asyncio.sleep(left)
            left = until - time.monotonic()  # a timer may ring a little early; a vendor's wait must not end so

    def _left(self) -> timedelta:
        """Give the time until the deadline; raises `DeadlineExceeded` when there is none."""
        if math.isinf(self._deadline):
            return timedelta.max
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return timedelta(seconds=left)

    # One try

    async def _answer(
        self, _: contextlib.AsyncExitStack, request: Request, headers: Mapping[str, str], permit: Permit
    ) -> Response:
        with self._counted(request, permit) as counted:
            response = await self._wire.transport.send(
                request, self._url(request), headers=headers, patience=self._patience(request)
            )
            counted(response.status, response.headers, response.after)
        return self._accepted(response, request.endpoint)

    async def _download(
        self, stack: contextlib.AsyncExitStack, request: Request, headers: Mapping[str, str], permit: Permit
    ) -> Download:
        left = self._left()
        with self._counted(request, permit) as counted:
            download = await stack.enter_async_context(
                self._wire.transport.stream(
                    request,
                    self._url(request),
                    headers=headers,
                    patience=self._patience(request),
                    whole=None if left == timedelta.max else left,
                )
            )
            counted(download.status, download.headers, download.after)
        if not 200 <= download.status < 300:
            self._accepted(await download.response(), request.endpoint)
        return download

    def _accepted(self, response: Response, endpoint: Endpoint) -> Response:
        try:
            return raise_for_status(response, endpoint)
        except RelayError as error:
            raise (self._system.final and self._system.final(error)) or error from None

    async def _fetch(self, request: Request) -> Response:
        """Send a request of the sign-in flow: through the gate like any other, but with nothing added."""
        async with contextlib.AsyncExitStack() as stack:
            permit = await self._permit(stack, retry=False)
            return await self._answer(stack, request, request.headers, permit)

    @contextlib.contextmanager
    def _counted(self, request: Request, permit: Permit) -> Iterator[_Count]:
        """Count a request, tell the gate how it was answered, and the observer how long that took."""
        began = time.monotonic()
        status: int | None = None

        def count(answered: int, headers: Headers, after: timedelta | None) -> None:
            nonlocal status
            status = answered
            busy = status in request.endpoint.busy  # one object's lock is no reason to hold up the others
            permit.report(status, after=None if busy else after, points=_points(headers))
            if permit.closing >= 0:
                self._knows = permit.closing

        self.tally.http_requests += 1
        try:
            with tracing.request(request.endpoint, system=self._system.name, connection=self.connection.name) as traced:
                yield count
                traced.say({"http.response.status_code": status}, failed=_refused(status))
        except NotSent:
            self.tally.http_requests -= 1
            raise
        finally:
            self._wire.observer.request(
                self._system.name,
                self.connection.name,
                request.method,
                status,
                timedelta(seconds=time.monotonic() - began),
            )

    # How a request looks on the wire

    def _request(self, endpoint: Endpoint, parts: Parts) -> Request:
        return self._overridden(endpoint).request(**parts)

    def _overridden(self, endpoint: Endpoint) -> Endpoint:
        override = self.connection.operations.get(endpoint.name)
        return endpoint if override is None else endpoint.overridden(override.method, override.path)

    def _url(self, request: Request) -> str:
        prefix = self.connection.api_prefix
        if prefix is None:
            prefix = self._system.default_prefix
        path = prefix + request.path
        if not path.startswith("/"):  # it would be read as part of the host
            raise Invalid(f"The path {path} of {request.endpoint.name} must begin with a slash.")
        return self.connection.base_url + path

    def _headers(self, request: Request, authorization: str) -> Mapping[str, str]:
        """Give the system's headers, the request's own in their place, and the credentials."""
        own = {name.lower() for name in request.headers} | {"authorization"}
        headers = {name: value for name, value in self._system.headers.items() if name.lower() not in own}
        return {**headers, **request.headers, "Authorization": authorization}

    def _patience(self, request: Request) -> timedelta:
        return min(request.timeout or self._wire.request_timeout, self._left())


class _Refused(RelayError):
    """The vendor answered 401 to the token that was sent."""

    def __init__(self, unauthorized: Unauthorized) -> None:
        super().__init__(unauthorized.message)
        self.unauthorized = unauthorized


def _refused(status: int | None) -> str | None:
    """Say why a request counts as failed in a trace: any answer from 400 up."""
    return None if status is None or status < 400 else f"answered {status}"


def _points(headers: Headers) -> float | None:
    """Read what is left of the window; what is no number is as if it were absent."""
    value = headers.get(POINTS_HEADER, "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 16 else None


def _reason(error: RelayError) -> str:
    match error:
        case RateLimited():
            return "rate_limited"
        case Busy():
            return "busy"
        case NotSent():
            return "not_sent"
        case TransportError():
            return "unanswered"
        case _:
            return "unavailable"
