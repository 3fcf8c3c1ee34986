"""Units: read, made at most once, changed under the names that a tenant's units have."""

import asyncio
from typing import Any

import pytest

from tasks.planpoint.client import AT_ONCE
from tests.tasks.bench import Bench, answer, cut
from tests.tasks.planpoint.conftest import A_NAMES, FLOOR, PROJECT, Account, ident
from worker.errors import (
    BadCommand,
    Conflict,
    ContractBroken,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Paused,
    RelayError,
    Unanswered,
    Unavailable,
)
from worker.rest import Request, Response


async def test_a_unit_reads_alike_in_both_generations(bench: Bench, account: Account) -> None:
    """Both generations' names come out as ours, and fields that nobody documents as they came."""
    id = account.add("101", unitNumber="101", price=350_000, bed=2, bath=1, sqft=700, houseStyle="loft")

    unit = await bench.do("planpoint.unit.read", {"id": id})

    assert unit == {
        "id": id,
        "floor": FLOOR,
        "name": "101",
        "status": "Available",
        "unit_number": "101",
        "price": 350_000,
        "bed": 2,
        "bath": 1,
        "sqft": 700,
        "houseStyle": "loft",
    }
    assert bench.paths() == [f"GET /api/units/{id}"]


async def test_a_list_has_its_rows_count_and_no_warnings(bench: Bench, account: Account) -> None:
    """A whole list is complete in either shape, and says nothing more."""
    account.add("101")
    account.add("102")

    listed = await bench.do("planpoint.unit.list", {"project_id": PROJECT})

    assert [row["name"] for row in listed["rows"]] == ["101", "102"]
    assert (listed["count"], listed["complete"]) == (2, True)
    assert "warnings" not in listed
    assert bench.sent[0].query == {"pid": PROJECT}


async def test_a_long_list_leaves_others_their_turn(bench: Bench, account: Account) -> None:
    """While a project of thousands is read, the loop turns every hundred units."""
    for number in range(1_000):
        account.add(str(number))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await bench.do("planpoint.unit.read", {"id": next(iter(account.units))})
    before, turns = turns, 0
    listed = await bench.do("planpoint.unit.list", {"project_id": PROJECT})
    turning.cancel()

    assert listed["count"] == 1_000
    assert turns >= before + 1_000 // AT_ONCE - 1  # the last turn ends with the list


async def test_a_count_that_is_not_the_number_of_records_is_a_warning(bench: Bench) -> None:
    """Where the vendor counts more than it lists, the list is not complete and the result says so."""
    bench.wire = account = Account("B")
    account.add("101")
    account.skew = 2

    listed = await bench.do("planpoint.unit.list", {"project_id": PROJECT})

    assert listed["complete"] is False
    assert listed["warnings"] == ["Planpoint counts 3 and lists 1; it documents no way to get the rest."]


@pytest.mark.parametrize(("count", "complete"), [("3", False), (3.0, False), (1.0, True), ("many", True), (True, True)])
async def test_a_count_may_come_in_another_form(bench: Bench, count: Any, complete: bool) -> None:
    """A number as text or with a decimal mark counts; what is no number says nothing."""
    bench.wire = lambda request: answer({"records": [{"_id": ident(1)}], "count": count})

    listed = await bench.do("planpoint.unit.list", {"project_id": PROJECT})

    assert listed["complete"] is complete


@pytest.mark.parametrize(("status", "error"), [(200, ContractBroken), (400, Invalid), (500, Unavailable)])
async def test_an_answer_nested_beyond_reason_is_no_bug_of_ours(
    bench: Bench, status: int, error: type[RelayError]
) -> None:
    """A hundred thousand brackets: what its status says, and where that is a success, not what is documented."""
    bench.wire = lambda request: answer(b"[" * 100_000, status)

    with pytest.raises(error):
        await bench.do("planpoint.unit.list", {"project_id": PROJECT})


