"""Waiting for what is to become true, with a deadline."""

import asyncio
from collections.abc import Callable


async def until(probe: Callable[[], object], *, within: float = 5.0) -> None:
    """Let the loop turn until `probe` is true; fails when the time is up."""
    async with asyncio.timeout(within):
        while not probe():  # noqa: ASYNC110 - what is waited for may be anything
            await asyncio.sleep(0.001)
