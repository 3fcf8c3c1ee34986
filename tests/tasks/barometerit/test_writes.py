"""Writes: what was saved is told from what waits as a proposal, and neither is ever taken for granted."""

from typing import Any

import pytest

import tasks.barometerit.tasks
from config.connections import Override
from tasks.barometerit.writes import shows
from tests.tasks.barometerit.conftest import Tenant
from tests.tasks.bench import Bench, answer
from worker.errors import NotFound, Unanswered
from worker.rest import Request, Response

BN = "041800000001"
PROPOSAL = "041000000001"


async def test_an_update_keeps_what_it_does_not_change(tenant: Tenant) -> None:
    """A PUT empties the basic fields that it leaves out: nothing is lost by an update."""
    made = await tenant.do(
        "entity.create",
        {"type": "PHY", "properties": {"name": "A", "description": "d", "domain": "Finance", "type": "Cloud"}},
    )

    result = await tenant.do("entity.update", {"bn": made["bn"], "properties": {"lifecycle_state": "Planned"}})

    entity = tenant.entity(made["bn"])
    assert (entity["description"], entity["domain"], entity["type"]) == ("d", "Finance", "Cloud")
    assert entity["lifecycleState"]["name"] == "Planned"
    assert (result["saved"], result["proposed"]) == ([made["bn"]], [])


@pytest.mark.parametrize("status", ["COMP", "APPR"])
async def test_a_write_that_became_a_proposal_is_not_saved(tenant: Tenant, status: str) -> None:
    """Completed and approved entities: nothing has changed yet, and the result says so."""
    bn = tenant.put(entityDiscriminator="SYS", name="A", status=status)
    (field,) = tenant.seed("fields")
    (tag,) = tenant.seed("entities", type="TAG")

    for type, data in (
        ("entity.update", {"bn": bn, "properties": {"description": "x"}}),
        ("entity.fields.update", {"bn": bn, "fields": {field: "x"}}),
        ("association.update", {"source_bn": bn, "added_assocs": [{"target_bn": tag}]}),
    ):
        result = await tenant.do(type, data)
        assert result["saved"] == []
        assert len(result["proposed"]) == 1
    assert tenant.entity(bn)["description"] is None
    waiting = (await tenant.do("proposal.list", {"entity_bn": bn, "type": "ALL"}))["rows"]
    assert len(waiting) == 3
    assert {one["entity_bn"] for one in waiting} == {bn}


async def test_custom_field_values_are_set_and_read(tenant: Tenant) -> None:
    """By the fields' BNs."""
    (bn,) = tenant.seed("entities", type="SYS")
    one, other = tenant.seed("fields", 2)

    result = await tenant.do("entity.fields.update", {"bn": bn, "fields": {one: "seven", other: 7}})
    rows = (await tenant.do("entity.fields.read", {"bn": bn}))["rows"]

    assert result["saved"] == [bn]
    assert {row["bn"]: row["value"] for row in rows} == {one: "seven", other: 7}


async def test_settings_are_put_whole(tenant: Tenant) -> None:
    """A field's and a fieldset's other settings stay, choices and their BNs among them."""
    choices = [{"display_value": "High", "stored_value": "H"}, {"display_value": "Low"}]
    field = await tenant.do("field.create", {"name": "Cost", "choices": choices, "notes": "n"})
    other = await tenant.do("field.create", {"name": "Risk"})
    fieldset = await tenant.do(
        "fieldset.create", {"name": "Money", "fields": [other["bn"], field["bn"]], "type": "SYS"}
    )

    await tenant.do("field.update", {"bn": field["bn"], "help_text": "In euro."})
    await tenant.do("fieldset.update", {"bn": fieldset["bn"], "expanded": True})

    read = await tenant.do("field.read", {"bn": field["bn"]})
    assert (read["help_text"], read["notes"], read["name"]) == ("In euro.", "n", "Cost")
    assert [choice["display_value"] for choice in read["choices"]] == ["High", "Low"]
    read = await tenant.do("fieldset.read", {"bn": fieldset["bn"]})
    assert [one["bn"] for one in read["fields"]] == [other["bn"], field["bn"]]
    assert read["expanded"] is True


async def test_what_is_deleted_was_there(tenant: Tenant) -> None:
    """A delete of nothing is an error; one that was cut off after it took effect is done."""
    (bn,) = tenant.seed("entities", type="SYS")
    tenant.sandbox.faults.add("reset", operation="entity.delete", after_effect=True, times=1)

    assert await tenant.do("entity.delete", {"bn": bn}) == {"bn": bn, "saved": [bn], "proposed": [], "deleted": True}
    with pytest.raises(NotFound):
        await tenant.do("entity.delete", {"bn": bn})


