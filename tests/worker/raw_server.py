"""An HTTP server that says exactly the bytes it is told to, or nothing, or hangs up: what no framework would let it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Answering = Callable[["Conversation"], Awaitable[None]]


@dataclass
class Conversation:
    """One request as it came, and the connection it came on."""

    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    nth_on_connection: int

    @property
    def target(self) -> str:
        """The method and what it asks for."""
        return " ".join(self.head.split(" ")[:2])

    def header(self, name: str) -> str | None:
        """Give a request header."""
        for line in self.head.split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None

    async def say(self, *parts: bytes) -> None:
        """Send bytes as they are."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self, status: str = "200 OK", body: bytes = b"{}", *headers: str) -> None:
        """Send a whole, ordinary answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.say("\r\n".join(lines).encode() + body)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection, orderly or with a reset."""
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


@dataclass
class RawServer:
    """Where it listens, and what it was asked."""

    url: str = ""
    asked: list[Conversation] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def raw_server(answering: Answering) -> AsyncIterator[RawServer]:
    """Serve HTTP on loopback while the context lasts."""
    served = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.connections += 1
        nth = 0
        while not writer.is_closing():
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            nth += 1
            conversation = Conversation(head.removesuffix("\r\n\r\n"), b"", reader, writer, nth)
            length = int(conversation.header("Content-Length") or 0)
            conversation.body = await reader.readexactly(length)
            served.asked.append(conversation)
            await answering(conversation)

    async with byte_server(serve) as address:
        served.url = f"http://{address}"
        yield served


Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def byte_server(serve: Serving) -> AsyncIterator[str]:
    """Take connections on loopback while the context lasts; gives host and port, and leaves no connection behind."""
    busy: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            busy.discard(task)
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await server.wait_closed()
