"""How fast a backlog comes back: as fast as the fleet can serve it, whatever happened before. In virtual time."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from config.connections import Connection
from tests.worker.test_throttle import Vendor, a_connection, fleet, in_virtual_time, now, send
from worker.errors import Crowded
from worker.returns import SOON
from worker.throttle import Throttle

INLINE = 2.0
"""Seconds that a command waits in its worker, as `retry.inline_wait` has it."""


async def command(throttles: list[Throttle], connection: Connection, vendor: Vendor, looks: list[float]) -> None:
    """Do what becomes of a command: whichever worker has it asks; sent away, it comes back when it was told to."""
    rng = Random(len(looks))
    while True:
        try:
            await send(rng.choice(throttles), connection, vendor, max_wait=timedelta(seconds=INLINE))
        except Crowded as crowded:
            looks.append(now())
            await asyncio.sleep((crowded.after or timedelta(0)).total_seconds())
        else:
            return


@pytest.mark.parametrize("trickle", [0.5, 3.0, 20.0])
@in_virtual_time
async def test_a_quiet_time_is_no_measure_of_the_fleet(trickle: float) -> None:
    """Few commands came, then four hundred at once: they are served at the fleet's speed, not at that of the few."""
    vendor, connection = Vendor(0.1), a_connection()
    async with fleet(3) as throttles:
        for _ in range(round(10 * trickle)):
            await send(throttles[0], connection, vendor)
            await asyncio.sleep(1 / trickle)
        began, looks = now(), list[float]()
        await asyncio.gather(*(command(throttles, connection, vendor, looks) for _ in range(400)))
        took = now() - began

    assert took <= 2 * 400 * 0.1 / 8
    assert len(looks) <= 3 * 400


@in_virtual_time
async def test_bursts_that_the_fleet_can_serve_are_served_before_the_next() -> None:
    """Three hundred come every five seconds, three quarters of what the vendor takes: no turn measures half a fleet."""
    vendor, connection = Vendor(0.1), a_connection()
    looks, spent = list[float](), list[float]()

    async def one(throttles: list[Throttle]) -> None:
        began = now()
        await command(throttles, connection, vendor, looks)
        spent.append(now() - began)

    async with fleet(3) as throttles, asyncio.TaskGroup() as group:
        for _ in range(12):
            for _ in range(300):
                group.create_task(one(throttles))
            await asyncio.sleep(5)

    assert len(spent) == 12 * 300
    assert max(spent) <= 5


@in_virtual_time
async def test_a_vendor_that_was_slow_for_a_while_is_not_left_idle() -> None:
    """Answers took ten seconds while a thousand commands came; once they take a tenth, all are back soon."""
    vendor, connection = Vendor(10.0), a_connection()
    async with fleet(3) as throttles:
        looks = list[float]()
        commands = [asyncio.create_task(command(throttles, connection, vendor, looks)) for _ in range(1000)]
        await asyncio.sleep(60)
        vendor.latency, began = 0.1, now()
        await asyncio.gather(*commands)
        took = now() - began

    assert took <= SOON + 1000 * 0.1 / 8


@in_virtual_time
async def test_a_vendor_that_stays_slow_is_not_asked_in_vain_all_the_time() -> None:
    """Five hundred wait for a vendor that serves eight in ten seconds: each looks two or three times a minute."""
    vendor, connection = Vendor(10.0), a_connection()
    async with fleet(3) as throttles:
        looks = list[float]()
        commands = [asyncio.create_task(command(throttles, connection, vendor, looks)) for _ in range(500)]
        await asyncio.sleep(60)
        before = len(looks)
        await asyncio.sleep(60)
        seen = len(looks) - before
        for each in commands:
            each.cancel()
        await asyncio.gather(*commands, return_exceptions=True)

    assert seen <= 1.3 * 500 * 60 / SOON