@pytest.mark.parametrize("body", [{"units": []}, [1], [{"name": "no id"}], "text", None])
async def test_a_list_of_another_shape_is_a_broken_contract(bench: Bench, body: Any) -> None:
    """A 2xx whose body is neither a list nor `{records, count}` of objects with ids is `contract_broken`."""
    bench.wire = lambda request: answer(body)

    with pytest.raises(ContractBroken):
        await bench.do("planpoint.unit.list", {"project_id": PROJECT})


async def test_an_update_is_written_under_the_names_that_the_units_have(bench: Bench, account: Account) -> None:
    """Unknown names are read from the unit first, once per connection; then written, never both."""
    id = account.add("101", bed=2)
    own = A_NAMES if account.generation == "A" else {name: name for name in A_NAMES}

    first = await bench.do("planpoint.unit.update", {"id": id, "changes": {"status": "Sold", "price": 1}})
    await bench.do("planpoint.unit.update", {"id": id, "changes": {"status": "Leased", "sqft": 50}})

    assert first["status"] == "Sold"
    assert bench.paths() == [f"GET /api/units/{id}", f"PATCH /api/units/{id}", f"PATCH /api/units/{id}"]
    assert bench.sent[1].json == {own["status"]: "Sold", "price": 1}
    assert bench.sent[2].json == {own["status"]: "Leased", own["sqft"]: 50}
    assert account.units[id]["sqft"] == 50


async def test_an_update_of_fields_with_one_name_asks_for_nothing_first(bench: Bench, account: Account) -> None:
    """Only a field that the generations name differently makes a read necessary."""
    id = account.add("101")

    await bench.do("planpoint.unit.update", {"id": id, "changes": {"price": 5, "unit_number": "9", "isFeatured": True}})

    assert bench.paths() == [f"PATCH /api/units/{id}"]
    assert bench.sent[0].json == {"price": 5, "unitNumber": "9", "isFeatured": True}


async def test_names_that_were_remembered_wrongly_are_corrected_by_the_answer(bench: Bench, account: Account) -> None:
    """A tenant that moved to the other generation: the answer shows the new names, the write is repeated."""
    id = account.add("101")
    bench.memory["unit.spelling"] = {"status": "status" if account.generation == "A" else "availability"}

    unit = await bench.do("planpoint.unit.update", {"id": id, "changes": {"status": "Sold"}})

    assert unit["status"] == account.units[id]["status"] == "Sold"
    assert bench.memory["unit.spelling"]["status"] == ("availability" if account.generation == "A" else "status")


async def test_an_operators_name_is_the_only_one(bench: Bench) -> None:
    """`[connections.X.fields]` settles a field's name: read and written so, without asking."""
    bench.connection.fields = {"status": "state"}
    bench.wire = lambda request: answer({"_id": ident(1), "state": "Sold"})

    unit = await bench.do("planpoint.unit.update", {"id": ident(1), "changes": {"status": "Sold"}})

    assert bench.sent[0].json == {"state": "Sold"}
    assert unit["status"] == "Sold"


async def test_an_answer_that_shows_something_else_is_a_warning(bench: Bench) -> None:
    """An update that the vendor took otherwise is not a silent success."""
    bench.wire = lambda request: answer({"_id": ident(1), "price": 90})

    unit = await bench.do("planpoint.unit.update", {"id": ident(1), "changes": {"price": 100}})

    assert unit["warnings"] == ["Planpoint's answer does not show what was asked: price."]


async def test_a_unit_is_made_on_its_floor(bench: Bench, account: Account) -> None:
    """A create gives the new unit and `how`: created."""
    unit = await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "101", "price": 7, "unit_number": "1"})

    (made,) = account.units.values()
    assert (unit["id"], unit["how"], unit["price"]) == (made["_id"], "created", 7)
    create = next(request for request in bench.sent if request.method == "POST")
    assert create.json == {"floor": {"_id": FLOOR}, "name": "101", "price": 7, "unitNumber": "1"}


