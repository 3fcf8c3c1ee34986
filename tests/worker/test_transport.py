"""HTTP on the wire: sent once, answered whole, and what can go wrong called by its right name."""

import asyncio
import gzip
import inspect
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions

from tests.worker.http_side import a_request, a_transport
from tests.worker.raw_server import Conversation, byte_server, raw_server
from worker.errors import ContractBroken, Invalid, NotSent, Unanswered
from worker.rest import raise_for_status
from worker.transport import FATES, Connector, Transport, fate_of


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    """Give a transport."""
    transport = a_transport()
    yield transport
    await transport.close()


async def plain(said: Conversation) -> None:
    """Answer every request with an empty object."""
    await said.answer()


# What is sent


async def test_a_query_is_encoded_with_lists_repeated_and_truths_in_lower_case(transport: Transport) -> None:
    """Lists become repeated names, booleans true and false, and no character of a value can end it."""
    async with raw_server(plain) as server:
        query = {"q": "a&b=c d/é", "first": 0, "fieldsets": True, "ids": ["1", "2"]}
        await transport.send(a_request(query=query), server.url + "/thing")

    assert server.asked[0].target == "GET /thing?q=a%26b%3Dc%20d%2F%C3%A9&first=0&fieldsets=true&ids=1&ids=2"


async def test_json_is_compact_utf_8_and_says_so(transport: Transport) -> None:
    """A JSON body goes out as UTF-8 with its content type, unless the request names another."""
    async with raw_server(plain) as server:
        await transport.send(a_request("POST", json={"name": "Zoë", "n": [1, None]}), server.url + "/thing")
        custom = {"content-type": "application/json;charset=UTF-8"}
        await transport.send(a_request("POST", json={}, headers=custom), server.url + "/thing")

    assert json.loads(server.asked[0].body) == {"name": "Zoë", "n": [1, None]}
    assert server.asked[0].header("Content-Type") == "application/json"
    assert server.asked[1].header("Content-Type") == "application/json;charset=UTF-8"
    assert server.asked[1].head.lower().count("content-type:") == 1


async def test_a_form_is_encoded_and_says_so(transport: Transport) -> None:
    """A form goes out URL-encoded."""
    async with raw_server(plain) as server:
        await transport.send(a_request("POST", form={"grant_type": "client credentials"}), server.url + "/thing")

    assert server.asked[0].body == b"grant_type=client+credentials"
    assert server.asked[0].header("Content-Type") == "application/x-www-form-urlencoded"


async def test_an_encoded_path_arrives_as_it_was_written(transport: Transport) -> None:
    """A percent-encoded slash in an id stays encoded: the id can't become another path."""
    async with raw_server(plain) as server:
        await transport.send(a_request(), server.url + "/units/a%2F..%2Fb")

    assert server.asked[0].target == "GET /units/a%2F..%2Fb"


async def test_the_connections_of_a_burst_are_not_kept_by_a_steady_load() -> None:
    """A steady load goes over those that it needs; the others fall idle, and are closed."""
    together = asyncio.Barrier(20)

    async def serve(said: Conversation) -> None:
        if said.target.endswith("/burst"):
            await together.wait()
        await said.answer()

    connector = Connector(limit=0, keepalive_timeout=0.5)
    async with raw_server(serve) as server, aiohttp.ClientSession(connector=connector) as session:

        async def ask(path: str) -> None:
            async with session.get(server.url + path) as answer:
                await answer.read()

        await asyncio.gather(*(ask("/burst") for _ in range(20)))
        assert server.connections == 20
        async with asyncio.timeout(60):
            while sum(said.writer.is_closing() for said in server.asked[:20]) < 19:
                await ask("/steady")
                await asyncio.sleep(0.01)
        used = {said.writer for said in server.asked[20:]}
        assert len(used) <= 1 + server.connections - 20  # a new one where this machine stood still for so long


