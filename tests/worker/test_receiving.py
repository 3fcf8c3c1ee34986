"""The rest of a large body, straight from its connection: by both event loops, in the clear and by TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.worker.http_side import a_request, a_transport
from tests.worker.raw_server import Conversation, raw_server
from worker.errors import Unanswered
from worker.receiving import AHEAD, BLOCK, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

BODY = random.Random(7).randbytes(5 * BLOCK + 4321)
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine on an event loop of this kind."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            runner.run(main)

    return run


@contextlib.asynccontextmanager
async def downloading(
    answering: Callable[[Conversation], Awaitable[None]], *, gap: float = 5, whole: float | None = None
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the pieces of a download from a server that answers so."""
    transport = a_transport()
    patience, total = timedelta(seconds=gap), None if whole is None else timedelta(seconds=whole)
    try:
        async with (
            raw_server(answering) as server,
            transport.stream(a_request(), server.url + "/thing", patience=patience, whole=total) as download,
        ):
            yield download.chunks()
    finally:
        await transport.close()


async def read(chunks: AsyncIterator[bytes], *, into: bytearray) -> None:
    """Keep what comes, also where it ends in an error."""
    async for chunk in chunks:
        into += chunk


def in_pieces(body: bytes, *sizes: int) -> list[bytes]:
    """Cut a body."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return [*pieces, body[at:]]


@pytest.mark.parametrize("first", [0, 1, 1000, BLOCK, 3 * BLOCK, len(BODY) - 1])
def test_a_large_body_comes_whole_and_in_blocks(run: Any, first: int) -> None:
    """Whatever came with the headers, and whatever follows the body on its connection."""

    async def main() -> None:
        async def answer(said: Conversation) -> None:
            await said.say(HEAD + BODY[:first])
            await asyncio.sleep(0.05)
            await said.say(BODY[first:], b"and more than was announced")

        async with downloading(answer) as chunks:
            got = [chunk async for chunk in chunks]
        assert b"".join(got) == BODY
        assert max(map(len, got)) <= BLOCK

    run(main())


def test_a_packed_body_is_unpacked(run: Any) -> None:
    """Its length is the one on the wire."""

    async def main() -> None:
        packed = gzip.compress(BODY, 1)

        async def answer(said: Conversation) -> None:
            await said.answer("200 OK", packed, "Content-Encoding: gzip")

        async with downloading(answer) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == BODY

    run(main())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("came", [2 * BLOCK, 3 * BLOCK + 77, len(BODY) - 1])
def test_what_is_cut_is_never_taken_for_whole(run: Any, came: int, *, reset: bool) -> None:
    """An orderly end too early, or a reset; what came before an orderly one is handed on first."""

    async def main() -> None:
        async def answer(said: Conversation) -> None:
            await said.say(HEAD + BODY[:came])
            await asyncio.sleep(0.2)
            said.hang_up(reset=reset)

        got = bytearray()
        async with downloading(answer) as chunks:
            with pytest.raises(Unanswered):
                await read(chunks, into=got)
        assert BODY.startswith(got)
        assert reset or len(got) == came

    run(main())


def test_what_comes_slowly_is_handed_on_before_a_block_is_full(run: Any) -> None:
    """The server waits for it before it sends the rest."""

    async def main() -> None:
        seen = asyncio.Event()
        start, some, rest = in_pieces(BODY, BLOCK, 1000)

        async def answer(said: Conversation) -> None:
            await said.say(HEAD + start)
            await asyncio.sleep(0.1)
            await said.say(some)
            await seen.wait()
            await said.say(rest)

        got = bytearray()
        async with downloading(answer) as chunks:
            async for chunk in chunks:
                got += chunk
                if len(got) == BLOCK + 1000:
                    seen.set()
        assert seen.is_set()
        assert got == BODY

    run(main())


@pytest.mark.parametrize(("gap", "whole"), [(0.3, None), (30, 0.5)])
def test_a_stall_or_a_deadline_ends_it(run: Any, gap: float, whole: float | None) -> None:
    """And what came by then is handed on."""

    async def main() -> None:
        async def answer(said: Conversation) -> None:
            await said.say(HEAD + BODY[: 2 * BLOCK + 5])
            await said.reader.read()

        got = bytearray()
        async with asyncio.timeout(10), downloading(answer, gap=gap, whole=whole) as chunks:
            with pytest.raises(Unanswered, match="in time"):
                await read(chunks, into=got)
        assert bytes(got) == BODY[: 2 * BLOCK + 5]

    run(main())


def test_a_body_that_drips_for_ever_ends_at_the_deadline(run: Any) -> None:
    """However steadily it does so."""

    async def main() -> None:
        async def answer(said: Conversation) -> None:
            await said.say(HEAD + BODY[:BLOCK])
            while not said.writer.is_closing():
                await said.say(b" ")
                await asyncio.sleep(0.02)

        async with asyncio.timeout(10), downloading(answer, whole=0.5) as chunks:
            with pytest.raises(Unanswered, match="in time"):
                await read(chunks, into=bytearray())

    run(main())


def test_who_reads_slowly_holds_the_server_up(run: Any) -> None:
    """Memory holds a few blocks, however large the body is; then all of it comes."""

    async def main() -> None:
        count = 64
        sent = 0

        async def answer(said: Conversation) -> None:
            nonlocal sent
            await said.say(f"HTTP/1.1 200 OK\r\nContent-Length: {count * BLOCK}\r\n\r\n".encode())
            for _ in range(count):
                await said.say(bytes(BLOCK))
                sent += 1

        async with downloading(answer) as chunks:
            got = len(await anext(chunks))
            while got < 2 * BLOCK:
                got += len(await anext(chunks))
            before = -1
            while sent != before:  # until the kernel's buffers are full, too
                before = sent
                await asyncio.sleep(0.5)
            assert sent < count * 3 / 4
            got += sum([len(chunk) async for chunk in chunks])
        assert got == count * BLOCK

    run(main())


def test_who_leaves_early_closes_the_connection(run: Any) -> None:
    """What is not read is not fetched behind our back."""

    async def main() -> None:
        closed = asyncio.Event()

        async def answer(said: Conversation) -> None:
            await said.say(f"HTTP/1.1 200 OK\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
            try:
                while True:
                    await said.say(bytes(BLOCK))
            except ConnectionError:
                closed.set()

        transport = a_transport()
        async with raw_server(answer) as server:
            async with transport.stream(a_request(), server.url + "/thing") as download:
                chunks = download.chunks()
                for _ in range(4):
                    await anext(chunks)
            async with asyncio.timeout(5):
                await closed.wait()
        await transport.close()

    run(main())


def test_by_tls_too(run: Any, tmp_path: Path) -> None:
    """The same bytes, whatever a record holds; an early end is no end."""
    ours, theirs = a_certificate(tmp_path)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            size = int(await reader.readline())
            writer.write(BODY[:size])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
        port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()

        async def fetched(size: int) -> bytes:
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, ssl=ours)
            receiver = Receiver(transport, size=len(BODY))
            transport.write(b"%d\n" % size)
            try:
                got = bytearray()
                async for block in receiver.blocks(gap=5, deadline=None):
                    got += block
                    if len(got) < AHEAD * BLOCK:
                        await asyncio.sleep(0.05)  # so that it has to be held up
                return bytes(got)
            finally:
                transport.abort()

        async with server:
            assert await fetched(len(BODY)) == BODY
            with pytest.raises(OSError, match="before the end"):
                await fetched(len(BODY) - 1)

    run(main())


def a_certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for loopback; gives the context of a client that trusts it, and its server's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = folder / "both.pem"
    pem, bare = serialization.Encoding.PEM, serialization.NoEncryption()
    both.write_bytes(
        certificate.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, bare)
    )
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(both)
    return ssl.create_default_context(cafile=str(both)), theirs
