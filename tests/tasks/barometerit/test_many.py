"""`entity.update_many`: what came of each, in batches that are never written twice by a redelivery."""

import pytest

import tasks.barometerit.tasks
from tests.tasks.barometerit.conftest import Tenant
from tests.tasks.bench import Bench, answer
from worker.errors import Invalid
from worker.run import Postpone

MANY = "entity.update_many"


def puts(tenant: Tenant) -> int:
    """Count the requests that wrote."""
    return tenant.sandbox.journal.count(operation=MANY, method="PUT")


async def test_each_bn_has_its_outcome(tenant: Tenant) -> None:
    """Saved, proposed and missing are told apart, by BN."""
    saved = tenant.seed("entities", 5, type="SYS")
    held = tenant.seed("entities", 2, type="SYS", status="COMP")
    missing = "041800009999"

    result = await tenant.do(MANY, {"bns": [*saved, *held, missing], "properties": {"description": "x"}})

    assert result["saved"] == saved
    assert len(result["proposed"]) == 2
    outcomes = dict.fromkeys(saved, "saved") | dict.fromkeys(held, "proposed") | {missing: "missing"}
    assert result["outcomes"] == outcomes
    assert result["warnings"] == ["1 of 8 entities were not written."]
    assert {tenant.entity(bn)["description"] for bn in saved} == {"x"}


async def test_what_is_in_both_lists_waits() -> None:
    """Saved in part and proposed in part is proposed: never a silent success."""
    bench = Bench(tasks.barometerit.tasks)
    bench.wire = lambda request: answer({"successfulBns": ["A", "B"], "proposedChangeBns": ["B"]})

    result = await bench.do(f"barometerit.{MANY}", {"bns": ["A", "B"], "properties": {"description": "x"}})

    assert result["outcomes"] == {"A": "saved", "B": "proposed"}
    assert (result["saved"], result["proposed"]) == (["A"], ["B"])


async def test_what_the_answer_is_silent_about_may_wait() -> None:
    """An answer without lists: what does not show is looked for among the proposals before it counts as lost."""
    bench = Bench(tasks.barometerit.tasks)
    waiting = {"A": [{"bn": "P", "entityBn": "A"}], "B": []}
    bench.wire = lambda request: answer(
        waiting[str(request.query["entityBn"])]
        if request.path == "/proposals"
        else {"bn": request.path, "description": "old"}
    )

    result = await bench.do(f"barometerit.{MANY}", {"bns": ["A", "B"], "properties": {"description": "x"}})

    assert result["outcomes"] == {"A": "proposed", "B": "not_saved"}
    assert result["proposed"] == ["P"]


async def test_what_was_accepted_and_does_not_show_is_unconfirmed() -> None:
    """A field left out (A) and an entity that can't be read (B) prove nothing; another value (C) does."""
    bench = Bench(tasks.barometerit.tasks)
    read = {"/entities/A": answer({"bn": "A"}), "/entities/B": answer({}, 403)}
    other = answer({"bn": "C", "description": "old"})
    bench.wire = lambda request: answer([]) if request.path == "/proposals" else read.get(request.path, other)

    result = await bench.do(f"barometerit.{MANY}", {"bns": ["A", "B", "C"], "properties": {"description": "x"}})

    assert result["outcomes"] == {"A": "unconfirmed", "B": "unconfirmed", "C": "not_saved"}
    assert "could not be read back" in result["reasons"]["B"]
    assert result["warnings"][0] == "3 of 3 entities don't show what was asked."


async def test_other_fields_stay(tenant: Tenant) -> None:
    """Only the given fields are set."""
    bn = tenant.put(entityDiscriminator="SYS", name="A", description="kept")

    await tenant.do(MANY, {"bns": [bn], "properties": {"lifecycle_state": "Retired"}})

    assert tenant.entity(bn)["description"] == "kept"


async def test_batches_are_as_large_as_asked(tenant: Tenant) -> None:
    """`batch_size` BNs a request; the same BN twice is written once."""
    bns = tenant.seed("entities", 25, type="SYS")

    result = await tenant.do(MANY, {"bns": [*bns, *bns], "properties": {"description": "x"}, "batch_size": 10})

    assert (result["count"], puts(tenant)) == (25, 3)


async def test_a_refused_batch_is_halved_until_the_culprit_stands_alone(tenant: Tenant) -> None:
    """The others are written; the refused one has the vendor's reason."""
    bns = tenant.seed("entities", 16, type="SYS")
    tenant.sandbox.faults.add("status", operation=MANY, status=400, body_matches=bns[5])

    result = await tenant.do(MANY, {"bns": bns, "properties": {"description": "x"}})

    assert result["outcomes"].pop(bns[5]) == "refused"
    assert set(result["outcomes"].values()) == {"saved"}
    assert "400" in result["reasons"][bns[5]]
    assert puts(tenant) == 9


async def test_fields_that_are_refused_for_everything_fail_the_command(tenant: Tenant) -> None:
    """Five refused singly and none accepted: it is not the entities."""
    bns = tenant.seed("entities", 100, type="SYS")

    with pytest.raises(Invalid, match="lifecycleState must be one of"):
        await tenant.do(MANY, {"bns": bns, "properties": {"lifecycle_state": "Never"}})
    assert puts(tenant) < 20


async def test_a_redelivery_goes_on_with_the_batch_that_was_cut_off(tenant: Tenant) -> None:
    """Batches that were written are not written again, and progress is no failed attempt."""
    bns = tenant.seed("entities", 30, type="SYS")
    data = {"bns": bns, "properties": {"description": "x"}, "batch_size": 10}
    tenant.sandbox.faults.add("status", operation=MANY, status=500, body_matches=bns[20])

    with pytest.raises(Postpone):
        await tenant.do(MANY, data, key="k")
    tenant.sandbox.faults.clear()
    before = puts(tenant)
    result = await tenant.do(MANY, data, key="k")

    assert set(result["outcomes"].values()) == {"saved"}
    assert len(result["outcomes"]) == 30
    assert puts(tenant) == before + 1