async def test_fields_that_a_create_does_not_take_over_are_set_by_an_update(bench: Bench, account: Account) -> None:
    """The vendor documents the floor alone for a create: the rest is written again where the answer lacks it."""
    account.ignore_on_create = {"name", "status"}

    unit = await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "101", "status": "OnHold"})

    assert (unit["name"], unit["status"], unit["how"]) == ("101", "OnHold", "created")
    assert len(account.units) == 1


@pytest.mark.parametrize("after_effect", [True, False])
async def test_an_interrupted_create_makes_one_unit(bench: Bench, account: Account, after_effect: bool) -> None:
    """Cut off before or after the effect: the redelivery ends with exactly one new unit, and never the old namesake."""
    old = account.add("101", price=1)
    bench.wire = cut(account, after_effect=after_effect)
    asked = {"floor_id": FLOOR, "name": "101", "price": 2}

    with pytest.raises(Unanswered):
        await bench.do("planpoint.unit.create", asked, key="k")
    unit = await bench.do("planpoint.unit.create", asked, key="k")

    assert unit["how"] == ("found" if after_effect else "created")
    assert unit["id"] != old
    assert len(account.units) == 2


async def test_several_new_namesakes_after_an_interrupted_create_are_an_unknown_outcome(bench: Bench) -> None:
    """Where two new units fit, neither is taken for the one that the interrupted send made."""
    account = Account("B")
    bench.wire = cut(account)
    asked = {"floor_id": FLOOR, "name": "101"}
    with pytest.raises(Unanswered):
        await bench.do("planpoint.unit.create", asked, key="k")
    account.add("101")

    with pytest.raises(OutcomeUnknown):
        await bench.do("planpoint.unit.create", asked, key="k")


async def test_match_on_adopts_what_is_there(bench: Bench, account: Account) -> None:
    """With `match_on` a unit that was there before is the result, unchanged."""
    id = account.add("101", unitNumber="A1", price=1)
    asked = {"floor_id": FLOOR, "name": "other", "unit_number": "A1", "price": 2, "match_on": ["unit_number"]}

    unit = await bench.do("planpoint.unit.create", asked)

    assert (unit["id"], unit["how"], unit["price"]) == (id, "adopted", 1)
    assert len(account.units) == 1


async def test_match_on_that_fits_several_is_a_conflict(bench: Bench, account: Account) -> None:
    """A key that fits two units adopts neither and makes no third."""
    account.add("101")
    account.add("101")

    with pytest.raises(Conflict, match="fits 2 units"):
        await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "101", "match_on": ["name"]})

    assert len(account.units) == 2


async def test_names_that_differ_in_a_leading_zero_are_two_names(bench: Bench, account: Account) -> None:
    """`01` and `1` are two units."""
    account.add("01")

    unit = await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "match_on": ["floor_id", "name"]})

    assert unit["how"] == "created"


@pytest.mark.parametrize(
    "paused", [True, {"value": True, "reason": "unpaid invoice"}], ids=["as a flag", "with a reason"]
)
@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_paused_account_is_an_error_of_its_own(bench: Bench, paused: Any, status: int) -> None:
    """`{message, paused}` is `Paused`, whatever its status, with the vendor's reason."""
    bench.wire = lambda request: answer({"message": "Account suspended", "paused": paused}, status)

    with pytest.raises(Paused, match="Account suspended") as raised:
        await bench.do("planpoint.unit.read", {"id": ident(1)})

    assert raised.value.status == status
    assert isinstance(paused, bool) or "unpaid invoice" in raised.value.message


@pytest.mark.parametrize("type", ["unit.read", "unit.update", "unit.list"])
async def test_a_pause_that_is_called_a_success_is_a_pause(bench: Bench, type: str) -> None:
    """`{message, paused}` where an object or a list is documented, with 200: not a broken contract."""
    bench.wire = lambda request: answer({"message": "Account suspended", "paused": True})
    data: dict[str, dict[str, Any]] = {
        "unit.list": {"project_id": PROJECT},
        "unit.update": {"id": ident(1), "changes": {"price": 1}},
    }

    with pytest.raises(Paused):
        await bench.do(f"planpoint.{type}", data.get(type, {"id": ident(1)}))