async def test_no_cookie_is_kept(transport: Transport) -> None:
    """A cookie set by one answer is not sent with the next request: it may be another tenant's."""

    async def with_cookie(said: Conversation) -> None:
        await said.answer("200 OK", b"{}", "Set-Cookie: session=secret; Path=/")

    async with raw_server(with_cookie) as server:
        await transport.send(a_request(), server.url + "/thing")
        await transport.send(a_request(), server.url + "/thing")

    assert server.asked[1].header("Cookie") is None


# Sent once


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_request_on_a_dropped_kept_connection_is_not_sent_twice(
    transport: Transport, method: str, reset: bool
) -> None:
    """
    A server that closes kept connections on accepting the next request gets each request once.

    What it may have done with it is unknown: `Unanswered`, also before the first byte of an answer.
    """

    async def close_on_second(said: Conversation) -> None:
        if said.nth_on_connection == 1:
            await said.answer()
        else:
            said.hang_up(reset=reset)

    async with raw_server(close_on_second) as server:
        await transport.send(a_request("GET"), server.url + "/first")
        with pytest.raises(Unanswered):
            await transport.send(a_request(method), server.url + "/second")
        await transport.send(a_request("GET"), server.url + "/third")

    assert [said.target for said in server.asked] == ["GET /first", f"{method} /second", "GET /third"]
    assert server.asked[1].nth_on_connection == 2, "the second request was meant to meet a kept connection"


async def test_an_idle_connection_that_the_server_has_closed_is_not_used(transport: Transport) -> None:
    """A connection that was closed while idle costs nothing: the next request opens another."""

    async def close_after(said: Conversation) -> None:
        await said.answer()
        said.hang_up()

    async with raw_server(close_after) as server:
        for _ in range(5):
            await transport.send(a_request(), server.url + "/thing")
            await asyncio.sleep(0.02)  # the server's FIN needs a moment to arrive

    assert len(server.asked) == 5


async def test_redirects_are_not_followed(transport: Transport) -> None:
    """A redirect is the answer: credentials never travel to an address that an answer names."""
    async with raw_server(plain) as elsewhere:

        async def away(said: Conversation) -> None:
            await said.answer("302 Found", b"", f"Location: {elsewhere.url}/login")

        async with raw_server(away) as server:
            request = a_request(headers={"Authorization": "Bearer secret"})
            response = await transport.send(request, server.url + "/thing")

    assert elsewhere.asked == []
    with pytest.raises(ContractBroken, match=r"redirect to http://127\.0\.0\.1.*base_url"):
        raise_for_status(response, request.endpoint)


# Not sent


async def test_a_refused_connection_means_not_sent(transport: Transport) -> None:
    """Where nobody listens, nothing left this machine."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        with pytest.raises(NotSent, match=r"GET http://127\.0\.0\.1:\d+/thing could not be sent"):
            await transport.send(a_request(), f"http://127.0.0.1:{taken.getsockname()[1]}/thing")


async def test_a_name_that_does_not_resolve_means_not_sent(transport: Transport) -> None:
    """A host that does not exist got nothing."""
    with pytest.raises(NotSent):
        await transport.send(a_request(), "http://planrelay.invalid/thing")


async def test_tls_with_a_server_that_speaks_none_means_not_sent(transport: Transport) -> None:
    """A failed handshake comes before the request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with byte_server(serve) as address:
        with pytest.raises(NotSent):
            await transport.send(a_request(), f"https://{address}/thing")


async def test_a_connection_that_does_not_come_about_in_time_means_not_sent() -> None:
    """A TLS handshake that hangs ends at the connect timeout, long before the request's own."""
    transport = a_transport(connect_timeout=timedelta(seconds=0.2))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    began = time.monotonic()
    async with byte_server(serve) as address:
        with pytest.raises(NotSent):
            await transport.send(a_request(), f"https://{address}/thing")
        assert time.monotonic() - began < 2
        await transport.close()


async def test_the_query_stays_out_of_errors(transport: Transport) -> None:
    """What a query holds may be personal or secret: an error names the request without it."""
    with pytest.raises(NotSent) as caught:
        await transport.send(a_request(query={"email": "zoe@example.com"}), "http://planrelay.invalid/thing")

    assert "zoe" not in caught.value.message


