"""Parked commands on Valkey: never early, hardly late, and none lost whoever is killed."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from worker import parking, valkey
from worker.events import Outgoing
from worker.store import Store, connect

pytest_plugins = ["tests.broker.valkey_server"]

valkey.register()

QUEUE = "planrelay.planpoint"
MOVER = """
import asyncio, sys
from worker import parking
from worker.store import Store, connect
asyncio.run(parking.mover(Store(connect(sys.argv[1])), asyncio.Event()))
"""


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    """Give the state store."""
    store = Store(connect(valkey_url))
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def moving(store: Store) -> AsyncIterator[None]:
    """Run a mover."""
    task = asyncio.create_task(parking.mover(store, asyncio.Event()))
    yield
    task.cancel()
    await asyncio.wait([task])


def message(body: bytes = b"body", **headers: Any) -> Outgoing:
    """Make a message to park."""
    return Outgoing(
        exchange="planrelay.commands",
        routing_key="planpoint.unit.read",
        body=body,
        headers=headers,
        properties={"content_type": "application/json", "correlation_id": "c"},
    )


def ms(number: float) -> timedelta:
    """Give a duration."""
    return timedelta(milliseconds=number)


async def arrival(store: Store, number: int = 1, seconds: float = 10) -> float:
    """Wait until so many messages are in the queue; return when that was."""
    deadline = time.monotonic() + seconds
    while await store.redis.llen(QUEUE) < number:
        assert time.monotonic() < deadline, "they did not come"
        await asyncio.sleep(0.002)
    return time.monotonic()


@pytest.mark.parametrize("wait", [0, 1, 80, 700, 1300])
async def test_a_command_comes_when_it_is_due(store: Store, wait: int) -> None:
    """Never early, and within a fraction of a second of its time, however short or long the wait."""
    async with moving(store):
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await parking.park(store, message(), key="k", queue=QUEUE, wait=ms(wait))
        took = await arrival(store) - begun
    assert wait / 1000 <= took < wait / 1000 + 0.25


async def test_a_mover_ends_when_it_is_cancelled(store: Store) -> None:
    """Also in the moment in which something is parked, where redis-py may take the cancel for its own."""
    for number in range(5):
        mover = asyncio.create_task(parking.mover(store, asyncio.Event()))
        await asyncio.sleep(0.02)
        await parking.park(store, message(), key="k", queue=QUEUE, wait=ms(0))
        await arrival(store, number + 1)
        mover.cancel()
        assert await asyncio.wait([mover], timeout=5) == ({mover}, set())


async def test_a_command_due_before_all_others_wakes_the_mover(store: Store) -> None:
    """A mover that sleeps until a far instant hears of a nearer one."""
    async with moving(store):
        await parking.park(store, message(b"late"), key="late", queue=QUEUE, wait=timedelta(hours=1))
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await parking.park(store, message(b"soon"), key="soon", queue=QUEUE, wait=ms(100))
        took = await arrival(store) - begun
    assert 0.1 <= took < 0.35
    assert (await parking.waiting(store)).count == 1


async def test_a_fraction_of_a_millisecond_is_rounded_up(store: Store) -> None:
    """The server counts milliseconds: what is between two of them becomes the later one."""
    before = datetime.now(UTC)
    due = await parking.park(store, message(), key="k", queue=QUEUE, wait=timedelta(microseconds=1_000_001))
    assert due - before >= timedelta(seconds=1, milliseconds=0)
    moved, left = await parking.move_due(store)
    assert moved == 0
    assert left is not None
    assert ms(900) < left <= ms(1001)


async def test_a_parked_command_arrives_whole(store: Store, valkey_url: str) -> None:
    """Its body, headers and properties are those that were parked, and kombu reads them."""
    with Connection(valkey.broker_url(valkey_url)) as connection:
        exchange = Exchange("planrelay.commands", type="topic")
        queue = Queue(QUEUE, exchange, routing_key="planpoint.#")(connection.default_channel)
        queue.declare()
        body = bytes(range(256))
        await parking.park(store, message(body, empty=[], big=2**63, text="ä\n\x00"), key="k", queue=QUEUE, wait=ms(0))
        assert await parking.move_due(store) == (1, None)
        got = queue.get()
        assert got.body == body
        assert got.headers == {"empty": [], "big": 2**63, "text": "ä\n\x00"}
        assert got.content_type == "application/json"
        assert got.properties["correlation_id"] == "c"
        assert got.delivery_info["exchange"] == "planrelay.commands"
        assert got.delivery_info["routing_key"] == "planpoint.unit.read"
        got.ack()


async def test_commands_come_in_the_order_they_are_due(store: Store) -> None:
    """Who is due first is in the queue first."""
    for number in (3, 1, 2):
        await parking.park(store, message(b"%d" % number, number=number), key="k", queue=QUEUE, wait=ms(number * 200))
    await asyncio.sleep(0.65)
    assert await parking.move_due(store) == (3, None)
    lying = await store.redis.lrange(QUEUE, 0, -1)
    assert [b'"number": %d' % number in each for number, each in zip((3, 2, 1), lying, strict=True)] == [True] * 3


@pytest.mark.parametrize("looks", ["mover", "parker"])
async def test_a_clock_that_was_set_back_holds_nothing_up(store: Store, looks: str) -> None:
    """An hour back: what waits is due after its own wait, not an hour later, and what is parked then after its own."""
    await parking.park(store, message(n=1), key="a", queue=QUEUE, wait=timedelta(minutes=1))
    (ticket,) = await store.redis.hkeys("planrelay:parked")
    hour = timedelta(hours=1) / ms(1)
    await store.redis.zincrby("planrelay:parked:due", hour, ticket)
    await store.redis.incrbyfloat("planrelay:parked:clock", hour)

    if looks == "mover":
        await parking.move_due(store)
    await parking.park(store, message(n=2), key="b", queue=QUEUE, wait=timedelta(minutes=2))

    for key, minutes in (("a", 1), ("b", 2)):
        (due,) = [each.due for each in await parking.find(store, key)]
        assert timedelta(seconds=50) < due - datetime.now(UTC) - timedelta(minutes=minutes - 1) <= timedelta(minutes=1)


async def test_the_same_copy_parked_twice_is_one(store: Store) -> None:
    """A park whose answer was lost may be repeated; another copy of the command is another."""
    for _ in range(2):
        await parking.park(store, message(generation=1), key="k", queue=QUEUE, wait=ms(0))
    await parking.park(store, message(generation=2), key="k", queue=QUEUE, wait=ms(0))
    assert (await parking.waiting(store)).count == 2


async def test_what_is_parked_can_be_counted_and_found(store: Store) -> None:
    """`status` sees how many wait and until when, `show` the copies of one command by its key."""
    assert await parking.waiting(store) == parking.Waiting(0, None)
    assert await parking.find(store, "a") == []
    second = await parking.park(store, message(n=2), key="a", queue=QUEUE, wait=timedelta(hours=2))
    first = await parking.park(store, message(n=1), key="a", queue=QUEUE, wait=timedelta(hours=1))
    await parking.park(store, message(n=3), key="ab", queue=QUEUE, wait=timedelta(hours=3))
    assert await parking.waiting(store) == parking.Waiting(3, first)
    assert await parking.find(store, "a") == [
        parking.Parked(QUEUE, first, {"n": 1}),
        parking.Parked(QUEUE, second, {"n": 2}),
    ]


async def test_nothing_stays_of_a_command_that_was_moved(store: Store) -> None:
    """The store does not grow with what has passed through it."""
    for number in range(250):
        await parking.park(store, message(n=number), key=f"{number}", queue=QUEUE, wait=ms(0))
    assert [await parking.move_due(store) for _ in range(3)] == [(100, ms(0)), (100, ms(0)), (50, None)]
    assert await store.redis.keys("planrelay:parked*") == [b"planrelay:parked:bell"]
    assert await store.redis.llen(QUEUE) == 250


async def test_many_movers_move_each_command_once(store: Store) -> None:
    """Every worker moves, and none moves what another has moved."""
    async with moving(store), moving(store), moving(store):
        parked = [parking.park(store, message(n=n), key=f"{n}", queue=QUEUE, wait=ms(n)) for n in range(300)]
        await asyncio.gather(*parked)
        await arrival(store, 300)
        assert await parking.move_due(store) == (0, None)
    assert await store.redis.llen(QUEUE) == 300


async def test_movers_that_are_killed_lose_nothing(store: Store, valkey_url: str) -> None:
    """A command is parked or in its queue, never neither and never both."""
    await asyncio.gather(
        *(parking.park(store, message(n=n), key=f"{n}", queue=QUEUE, wait=ms(4 * n)) for n in range(500))
    )
    while (await parking.waiting(store)).count:
        mover = await asyncio.create_subprocess_exec(sys.executable, "-c", MOVER, valkey_url)
        before = await store.redis.llen(QUEUE)
        await arrival(store, min(500, before + 60))
        mover.kill()
        await mover.wait()
        assert await store.redis.llen(QUEUE) + (await parking.waiting(store)).count == 500
    assert len(set(await store.redis.lrange(QUEUE, 0, -1))) == 500


async def test_a_mover_ends_when_told(store: Store) -> None:
    """It looks at its event at least once a second."""
    stop = asyncio.Event()
    mover = asyncio.create_task(parking.mover(store, stop))
    stop.set()
    await asyncio.wait_for(mover, 5)


async def test_a_mover_may_be_cancelled(store: Store) -> None:
    """Cancelled in its sleep it loses nothing, and leaves a connection that others can use."""
    mover = asyncio.create_task(parking.mover(store, asyncio.Event()))
    await asyncio.sleep(0.05)
    mover.cancel()
    await asyncio.wait([mover])
    await parking.park(store, message(), key="k", queue=QUEUE, wait=ms(0))
    assert await parking.move_due(store) == (1, None)


async def test_a_mover_outlives_its_server(store: Store, valkey_server: str) -> None:
    """A server that is killed and started again has what was parked, and the mover goes on with it."""
    async with moving(store):
        await parking.park(store, message(), key="k", queue=QUEUE, wait=ms(1500))
        pid_file = Path(valkey_server.removeprefix("unix://")).with_name("server.pid")
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        deadline = time.monotonic() + 10
        arrived = 0
        while not arrived:
            assert time.monotonic() < deadline, "it did not come"
            with contextlib.suppress(Exception):
                arrived = await store.redis.llen(QUEUE)
            await asyncio.sleep(0.02)