@pytest.mark.parametrize("paused", [False, {"value": False}, None, "no"])
async def test_a_body_that_says_not_paused_keeps_its_own_error(bench: Bench, paused: Any) -> None:
    """Only `true` is a pause."""
    bench.wire = lambda request: answer({"message": "No such unit", "paused": paused}, 404)

    with pytest.raises(NotFound, match="No such unit"):
        await bench.do("planpoint.unit.read", {"id": ident(1)})


@pytest.mark.parametrize(
    ("type", "data", "field"),
    [
        ("planpoint.unit.read", {"id": "../projects"}, "id"),
        ("planpoint.unit.read", {"id": ident(1), "extra": 1}, "extra"),
        ("planpoint.unit.update", {"id": ident(1), "changes": {}}, "changes"),
        ("planpoint.unit.update", {"id": ident(1), "changes": {"_id": ident(2)}}, "changes"),
        ("planpoint.unit.update", {"id": ident(1), "changes": {"$set": 1}}, "changes"),
        ("planpoint.unit.create", {"floor_id": FLOOR}, "name"),
        ("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "price": "7"}, "price"),
        ("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "price": float("nan")}, "price"),
        ("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "price": True}, "price"),
        ("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "match_on": ["unit_number"]}, "match_on"),
        ("planpoint.unit.create", {"floor_id": FLOOR, "name": "1", "properties": {"price": 1}}, "properties"),
        ("planpoint.unit.list", {"project_id": PROJECT, "limit": 0}, "limit"),
        ("planpoint.project.find", {"namespace": "", "host_name": "h"}, "namespace"),
    ],
)
async def test_bad_data_is_refused_by_field(bench: Bench, type: str, data: dict[str, Any], field: str) -> None:
    """What can't be meant is refused before anything is sent, naming the field."""
    with pytest.raises(BadCommand, match=field):
        await bench.do(type, data)

    assert bench.sent == []


async def test_the_same_field_in_both_languages_is_refused(bench: Bench) -> None:
    """`status` and `availability` in one command contradict each other."""
    with pytest.raises(BadCommand, match="the same field"):
        await bench.do("planpoint.unit.update", {"id": ident(1), "changes": {"status": "Sold", "availability": "Sold"}})


@pytest.mark.parametrize("several", [True, False], ids=["an array", "an object"])
async def test_a_find_gives_rows_whether_the_vendor_answers_one_or_all(bench: Bench, several: bool) -> None:
    """`projects/find` as documented by the page (all) and by the API description (one): rows either way."""
    project = {
        "_id": PROJECT,
        "name": "Tower",
        "namespace": "acme",
        "hostName": "h",
        "floors": [
            {"_id": FLOOR, "name": "1", "units": [{"_id": ident(1), "unitNumber": "101", "availability": "Sold"}]}
        ],
    }
    bench.wire = lambda request: answer([project] if several else project, 201)

    found = await bench.do("planpoint.project.find", {"namespace": "acme", "host_name": "h"})

    assert bench.sent[0].json == {"namespace": "acme", "hostName": "h"}
    (row,) = found["rows"]
    assert row["host_name"] == "h"
    assert row["floors"][0]["units"][0] == {"id": ident(1), "unit_number": "101", "status": "Sold"}


async def test_a_malformed_answer_to_a_create_is_looked_up(bench: Bench, account: Account) -> None:
    """A create whose answer can't be read finds what it made, at once and once."""

    def app(request: Request) -> Response:
        response = account(request)
        return answer(b'{"_id": "5', 201) if request.method == "POST" else response

    bench.wire = app

    unit = await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "101"})

    assert len(account.units) == 1
    assert unit["id"] in account.units
