"""Broker away, store away, store full, store emptied, disk full: what goes on, what waits, what is never done twice."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.proxy import AMQP_ACK, Proxy
from tests.faults.scenes import all_ended, creates, floor_of, nothing_lost_or_doubled
from tests.faults.test_kills import tower
from tests.fleet import command, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox import SandboxThread
    from tests.faults.rabbit import Rabbit
    from tests.faults.store import StateStore
    from tests.fleet import Fleet


def reads(unit: str, count: int) -> list[dict[str, Any]]:
    """Give commands that read one unit each."""
    return [command("planpoint.unit.read", "tower", {"id": unit}) for _ in range(count)]


def test_calls_in_flight_outlive_a_broker_that_is_away(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, rabbit_node: Rabbit
) -> None:
    """
    20 calls of 5 s in flight as RabbitMQ goes for 10 s: all answered in time, none sent twice, each told once.

    One that was parked and due meanwhile comes back soon, not when RabbitMQ tries again after its three minutes.
    """
    sandbox.configure("planpoint", latency="5s")
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    (other,) = sandbox.seed("planpoint", "units", count=1, tenant="other")
    fleet = fleet_on(http={"request_timeout": "8s"}, connections={"other": tower(sandbox, "other")})
    (worker,) = fleet.start()
    sandbox.faults.add("status", status=429, headers={"Retry-After": "6"}, tenant="other", times=1)
    parked = command("planpoint.unit.read", "other", {"id": other})
    fleet.send_all([parked])
    eventually(lambda: "command.deferred" in worker.log.read_text(), what="the parked command")
    commands = reads(unit, 20)
    fleet.send_all(commands)
    eventually(lambda: sandbox.journal.in_flight() == 20, what="20 calls in flight")
    gone = time.monotonic()
    rabbit_node.kill()
    time.sleep(max(0.0, gone + 10 - time.monotonic()))
    answered = [entry for entry in sandbox.journal.entries(operation="unit.read") if entry.status == 200]
    rabbit_node.start()
    assert [entry.status for entry in answered] == [200] * 20
    assert max((entry.answered or 0) - entry.arrived for entry in answered) < 5.5
    events = all_ended(fleet, commands, within=40)
    assert all(event["type"].endswith(".succeeded") for event in events.values())
    assert all(event["data"]["duration_s"] < 6 for event in events.values())
    assert fleet.wait(parked["id"], within=60)["type"].endswith(".succeeded")
    assert sandbox.journal.count(operation="unit.read", status=200) == 21


def test_acknowledgements_that_are_lost_with_their_channel_lead_to_no_second_effect(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, rabbit_node: Rabbit
) -> None:
    """
    60 creates end together, the first ack cuts the channel: all come again, more than a quorum queue's soft limit.

    The worker lives. What is done is answered from the ledger, what still runs is joined: 60 runs, 60 objects.
    """
    sandbox.configure("planpoint", latency="2s")
    commands = creates(floor_of(sandbox), 60)
    with Proxy(("127.0.0.1", rabbit_node.port)) as proxy:
        fleet = fleet_on(http={"request_timeout": "20s"})
        (worker,) = fleet.start(env={"PLANRELAY_BROKER__URL": f"amqp://guest:guest@127.0.0.1:{proxy.port}//"})
        fleet.send_all(commands)
        eventually(lambda: sandbox.journal.in_flight() == 60, what="60 creates in flight")
        proxy.trap(AMQP_ACK, lambda: None)
        assert proxy.sprung.wait(30)
        nothing_lost_or_doubled(fleet, sandbox, commands, within=60)
        eventually(lambda: worker.log.read_text().count('"command.repeated"') > 32, within=60, what="the redeliveries")
        assert worker.process.poll() is None
        log = worker.log.read_text()
    assert sandbox.journal.count(operation="unit.create") == 60
    assert log.count('"command.started"') == 60


def test_while_the_store_is_away_reads_run_and_creates_wait(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, store: StateStore
) -> None:
    """Valkey killed: replayable commands are answered meanwhile, creates send nothing until it is back."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    floor = sandbox.state("planpoint", "floors")[0]["_id"]
    fleet = fleet_on()
    fleet.start()
    fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))
    store.kill()
    looked, made = reads(unit, 20), creates(floor, 20)
    fleet.send_all(made + looked)
    all_ended(fleet, looked, within=20)
    assert sandbox.journal.count(operation="unit.create") == 0
    store.start()
    events = all_ended(fleet, made, within=40)
    assert all(event["type"].endswith(".succeeded") for event in events.values())
    assert sandbox.duplicates() == []
    assert sandbox.count("planpoint", "units") == 21
    assert sandbox.journal.count(operation="unit.create") == 20