async def test_a_long_header_is_no_failure(transport: Transport) -> None:
    """Content security policies outgrow 8 KiB, which is all that aiohttp takes unless it is told."""

    async def verbose(said: Conversation) -> None:
        await said.answer("200 OK", b"{}", "Content-Security-Policy: " + "a" * 30_000, *["X: 1"] * 150)

    async with raw_server(verbose) as server:
        assert (await transport.send(a_request(), server.url + "/thing")).status == 200


async def too_many_headers(said: Conversation) -> None:
    """Answer with more headers than aiohttp reads."""
    await said.answer("200 OK", b"{}", *(f"X-{number}: 1" for number in range(500)))


async def bad_chunk(said: Conversation) -> None:
    """Begin a chunk whose size is no number."""
    await said.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    said.hang_up()


async def broken_gzip(said: Conversation) -> None:
    """Say gzip and send something else."""
    await said.answer("200 OK", b"this is no gzip stream", "Content-Encoding: gzip")


@pytest.mark.parametrize("answering", [too_many_headers, bad_chunk, broken_gzip])
async def test_an_answer_that_is_no_http_is_told_without_the_query(transport: Transport, answering: Any) -> None:
    """Of aiohttp's words the reason is kept: not the URL with its query, nor a 400 that the vendor never sent."""
    async with raw_server(answering) as server:
        with pytest.raises(Unanswered) as caught:
            await transport.send(a_request(query={"email": "zoe@example.com"}), server.url + "/thing")

    said = caught.value.message.replace(server.url, "")  # whose port may be 34001
    assert "zoe" not in said
    assert "400" not in said


# Sent and unanswered


async def silent(said: Conversation) -> None:
    """Read the request and say nothing."""
    await said.reader.read()


async def cut_in_headers(said: Conversation) -> None:
    """Hang up in the middle of the headers."""
    await said.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    said.hang_up()


async def cut_in_body(said: Conversation) -> None:
    """Hang up short of the Content-Length."""
    await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
    said.hang_up()


async def cut_in_chunks(said: Conversation) -> None:
    """Hang up before the last chunk."""
    await said.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    said.hang_up()


async def no_http(said: Conversation) -> None:
    """Answer in another language."""
    await said.say(b"220 mail.example.com ESMTP\r\n")
    said.hang_up()


@pytest.mark.parametrize("answering", [silent, cut_in_headers, cut_in_body, cut_in_chunks, no_http, broken_gzip])
async def test_sent_without_a_whole_answer_means_unanswered(transport: Transport, answering: Any) -> None:
    """Silence, a cut anywhere, or bytes that are no answer: the vendor may have acted on the request."""
    async with raw_server(answering) as server:
        with pytest.raises(Unanswered):
            await transport.send(a_request("POST"), server.url + "/thing", patience=timedelta(seconds=0.3))

    assert len(server.asked) == 1


