"""Gates shared through a real Valkey, by workers with clients and clocks of their own; and without it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from config.connections import Connection
from tests.worker.valkey import Valkey, valkey_server
from tests.worker.waiting import until
from worker.errors import RateLimited
from worker.gate import Gate
from worker.shared_gates import CHANNEL, PREFIX, Copy, SharedGates
from worker.store import StoreAway
from worker.throttle import Throttle

SECOND = timedelta(seconds=1)


@pytest.fixture
async def valkey(server: Valkey) -> Valkey:
    """Give it empty."""
    async with server.client() as client:
        await client.flushall()
    return server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """Give a Valkey that one test may kill."""
    with valkey_server() as valkey:
        yield valkey


@contextlib.asynccontextmanager
async def fleet(valkey: Valkey, workers: int, *, skew: float = 0.0) -> AsyncIterator[list[Throttle]]:
    """Give so many workers' throttles, each with a client of its own and a clock `skew` seconds off the one before."""
    async with contextlib.AsyncExitStack() as stack:
        throttles = []
        for number in range(workers):
            client = await stack.enter_async_context(valkey.client())
            throttle = Throttle(
                client,
                worker_id=f"w{number}",
                ceiling=timedelta(minutes=5),
                clock=lambda number=number: time.monotonic() + number * skew,  # type: ignore[misc] # bound now
            )
            stack.push_async_callback(throttle.close)
            throttles.append(throttle)
        yield throttles


def a_connection(name: str = "acme", **changes: Any) -> Connection:
    """Make a connection."""
    fields: dict[str, Any] = {
        "name": name,
        "system": "vendor",
        "base_url": "https://vendor.example",
        "username": "u",
        "password": SecretStr("p"),
    }
    return Connection(**{**fields, **changes})


class Vendor:
    """Whom the permits are for."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.begun: list[float] = []
        self.in_flight = self.most = 0
        self.served: dict[str, int] = {}

    async def call(self, who: str) -> None:
        """Take one request."""
        self.begun.append(time.monotonic())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        self.served[who] = self.served.get(who, 0) + 1


async def send(throttle: Throttle, connection: Connection, vendor: Vendor, **how: Any) -> None:
    """Send one request as soon as it may be sent."""
    async with throttle.permit(connection, **{"max_wait": 60 * SECOND, **how}) as permit:
        await vendor.call(throttle.worker_id)
        permit.report(200)


async def refuse(throttle: Throttle, connection: Connection, after: timedelta) -> float:
    """Let one request be answered 429; gives when the vendor lets us come back."""
    async with throttle.permit(connection, max_wait=SECOND) as permit:
        permit.report(429, after=after)
    return time.monotonic() + after.total_seconds()


async def until_closed(throttle: Throttle, connection: Connection, *, within: float = 1.0) -> None:
    """Go on sending until the worker finds the gate closed."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            await send(throttle, connection, Vendor(0.005), max_wait=SECOND)
        except RateLimited:
            return
    pytest.fail(f"{throttle.worker_id} still sends")


# Together


@pytest.mark.parametrize("skew", [0.0, 86_400.0])
async def test_after_a_429_no_worker_sends_before_the_time_and_one_probes(valkey: Valkey, skew: float) -> None:
    """Eight workers, whatever their clocks say: nothing before the vendor's time, one request until it is answered."""
    vendor, connection, rng = Vendor(0.3), a_connection(), Random(1)

    async def command(throttle: Throttle) -> None:
        while True:
            try:
                return await send(throttle, connection, vendor, max_wait=2 * SECOND)
            except RateLimited as error:
                await asyncio.sleep((error.after or SECOND).total_seconds() * rng.uniform(1, 1.1))

    async with fleet(valkey, 8, skew=skew) as throttles:
        opens = await refuse(throttles[3], connection, 1.5 * SECOND)
        await asyncio.gather(*(command(throttle) for throttle in throttles for _ in range(5)))

    probe = min(vendor.begun)
    assert opens <= probe <= opens + 2
    assert sum(begun < probe + 0.25 for begun in vendor.begun) == 1
    assert len(vendor.begun) == 40


async def test_a_closing_is_known_to_everybody_at_once(valkey: Valkey) -> None:
    """Workers in the middle of their work stop within moments of another's 429."""
    vendor, connection = Vendor(0.005), a_connection(max_in_flight=16)
    async with fleet(valkey, 4) as throttles:

        async def work(throttle: Throttle) -> None:
            with contextlib.suppress(RateLimited):
                while True:
                    await send(throttle, connection, vendor, max_wait=SECOND)

        working = [asyncio.create_task(work(throttle)) for throttle in throttles for _ in range(4)]
        await until(lambda: len(vendor.served) == 4)
        closed = await refuse(throttles[0], connection, 30 * SECOND) - 30
        await asyncio.wait(working, timeout=5)

    assert all(task.done() for task in working)
    assert max(vendor.begun) - closed < 0.2


