"""The state store's clock is set: what was written by the old time costs nobody more than its own wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.worker.valkey import Valkey
from worker.gate import Gate, Phase
from worker.grants import Ask, Hold, Limits
from worker.ledger import ALIVE, Claim, Elsewhere, Key, Ledger
from worker.points import Remaining, Start
from worker.shared_gates import Copy, SharedGates
from worker.store import Store

LEASE = timedelta(milliseconds=50)
HOUR = timedelta(hours=1)
KEY = Key(digest="k", data="d", id="1", source="/test", type="planpoint.unit.read", connection="tower")


@pytest.fixture
async def store(server: Valkey) -> AsyncIterator[Store]:
    """Give an empty store."""
    async with server.client() as client:
        await client.flushall()
        yield Store(client)


def worker(store: Store, name: str) -> Ledger:
    """Give the ledger of one worker."""
    return Ledger(store, owner=name, lease=LEASE)


async def claim(ledger: Ledger) -> object:
    """Ask for the command."""
    return await ledger.claim(KEY, generation=0, received_ms=0, reply="", run=1)


async def claimed(ledger: Ledger) -> Claim:
    """Get the command."""
    answer = await claim(ledger)
    assert isinstance(answer, Claim)
    return answer


async def park(ledger: Ledger, wait: timedelta) -> None:
    """Put the command away."""
    await ledger.park(KEY.digest, generation=0, attempts=1, deferrals=0, wait=wait, reason="unavailable", error="")


async def set_back(store: Store, field: str) -> None:
    """Set the clock back by an hour: what was written lies so much further in the future."""
    await store.redis.hincrby(f"planrelay:command:{KEY.digest}", field, HOUR // timedelta(milliseconds=1))


async def test_a_copy_that_the_broker_gives_back_too_early_is_known_by_the_stores_clock(store: Store) -> None:
    """Parked for a minute and back at once: nearly all of the minute is still to come. Run once, that is forgotten."""
    ledger = worker(store, "a")
    await claimed(ledger)
    await park(ledger, timedelta(minutes=1))

    assert timedelta(seconds=40) < (await claimed(ledger)).early <= timedelta(minutes=1)
    assert (await claimed(ledger)).early == timedelta(0)


async def test_a_clock_that_was_set_back_makes_no_copy_look_early(store: Store) -> None:
    """Parked for a minute, an hour and a minute still to come: that can't be."""
    ledger = worker(store, "a")
    await claimed(ledger)
    await park(ledger, timedelta(minutes=1))
    await set_back(store, "changed")

    assert (await claimed(ledger)).early == timedelta(0)


async def test_a_dead_workers_lease_lasts_for_its_term_and_not_for_the_hour(store: Store) -> None:
    """The clock is set back by an hour after a worker died: the next one waits for one lease."""
    await claimed(worker(store, "dead"))
    await set_back(store, "lease")
    other = worker(store, "b")

    assert await claim(other) == Elsewhere(LEASE)
    await asyncio.sleep(1.5 * LEASE.total_seconds())
    await claimed(other)


async def test_a_copy_waits_once_its_dead_workers_term_is_over(store: Store) -> None:
    """Whoever looks after an overdue copy believes a lease of the future no longer than that."""
    await claimed(worker(store, "dead"))
    await set_back(store, "lease")
    other = worker(store, "b")

    assert await other.waiting([(KEY.digest, 0, 1)]) == [False]
    await asyncio.sleep(1.5 * LEASE.total_seconds())
    assert await other.waiting([(KEY.digest, 0, 1)]) == [True]


async def test_a_replay_starts_afresh_once_its_dead_workers_term_is_over(store: Store) -> None:
    """Before that it may still run, and is left alone."""
    await claimed(worker(store, "dead"))
    await set_back(store, "lease")
    other, states = worker(store, "b"), []

    for _ in range(2):
        assert await other.replay(KEY.digest, KEY.data) == 1
        states.append((await other.find(KEY.id))[0]["state"])
        await asyncio.sleep(1.5 * LEASE.total_seconds())

    assert states == ["running", "queued"]


async def test_a_dead_workers_hold_lasts_for_a_lease_and_not_for_the_hour(store: Store) -> None:
    """The store lets a key live by its clock: what has an hour to live has a lease at most."""
    ledger = worker(store, "b")
    await ledger.hold("report", "dead", LEASE)
    await store.redis.pexpire("planrelay:hold:report", LEASE + HOUR)

    assert timedelta(0) < (await ledger.hold("report", "b", LEASE) or HOUR) <= LEASE
    await asyncio.sleep(1.5 * LEASE.total_seconds())
    assert await ledger.hold("report", "b", LEASE) is None