@pytest.mark.parametrize(("status", "body"), [(401, {}), (403, {}), (409, {}), (400, {}), (200, b"<html>")])
@pytest.mark.parametrize("noun", ["entity", "field", "fieldset"])
async def test_a_delete_that_cannot_be_looked_at_is_no_failure(bench: Bench, noun: str, status: int, body: Any) -> None:
    """It was accepted: gone is not claimed and still there neither, and a warning says why."""

    def wire(request: Request) -> Response:
        looked = any(one.method == "DELETE" for one in bench.sent[:-1])
        return answer(body, status) if looked else answer({} if request.method == "DELETE" else {"bn": BN})

    bench.wire = wire

    result = await bench.do(f"barometerit.{noun}.delete", {"bn": BN})

    assert (result["saved"], result["proposed"], result["deleted"]) == ([], [], None)
    assert "accepted the delete, and whether it is gone could not be read" in result["warnings"][0]


# Vendors as nobody documents them


class Odd:
    """A barometerIT with one entity, whose writes are answered as the test says."""

    def __init__(self, said: Any, *, saves: bool = True, proposes: bool = False) -> None:
        self.entity = {"bn": BN, "name": "A", "description": "d", "lifecycleState": {"bn": "0" * 12, "name": "In Use"}}
        self.said = said
        self.saves = saves
        self.proposals = [{"bn": PROPOSAL, "entityBn": BN}] if proposes else []

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        match request.method, request.path:
            case "PUT", _:
                if self.saves:
                    self.entity |= request.json
                return answer(self.said)
            case "GET", "/proposals":
                return answer(self.proposals)
            case _:
                return answer(self.entity)


ASKED = {"bn": BN, "properties": {"description": "x", "lifecycle_state": "In Use"}}


@pytest.fixture
def bench() -> Bench:
    """Give a bench on a made-up wire."""
    return Bench(tasks.barometerit.tasks)


@pytest.mark.parametrize("said", [b"", {}, {"ok": True}, b"saved", {"successfulBns": [], "proposedChangeBns": []}])
async def test_an_answer_that_does_not_tell_is_read_back(bench: Bench, said: Any) -> None:
    """Saved is what shows, proposed what waits; what is neither is a warning, never a silent success."""
    for saves, proposes, expected in (
        (True, False, ([BN], [])),
        (False, True, ([], [PROPOSAL])),
        (False, False, ([], [])),
    ):
        bench.wire = Odd(said, saves=saves, proposes=proposes)
        result = await bench.do("barometerit.entity.update", ASKED)
        assert (result["saved"], result["proposed"]) == expected
        warned = "description" in str(result.get("warnings"))
        assert warned == (expected == ([], []))


async def test_an_echo_of_the_request_is_not_believed(bench: Bench) -> None:
    """An answer that is the entity may be what was sent, while the change waits as a proposal: it is read back."""
    echo = {"bn": BN, "name": "A", "description": "x", "lifecycleState": {"bn": "0" * 12, "name": "In Use"}}
    bench.wire = Odd(echo, saves=False, proposes=True)

    result = await bench.do("barometerit.entity.update", ASKED)

    assert (result["saved"], result["proposed"]) == ([], [PROPOSAL])


async def test_saved_is_only_what_tells_of_this_entity(bench: Bench) -> None:
    """Another's BN among the saved ones proves nothing; BNs may stand in objects."""
    bench.wire = Odd({"successfulBns": ["041800000777"], "proposedChangeBns": []}, saves=False)
    result = await bench.do("barometerit.entity.update", ASKED)
    assert (result["saved"], result["proposed"]) == ([], [])
    assert "description" in result["warnings"][0]

    bench.wire = Odd({"successfulBns": [{"bn": BN}], "proposedChangeBns": []})
    assert (await bench.do("barometerit.entity.update", ASKED))["saved"] == [BN]


async def test_proposals_that_cannot_be_listed_leave_a_warning(bench: Bench) -> None:
    """The write was accepted: what is not known of it is told, and is no failure of it."""
    odd = Odd({}, saves=False)
    bench.wire = lambda request: answer({}, 403) if request.path == "/proposals" else odd(request)

    result = await bench.do("barometerit.entity.update", ASKED)

    assert (result["saved"], result["proposed"]) == ([], [])
    assert result["warnings"]


