from __future__ import annotations

import asyncio
import gc
import weakref
from datetime import timedelta

from worker.guard import descriptors, guard, resident, settle_in

AT_ONCE = timedelta(0)


async def test_a_worker_over_its_memory_ends_itself_once() -> None:
    """It goes on while it is small, and is ended at the first look that finds it too large."""
    sizes = iter([90, 100, 101, 102])
    ended: list[bool] = []
    await guard(100, end=lambda: ended.append(True), memory=lambda: next(sizes), files=lambda: 0.0, look=AT_ONCE)
    assert ended == [True]
    assert next(sizes) == 102


async def test_a_worker_that_runs_out_of_descriptors_ends_itself() -> None:
    """Above nine tenths of what the system allows, also where no memory limit is set."""
    shares = iter([0.5, 0.89, 0.91])
    ended: list[bool] = []
    await guard(None, end=lambda: ended.append(True), memory=lambda: 10**12, files=lambda: next(shares), look=AT_ONCE)
    assert ended == [True]


async def test_where_the_system_does_not_say_nobody_is_ended() -> None:
    """No figure is no reason."""
    watching = asyncio.create_task(guard(1, end=lambda: None, memory=lambda: None, files=lambda: 0.0, look=AT_ONCE))
    await asyncio.sleep(0.01)
    assert not watching.done()
    watching.cancel()


def test_this_process_has_a_size() -> None:
    """Both figures are plausible, or not there at all."""
    held = resident()
    assert held is None or 10**6 < held < 10**11
    assert 0 <= descriptors() <= 1


def test_what_the_start_made_is_not_looked_through_again() -> None:
    """A full collection passes over what was there before, and still finds what comes later."""
    kept: list[list[int]] = [[] for _ in range(1_000)]
    was_frozen = gc.get_freeze_count()
    try:
        settle_in()
        assert gc.get_freeze_count() >= was_frozen + len(kept)
        gone = weakref.ref(Circle())
        gc.collect()
        assert gone() is None
    finally:
        gc.unfreeze()


class Circle:
    """Something that only a collection finds."""

    def __init__(self) -> None:
        self.me = self
