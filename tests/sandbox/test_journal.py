"""What the journal writes down, and what it doesn't."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from sandbox import Sandbox
from sandbox.journal import Journal
from tests.sandbox.conftest import Client, until


async def test_entries_in_order(sandbox: Sandbox, ask: Client) -> None:
    """Every request is there in order of arrival, with both clocks, the path behind the vendor's prefix and status."""
    unit = sandbox.seed("planpoint", "units", count=1, tenant="acme")[0]
    for path in (f"/api/units/{unit}?x=1", "/api/units/none"):
        await ask("planpoint", "GET", path, tenant="acme")
    first, second = sandbox.journal.entries()
    assert (first.seq, second.seq, first.tenant, first.path) == (1, 2, "acme", f"/api/units/{unit}")
    assert (first.query, first.status, second.status, first.operation) == ("x=1", 200, 404, "unit.read")
    assert first.answered is not None
    assert first.arrived <= first.answered <= second.arrived <= time.monotonic()
    assert abs(first.arrived_at - datetime.now(UTC)) < timedelta(seconds=10)
    assert first.sent > 0


async def test_no_secrets(sandbox: Sandbox, ask: Client) -> None:
    """Neither tokens nor passwords are in the journal; equal credentials have equal hashes."""
    await ask("barometerit", "GET", "/api/c/fields")
    await ask("planpoint", "GET", "/api/projects/mine", params={"password": "sandbox-password"})
    login = {"username": "relay@example.com", "password": "sandbox-password"}
    await ask("planpoint", "POST", "/api/users/login", json=login)
    kept = repr([entry.to_json() for entry in sandbox.journal.entries()])
    assert "sandbox-password" not in kept
    assert "sandbox-token" not in kept
    marks = [entry.headers["Authorization"] for entry in sandbox.journal.entries()]
    assert marks[0].startswith("Basic sha256:")
    assert marks[1] == marks[2] != marks[0]


async def test_bodies_are_bounded(sandbox: Sandbox, ask: Client) -> None:
    """A long body is kept to its first 2,000 characters."""
    await ask("planpoint", "POST", "/api/projects", json={"name": "x" * 5_000})
    assert len(sandbox.journal.entries()[0].body) == 2_000


async def test_filters_and_counts(sandbox: Sandbox, ask: Client) -> None:
    """Entries are found and counted by what they are."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    await ask("planpoint", "GET", f"/api/units/{unit}")
    await ask("planpoint", "PATCH", f"/api/units/{unit}", json={"price": 1})
    await ask("barometerit", "GET", "/api/c/entities")
    sandbox.faults.add("status", status=500)
    await ask("planpoint", "GET", f"/api/units/{unit}")
    journal = sandbox.journal
    assert journal.counts() == {"200": 2, "400": 1, "500": 1}
    assert journal.counts("operation", vendor="planpoint") == {"unit.read": 2, "unit.update": 1}
    assert journal.count(operation="unit.*") == 3
    assert journal.count(path=r"/units/\w+", method="GET", fault="status") == 1
    assert [entry.seq for entry in journal.entries(since=2)] == [3, 4]
    assert [entry.seq for entry in journal.entries(limit=2, vendor="planpoint")] == [2, 4]
    assert journal.entries(limit=0) == []


def test_unknown_filter() -> None:
    """A filter or a count by something that isn't there is refused by name."""
    with pytest.raises(ValueError, match="colour"):
        Journal().entries(colour="red")
    with pytest.raises(ValueError, match="colour"):
        Journal().counts("colour")


async def test_most_at_once(sandbox: Sandbox, ask: Client) -> None:
    """The peak is how many requests were under way together, per vendor and tenant and in all."""
    sandbox.configure("planpoint", latency="300ms")
    calls = [ask("planpoint", "GET", "/api/projects/mine", tenant=tenant) for tenant in ("a", "a", "a", "b")]
    await asyncio.gather(*calls)
    journal = sandbox.journal
    assert (journal.peak("planpoint", "a"), journal.peak("planpoint"), journal.peak()) == (3, 4, 4)
    assert (journal.in_flight(), journal.peak("barometerit")) == (0, 0)
    assert sorted(entry.in_flight for entry in journal.entries(tenant="a")) == [1, 2, 3]
    journal.clear()
    assert (journal.peak(), journal.entries(), journal.seen()) == (0, [], 4)


async def test_what_is_under_way_can_be_seen(sandbox: Sandbox, ask: Client) -> None:
    """A request that isn't answered yet is in the journal, without a status."""
    sandbox.faults.add("hang")
    asked = asyncio.create_task(ask("planpoint", "GET", "/api/projects/mine"))
    await until(lambda: sandbox.journal.entries(answered=False))
    assert sandbox.journal.entries(answered=False)[0].status is None
    sandbox.faults.release()
    await asked
    assert sandbox.journal.count(answered=True) == 1


def test_memory_is_bounded() -> None:
    """Only the newest entries are kept; the count of all goes on."""
    journal = Journal(limit=10)
    for number in range(25):
        journal.close(journal.open("planpoint", "default", "GET", f"/{number}", "", ()))
    assert [entry.path for entry in journal.entries()] == [f"/{number}" for number in range(15, 25)]
    assert (journal.seen(), journal.in_flight()) == (25, 0)
