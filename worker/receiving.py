"""
The rest of a large body, straight from its connection: into one block in place, with no parser in between.

Where a body's length is known, nothing in it is left to be understood. aiohttp all the same takes it from the socket in
small pieces, copies each three times and wakes its reader for it: most of what receiving a large file costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BLOCK: Final = 1024 * 1024
"""Bytes that are handed on together, where they come fast."""

BREATH: Final = 1.0
"""Seconds after which what has come is handed on as it is, where they come slowly."""

AHEAD: Final = 4
"""Blocks that may wait before the connection is read no further."""


class Receiver(asyncio.BufferedProtocol):
    """
    Takes a connection over from the protocol that it had, for its next `size` bytes; then it is of no more use.

    The earlier protocol is told when the connection is lost, and nothing else.
    """

    def __init__(self, transport: asyncio.Transport, *, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._earlier = transport.get_protocol()
        self._left = size
        self._block = memoryview(bytearray(BLOCK))
        self._filled = 0
        self._full: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._heard = self._loop.time()
        self._lost: OSError | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    async def blocks(self, *, gap: float, deadline: float | None) -> AsyncIterator[bytes]:
        """
        Give the bytes as they come.

        Raises `TimeoutError` where none come for `gap` seconds, or not all by `deadline` (on the loop's clock), and
        another `OSError` where the connection ends before they are there.
        """
        while self._left or self._full:
            if deadline is not None and self._loop.time() >= deadline:
                raise TimeoutError
            if not self._full:
                await self._some(gap, deadline)
            yield self._full.popleft()
            if self._left and not self._transport.is_closing():
                self._transport.resume_reading()

    async def _some(self, gap: float, deadline: float | None) -> None:
        began = self._loop.time()
        while not self._full:
            if self._lost is not None:
                raise self._lost
            now, patience = self._loop.time(), max(began, self._heard) + gap
            if deadline is not None:
                patience = min(patience, deadline)
            if now >= patience:
                raise TimeoutError
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(patience, now + BREATH)):
                    await self._news.wait()
            self._hand_on()

    def _hand_on(self) -> None:
        if self._filled:
            self._full.append(bytes(self._block[: self._filled]))
            self._filled = 0
        self._news.set()

    # Said by the transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the transport's wish, not its need
        """Where the next bytes belong."""
        return self._block[self._filled : self._filled + self._left] if self._left else self._block

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        if not self._left:
            return  # more than was announced: nobody's
        self._heard = self._loop.time()
        self._filled += nbytes
        self._left -= nbytes
        if self._filled == BLOCK or not self._left:
            self._hand_on()
            if len(self._full) >= AHEAD or not self._left:
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on what has come, and remember why there is no more."""
        lost = ConnectionResetError(f"the connection was closed {self._left:,} bytes before the end")
        self._lost = exc if isinstance(exc, OSError) else lost
        self._hand_on()
        self._earlier.connection_lost(exc)
