"""Whose fault it is that a worker died: what the ledger counts against a command, and what speaks for it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.worker.valkey import Valkey
from worker.ledger import ALIVE, LOST_RUNS, SUSPECT, TRIAL, Claim, Key, Ledger
from worker.store import Store

LEASE = timedelta(milliseconds=20)
KEY = Key(digest="k", data="d", id="1", source="/test", type="planpoint.unit.read", connection="tower")


class Fleet:
    """Workers that take a command and die, as far as the ledger sees them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = map("host:{}".format, itertools.count())

    def worker(self) -> Ledger:
        """Give the next worker's ledger."""
        return Ledger(self.store, owner=next(self.names), lease=LEASE)

    async def claims(self, worker: Ledger, *, waits: bool = False) -> Claim:
        """Let a worker take the command, as its process would: it beats, and claims."""
        await worker.renew([])
        claim = await worker.claim(KEY, generation=0, received_ms=0, reply="", run=1, waits=waits)
        assert isinstance(claim, Claim)
        return claim

    async def dies_with_it(self, *, waits: bool = False, begins: bool = True) -> Claim:
        """Let a worker die with the command; `begins`: where it had to wait first, its turn came."""
        worker = self.worker()
        claim = await self.claims(worker, waits=waits)
        if begins and (claim.late or claim.lost >= SUSPECT):
            await worker.begin(KEY.digest)
        await self.silence()
        return claim

    async def dies_without_it(self) -> None:
        """Let a worker die that did not have the command."""
        await self.worker().renew([])
        await self.silence()

    async def silence(self) -> None:
        """Let the leases run out."""
        await asyncio.sleep(1.5 * LEASE.total_seconds())

    async def parks(self, lived: str) -> None:
        """Let a worker take the command and park it."""
        worker = self.worker()
        await self.claims(worker)
        await self.parks_of(worker, lived)

    async def parks_of(self, worker: Ledger, lived: str) -> None:
        """Let a worker that has the command park it, and go."""
        parked = await worker.park(
            KEY.digest,
            generation=0,
            attempts=1,
            deferrals=0,
            wait=timedelta(0),
            reason="crowded",
            error="",
            lived=lived,  # type: ignore[arg-type] # each of the three in turn
        )
        assert parked
        await worker.leave()


@pytest.fixture
async def fleet(server: Valkey) -> AsyncIterator[Fleet]:
    """Give a fleet on an empty store."""
    async with server.client() as client:
        await client.flushall()
        yield Fleet(Store(client))


async def test_what_ends_each_of_its_workers_is_found_at_the_fifth(fleet: Fleet) -> None:
    """Four deaths with it and none without: all count."""
    seen = [(await fleet.dies_with_it()).lost for _ in range(5)]

    assert seen == [0, 1, 2, 3, LOST_RUNS]


async def test_also_where_its_connection_is_busy(fleet: Fleet) -> None:
    """It ends its workers while it still stands at the gate: each of these deaths counts too."""
    seen = [(await fleet.dies_with_it(waits=True, begins=False)).lost for _ in range(SUSPECT + 1)]
    seen += [(await fleet.dies_with_it(waits=True)).lost for _ in range(2)]

    assert seen == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("lived", ["ran", "held"])
async def test_what_only_waited_between_its_runs_is_not_forgiven(fleet: Fleet, lived: str) -> None:
    """A create that is looked up between each two of its sends is found as well."""
    for _ in range(3):
        await fleet.dies_with_it()
        await fleet.parks(lived)
    await fleet.dies_with_it()

    assert (await fleet.claims(fleet.worker())).lost == LOST_RUNS


async def test_a_run_that_sent_something_and_lived_forgives_those_before(fleet: Fleet) -> None:
    """Deferred for a day while workers come and go: only deaths without a proof of innocence between them count."""
    for _ in range(3):
        await fleet.dies_with_it()
        await fleet.parks("sent")

    assert (await fleet.claims(fleet.worker())).lost == 0


async def test_who_came_as_far_as_the_gate_is_forgiven_the_deaths_before_it(fleet: Fleet) -> None:
    """Lost twice while it stood in line, then sent away from the gate: what comes before the gate ends no worker."""
    await fleet.dies_with_it(waits=True, begins=False)
    await fleet.dies_with_it(waits=True, begins=False)
    await fleet.parks("ran")

    assert (await fleet.claims(fleet.worker())).lost == 0


