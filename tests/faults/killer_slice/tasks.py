"""`killer_slice.worker.kill` ends its worker; `killer_slice.memory.take` makes it grow."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from worker.command import CommandData, Result, command
from worker.rest import Endpoint

if TYPE_CHECKING:
    from worker.run import Run

LOOK = Endpoint(name="look", method="GET", path="/", evidence="assumed", source="made for a test", replayable=True)
taken: list[bytes] = []


class Nothing(CommandData):
    """No fields."""


class Memory(CommandData):
    """How much to take."""

    megabytes: int


@command("killer_slice.worker.kill", data=Nothing, uses=(LOOK,))
async def worker_kill(run: Run, data: Nothing) -> Result:
    """End the worker that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)
    return {}


@command("killer_slice.memory.take", data=Memory, uses=(LOOK,))
async def memory_take(run: Run, data: Memory) -> Result:
    """Keep memory that nobody gives back."""
    taken.append(os.urandom(1) * (data.megabytes * 1024 * 1024))
    return {"pid": os.getpid()}
