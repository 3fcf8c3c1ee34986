"""A clock is put forward or back by an hour, a worker's or RabbitMQ's: nothing is lost, late or early."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.clock import Clock
from tests.faults.rabbit import Rabbit
from tests.faults.scenes import creates, floor_of, nothing_lost_or_doubled
from tests.fleet import command, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox import SandboxThread
    from tests.fleet import Fleet

HOUR = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Give a clock; skips where none can be stepped, unless `PLANRELAY_TEST_FAULTS` demands it."""
    made = Clock(tmp_path)
    if made.missing is not None:
        if os.environ.get("PLANRELAY_TEST_FAULTS") == "required":
            pytest.fail(made.missing, pytrace=False)
        pytest.skip(made.missing)
    return made


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_clock_that_is_stepped_loses_nothing_and_makes_nothing_early_or_late(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, clock: Clock, step: int
) -> None:
    """One of two workers, stepped right after a 429 with creates in flight, parked and queued: told in time, once."""
    sandbox.configure("planpoint", latency="200ms-600ms")
    fleet = fleet_on(http={"request_timeout": "5s"})
    stepped, _ = fleet.start(env=clock.env)[0], fleet.start()
    commands = creates(floor_of(sandbox), 120)
    sandbox.faults.add(
        "status",
        status=429,
        headers={"Retry-After": "4"},
        operation="unit.create",
        after_effect=False,
        skip=40,
        times=1,
    )
    fleet.send_all(commands)
    (refused,) = eventually(lambda: sandbox.journal.entries(operation="unit.create", status=429), what="the 429")
    told = refused.answered or 0.0
    clock.step(step)
    began = time.monotonic()
    nothing_lost_or_doubled(fleet, sandbox, commands, within=60)
    assert time.monotonic() - began < 45
    entries = sandbox.journal.entries(operation="unit.create")
    # Another worker sends until it has heard, which takes a moment on a busy machine.
    assert [entry.arrived - told for entry in entries if told + 1.5 < entry.arrived < told + 4] == []
    assert len(entries) == 121
    assert stepped.process.poll() is None
    assert all(event["data"]["duration_s"] >= 0 for event in fleet.events())


@pytest.fixture
def rabbit(rabbit_node: Rabbit, clock: Clock) -> Iterator[Rabbit]:
    """Give a node of the test's own that goes by `clock`."""
    with Rabbit(clock.env) as node:
        yield node


def test_a_broker_whose_clock_is_put_forward_makes_nothing_early(
    rabbit: Rabbit, fleet_on: Callable[..., Fleet], sandbox: SandboxThread, clock: Clock
) -> None:
    """A retry waits parked, RabbitMQ starts anew an hour later and gives it back at once: it waits to its own time."""
    (unit,) = sandbox.seed("planpoint", "units", count=1)
    sandbox.faults.add("status", status=500, operation="unit.read", times=1)
    read = command("planpoint.unit.read", "tower", {"id": unit})
    backoff = {"inline_wait": "0s", "backoff_initial": "40s", "backoff_ceiling": "40s"}
    fleet = fleet_on(amqp=rabbit.url, retry=backoff)
    (worker,) = fleet.start()
    fleet.send_all([read])
    eventually(lambda: "command.retried" in worker.log.read_text(), what="the retry")
    rabbit.stop()
    clock.step(HOUR)
    rabbit.start()
    done = fleet.wait(read["id"], within=90)

    first, second = sandbox.journal.entries(operation="unit.read")
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    (wait,) = (line["wait_s"] for line in lines if line["event"] == "command.retried")
    assert second.arrived - (first.answered or 0) >= wait
    assert [line["event"] for line in lines if line["event"] == "parking.early"] == ["parking.early"]
    assert (done["data"]["attempts"], done["data"]["deferrals"]) == (2, 0)