async def test_workers_that_die_without_it_speak_for_it(fleet: Fleet) -> None:
    """One more worker dies after each that dies with it: nothing counts, and it need not run apart."""
    for _ in range(6):
        await fleet.dies_with_it()
        await fleet.dies_without_it()
    assert (await fleet.claims(fleet.worker())).lost == 6 // 3


async def test_it_ends_however_many_workers_die_beside(fleet: Fleet) -> None:
    """A crash loop in a fleet that dies of something else as well ends too, after twelve runs."""
    for _ in range(12):
        await fleet.dies_with_it()
        await fleet.dies_without_it()

    assert (await fleet.claims(fleet.worker())).lost == LOST_RUNS


async def test_deaths_before_its_first_tell_nothing(fleet: Fleet) -> None:
    """What died earlier, of something else, does not speak for it."""
    await fleet.dies_without_it()
    await fleet.dies_without_it()
    await fleet.dies_with_it()
    await fleet.dies_with_it()

    assert (await fleet.claims(fleet.worker())).lost == 2


async def test_before_it_is_given_up_it_is_kept_aside(fleet: Fleet) -> None:
    """Nobody dies meanwhile: it was the one. Each look says how long that still takes; a run would begin it anew."""
    for _ in range(LOST_RUNS):
        await fleet.dies_with_it()
    first = await fleet.claims(worker := fleet.worker())
    await fleet.parks_of(worker, "held")
    second = await fleet.claims(fleet.worker())

    assert first.trial == TRIAL + LEASE
    assert TRIAL - timedelta(seconds=5) < second.trial <= first.trial
    assert (first.lost, second.lost) == (LOST_RUNS, LOST_RUNS)


async def test_a_clock_that_was_set_back_keeps_it_aside_no_longer(fleet: Fleet) -> None:
    """An hour back: it is kept aside from now on, and not an hour more."""
    for _ in range(LOST_RUNS):
        await fleet.dies_with_it()
    await fleet.claims(worker := fleet.worker())
    await fleet.parks_of(worker, "held")
    await fleet.store.redis.hincrby(f"planrelay:command:{KEY.digest}", "doubt", 3_600_000)

    assert (await fleet.claims(fleet.worker())).trial == TRIAL + LEASE


async def test_what_spoke_for_it_outlasts_the_memory_of_the_dead(fleet: Fleet) -> None:
    """An hour later the deaths are forgotten, and the lost runs are not: they count no more than they did."""
    for _ in range(LOST_RUNS):
        await fleet.dies_with_it()
    await fleet.dies_without_it()
    before = await fleet.claims(worker := fleet.worker())
    await fleet.parks_of(worker, "held")
    await fleet.store.redis.delete(ALIVE)

    assert before.lost == LOST_RUNS - 2
    assert (await fleet.claims(fleet.worker())).lost == before.lost


async def test_who_dies_while_it_is_kept_aside_speaks_for_it(fleet: Fleet) -> None:
    """One worker that dies without it is enough to let it run again."""
    for _ in range(LOST_RUNS):
        await fleet.dies_with_it()
    await fleet.parks("held")
    await fleet.dies_without_it()

    claim = await fleet.claims(fleet.worker())
    assert (claim.lost, claim.trial) == (LOST_RUNS - 2, timedelta(0))


async def test_workers_that_die_at_one_blow_are_one_death(fleet: Fleet) -> None:
    """A machine that goes takes all its workers: those without the command say nothing."""
    for _ in range(2):
        one, two = fleet.worker(), fleet.worker()
        await two.renew([])
        await fleet.claims(one)
        await fleet.silence()

    assert (await fleet.claims(fleet.worker())).lost == 2


async def test_a_worker_that_takes_leave_has_not_died(fleet: Fleet) -> None:
    """Redeploys say nothing about a command, for or against."""
    await fleet.dies_with_it()
    leaving = fleet.worker()
    await leaving.renew([])
    await leaving.leave()
    await fleet.silence()

    assert (await fleet.claims(fleet.worker())).lost == 1


async def test_who_waits_for_its_turn_alone_is_not_to_blame(fleet: Fleet) -> None:
    """Suspected, and lost again and again while it waited: it stays suspected, and no more."""
    for _ in range(SUSPECT):
        await fleet.dies_with_it()
    seen = [(await fleet.dies_with_it(begins=False)).lost for _ in range(3)]

    assert seen == [SUSPECT] * 3
