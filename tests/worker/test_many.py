"""Many small pieces of work side by side: what ends them, what is left for later."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from worker.errors import Forbidden, RateLimited, Unavailable
from worker.many import PATIENCE, SIDE_BY_SIDE, Many, too_many
from worker.run import Postpone


class Runs:
    """The little that `Many` asks of a run."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None]] = []

    async def breathe(self) -> None:
        """Give way."""
        await asyncio.sleep(0)

    def progress(self, done: int, total: int | None = None) -> None:
        """Hear how far it is."""
        self.told.append((done, total))

    async def unfinished(self, error: Exception, *, left: int | str) -> Exception:
        """Give what ends a run that got further."""
        return Postpone(timedelta(seconds=2), f"unfinished {left}")


def many(total: int) -> Many[int]:
    """Make the work."""
    run: Any = Runs()
    return Many[int](run, total=total)


async def test_several_are_done_side_by_side() -> None:
    """As many at once as `SIDE_BY_SIDE`, and every one."""
    now, most, done = [0], [0], list[int]()

    async def do(job: int) -> int:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0)
        now[0] -= 1
        done.append(job)
        return 1

    work = many(50)
    await work.each(range(50), do)

    assert (sorted(done), most[0], work.left, work.open) == (list(range(50)), SIDE_BY_SIDE, 0, False)


async def test_a_failure_leaves_the_others_alone() -> None:
    """It is raised at the end, as work that got further."""

    async def do(job: int) -> int:
        if job == 3:
            raise Unavailable("503")
        return 1

    work = many(20)
    await work.each(range(20), do)

    assert [job for job, _ in work.failures] == [3]
    with pytest.raises(Postpone, match="unfinished 1"):
        await work.raise_failures()


async def test_a_vendor_that_fails_many_in_a_row_is_left_in_peace() -> None:
    """No progress at all: the failure itself is raised, the one that asks for the longest wait."""
    waits = iter(range(1, 1000))

    async def do(job: int) -> int:
        raise Unavailable("503", after=timedelta(seconds=next(waits)))

    work = many(1000)
    await work.each(range(1000), do)

    assert PATIENCE <= len(work.failures) < PATIENCE + SIDE_BY_SIDE
    with pytest.raises(Unavailable) as raised:
        await work.raise_failures()
    assert raised.value.after == timedelta(seconds=len(work.failures))


@pytest.mark.parametrize("error", [RateLimited("gate"), Forbidden("403"), Postpone(timedelta(0), "drained")])
async def test_what_stands_against_everything_ends_it_at_once(error: Exception) -> None:
    """Nothing more is begun."""
    begun = [0]

    async def do(job: int) -> int:
        begun[0] += 1
        raise error

    with pytest.raises(type(error)):
        await many(100).each(range(100), do)
    assert begun[0] <= SIDE_BY_SIDE


async def test_one_that_has_to_wait_waits_alone() -> None:
    """A request that may still be running holds up nobody else; the longest wait is raised in the end."""

    async def do(job: int) -> int:
        if job < 2:
            raise Postpone(timedelta(seconds=10 + job), "unresolved")
        return 1

    work = many(10)
    await work.each(range(10), do)

    assert (work.left, work.open) == (2, True)
    with pytest.raises(Postpone) as raised:
        await work.raise_failures()
    assert raised.value.wait == timedelta(seconds=11)


@pytest.mark.parametrize(("refused", "tried", "stops"), [(19, 19, False), (20, 50, False), (20, 49, True)])
def test_a_run_stops_itself_where_most_is_refused(refused: int, tried: int, stops: bool) -> None:
    """Over 40 %, and at least 20."""
    assert too_many(refused, tried) is stops