async def test_a_body_that_drips_ends_at_the_request_timeout(transport: Transport) -> None:
    """The request's timeout counts until the whole answer is there, not from byte to byte."""

    async def drip(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            await said.say(b" ")
            await asyncio.sleep(0.05)

    began = time.monotonic()
    async with raw_server(drip) as server:
        with pytest.raises(Unanswered, match="in time"):
            await transport.send(a_request(), server.url + "/thing", patience=timedelta(seconds=0.4))

    assert 0.4 <= time.monotonic() - began < 2


# Answers


async def test_retry_after_counts_from_the_headers(transport: Transport) -> None:
    """What the body took to come is taken off: the wait begins when the vendor spoke."""

    async def slow_body(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\n")
        await asyncio.sleep(0.3)
        await said.say(b"soon")

    async with raw_server(slow_body) as server:
        response = await transport.send(a_request(), server.url + "/thing")

    assert response.after is not None
    assert timedelta(seconds=2.4) < response.after <= timedelta(seconds=2.71)


async def test_of_several_retry_after_lines_the_first_valid_counts(transport: Transport) -> None:
    """A second line, or a broken first one, does not hide what the vendor asks."""

    async def twice(said: Conversation) -> None:
        await said.answer("503 Busy", b"", "Retry-After: soon", "Retry-After: 7")

    async with raw_server(twice) as server:
        response = await transport.send(a_request(), server.url + "/thing")

    assert response.after is not None
    assert timedelta(seconds=6.5) < response.after <= timedelta(seconds=7)


@pytest.mark.parametrize("answering", [cut_in_body, cut_in_chunks])
async def test_a_refusal_with_a_broken_body_is_still_that_refusal(transport: Transport, answering: Any) -> None:
    """A 429 whose body is cut keeps its status and its Retry-After."""

    async def refusal(said: Conversation) -> None:
        real_say = said.say

        async def say(*parts: bytes) -> None:
            await real_say(*(part.replace(b"200 OK\r\n", b"429 No\r\nRetry-After: 9\r\n") for part in parts))

        said.say = say  # type: ignore[method-assign] # the same broken answer, with another status
        await answering(said)

    async with raw_server(refusal) as server:
        response = await transport.send(a_request(), server.url + "/thing")

    assert response.status == 429
    assert response.after is not None


async def test_an_endless_refusal_is_cut(transport: Transport) -> None:
    """Of an error body no more is read than its message can need."""

    async def endless(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not said.writer.is_closing():
            await said.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    async with raw_server(endless) as server:
        response = await transport.send(a_request(), server.url + "/thing")

    assert response.status == 500
    assert len(response.body) == 256 * 1024


async def test_a_compressed_answer_is_read(transport: Transport) -> None:
    """Compression is undone on the way in."""

    async def zipped(said: Conversation) -> None:
        await said.answer("200 OK", gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip")

    async with raw_server(zipped) as server:
        response = await transport.send(a_request(), server.url + "/thing")

    assert response.object() == {"a": 1}


@pytest.mark.parametrize("squeeze", [gzip.compress, zlib.compress])
async def test_a_decompression_bomb_ends_at_the_limit(squeeze: Any) -> None:
    """The limit counts what comes out of the decompression: a small answer can't fill the memory."""
    transport = a_transport(max_response=100_000)
    bomb = squeeze(b"0" * 200_000_000)
    name = "gzip" if squeeze is gzip.compress else "deflate"

    async def bombard(said: Conversation) -> None:
        await said.answer("200 OK", bomb, f"Content-Encoding: {name}")

    async with raw_server(bombard) as server:
        with pytest.raises(ContractBroken, match=r"http\.max_response"):
            await transport.send(a_request(), server.url + "/thing")
    await transport.close()


async def test_an_answer_at_the_limit_is_whole_and_one_byte_more_is_not() -> None:
    """The limit itself is still allowed."""
    transport = a_transport(max_response=1000)

    async def of_size(said: Conversation) -> None:
        await said.answer("200 OK", b"x" * int(said.target.rpartition("/")[2]))

    async with raw_server(of_size) as server:
        response = await transport.send(a_request(), server.url + "/1000")
        with pytest.raises(ContractBroken) as caught:
            await transport.send(a_request(), server.url + "/1001")
    await transport.close()

    assert len(response.body) == 1000
    assert caught.value.status == 200


# Downloads


async def test_a_download_comes_piece_by_piece(transport: Transport) -> None:
    """The first piece is there before the last is sent."""
    gate = asyncio.Event()

    async def two_parts(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await gate.wait()
        await said.say(b"later")

    async with raw_server(two_parts) as server, transport.stream(a_request(), server.url + "/thing") as download:
        chunks = download.chunks()
        first = await anext(chunks)
        gate.set()
        rest = b"".join([chunk async for chunk in chunks])

    assert (first, rest) == (b"first", b"later")
    assert download.headers["content-length"] == "10"


async def test_a_download_may_take_longer_than_the_timeout_but_not_stall(transport: Transport) -> None:
    """The timeout of a download counts between two pieces."""

    async def slow(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.1)
            await said.say(b".")
        await said.reader.read()

    got: list[bytes] = []

    async def read(server: str) -> None:
        async with transport.stream(a_request(), server + "/thing", patience=timedelta(seconds=0.3)) as download:
            async for chunk in download.chunks():
                got.append(chunk)  # noqa: PERF401 - extend would keep nothing of what came before the stall

    async with raw_server(slow) as server:
        with pytest.raises(Unanswered, match="in time"):
            await read(server.url)

    assert b"".join(got) == b"......"


@pytest.mark.parametrize("answering", [cut_in_body, cut_in_chunks])
async def test_a_download_that_ends_short_is_unanswered(transport: Transport, answering: Any) -> None:
    """A body that ends before its Content-Length, or its last chunk, is not taken for whole."""
    async with raw_server(answering) as server, transport.stream(a_request(), server.url + "/thing") as download:
        with pytest.raises(Unanswered):
            async for _ in download.chunks():
                pass


async def test_a_download_ends_at_its_deadline(transport: Transport) -> None:
    """However steadily it drips, the whole has a limit where the command has one."""

    async def drip(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not said.writer.is_closing():
            await said.say(b" ")
            await asyncio.sleep(0.02)

    began = time.monotonic()
    async with raw_server(drip) as server:
        whole = timedelta(seconds=0.4)
        async with transport.stream(a_request(), server.url + "/thing", whole=whole) as download:
            with pytest.raises(Unanswered):
                async for _ in download.chunks():
                    pass

    assert time.monotonic() - began < 2


async def test_leaving_a_download_early_closes_its_connection(transport: Transport) -> None:
    """What is not read is not fetched behind our back."""
    closed = asyncio.Event()

    async def endless(said: Conversation) -> None:
        await said.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await said.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        except ConnectionError:
            closed.set()

    async with raw_server(endless) as server:
        async with transport.stream(a_request(), server.url + "/thing") as download:
            await anext(download.chunks())
        async with asyncio.timeout(5):
            await closed.wait()


# The table of exceptions

KNOWN = {
    "ClientConnectionError": Unanswered,
    "ClientConnectionResetError": Unanswered,
    "ClientConnectorCertificateError": NotSent,
    "ClientConnectorDNSError": NotSent,
    "ClientConnectorError": NotSent,
    "ClientConnectorSSLError": NotSent,
    "ClientError": Unanswered,
    "ClientHttpProxyError": NotSent,
    "ClientOSError": Unanswered,
    "ClientPayloadError": Unanswered,
    "ClientProxyConnectionError": NotSent,
    "ClientResponseError": Unanswered,
    "ClientSSLError": NotSent,
    "ConnectionTimeoutError": NotSent,
    "ContentTypeError": Unanswered,
    "InvalidURL": Invalid,
    "InvalidUrlClientError": Invalid,
    "InvalidUrlRedirectClientError": Invalid,
    "NonHttpUrlClientError": Invalid,
    "NonHttpUrlRedirectClientError": Invalid,
    "RedirectClientError": Unanswered,
    "ServerConnectionError": Unanswered,
    "ServerDisconnectedError": Unanswered,
    "ServerFingerprintMismatch": NotSent,
    "ServerTimeoutError": Unanswered,
    "SocketTimeoutError": Unanswered,
    "TooManyRedirects": Unanswered,
    "UnixClientConnectorError": NotSent,
    "UploadAbortedError": Unanswered,
    "WSServerHandshakeError": Unanswered,
}


def test_every_exception_of_aiohttp_has_its_place() -> None:
    """A new aiohttp that brings a new exception fails here, until somebody has said what it means."""
    classes = {
        name: kind
        for name, kind in vars(client_exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, aiohttp.ClientError)
    }

    assert {name: fate_of(kind) for name, kind in classes.items()} == KNOWN


def test_the_table_names_no_exception_that_is_gone() -> None:
    """Every entry of the table is an exception that can still be raised."""
    assert all(issubclass(kind, (aiohttp.ClientError, OSError)) for kind in FATES)


def test_a_bug_of_ours_is_no_failure_of_the_wire() -> None:
    """Only what comes from the wire has a place in the table."""
    assert fate_of(RuntimeError) is None
    assert fate_of(KeyError) is None
