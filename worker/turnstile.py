"""
A fair turn among connections.

At most so many commands run at once, and no connection's backlog keeps another's out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.run import Postpone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turnstile:
    """At most `limit` turns at once; who waits is let in round robin by connection."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.closed = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, connection: str) -> AsyncIterator[None]:
        """Wait for a turn and keep it for the block; raises `Postpone` once the worker drains."""
        await self._enter(connection)
        try:
            yield
        finally:
            self.taken -= 1
            self._admit()

    async def _enter(self, connection: str) -> None:
        if self.closed:
            raise Postpone(timedelta(0), "drained")
        if self.taken < self.limit and not self._waiting:
            self.taken += 1
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(connection, deque()).append(ready)
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled() and ready.exception() is None:
                self.taken -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self.taken < self.limit and self._waiting:
            connection, line = self._waiting.popitem(last=False)
            ready = line.popleft()
            if line:
                self._waiting[connection] = line  # to the end: every connection has its turn
            if not ready.done():
                self.taken += 1
                ready.set_result(None)

    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(len(line) for line in self._waiting.values())

    def close(self) -> None:
        """Let nobody in any more: who waits goes back to the broker."""
        self.closed = True
        lines, self._waiting = self._waiting, OrderedDict()
        for line in lines.values():
            for ready in line:
                if not ready.done():
                    ready.set_exception(Postpone(timedelta(0), "drained"))