async def test_no_more_requests_are_in_flight_than_allowed_in_the_whole_fleet(valkey: Valkey) -> None:
    """Four workers never have more than eight requests in flight, share them evenly, and leave hardly any unused."""
    vendor, connection = Vendor(0.05), a_connection()
    async with fleet(valkey, 4) as throttles:
        began = time.monotonic()
        await asyncio.gather(*(send(throttle, connection, vendor) for throttle in throttles for _ in range(60)))
        took = time.monotonic() - began

    assert vendor.most == 8
    assert took < 2 * 240 / 8 * 0.05
    assert set(vendor.served.values()) == {60}


async def test_a_pause_reaches_workers_that_are_busy_and_those_that_come_later(valkey: Valkey) -> None:
    """`planrelay pause` from another process holds the fleet back, `resume` lets it go on."""
    vendor, connection = Vendor(0.001), a_connection()
    async with fleet(valkey, 3) as (busy, late, operator):
        await send(busy, connection, vendor)
        await operator.pause("acme")
        for throttle in (busy, late):
            with pytest.raises(RateLimited, match="planrelay resume acme"):
                await send(throttle, connection, vendor, max_wait=SECOND)
        (paused,) = await operator.look(["acme"])
        await operator.resume("acme")
        for throttle in (busy, late):
            await send(throttle, connection, vendor, max_wait=SECOND)

    assert (paused.phase, paused.closed_for) == ("paused", timedelta.max)


async def test_no_change_is_lost_in_a_race(valkey: Valkey) -> None:
    """Ten workers that change one gate at the same time all see their change kept."""
    async with contextlib.AsyncExitStack() as stack:
        gates = []
        for _ in range(10):
            client = await stack.enter_async_context(valkey.client())
            gates.append(SharedGates(client, time.monotonic))

        def count(gate: Gate, now: float) -> tuple[None, bool]:
            assert now > 1_000_000_000
            gate.generation += 1
            return None, False

        await asyncio.gather(*(each.settle("acme", Copy(), count) for each in gates for _ in range(3)))
        gate, _ = await gates[0].read("acme")

    assert gate.generation == 30


async def test_a_gate_that_nobody_uses_costs_the_store_nothing(valkey: Valkey) -> None:
    """Workers that have nothing to send ask nothing."""
    async with fleet(valkey, 2) as throttles, valkey.client() as client:
        for throttle in throttles:
            await send(throttle, a_connection(), Vendor(0.001))
        await until(lambda: not any(keeper.busy for each in throttles for keeper in each._keepers.values()), within=10)  # noqa: SLF001 - the view under test
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await asyncio.sleep(1.5)
        after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert after == before


async def test_what_is_kept_there_holds_no_secret_and_an_end(valkey: Valkey) -> None:
    """A gate is numbers and names, and is forgotten when nobody uses it for long."""
    async with fleet(valkey, 1) as (throttle,), valkey.client() as client:
        await send(throttle, a_connection(password=SecretStr("s3cret")), Vendor(0.001))
        kept = await client.hgetall(PREFIX + "acme")
        left = await client.ttl(PREFIX + "acme")

    assert b"s3cret" not in repr(kept).encode()
    assert 0 < left <= 7 * 86_400 + 1


# While the store is away


async def test_without_the_store_each_worker_goes_on_with_its_part(own_valkey: Valkey) -> None:
    """A store that is killed degrades: no more in flight together than allowed, and everybody goes on."""
    vendor, connection = Vendor(0.05), a_connection()
    async with fleet(own_valkey, 4) as throttles:
        await asyncio.gather(*(send(throttle, connection, vendor) for throttle in throttles for _ in range(10)))
        await asyncio.sleep(1.1)  # a refresh: each has seen the others
        await asyncio.gather(*(send(throttle, connection, vendor) for throttle in throttles for _ in range(10)))
        own_valkey.kill()
        vendor.most = 0
        await asyncio.gather(*(send(throttle, connection, vendor) for throttle in throttles for _ in range(20)))
        reasons = [throttle.degraded for throttle in throttles]

    assert vendor.most <= 8
    assert vendor.served == dict.fromkeys(vendor.served, 40)
    assert all(reason is not None and reason.startswith("The state store") for reason in reasons)


async def test_a_closing_is_kept_while_the_store_is_away_and_told_when_it_is_back(own_valkey: Valkey) -> None:
    """A 429 that only one worker saw closes the gate for all once the store answers again."""
    connection = a_connection()
    async with fleet(own_valkey, 2) as (one, other):
        for throttle in (one, other):
            await send(throttle, connection, Vendor(0.001))
        own_valkey.kill()
        await refuse(one, connection, 20 * SECOND)
        with pytest.raises(RateLimited, match="closed"):
            await send(one, connection, Vendor(0.001), max_wait=SECOND)
        await until(lambda: one.degraded)
        own_valkey.start()
        await until(lambda: not one.degraded and not other.degraded, within=15)

        async def told() -> bool:
            (view,) = await other.look(["acme"])
            return view.phase == "closed"

        await until_closed(one, connection)
        await until_closed(other, connection)
        assert await told()