def test_creates_that_run_as_the_store_is_killed_make_one_object_each(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, store: StateStore
) -> None:
    """Valkey killed for three seconds between the effect and the ledger: looked up, found, told."""
    sandbox.configure("planpoint", latency="300ms-900ms")
    floor = floor_of(sandbox)
    fleet = fleet_on()
    fleet.start(2)
    commands = creates(floor, 60)
    fleet.send_all(commands)
    eventually(lambda: sandbox.count("planpoint", "units") >= 10, what="some effects")
    store.kill()
    time.sleep(3)
    store.start()
    nothing_lost_or_doubled(fleet, sandbox, commands)


@pytest.mark.parametrize("moment", ["in flight", "parked", "worker dead"])
def test_a_store_that_is_emptied_costs_no_second_object(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, store: StateStore, moment: str
) -> None:
    """FLUSHALL while creates are in flight, parked after a cut, or their worker has just died: one object each."""
    floor = floor_of(sandbox)
    fleet = fleet_on()
    (worker,) = fleet.start()
    commands = creates(floor, 20)
    if moment == "parked":
        sandbox.faults.add("reset", operation="unit.create", after_effect=True, times=20)
    else:
        sandbox.faults.add("delay", operation="unit.create", after_effect=True, delay="1500ms")
    fleet.send_all(commands)
    eventually(lambda: sandbox.count("planpoint", "units") == 20, what="the effects")
    if moment == "parked":
        eventually(lambda: worker.log.read_text().count("command.retried") == 20, what="20 parked commands")
    if moment == "worker dead":
        worker.kill()
    store.empty()
    if moment == "worker dead":
        fleet.start()
    nothing_lost_or_doubled(fleet, sandbox, commands)
    assert sandbox.journal.count(operation="unit.create") == 20


def test_a_full_store_keeps_reads_going_and_creates_waiting(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, store: StateStore
) -> None:
    """`maxmemory` reached, `noeviction`: reads are answered, creates send nothing until there is room."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    floor = sandbox.state("planpoint", "floors")[0]["_id"]
    fleet = fleet_on()
    fleet.start()
    fleet.wait(fleet.send("planpoint.unit.read", "tower", {"id": unit}))
    store.fill_up()
    looked, made = reads(unit, 10), creates(floor, 10)
    fleet.send_all(made + looked)
    all_ended(fleet, looked, within=20)
    assert sandbox.journal.count(operation="unit.create") == 0
    store.make_room()
    all_ended(fleet, made, within=40)
    assert sandbox.duplicates() == []
    assert sandbox.journal.count(operation="unit.create") == 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 256 kB; skips where this process may not mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()} (needs root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_its_command_with_a_reason_and_leaves_nothing(
    fleet_on: Callable[..., Fleet], sandbox: SandboxThread, small_disk: Path
) -> None:
    """A destination on a full disk: a failed event that says so, no half file; other commands go on."""
    floor = floor_of(sandbox)
    sandbox.seed("planpoint", "units", count=3000, floor=floor)
    fleet = fleet_on(artifacts={"allowed": [f"file://{small_disk}/"]})
    (worker,) = fleet.start()
    project = sandbox.state("planpoint", "projects")[0]["_id"]
    sent = fleet.send(
        "planpoint.project.read", "tower", {"id": project, "destination": f"file://{small_disk}/units.jsonl"}
    )
    unit = sandbox.state("planpoint", "units", count=1)[0]["_id"]
    other = fleet.send("planpoint.unit.read", "tower", {"id": unit})
    assert fleet.wait(other)["type"].endswith(".succeeded")
    event = fleet.wait(sent, within=60)
    assert event["type"].endswith(".failed"), event
    assert "space" in event["data"]["error"]["message"].lower()
    assert [path.name for path in small_disk.iterdir()] == []
    assert worker.process.poll() is None
