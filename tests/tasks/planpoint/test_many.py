"""`unit.update_many`: the same fields of many units, read back and compared."""

import pytest

from tests.tasks.bench import Bench, answer
from tests.tasks.planpoint.conftest import FLOOR, Account, ident
from worker.errors import NotFound
from worker.rest import Request, Response

MANY = "planpoint.unit.update_many"


async def test_units_are_written_in_batches_and_read_back(bench: Bench, account: Account) -> None:
    """120 ids: three batches of fifty at most, under the tenant's own names; the result counts them."""
    ids = [account.add(f"U{n}") for n in range(120)]

    result = await bench.do(MANY, {"ids": ids, "changes": {"status": "Sold", "price": 5}})

    assert result == {"count": 120, "updated": 120, "unchanged": 0}
    assert bench.paths() == [
        f"GET /api/units/{ids[0]}",
        f"GET /api/floors/{FLOOR}",
        "GET /api/units",
        *["PATCH /api/units"] * 3,
        "GET /api/units",
    ]
    status = "availability" if account.generation == "A" else "status"
    batches = [request.json for request in bench.sent if request.method == "PATCH"]
    assert [len(batch["ids"]) for batch in batches] == [50, 50, 20]
    assert {frozenset(batch["patchData"]) for batch in batches} == {frozenset({status, "price"})}
    assert all(unit["status"] == "Sold" for unit in account.units.values())


async def test_units_that_are_so_already_are_not_written(bench: Bench, account: Account) -> None:
    """Repeated, it reads and writes nothing."""
    ids = [account.add(f"U{n}", price=5) for n in range(3)]

    result = await bench.do(MANY, {"ids": ids, "changes": {"price": 5}})

    assert result == {"count": 3, "updated": 0, "unchanged": 3}
    assert all(request.method == "GET" for request in bench.sent)


async def test_ids_that_are_no_unit_are_named(bench: Bench, account: Account) -> None:
    """The others are written; the result warns."""
    id = account.add("U")

    result = await bench.do(MANY, {"ids": [ident(0xBAD), id], "changes": {"price": 5}})

    assert result["missing"] == [ident(0xBAD)]
    assert result["updated"] == 1
    assert result["warnings"] == ["1 of 2 ids are no unit."]


@pytest.mark.parametrize("count", [1, 100])
async def test_ids_none_of_which_is_a_unit_are_not_found(bench: Bench, count: int) -> None:
    """An error, after twenty questions at most."""
    with pytest.raises(NotFound, match="is a unit"):
        await bench.do(MANY, {"ids": [ident(n) for n in range(1, count + 1)], "changes": {"price": 5}})

    assert len(bench.sent) <= 20


async def test_what_does_not_stick_is_reported_by_unit(bench: Bench) -> None:
    """A unit that the vendor refuses, and one that it silently keeps, are `not_updated` with their reasons."""
    account = Account("B")
    ids = [account.add(f"U{n}") for n in range(5)]

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            touched = request.json.get("ids") or [request.path.rpartition("/")[2]]
            if ids[0] in touched:
                return answer({"message": "locked"}, 400)
            if ids[1] in touched:
                return answer(account.units[ids[1]])
        return account(request)

    bench.wire = app

    result = await bench.do(MANY, {"ids": ids, "changes": {"price": 5}})

    assert result["updated"] == 3
    assert {left["id"]: "locked" in left["reason"] for left in result["not_updated"]} == {ids[0]: True, ids[1]: False}
    assert result["warnings"] == ["2 of 5 units don't show what was asked."]


async def test_ids_in_capitals_and_twice_are_the_same_unit(bench: Bench, account: Account) -> None:
    """An id is a number in hexadecimal, whatever its case."""
    for n in range(10):
        account.add(f"U{n}")
    id = ident(10)

    result = await bench.do(MANY, {"ids": [id, id.upper()], "changes": {"price": 5}})

    assert result["count"] == result["updated"] == 1


@pytest.mark.parametrize("lists", ["none has a floor", "half is listed"])
async def test_units_that_no_list_shows_are_read_singly(bench: Bench, account: Account, lists: str) -> None:
    """A unit without a floor, or left out of a list that is not whole: written, read back and told as it is."""
    ids = [account.add(str(n), price=1) for n in range(4)]
    if lists == "none has a floor":
        for unit in account.units.values():
            del unit["floor"]

    def app(request: Request) -> Response:
        response = account(request)
        if (request.method, request.path, lists) == ("GET", "/api/units", "half is listed"):
            listed = response.json()
            listed = listed["records"] if account.generation == "B" else listed
            return answer({"records": listed[:2], "count": 4})
        return response

    bench.wire = app

    result = await bench.do(MANY, {"ids": ids, "changes": {"price": 7}})

    assert (result["updated"], result.get("not_updated")) == (4, None)
    assert [unit["price"] for unit in account.units.values()] == [7] * 4
    assert bench.paths().count("GET /api/units") == (2 if lists == "half is listed" else 0)