async def test_a_store_that_was_never_there_does_not_stop_a_worker(own_valkey: Valkey) -> None:
    """A worker that starts while the store is away limits itself alone, without waiting for each request."""
    own_valkey.kill()
    vendor, connection = Vendor(0.02), a_connection()
    async with fleet(own_valkey, 1) as (throttle,):
        began = time.monotonic()
        await asyncio.gather(*(send(throttle, connection, vendor) for _ in range(80)))
        took = time.monotonic() - began

    assert vendor.most == 8
    assert took < 4


async def test_a_closing_seen_before_the_store_was_ever_there_is_told_when_it_comes(own_valkey: Valkey) -> None:
    """The store's clock is not the one that the worker went by until then: the wait is kept, not the number."""
    connection = a_connection()
    own_valkey.kill()
    async with fleet(own_valkey, 2) as (one, other):
        await refuse(one, connection, 20 * SECOND)
        await until(lambda: one.degraded)
        own_valkey.start()
        await until(lambda: not one.degraded, within=15)
        with pytest.raises(RateLimited, match="closed") as caught:
            await send(one, connection, Vendor(0.001), max_wait=SECOND)
        await until_closed(other, connection)

    assert caught.value.after is not None
    assert 15 * SECOND < caught.value.after < 21 * SECOND


async def test_an_operator_is_told_that_the_store_is_away(own_valkey: Valkey) -> None:
    """Closing a gate for the fleet needs the store."""
    own_valkey.kill()
    async with fleet(own_valkey, 1) as (throttle,):
        with pytest.raises(StoreAway, match="state store"):
            await throttle.pause("acme")
        with pytest.raises(StoreAway):
            await throttle.look(["acme"])


async def test_an_emptied_store_opens_no_gate(valkey: Valkey) -> None:
    """After FLUSHALL the workers that knew of a closing put it back."""
    connection = a_connection()
    async with fleet(valkey, 2) as (one, other), valkey.client() as client:
        await send(other, connection, Vendor(0.001))
        await refuse(one, connection, 20 * SECOND)
        await until_closed(other, connection)
        await client.flushall()

        for throttle in (one, other):
            with pytest.raises(RateLimited, match="closed"):
                await send(throttle, connection, Vendor(0.001), max_wait=SECOND)
        assert await client.exists(PREFIX + "acme")


async def test_an_emptied_store_lets_no_more_requests_through(valkey: Valkey) -> None:
    """FLUSHALL in the middle of the work: the limit holds."""
    vendor, connection = Vendor(0.03), a_connection()
    async with fleet(valkey, 3) as throttles, valkey.client() as client:
        work = asyncio.gather(*(send(throttle, connection, vendor) for throttle in throttles for _ in range(60)))
        for _ in range(5):
            await asyncio.sleep(0.1)
            await client.flushall()
        await work

    assert vendor.most == 8


async def test_a_full_store_degrades(own_valkey: Valkey) -> None:
    """A store that refuses to write is as good as away, until it has room again."""
    vendor, connection = Vendor(0.001), a_connection()
    async with fleet(own_valkey, 1) as (throttle,), own_valkey.client() as client:
        await send(throttle, connection, vendor)
        await client.config_set("maxmemory", 1)
        await until(lambda: throttle.degraded, within=10)
        await send(throttle, connection, vendor, max_wait=SECOND)
        assert throttle.degraded is not None
        assert "memory" in throttle.degraded
        await client.config_set("maxmemory", 0)
        await until(lambda: not throttle.degraded, within=15)
        await send(throttle, connection, vendor, max_wait=SECOND)


async def test_a_subscription_that_is_cut_is_taken_up_again(valkey: Valkey) -> None:
    """A worker whose connection for news was lost hears of closings again soon."""
    connection = a_connection()
    async with fleet(valkey, 2) as (one, other), valkey.client() as client:
        for throttle in (one, other):
            await send(throttle, connection, Vendor(0.001))
        await until_subscribed(client, 2)
        await client.client_kill_filter(_type="pubsub")
        await until_subscribed(client, 2)

        await refuse(one, connection, 30 * SECOND)
        await until_closed(other, connection, within=0.5)


async def until_subscribed(client: Any, count: int) -> None:
    """Wait until so many workers listen."""
    async with asyncio.timeout(10):
        while (await client.pubsub_numsub(CHANNEL))[0][1] != count:  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.01)
