"""
Blocks of a stream on their way through what is done to them: one thing a lane, the lanes side by side.

While a lane is at work, blocks wait for it and are then taken together: what lags behind catches up in fewer and larger
bites, and the source waits only for what lags by `DEPTH` blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

Block = Sequence[bytes]
"""Pieces that follow each other."""

DEPTH: Final = 4
"""Blocks that may wait for a lane while it is at work on as many."""


class Lane:
    """
    One thing that is done to all blocks in their order, never to two lots at once.

    What the work raises, everybody hears who asks from then on, and nothing more is done: what follows a block that
    failed is worth nothing.
    """

    def __init__(self, work: Callable[[Block], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: list[Block] = []
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def room(self) -> None:
        """Wait until there is room for a block; raises what the work has raised."""
        while len(self._waiting) >= DEPTH:
            self._room.clear()
            await self._room.wait()
        self._heed()

    def put(self, block: Block) -> None:
        """Take a block, even where there is no room; raises what the work has raised."""
        self._heed()
        self._waiting.append(block)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def drained(self) -> None:
        """Wait until everything is done; raises what the work has raised."""
        if self._task is not None:
            await asyncio.wait([self._task])  # not the task itself: a cancellation ends the waiting, not the work
        self._heed()

    async def stop(self, *, patience: float = 0) -> None:
        """Throw away what waits, and after so many seconds break off what is at work, whatever becomes of it."""
        self._stopped = True
        self._waiting = []
        if self._task is not None:
            await asyncio.wait([self._task], timeout=patience)
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # seen: whoever throws the blocks away need not hear of it

    def _heed(self) -> None:
        if self._stopped:
            raise ValueError("This lane was stopped, and blocks were thrown away.")
        if self._task is not None and self._task.done():
            self._task.result()

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                self._room.set()
                await self._work([piece for block in taken for piece in block])
        finally:
            self._waiting = []
            self._room.set()


async def drained(*lanes: Lane) -> None:
    """Wait until every lane is done, and raise the first error only then."""
    for outcome in await asyncio.gather(*(lane.drained() for lane in lanes), return_exceptions=True):
        if outcome is not None:
            raise outcome
