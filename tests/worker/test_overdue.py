"""Parked copies that are due and do not come: which are published once more, and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.worker.test_throttle import in_virtual_time
from tests.worker.valkey import Valkey
from worker.delivery import Delivery, Journey
from worker.ledger import Claim, Key, Ledger, StoreAway
from worker.message import Command
from worker.overdue import AGAIN, FORGOTTEN, LATE, LONGEST, MOST, QUIET, Overdue
from worker.store import Store

WAIT = timedelta(seconds=5)
LEASE = timedelta(milliseconds=20)


@pytest.fixture
async def ledger(server: Valkey) -> AsyncIterator[Ledger]:
    """Give a ledger that knows nothing."""
    async with server.client() as client:
        await client.flushall()
        yield Ledger(Store(client), owner="w0", lease=LEASE)


def a_command(name: str = "1") -> Command:
    """Make a command."""
    return Command(
        id=name,
        source="/test",
        type="planpoint.unit.read",
        connection="tower",
        idempotency_key=None,
        data={},
        form="structured",
    )


def a_copy(generation: int = 1, run: int = 1) -> Delivery:
    """Make a parked copy."""
    journey = Journey(received=datetime.now(UTC), generation=generation, run=run)
    return Delivery(
        body=b"{}",
        content_type="application/json",
        content_encoding="utf-8",
        headers={},
        properties={},
        journey=journey,
        queue_key="planpoint.unit.read",
    )


async def claims(ledger: Ledger, command: Command, generation: int = 0) -> None:
    """Let the worker take the command up."""
    key = Key(
        digest=command.key,
        data=command.data_digest,
        id=command.id,
        source=command.source,
        type=command.type,
        connection=command.connection,
    )
    claim = await ledger.claim(key, generation=generation, received_ms=0, reply="", run=1)
    assert isinstance(claim, Claim)


async def parks(ledger: Ledger, command: Command, generation: int = 1) -> None:
    """Let the worker park the command."""
    assert await ledger.park(
        command.key, generation=generation, attempts=1, deferrals=0, wait=timedelta(0), reason="crowded", error=""
    )


async def test_what_nobody_took_up_waits(ledger: Ledger) -> None:
    """A copy that the ledger knows as parked, and one whose parking it was never told of."""
    command, untold = a_command(), a_command("2")
    await claims(ledger, command)
    await parks(ledger, command)
    await claims(ledger, untold)
    await asyncio.sleep(1.5 * LEASE.total_seconds())

    assert await ledger.waiting([(command.key, 1, 1), (untold.key, 1, 1)]) == [True, True]


async def test_what_was_taken_up_does_not_wait(ledger: Ledger) -> None:
    """It runs, it was parked again, it was replayed, or the ledger knows nothing of it: no copy is due."""
    running, again = a_command(), a_command("2")
    for command in (running, again):
        await claims(ledger, command)
        await parks(ledger, command)
        await claims(ledger, command, generation=1)
    await parks(ledger, again, generation=2)
    ledger.lease = timedelta(minutes=1)
    await claims(ledger, running, generation=1)

    copies = [(running.key, 1, 1), (again.key, 1, 1), (again.key, 2, 2), ("nobody", 0, 1)]
    assert await ledger.waiting(copies) == [False] * 4


class Bench:
    """An `Overdue` in virtual time, on books that say of every copy what they are told to."""

    def __init__(self, *, waits: bool = True) -> None:
        self.waits = waits
        self.room = True
        self.away = False
        self.asked = 0
        self.again: list[tuple[float, int]] = []
        self.overdue = Overdue(self, self._republish, room=lambda: self.room)

    async def waiting(self, copies: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Answer as the ledger does."""
        if self.away:
            raise StoreAway
        self.asked += len(copies)
        return [self.waits] * len(copies)

    async def _republish(self, delivery: Delivery, _: Command) -> None:
        assert delivery.journey.not_before is None
        self.again.append((asyncio.get_running_loop().time(), delivery.journey.generation))

    async def watch(self, seconds: float) -> None:
        """Let it watch for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.overdue.watch()


@in_virtual_time
async def test_a_copy_that_does_not_come_is_published_once_more() -> None:
    """Ten seconds after its time, of the same generation, so that a run of either makes the other stale; once."""
    bench, began = Bench(), asyncio.get_running_loop().time()
    bench.overdue.note(a_copy(generation=3), WAIT, a_command())
    await bench.watch(120)

    ((at, generation),) = bench.again
    assert generation == 3
    assert WAIT.total_seconds() + LATE <= at - began <= WAIT.total_seconds() + LATE + 2


@in_virtual_time
async def test_a_copy_that_came_is_not() -> None:
    """The ledger says that somebody took it up."""
    bench = Bench(waits=False)
    bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(120)

    assert (bench.asked, bench.again) == (1, [])


@in_virtual_time
async def test_while_the_worker_has_no_room_a_copy_may_just_stand_in_its_queue() -> None:
    """Nothing is published before there was room for some seconds in a row."""
    bench = Bench()
    bench.room = False
    bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(60)
    assert bench.again == []

    bench.room = True
    await bench.watch(QUIET + AGAIN + 2)
    assert len(bench.again) == 1


@in_virtual_time
async def test_a_copy_that_came_is_forgotten_by_a_worker_that_is_never_at_rest_too() -> None:
    """What is remembered is what waits: in a long backlog it does not grow with what was parked and taken up."""
    bench = Bench(waits=False)
    bench.room = False
    for _ in range(1_000):
        bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(WAIT.total_seconds() + LATE + 10)

    assert (len(bench.overdue), bench.asked, bench.again) == (0, 1_000, [])


@in_virtual_time
async def test_a_ledger_that_is_away_is_asked_again() -> None:
    """Meanwhile nothing is published and nothing forgotten."""
    bench = Bench()
    bench.away = True
    bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(60)
    assert (len(bench.overdue), bench.again) == (1, [])

    bench.away = False
    await bench.watch(QUIET + AGAIN + 2)
    assert len(bench.again) == 1


@in_virtual_time
async def test_what_waits_for_very_long_is_the_brokers_affair() -> None:
    """It is asked for no more, and forgotten."""
    bench = Bench()
    bench.room = False
    bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(WAIT.total_seconds() + FORGOTTEN + AGAIN + 2)

    assert (len(bench.overdue), bench.again) == (0, [])


@in_virtual_time
async def test_what_is_remembered_is_bounded() -> None:
    """Neither endless waits nor endless copies are kept in memory, and short waits never lay on the ladder."""
    bench = Bench()
    bench.overdue.note(a_copy(), LONGEST + WAIT, a_command())
    bench.overdue.note(a_copy(), timedelta(milliseconds=500), a_command())
    for _ in range(MOST + 5):
        bench.overdue.note(a_copy(), WAIT, a_command())
    await bench.watch(120)

    assert bench.asked == MOST
