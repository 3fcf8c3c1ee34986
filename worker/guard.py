"""
A worker that has grown too large ends itself: it drains, exits with status 0, and its supervisor starts a fresh one.

What leaks in a process that lives for months (an allocator's fragments, a library's cache) is cured so without losing
anything. The same holds for descriptors near the operating system's limit. Memory and descriptors are told as
`process_resident_memory_bytes` and `process_open_fds` on `/metrics`; how late the loop turns is the pool's to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("planrelay.guard")

LOOK: Final = timedelta(seconds=5)
"""Time between two looks."""

DESCRIPTORS: Final = 0.9
"""Share of the descriptors that a process may have, above which a worker ends itself."""


def resident() -> int | None:
    """Give the bytes of memory that this process holds; None where the system doesn't say (it is Linux that does)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def descriptors() -> float:
    """Give the share of its descriptors that this process uses; 0 where the system doesn't say."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd")) / most if most > 0 else 0.0  # noqa: PTH208 - names are all we count
    return 0.0


def settle_in() -> None:
    """
    Take what the start has made out of the garbage collector's sight: all of it stays for as long as the process.

    Else each full collection looks through every class and module again, which holds the loop up for longer than
    anything that a command does.
    """
    gc.collect()
    gc.freeze()


async def guard(
    max_memory: int | None,
    *,
    end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    memory: Callable[[], int | None] = resident,
    files: Callable[[], float] = descriptors,
    look: timedelta = LOOK,
) -> None:
    """Look every few seconds; once this worker is too large, call `end` (a warm stop) and return."""
    while True:
        held, share = memory(), files()
        if max_memory is not None and held is not None and held > max_memory:
            log.warning("worker.too_large", resident_bytes=held, max_memory=max_memory)
            break
        if share > DESCRIPTORS:
            log.warning("worker.too_many_descriptors", share=round(share, 2))
            break
        await asyncio.sleep(look.total_seconds())
    end()
