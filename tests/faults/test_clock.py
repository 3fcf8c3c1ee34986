"""A worker whose clock is put forward or back by an hour while it works: nothing is lost, late or early."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.clock import Clock
from tests.faults.scenes import creates, floor_of, nothing_lost_or_doubled
from tests.fleet import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
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
