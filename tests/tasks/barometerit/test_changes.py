"""Incremental exports: each change once for each schedule, over days, crashes and limits."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.tasks.barometerit.conftest import Tenant

NIGHTLY = "/planrelay/schedule/nightly"
LIST = {"type": "SYS", "updated_from": "2026-05-01", "destination": "out/changes.jsonl"}


class Calendar:
    """A clock that can be turned, and entities that change when told."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.now = datetime(2026, 5, 20, 2, 0, tzinfo=UTC)
        tenant.bench.clock = lambda: self.now
        tenant.sandbox.clock = lambda: self.now.timestamp()  # noqa: PLW0108 - of the instant it is then

    def tomorrow(self) -> None:
        """A day passes."""
        self.now += timedelta(days=1)

    async def make(self, name: str) -> str:
        """Make an entity now."""
        made = await self.tenant.do("entity.create", {"type": "SYS", "properties": {"name": name}})
        self.now += timedelta(minutes=1)
        return str(made["bn"])

    async def change(self, bn: str) -> None:
        """Change an entity now."""
        self.now += timedelta(minutes=1)
        await self.tenant.do("entity.update", {"bn": bn, "properties": {"description": self.now.isoformat()}})
        self.now += timedelta(minutes=1)

    async def export(self, source: str = NIGHTLY, **data: Any) -> dict[str, Any]:
        """Run the export; gives its result, with the BNs that it wrote as `bns`."""
        key = data.pop("key", None)
        result = await self.tenant.do("entity.list", {**LIST, **data}, source=source, key=key)
        rows = self.tenant.file("changes.jsonl").read_text().splitlines()
        return {**result, "bns": [json.loads(row)["bn"] for row in rows]}


@pytest.fixture
def calendar(tenant: Tenant) -> Calendar:
    """Give a clock that stands at 2 in the night of the 20th."""
    return Calendar(tenant)


async def test_a_schedule_exports_each_change_once(calendar: Calendar) -> None:
    """What was made or changed since the last run, and only that; an entity that changed again comes again."""
    first, second = await calendar.make("A"), await calendar.make("B")
    assert (await calendar.export())["bns"] == [first, second]
    calendar.tomorrow()
    assert (await calendar.export())["bns"] == []
    await calendar.change(first)
    third = await calendar.make("C")
    calendar.tomorrow()
    assert sorted((await calendar.export())["bns"]) == sorted([first, third])
    calendar.tomorrow()
    assert (await calendar.export())["bns"] == []


async def test_the_vendor_is_asked_one_interval_back(calendar: Calendar) -> None:
    """From the start of the last run but one, and a day for clocks and zones; what comes twice is dropped."""
    await calendar.make("A")
    assert (await calendar.export())["since"] == "2026-05-01"
    calendar.tomorrow()
    second = await calendar.export()
    assert (second["since"], second["dropped"]) == ("2026-05-19", 1)
    calendar.tomorrow()
    assert (await calendar.export())["since"] == "2026-05-19"
    calendar.tomorrow()
    assert (await calendar.export())["since"] == "2026-05-20"


async def test_what_changed_while_an_export_ran_is_not_lost(calendar: Calendar) -> None:
    """A change that the vendor dates before the last start, and showed after it, comes with the next export."""
    first = await calendar.make("A")
    await calendar.export()
    late = calendar.tenant.put(entityDiscriminator="SYS", name="late", lastUpdateDate="2026-05-19T23:00:00.000+0000")
    calendar.tomorrow()

    assert (await calendar.export())["bns"] == [late]
    assert first != late


async def test_what_does_not_say_when_it_changed_comes_every_time(calendar: Calendar) -> None:
    """Without lastUpdateDate nobody can tell whether it changed since: rather twice than never."""
    bn = calendar.tenant.put(entityDiscriminator="SYS", name="undated")
    undated = [{"bn": bn, "name": "undated"}]
    body = json.dumps({"first": 0, "count": 1, "unfilterdCount": 1, "entities": undated})
    calendar.tenant.sandbox.faults.add("status", operation="entity.list", status=200, body=body)

    for _ in range(2):
        assert (await calendar.export())["bns"] == [bn]
        calendar.tomorrow()


async def test_a_repeated_run_writes_the_same_changes_again(calendar: Calendar) -> None:
    """Killed after the file and before its outcome: the redelivery writes that file again, not an empty one."""
    first = await calendar.make("A")
    await calendar.export(key="k")

    assert (await calendar.export(key="k"))["bns"] == [first]


async def test_what_a_limit_left_out_comes_next_time(calendar: Calendar) -> None:
    """A limited export goes on where it was."""
    made = [await calendar.make(name) for name in "ABC"]

    results = [await calendar.export(limit=2) for _ in range(2)]

    assert [result["bns"] for result in results] == [made[:2], made[2:]]
    assert [result["complete"] for result in results] == [False, True]


async def test_each_schedule_and_each_question_has_its_own_export(calendar: Calendar) -> None:
    """What one schedule has exported is still new to another, and to another type or filter."""
    bn = await calendar.make("A")
    await calendar.export()
    assert (await calendar.export(source="/planrelay/schedule/weekly"))["bns"] == [bn]
    assert (await calendar.export(filter={"search_string": "A"}))["bns"] == [bn]


async def test_a_list_that_nobody_scheduled_is_a_plain_one(calendar: Calendar) -> None:
    """By hand, without `updated_from`, or with `only_changed` false: everything each time, and nothing remembered."""
    bn = await calendar.make("A")
    for _ in range(2):
        assert (await calendar.export(source="/by/hand"))["bns"] == [bn]
        assert (await calendar.export(only_changed=False))["bns"] == [bn]
        assert (await calendar.export(updated_from=None))["bns"] == [bn]
    assert calendar.tenant.bench.memory == {}


async def test_only_changed_works_without_a_schedule_too(calendar: Calendar) -> None:
    """A publisher of its own may export incrementally."""
    bn = await calendar.make("A")
    exported = [(await calendar.export(source="/by/hand", only_changed=True))["bns"] for _ in range(2)]
    assert exported == [[bn], []]


async def test_what_is_remembered_stays_small(calendar: Calendar) -> None:
    """Marks of entities that can't come again are forgotten."""
    for name in "ABCDE":
        await calendar.make(name)
    for _ in range(6):
        await calendar.export()
        calendar.tomorrow()
    (kept,) = calendar.tenant.bench.memory.values()
    assert kept["seen"] == []
