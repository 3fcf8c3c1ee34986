"""Plans: kept whole, decided once, turned into the command that applies them."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker import embedded
from worker.errors import BadCommand
from worker.plans import Plan, Plans, PlanState, plan_id
from worker.store import Store, StoreAway, connect

NOW = datetime(2026, 5, 20, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a Valkey of this file's own."""
    directory = tmp_path_factory.mktemp("valkey")
    yield embedded.ensure(directory, linger=timedelta(seconds=1))
    embedded.stop(directory)


@pytest.fixture
async def store(valkey: str) -> AsyncIterator[Store]:
    """Give an empty state store."""
    store = Store(connect(valkey))
    await store.redis.flushall()
    yield store
    await store.close()


@pytest.fixture
def plans(store: Store) -> Plans:
    """Give the plans in an empty store."""
    return Plans(store)


def a_plan(id: str = "abc", **changes: Any) -> Plan:
    """Make a plan that is held."""
    fields: dict[str, Any] = {
        "id": id,
        "type": "planpoint.units.sync",
        "connection": "tower",
        "data": {"project_id": "p", "rows": [{"unit_number": "101"}], "mode": "plan"},
        "created_at": NOW,
        "summary": {"changed": 3},
        "reasons": ("too many",),
        "state": PlanState.HELD,
    }
    return Plan(**{**fields, **changes})


async def test_a_plan_is_kept_whole(plans: Plans) -> None:
    """What was kept comes back: the plan, and its items in order over several chunks."""
    items = [{"id": str(number), "name": "Zoë"} for number in range(1_001)]

    kept = await plans.keep(a_plan(), items)

    assert kept.items == 1_001
    assert await plans.load("abc") == a_plan()
    assert [item async for item in plans.items("abc")] == items


async def test_items_may_come_as_a_stream(plans: Plans) -> None:
    """A plan too large for memory is kept from a stream."""

    async def stream() -> AsyncIterator[dict[str, int]]:
        for number in range(600):
            yield {"n": number}

    assert (await plans.keep(a_plan(), stream())).items == 600


async def test_keeping_again_replaces(plans: Plans) -> None:
    """A redelivery that plans again leaves one plan with the new items alone."""
    await plans.keep(a_plan(), [{"n": 1}, {"n": 2}])
    await plans.keep(a_plan(), [{"n": 3}])

    assert [item async for item in plans.items("abc")] == [{"n": 3}]
    assert len(await plans.list()) == 1


async def test_lists_are_newest_first_and_by_state(plans: Plans) -> None:
    """`list` gives all plans, or those in one state."""
    await plans.keep(a_plan("old"), [])
    await plans.keep(a_plan("new", created_at=LATER, state=PlanState.PLANNED), [])

    assert [plan.id for plan in await plans.list()] == ["new", "old"]
    assert [plan.id for plan in await plans.list(PlanState.HELD)] == ["old"]


@pytest.mark.parametrize("state", [PlanState.HELD, PlanState.PLANNED])
async def test_approving_keeps_who_and_when(plans: Plans, state: PlanState) -> None:
    """An approval is kept with its name and its time."""
    await plans.keep(a_plan(state=state), [])

    approved = await plans.approve("abc", by="ada", now=LATER)

    assert (approved.state, approved.decided_by, approved.decided_at) == (PlanState.APPROVED, "ada", LATER)
    assert await plans.load("abc") == approved


async def test_approving_again_keeps_the_first_approval_and_gives_the_same_command(plans: Plans) -> None:
    """Whoever approves twice publishes the same command, which the ledger runs once."""
    await plans.keep(a_plan(), [])

    first = await plans.approve("abc", by="ada", now=LATER)
    second = await plans.approve("abc", by="bob", now=LATER + timedelta(hours=1))

    assert second == first
    assert second.command() == first.command()


async def test_the_command_applies_this_plan(plans: Plans) -> None:
    """The command of an approved plan has the data of the one that made it, to be applied, and the plan's id."""
    await plans.keep(a_plan(), [])

    event = (await plans.approve("abc", by="ada", now=LATER)).command()

    assert event["type"] == "planpoint.units.sync"
    assert event["connection"] == "tower"
    assert event["data"] == {"project_id": "p", "rows": [{"unit_number": "101"}], "mode": "apply", "plan_id": "abc"}
    assert event["id"] == "plan-abc"


async def test_a_rejected_plan_cannot_be_approved(plans: Plans) -> None:
    """No is no."""
    await plans.keep(a_plan(), [])
    await plans.reject("abc", by="ada", now=LATER)

    with pytest.raises(BadCommand, match="is rejected and can't be approved"):
        await plans.approve("abc", by="bob", now=LATER)


async def test_an_applied_plan_cannot_be_approved_again(plans: Plans) -> None:
    """A plan is applied once."""
    await plans.keep(a_plan(), [])
    await plans.approve("abc", by="ada", now=LATER)
    await plans.applied("abc")

    with pytest.raises(BadCommand, match="is applied"):
        await plans.approve("abc", by="bob", now=LATER)


async def test_a_held_plan_is_not_applied_without_approval(plans: Plans) -> None:
    """`applied` follows `planned` or `approved`, never `held`."""
    await plans.keep(a_plan(), [])

    with pytest.raises(BadCommand, match="is held"):
        await plans.applied("abc")


async def test_an_unknown_plan_says_where_to_look(plans: Plans) -> None:
    """A wrong id is refused with the command that lists the right ones."""
    for asking in (plans.load("nope"), plans.approve("nope", by="ada", now=NOW), plans.applied("nope")):
        with pytest.raises(BadCommand, match="planrelay plan list"):
            await asking


async def test_plans_are_forgotten_in_time(store: Store) -> None:
    """A plan and its items have a time to live, and a forgotten one leaves the list."""
    plans = Plans(store, kept=timedelta(days=2))
    await plans.keep(a_plan(), [{"n": 1}])
    redis: Any = store.redis

    for key in ("planrelay:plan:abc", "planrelay:plan:abc:items"):
        assert 0 < await redis.ttl(key) <= 2 * 86_400
    await redis.delete("planrelay:plan:abc")

    assert await plans.list() == []
    assert await redis.zcard("planrelay:plans") == 0


async def test_a_store_that_is_away_is_said_so(free_port: int) -> None:
    """Without a state store every call raises `StoreAway`."""
    store = Store(connect(f"redis://127.0.0.1:{free_port}/0"))
    plans = Plans(store)
    for asking in (plans.keep(a_plan(), []), plans.load("abc"), plans.list(), plans.approve("abc", by="a", now=NOW)):
        with pytest.raises(StoreAway):
            await asking
    await store.close()


def test_a_plans_id_follows_from_the_command() -> None:
    """The same command makes the same plan, another command another."""
    assert plan_id("digest") == plan_id("digest") != plan_id("other")
