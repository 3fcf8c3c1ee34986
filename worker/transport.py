"""
HTTP on the wire: one request out, one whole answer or one download back.

The only file that imports aiohttp's client. It sends each request once: nothing in here tries again, follows a
redirect or keeps a cookie. What can go wrong leaves as `NotSent` (nothing left this machine) or `Unanswered` (the
vendor may have acted on it), which is the one difference that matters to whoever decides about a second try.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from worker.errors import ContractBroken, Invalid, NotSent, RelayError, Unanswered
from worker.receiving import BLOCK, Receiver
from worker.rest import Encoded, Headers, Response
from worker.retry_after import retry_after_of
from worker.unpacking import CODINGS, Unpacking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime, timedelta

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

    from worker.rest import Query, Request

KEEP_ALIVE: Final = 4.0
"""Seconds an idle connection is kept: under the 5 s after which many servers (Node's default) close theirs, so that a
request seldom meets a connection that is just being closed, which could not be told from an unanswered one."""

DNS_KEPT: Final = 30
"""Seconds a resolved address is used again."""

HEADER_LIMIT: Final = 64 * 1024
"""Bytes of one header, as the standard library's client has it: some policies outgrow aiohttp's own 8 KiB, and with
one that is too large no answer counts."""

MOST_HEADERS: Final = 256
"""Headers of one answer."""

REFUSAL_LIMIT: Final = 256 * 1024
"""Bytes read of an answer that is not a success: enough for its message, whatever it sends."""

REFUSAL_PATIENCE: Final = 5.0
"""Seconds to wait for the body of such an answer: its status and headers already say what to do."""

EXCERPT: Final = 8_000
"""Bytes of an answer that is too large which its error keeps to look at."""

DOWNLOAD_BUFFER: Final = 256 * 1024
"""Bytes that a download reads ahead; twice this much waits in memory at most."""

_SURELY_IN_CONNECT: Final = 0.9
"""The connect timeout is at most this share of the whole, so that when the whole runs out, the request was sent."""

FATES: Final[Mapping[type[Exception], type[RelayError]]] = {
    # No connection came about: refused, unreachable, unknown name, TLS, proxy.
    aiohttp.ClientConnectorError: NotSent,
    aiohttp.ConnectionTimeoutError: NotSent,
    aiohttp.ServerFingerprintMismatch: NotSent,
    aiohttp.ClientHttpProxyError: NotSent,
    # There was a connection; what came back, if anything, is not a whole answer.
    aiohttp.ClientOSError: Unanswered,
    aiohttp.ClientConnectionResetError: Unanswered,
    aiohttp.ServerDisconnectedError: Unanswered,
    aiohttp.ServerTimeoutError: Unanswered,
    aiohttp.ClientPayloadError: Unanswered,
    aiohttp.ClientResponseError: Unanswered,
    aiohttp.ClientConnectionError: Unanswered,
    # No request could be made of it.
    aiohttp.InvalidURL: Invalid,
    aiohttp.NonHttpUrlClientError: Invalid,
    # Everything else that aiohttp, now or later, derives from its root: the cautious reading.
    aiohttp.ClientError: Unanswered,
    TimeoutError: Unanswered,
    OSError: Unanswered,
}
"""What each of aiohttp's exceptions means to the worker; the nearest ancestor counts."""


def fate_of(kind: type[BaseException]) -> type[RelayError] | None:
    """Give the place in the error tree of an exception class, None for one that is not of the wire."""
    return next((FATES[ancestor] for ancestor in kind.__mro__ if ancestor in FATES), None)


class Download:
    """An answer whose body is read as it comes."""

    def __init__(
        self, answer: aiohttp.ClientResponse, response: Response, where: str, *, gap: float, deadline: float | None
    ) -> None:
        self._answer = answer
        self._response = response
        self._where = where
        self._gap = gap
        self._deadline = deadline

    @property
    def status(self) -> int:
        """The status code."""
        return self._response.status

    @property
    def headers(self) -> Headers:
        """The headers, as they came."""
        return self._response.headers

    @property
    def after(self) -> timedelta | None:
        """What `Retry-After` asks for."""
        return self._response.after

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Give the body piece by piece, unpacked where it comes packed.

        Raises `Unanswered` where it stalls, ends short of its Content-Length, or what is packed lacks its end;
        `ContractBroken` for a packing that is none of HTTP's common ones.
        """
        unpacking, empty = self._unpacking(), True
        try:
            async for chunk in self._pieces():
                empty = False
                if unpacking is None:
                    yield chunk
                else:
                    for piece in unpacking.feed(chunk):
                        yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise translated(error, self._where) from error
        except ValueError as error:
            raise Unanswered(f"{self._where} was sent, and its answer can't be unpacked: {error}.") from None
        if unpacking is not None and not unpacking.ended and not empty:
            raise Unanswered(f"{self._where} was sent, and what came back packed is cut short.")

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Give the body as it is on the wire: the rest of a large one straight from its connection."""
        content, left = self._answer.content, self._answer.content_length or 0
        async for chunk in content.iter_any():
            left -= len(chunk)
            yield chunk
            if left > BLOCK:
                break
        else:
            return
        here = b"".join(iter(content.read_nowait, b""))  # with nothing awaited until the receiver has the connection
        receiver = _receiver(self._answer.connection, left - len(here))
        if here:
            yield here
        if receiver is None:
            async for chunk in content.iter_any():  # which knows why there is no connection any more
                yield chunk
        else:
            async for block in receiver.blocks(gap=self._gap, deadline=self._deadline):
                yield block

    async def response(self) -> Response:
        """Give the answer whole where it is not a success, its body cut to what a message needs."""
        body = await _refusal(self._answer)
        with contextlib.suppress(ContractBroken, ValueError):
            if (unpacking := self._unpacking()) is not None:
                body = next(unpacking.feed(body), b"")
        return replace(self._response, body=body)

    def _unpacking(self) -> Unpacking | None:
        coding = self.headers.get("Content-Encoding", "").strip().lower()
        if coding in {"", "identity"}:
            return None
        if coding not in CODINGS:
            raise ContractBroken(f"{self._where} was answered packed as {coding[:50]!r}, which was not asked for.")
        return Unpacking(coding)


class Transport:
    """
    The process's one HTTP client; belongs to the event loop on which it is first used.

    Connections are not limited here: how many requests a vendor gets at once is the throttle's word.
    """

    def __init__(
        self,
        *,
        connect_timeout: timedelta,
        request_timeout: timedelta,
        max_response: int,
        now: Callable[[], datetime],
        agent: str = "planrelay",
    ) -> None:
        self._connect_timeout = connect_timeout.total_seconds()
        self._request_timeout = request_timeout.total_seconds()
        self._max_response = max_response
        self._now = now
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, request: Request, url: str, *, headers: Mapping[str, str] | None = None, patience: timedelta | None = None
    ) -> Response:
        """
        Send one request once, and give the whole answer, whatever its status.

        `url` is absolute, already encoded and without a query; `headers` are sent instead of the request's own.
        `patience` (else the request's timeout, else `request_timeout`) counts until the whole answer is there. Raises
        `NotSent`, `Unanswered`, and `ContractBroken` for a success larger than `max_response` (decompressed).
        """
        total = self._patience(request, patience)
        limits = aiohttp.ClientTimeout(total=total, connect=min(self._connect_timeout, total * _SURELY_IN_CONNECT))
        where = f"{request.method} {url}"
        try:
            async with self._open(request, url, headers, limits) as answer:
                loop = asyncio.get_running_loop()
                arrived = loop.time()
                response = self._head(answer)
                if response.status >= 300:
                    body = await _refusal(answer)
                else:
                    body = await self._body(answer, where)
                return _with_body(response, body, since_headers=loop.time() - arrived)
        except (aiohttp.ClientError, OSError) as error:
            raise translated(error, where) from error

    @contextlib.asynccontextmanager
    async def stream(
        self,
        request: Request,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        patience: timedelta | None = None,
        whole: timedelta | None = None,
    ) -> AsyncIterator[Download]:
        """
        Send one request once, and give its answer as a `Download` while the context lasts.

        `patience` counts between two chunks (and until the first), `whole` for all of it. Raises as `send` does.
        """
        gap = self._patience(request, patience)
        total = None if whole is None else whole.total_seconds()
        deadline = None if total is None else asyncio.get_running_loop().time() + total
        connect = min(self._connect_timeout, gap if total is None else total * _SURELY_IN_CONNECT)
        limits = aiohttp.ClientTimeout(total=total, connect=connect, sock_read=gap)
        where = f"{request.method} {url}"
        async with contextlib.AsyncExitStack() as stack:
            try:
                opening = self._open(request, url, headers, limits, read_bufsize=DOWNLOAD_BUFFER, auto_decompress=False)
                answer = await stack.enter_async_context(opening)
            except (aiohttp.ClientError, OSError) as error:
                raise translated(error, where) from error
            yield Download(answer, self._head(answer), where, gap=gap, deadline=deadline)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _patience(self, request: Request, patience: timedelta | None) -> float:
        chosen = patience or request.timeout
        return self._request_timeout if chosen is None else chosen.total_seconds()

    def _open(
        self,
        request: Request,
        url: str,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        **options: Any,
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        body, content_type = _content(request)
        sent = CIMultiDict(request.headers if headers is None else headers)
        if content_type is not None:
            sent.setdefault("Content-Type", content_type)
        if request.query:
            url = f"{url}?{'&'.join(_pairs(request.query))}"
        if self._session is None:
            self._session = self._connect()
        return self._session.request(
            request.method,
            URL(url, encoded=True),
            data=body,
            headers=sent,
            allow_redirects=False,
            timeout=timeout,
            **options,
        )

    def _connect(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connector(limit=0, ttl_dns_cache=DNS_KEPT, keepalive_timeout=KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),  # one tenant's cookie must not travel with another's request
            headers={"User-Agent": self._agent},
            skip_auto_headers=("Content-Type",),
            middlewares=(send_once,),
            trust_env=False,
            max_field_size=HEADER_LIMIT,
            max_headers=MOST_HEADERS,
        )

    def _head(self, answer: aiohttp.ClientResponse) -> Response:
        headers = Headers([(name, value) for name, value in answer.headers.items()])
        return Response(status=answer.status, headers=headers, body=b"", after=retry_after_of(headers, now=self._now()))

    async def _body(self, answer: aiohttp.ClientResponse, where: str) -> bytes:
        chunks: list[bytes] = []
        if not await _read(answer, chunks, self._max_response):
            answer.close()
            raise ContractBroken(
                f"{where} was answered with more than http.max_response ({self._max_response} bytes); "
                "ask for less, or raise the limit.",
                status=answer.status,
                response=b"".join(chunks)[:EXCERPT].decode("utf-8", errors="replace"),
            )
        return b"".join(chunks)


class Connector(aiohttp.TCPConnector):
    """
    Takes the connection that was used last, so that those which a burst has left over fall idle and are closed.

    aiohttp takes the one that rested longest (`_get` in its `connector.py`, without a public switch): under a steady
    load each has its turn before its time is over, and the most that were ever needed stay open for ever.
    """

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        before = len(self._conns.get(key, ()))
        super()._release(key, protocol, should_close=should_close)
        kept = self._conns.get(key)
        if kept is not None and len(kept) > before:
            kept.rotate(1)  # aiohttp takes from the left, where this one now is


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """
    Keep aiohttp from sending a request a second time by itself.

    It resends GET, PUT, DELETE and their kind when a kept connection turns out closed (`retry_persistent_connection` in
    its `client.py`, without a public switch), unless the exception is none of its own: so it is translated in here.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise translated(error, f"{request.method} {_without_query(str(request.url))}") from error


def translated(error: Exception, where: str) -> RelayError:
    """Give aiohttp's exception as one of the error tree, in words that name the request without its query."""
    fate = fate_of(type(error)) or Unanswered
    detail = _detail(error)
    if fate is NotSent:
        return NotSent(f"{where} could not be sent: {detail}.")
    if fate is Invalid:
        return Invalid(f"{where} is no URL that can be asked; check the connection's base_url and operations.")
    if isinstance(error, TimeoutError):
        return Unanswered(f"{where} was sent, and no whole answer came in time.")
    return Unanswered(f"{where} was sent, and no whole answer came back: {detail}.")


def _detail(error: Exception) -> str:
    """Give aiohttp's words without what it wraps them in: a status that nobody sent, and the URL with its query."""
    said = getattr(error, "message", None) or getattr(error.__cause__, "message", None) or error
    return " ".join(str(said).split()) or type(error).__name__


def _receiver(connection: Connection | None, size: int) -> Receiver | None:
    """Take an answer's connection from aiohttp, which goes on to believe that there is more to come, and closes it."""
    if size <= 0 or connection is None or connection.transport is None or connection.protocol is None:
        return None
    connection.protocol.read_timeout = None
    connection.protocol.start_timeout()  # which now means: stop it
    return Receiver(connection.transport, size=size)


async def _read(answer: aiohttp.ClientResponse, chunks: list[bytes], limit: int) -> bool:
    """Read up to `limit` bytes, as they are after decompression, into `chunks`; False: there was more."""
    left = limit
    async for chunk in answer.content.iter_any():
        chunks.append(chunk[:left])
        left -= len(chunk)
        if left < 0:
            return False
    return True


async def _refusal(answer: aiohttp.ClientResponse) -> bytes:
    """Read what there is of a refusal's body: one that is cut, slow or endless must not hide its status."""
    chunks: list[bytes] = []
    whole = False
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(REFUSAL_PATIENCE):
            whole = await _read(answer, chunks, REFUSAL_LIMIT)
    if not whole:
        answer.close()
    return b"".join(chunks)


def _with_body(response: Response, body: bytes, *, since_headers: float) -> Response:
    """Add the body; `after` counts from the headers' arrival, so what the body took is taken off."""
    after = response.after
    if after is not None and since_headers > 0.001:
        after = max(after - type(after)(seconds=since_headers), type(after)(0))
    return replace(response, body=body, after=after)


def _content(request: Request) -> tuple[bytes | AsyncIterator[bytes] | None, str | None]:
    if request.json is not None:
        text = json.dumps(request.json, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode(), "application/json"
    if request.form is not None:
        return urlencode(dict(request.form)).encode(), "application/x-www-form-urlencoded"
    return request.body() if callable(request.body) else request.body, None


def _pairs(query: Query) -> list[str]:
    listed = [(name, value if isinstance(value, list) else [value]) for name, value in query.items()]
    return [f"{quote(name, safe='')}={_text(each)}" for name, values in listed for each in values]


def _text(value: str | int) -> str:
    if isinstance(value, Encoded):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(str(value), safe="")


def _without_query(url: str) -> str:
    return url.partition("?")[0]