async def test_what_is_not_shown_at_all_is_not_denied(bench: Bench) -> None:
    """An entity that leaves the field out says neither: no success, and not that it shows otherwise."""
    odd = Odd({}, saves=False)
    del odd.entity["description"]
    bench.wire = lambda request: answer([]) if request.path == "/proposals" else odd(request)

    result = await bench.do("barometerit.entity.update", ASKED)

    assert (result["saved"], result["proposed"]) == ([], [])
    assert result["warnings"] == [
        "barometerIT accepted the write and does not show these fields, or not by what was asked: description."
    ]


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ({"bn": "0" * 12, "displayValue": "High", "storedValue": "H"}, "High"),
        ({"bn": "0" * 12, "display_value": "High", "stored_value": "H"}, "H"),
        ("2026-05-20T00:00:00.000+0000", "2026-05-20"),
    ],
)
def test_a_choice_and_a_day_may_be_shown_in_another_form(shown: Any, asked: str) -> None:
    """The same value is saved, however it is written; another is not."""
    assert shows(shown, asked)
    assert not shows(shown, "2026-05-21")


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ({"bn": "0" * 12, "name": "In Use"}, {"code": "U"}),
        ([{"bn": "0" * 12}], [{"code": "U"}]),
        ({"colour": "green"}, "In Use"),
    ],
)
async def test_what_cannot_be_held_against_what_was_asked_is_not_saved(bench: Bench, shown: Any, asked: Any) -> None:
    """An option shown by other keys than it was asked by: nobody compared anything, so nobody says that it is saved."""
    odd = Odd({}, saves=False)
    odd.entity["lifecycleState"] = shown
    bench.wire = lambda request: answer([]) if request.path == "/proposals" else odd(request)

    result = await bench.do("barometerit.entity.update", {"bn": BN, "properties": {"lifecycle_state": asked}})

    assert (result["saved"], result["proposed"]) == ([], [])
    (warning,) = result["warnings"]
    assert "not by what was asked: lifecycle_state" in warning


@pytest.mark.parametrize(("status", "body"), [(404, {}), (401, {}), (403, {}), (409, {}), (400, {}), (200, b"<html>")])
async def test_a_write_that_cannot_be_read_back_is_no_failure(bench: Bench, status: int, body: Any) -> None:
    """It was accepted: saved is not claimed, and a warning says why."""
    odd = Odd({})

    def wire(request: Request) -> Response:
        written = any(one.method == "PUT" for one in bench.sent[:-1])
        return answer(body, status) if written else odd(request)

    bench.wire = wire

    result = await bench.do("barometerit.entity.update", ASKED)

    assert (result["saved"], result["proposed"]) == ([], [])
    assert "accepted the write, and it could not be read back" in result["warnings"][0]


async def test_proposals_that_nobody_can_read_leave_a_warning(bench: Bench) -> None:
    """The list's path is as sure as its documentation: an answer that is no list is no failure of the write."""
    odd = Odd({}, saves=False)
    bench.wire = lambda request: answer(b"<html>") if request.path == "/proposals" else odd(request)

    assert "description" in (await bench.do("barometerit.entity.update", ASKED))["warnings"][0]


async def test_associations_that_nobody_tells_of_are_a_warning(bench: Bench) -> None:
    """An answer without the three lists, and no proposal: what became of it, nobody knows."""
    bench.wire = lambda request: answer([] if request.path == "/proposals" else {})

    result = await bench.do(
        "barometerit.association.update", {"source_bn": BN, "added_assocs": [{"target_bn": "041I00000001"}]}
    )

    assert (result["saved"], result["proposed"]) == ([], [])
    assert "does not say" in result["warnings"][0]


async def test_an_operator_settles_names_for_all_or_for_one_operation(bench: Bench) -> None:
    """`[connections.X.fields]`, and above it `[connections.X.operations."…"]` with method, path and fields."""
    bench.connection.fields = {"description": "summary"}
    bench.connection.operations = {
        "entity.update_many": Override(method="POST", path="/bulk", fields={"bns": "ids", "description": "text"}),
        "report.size": Override(path="/assets/{asset_bn}", fields={"size": "length"}),
    }
    said = {"successfulBns": [BN], "proposedChangeBns": [], "transactionIds": []}
    bench.wire = lambda request: answer({"length": "17"} if request.path.startswith("/assets") else said)

    await bench.do("barometerit.entity.update_many", {"bns": [BN], "properties": {"description": "x"}})
    size = await bench.do("barometerit.report.size", {"asset_bn": "040U00000001"})

    assert bench.paths() == ["POST /bulk", "GET /assets/040U00000001"]
    assert bench.sent[0].json == {"ids": [BN], "properties": {"text": "x"}}
    assert size["size"] == 17


async def test_a_cut_off_update_is_sent_again(tenant: Tenant) -> None:
    """Putting the same values twice does no harm."""
    (bn,) = tenant.seed("entities", type="SYS")
    tenant.sandbox.faults.add("reset", operation="entity.update", times=1)

    assert (await tenant.do("entity.update", {"bn": bn, "properties": {"description": "x"}}))["saved"] == [bn]


async def test_an_update_that_never_comes_through_is_unanswered(tenant: Tenant) -> None:
    """The engine decides what becomes of it."""
    (bn,) = tenant.seed("entities", type="SYS")
    tenant.sandbox.faults.add("reset", operation="entity.update")

    with pytest.raises(Unanswered):
        await tenant.do("entity.update", {"bn": bn, "properties": {"description": "x"}})