async def test_who_died_before_the_clock_was_set_back_does_not_die_again(store: Store) -> None:
    """Its last sign of life, two leases ahead, speaks for no command that loses its worker meanwhile."""
    dead, other = worker(store, "dead"), worker(store, "b")
    await worker(store, "gone").renew([])
    await store.redis.zincrby(ALIVE, 2 * LEASE / timedelta(milliseconds=1), "gone")
    await dead.renew([])
    await claimed(dead)
    await asyncio.sleep(4 * LEASE.total_seconds())

    assert (await claimed(other)).lost == 1


async def test_deaths_after_the_clock_was_set_back_speak_for_a_command(store: Store) -> None:
    """Also where it had lost a worker before: that death is not of the future any more once the command is claimed."""
    for name in ("one", "two", "three"):
        await claimed(ledger := worker(store, name))
        await ledger.begin(KEY.digest)
        if name == "two":
            ahead = round(1000 * (time.time() + HOUR.total_seconds()))
            await store.redis.hset(f"planrelay:command:{KEY.digest}", "holders", f" one@{ahead}")
        await asyncio.sleep(1.5 * LEASE.total_seconds())
    await worker(store, "without").renew([])
    await asyncio.sleep(1.5 * LEASE.total_seconds())

    assert (await claimed(worker(store, "four"))).lost == 3 - 2


async def test_a_request_of_the_future_counts_as_sent_now(store: Store) -> None:
    """An intent from before the clock was set back grows old from the next claim on, not an hour later."""
    ledger = worker(store, "a")
    await claimed(ledger)
    await ledger.write_intent(KEY.digest, "create")
    await set_back(store, "i:create")

    assert (await claimed(ledger)).intents == {"create": timedelta(0)}
    await asyncio.sleep(0.05)
    assert (await claimed(ledger)).intents["create"] >= timedelta(milliseconds=50)


def test_a_closed_gate_stays_closed_for_its_own_wait_and_not_for_the_hour() -> None:
    """Closed for 30 s, looked at after 10, then the clock is set back by an hour: 20 s are left."""
    gate = Gate()
    gate.look_at(10_000.0)
    gate.close(10_000.0, until=10_030.0, generation=0, ceiling=300.0)
    gate.look_at(10_010.0)
    later = Gate.load(gate.dump())
    later.look_at(10_010.0 - 3600)

    assert later.closed_for(10_010.0 - 3600) == pytest.approx(20.0)
    assert later.phase(10_030.0 - 3600) is Phase.HALF_OPEN


@pytest.mark.parametrize(("gap", "points"), [(0.5, None), (0.0, 50.0), (0.5, 50.0)])
def test_who_keeps_a_pace_or_counts_points_goes_on(gap: float, points: float | None) -> None:
    """Requests that were given their times an hour ahead hold up none of now; a dead worker's slots come free."""
    gate, limits, now = Gate(), Limits(in_flight=2, gap=gap), 10_000.0
    gate.look_at(now)
    if points is not None:
        gate.observe(Remaining(points, Start(now), now, now))
    gate.ask(now, "dead", "acme", Ask(used=1, singles=0, bulk=0), limits)
    for second in range(5):
        gate.look_at(now + second)
        gate.ask(now + second, "w", "acme", Ask(used=0, singles=1, bulk=0), limits)
    now += 5 - 3600
    gate.look_at(now)
    grant = gate.ask(now, "w", "acme", Ask(used=0, singles=1, bulk=0), limits)

    assert grant.hold in {None, Hold.PACE}
    assert grant.wait is None or grant.wait <= 1
    gate.look_at(now + 11)
    gate.ask(now + 11, "w", "acme", Ask(used=0, singles=1, bulk=0), limits)
    assert set(gate.slots["acme"].shares) == {"w"}


async def test_nothing_is_decided_by_a_time_that_is_no_longer_the_stores(store: Store) -> None:
    """The clock is set between two looks: what was decided by the old time is decided anew by the new one."""
    skew = 0.0
    gates, copy = SharedGates(store.redis, lambda: time.monotonic() + skew), Copy()
    times: list[float] = []

    def decide(gate: Gate, now: float) -> tuple[None, bool]:
        times.append(now)
        return None, False

    await gates.settle("acme", copy, decide)
    skew = 3600.0
    await gates.settle("acme", copy, decide)
    await gates.close()

    first, wrong, right = times
    assert wrong - first >= 3600
    assert 0 <= right - first < 60
    assert copy.gate.settled_at == pytest.approx(right)
