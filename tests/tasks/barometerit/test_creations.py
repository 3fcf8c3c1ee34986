"""Creates: one object whatever goes wrong, and what was there before is taken only where the command says so."""

from typing import Any

import pytest

from tests.tasks.barometerit.conftest import Tenant
from worker.errors import Conflict, Invalid, OutcomeUnknown, Unanswered, Unavailable

CREATE = "entity.create"
NEW = {"type": "SYS", "properties": {"name": "Billing", "lifecycle_state": "Planned"}}


@pytest.mark.parametrize("shape", ["entity", "bn"])
async def test_a_new_entity_comes_whole(tenant: Tenant, shape: str) -> None:
    """Whether the answer is the entity or its BN alone: the result is the entity, `how` it came about, and `saved`."""
    tenant.configure(create_answer=shape)

    made = await tenant.do(CREATE, NEW)

    assert (made["name"], made["lifecycle_state"]["name"], made["how"]) == ("Billing", "Planned", "created")
    assert (made["saved"], made["proposed"]) == ([made["bn"]], [])


FAULTS: list[dict[str, Any]] = [
    {"kind": "reset", "after_effect": True},
    {"kind": "reset", "after_effect": False},
    {"kind": "status", "status": 503, "after_effect": True},
    {"kind": "malformed"},
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("operation", "data"),
    [
        (CREATE, NEW),
        (CREATE, {**NEW, "match_on": ["name", "lifecycle_state"]}),
        ("field.create", {"name": "Cost"}),
        ("fieldset.create", {"name": "Money", "type": "SYS"}),
    ],
)
async def test_an_interrupted_create_makes_one_object(
    tenant: Tenant, operation: str, data: dict[str, Any], fault: dict[str, Any]
) -> None:
    """Cut off, answered 5xx or garbage, before the effect or after it: in the end there is one."""
    tenant.sandbox.faults.add(operation=operation, times=1, **fault)
    try:
        made = await tenant.do(operation, data, key="k")
    except (Unanswered, Unavailable):
        made = await tenant.do(operation, data, key="k")

    assert made["how"] == ("found" if fault.get("after_effect") else "created")
    assert made["saved"] == [made["bn"]]
    assert tenant.sandbox.duplicates() == []


async def test_what_was_there_before_is_not_taken_for_it(tenant: Tenant) -> None:
    """Without `match_on` an entity of that name is another one."""
    before = tenant.put(entityDiscriminator="SYS", name="Billing")
    tenant.sandbox.faults.add("reset", operation=CREATE, after_effect=True, times=1)
    with pytest.raises(Unanswered):
        await tenant.do(CREATE, NEW, key="k")

    made = await tenant.do(CREATE, NEW, key="k")

    assert made["how"] == "found"
    assert made["bn"] != before


async def test_only_what_was_made_these_days_is_looked_at(tenant: Tenant) -> None:
    """A create asks for the newest entities, not for the whole type."""
    await tenant.do(CREATE, NEW)

    (asked,) = tenant.sandbox.journal.entries(operation="entity.list")
    assert "createDateStartDate=2026-05-18" in asked.query


async def test_match_on_adopts_what_is_there(tenant: Tenant) -> None:
    """A search that finds it is enough; what is there stays as it is."""
    before = tenant.put(entityDiscriminator="SYS", name="Billing", description="kept")
    tenant.put(entityDiscriminator="SYS", name="Billing II")

    made = await tenant.do(CREATE, {**NEW, "match_on": ["type", "name"]})

    assert (made["bn"], made["how"], made["saved"]) == (before, "adopted", [])
    assert tenant.entity(before)["description"] == "kept"
    assert "entity.list" not in tenant.operations()


async def test_match_on_believes_no_search_that_finds_nothing(tenant: Tenant) -> None:
    """How the search matches is not documented: a miss is looked up in the whole list."""
    before = tenant.put(entityDiscriminator="SYS", name="Billing")
    nothing = '{"count": 0, "topHit": null, "matches": []}'
    tenant.sandbox.faults.add("status", operation="search", status=200, body=nothing)

    assert (await tenant.do(CREATE, {**NEW, "match_on": ["name"]}))["bn"] == before


async def test_match_on_compares_options_as_the_command_names_them(tenant: Tenant) -> None:
    """A property's value may be named by its name or its BN, and is an object when read."""
    before = (await tenant.do(CREATE, NEW))["bn"]
    match_on = ["name", "lifecycle_state"]

    same = await tenant.do(CREATE, {**NEW, "match_on": match_on})
    other = await tenant.do(
        CREATE, {"type": "SYS", "properties": {"name": "Billing", "lifecycle_state": "Retired"}, "match_on": match_on}
    )

    assert (same["bn"], same["how"]) == (before, "adopted")
    assert other["how"] == "created"


@pytest.mark.parametrize("shown", ["Retired", "Planned"])
async def test_match_on_takes_nothing_that_it_cannot_compare(tenant: Tenant, shown: str) -> None:
    """An option asked by a key that is not listed fits nobody, and who may be it is not made a second time."""
    tenant.put(entityDiscriminator="SYS", name="Billing", lifecycleState={"bn": "0" * 12, "name": shown})
    asked = {"name": "Billing", "lifecycle_state": {"code": "P"}}
    match_on = ["lifecycle_state", "name"]

    with pytest.raises(Conflict, match="lifecycle_state is listed as"):
        await tenant.do(CREATE, {"type": "SYS", "properties": asked, "match_on": match_on})
    with pytest.raises(Invalid):  # sent, as no other fits either, and the sandbox knows no such option
        await tenant.do(CREATE, {"type": "SYS", "properties": {**asked, "name": "New"}, "match_on": match_on})


async def test_match_on_that_fits_several_is_a_conflict(tenant: Tenant) -> None:
    """Which one is meant, nobody can tell."""
    for _ in range(2):
        tenant.put(entityDiscriminator="SYS", name="Billing")

    with pytest.raises(Conflict, match="name more fields"):
        await tenant.do(CREATE, {**NEW, "match_on": ["name"]})


async def test_what_was_made_and_cannot_be_read_is_made(tenant: Tenant) -> None:
    """The path of reading is assumed: where it is another, the new entity's BN comes with a warning, not a failure."""
    tenant.configure(create_answer="bn")
    tenant.sandbox.faults.add("status", operation="entity.read", status=404)

    made = await tenant.do("entity.create", {"type": "SYS", "properties": {"name": "New"}})

    assert tenant.entity(made["bn"])["name"] == "New"
    assert made["saved"] == [made["bn"]]
    assert "could not be read" in made["warnings"][0]


async def test_a_fieldset_without_type_cannot_be_looked_for(tenant: Tenant) -> None:
    """Fieldsets are listed by type only: interrupted, its outcome is unknown."""
    tenant.sandbox.faults.add("reset", operation="fieldset.create", after_effect=True, times=1)

    with pytest.raises(OutcomeUnknown):
        await tenant.do("fieldset.create", {"name": "Money"})
    assert (await tenant.do("fieldset.create", {"name": "Risk"}))["how"] == "created"
