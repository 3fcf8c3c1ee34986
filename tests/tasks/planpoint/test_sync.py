"""`units.sync`: planned, held back by its brakes, approved, applied, and gone on with after a cut."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tasks.bench import Bench, answer, cut
from tests.tasks.planpoint.conftest import PROJECT, Account, ident
from worker.artifacts import Artifacts
from worker.errors import BadCommand, Forbidden, RateLimited, Unanswered, Unavailable
from worker.plans import Plan, Plans, PlanState
from worker.rest import Request, Response
from worker.run import Postpone

SYNC = "planpoint.units.sync"


@pytest.fixture(autouse=True)
def kept(bench: Bench, plans: Plans) -> Plans:
    """Lend the bench real plans."""
    bench.plans = plans
    return plans


def sheet(*rows: dict[str, Any], mode: str = "apply", **more: Any) -> dict[str, Any]:
    """Make a command's data."""
    return {"project_id": PROJECT, "rows": list(rows), "key": "unit_number", "mode": mode, **more}


def fill(account: Account, count: int, **fields: Any) -> list[str]:
    """Put numbered units there."""
    return [account.add(f"Unit {n}", **{"unitNumber": str(n), "price": 100 + n, **fields}) for n in range(1, count + 1)]


async def approve(bench: Bench, plan_id: str) -> Plan:
    """Approve a plan as an operator does."""
    plan: Plan = await bench.plans.approve(plan_id, by="ada", now=datetime(2026, 5, 20, 9, 0, tzinfo=UTC))
    return plan


async def test_a_plan_shows_what_would_change_and_writes_nothing(bench: Bench, account: Account) -> None:
    """Mode `plan`: per unit and field before and after, counts, one read."""
    ids = fill(account, 10)
    rows = [{"unit_number": "1", "price": 5}, {"unit_number": "2", "price": 102}, {"unit_number": "99", "price": 1}]

    result = await bench.do(SYNC, sheet(*rows, {"unit_number": "3", "price": "x"}, mode="plan"))

    assert result["state"] == "planned"
    assert result["plan"]["rows"] == [
        {"action": "invalid", "line": 4, "reason": "price: 'x' is no number"},
        {
            "action": "update",
            "line": 1,
            "id": ids[0],
            "key": "1",
            "changes": {"price": {"before": 101, "after": 5}},
        },
        {"action": "unknown", "line": 3, "key": "99", "reason": "no unit has this unit_number"},
    ]
    assert result["summary"] == {
        "units": 10,
        "changed": 1,
        "changed_share": 0.1,
        "reopened": 0,
        "unchanged": 1,
        "missing": 7,
        "unknown": 1,
        "invalid": 1,
    }
    assert result["warnings"] == [
        "1 rows of the sheet can't be used: the plan has their lines and reasons.",
        "1 rows of the sheet are of no unit of this project: see the plan.",
    ]
    assert bench.paths() == ["GET /api/units"]


async def test_equal_patches_go_out_together(bench: Bench, account: Account) -> None:
    """Applying: one read, a batch for each distinct patch, one read back; units outside the sheet stay as they are."""
    ids = fill(account, 20)
    rows = [{"unit_number": str(n), "status": "Sold"} for n in range(1, 4)] + [
        {"unit_number": str(n), "status": "OnHold", "price": 7} for n in (4, 5)
    ]

    result = await bench.do(SYNC, sheet(*rows))

    assert result["state"] == "applied"
    assert (result["summary"]["applied"], result["summary"]["not_applied"]) == (5, 0)
    assert "warnings" not in result
    assert bench.paths() == ["GET /api/units", "PATCH /api/units", "PATCH /api/units", "GET /api/units"]
    batches = sorted(tuple(request.json["ids"]) for request in bench.sent if request.method == "PATCH")
    assert batches == [tuple(ids[:3]), tuple(ids[3:5])]
    status = "availability" if account.generation == "A" else "status"
    assert [request.json["patchData"][status] for request in bench.sent if request.method == "PATCH"] == [
        "Sold",
        "OnHold",
    ]
    assert [account.units[id]["status"] for id in ids[:6]] == ["Sold"] * 3 + ["OnHold"] * 2 + ["Available"]


async def test_repeated_it_writes_nothing(bench: Bench, account: Account) -> None:
    """A second command with the same sheet reads once and finds all as it should be."""
    fill(account, 10)
    rows = [{"unit_number": "1", "price": 5, "bed": 3}]
    await bench.do(SYNC, sheet(*rows))
    bench.sent.clear()

    result = await bench.do(SYNC, sheet(*rows))

    assert (result["state"], result["summary"]["changed"]) == ("applied", 0)
    assert bench.paths() == ["GET /api/units"]


async def test_batches_hold_so_many_ids(bench: Bench, account: Account) -> None:
    """`batch_size` bounds the ids of one request."""
    fill(account, 25)
    rows = [{"unit_number": str(n), "price": 1} for n in range(1, 26)]

    await bench.do(SYNC, sheet(*rows, batch_size=10, max_changed=1))

    sizes = [len(request.json["ids"]) for request in bench.sent if request.method == "PATCH"]
    assert sorted(sizes) == [5, 10, 10]


async def test_too_large_a_share_is_held(bench: Bench, account: Account) -> None:
    """More than 30 % of the units: nothing is written, the plan is kept and says how to approve it."""
    fill(account, 10)
    rows = [{"unit_number": str(n), "price": 1} for n in range(1, 5)]

    result = await bench.do(SYNC, sheet(*rows))

    assert result["state"] == "held"
    assert result["reasons"] == ["4 of 10 units would change (40.0%); max_changed allows 30.0%."]
    assert result["approve"] == f"planrelay plan approve {result['plan_id']}"
    assert bench.paths() == ["GET /api/units"]
    assert (await bench.plans.load(result["plan_id"])).state is PlanState.HELD


@pytest.mark.parametrize("status", ["Sold", "Leased"])
async def test_putting_a_sold_unit_back_on_sale_is_held(bench: Bench, account: Account, status: str) -> None:
    """One unit from Sold or Leased to Available is enough; `max_reopened` allows it."""
    fill(account, 10)
    fill(account, 1)
    sold = account.add("S", unitNumber="S", status=status)
    rows = [{"unit_number": "S", "status": "available"}]

    held = await bench.do(SYNC, sheet(*rows))
    assert held["state"] == "held"
    assert "max_reopened" in held["reasons"][0]
    assert account.units[sold]["status"] == status

    applied = await bench.do(SYNC, sheet(*rows, max_reopened=1))
    assert applied["state"] == "applied"
    assert account.units[sold]["status"] == "Available"


async def test_an_approved_plan_is_applied(bench: Bench, account: Account) -> None:
    """Approving gives the command that applies the plan as it was shown."""
    ids = fill(account, 4)
    held = await bench.do(SYNC, sheet({"unit_number": "1", "price": 5}, {"unit_number": "2", "price": 5}))
    event = (await approve(bench, held["plan_id"])).command()

    result = await bench.do(event["type"], event["data"], key=event["id"])

    assert result["state"] == "applied"
    assert result["plan_id"] == held["plan_id"]
    assert [account.units[id]["price"] for id in ids] == [5, 5, 103, 104]
    assert (await bench.plans.load(held["plan_id"])).state is PlanState.APPLIED


async def test_a_plan_that_was_only_asked_for_can_be_approved_too(bench: Bench, account: Account) -> None:
    """Plan, look, approve: the same way for a plan that tripped no brake."""
    fill(account, 10)
    planned = await bench.do(SYNC, sheet({"unit_number": "1", "price": 5}, mode="plan"))
    event = (await approve(bench, planned["plan_id"])).command()

    assert (await bench.do(event["type"], event["data"], key=event["id"]))["state"] == "applied"


async def test_an_approved_plan_is_not_applied_to_a_project_that_moved_on(bench: Bench, account: Account) -> None:
    """Where a unit of the plan changed since, a new plan is held, and nothing is written."""
    ids = fill(account, 4)
    held = await bench.do(SYNC, sheet({"unit_number": "1", "price": 5}, {"unit_number": "2", "price": 5}))
    event = (await approve(bench, held["plan_id"])).command()
    account.units[ids[1]]["price"] = 77
    bench.sent.clear()

    result = await bench.do(event["type"], event["data"], key=event["id"])

    assert result["state"] == "held"
    assert result["plan_id"] != held["plan_id"]
    assert result["reasons"][0] == f"1 units have changed since plan {held['plan_id']} was made (2)."
    assert bench.paths() == ["GET /api/units"]


async def test_a_plan_that_nobody_approved_is_not_applied(bench: Bench, account: Account) -> None:
    """A `plan_id` alone opens nothing, nor does another project's plan."""
    fill(account, 2)
    data = sheet({"unit_number": "1", "price": 5})
    held = await bench.do(SYNC, data)

    with pytest.raises(BadCommand, match="approve it with"):
        await bench.do(SYNC, {**data, "plan_id": held["plan_id"]})
    await approve(bench, held["plan_id"])
    with pytest.raises(BadCommand, match="not of this project"):
        await bench.do(SYNC, {**data, "project_id": ident(0xB2), "plan_id": held["plan_id"]})
    with pytest.raises(BadCommand, match="There is no plan"):
        await bench.do(SYNC, {**data, "plan_id": "0" * 12})


@pytest.mark.parametrize("after_effect", [True, False])
async def test_a_run_that_was_cut_goes_on_with_its_plan(bench: Bench, account: Account, after_effect: bool) -> None:
    """After a cut the redelivery reads once and sends only what is left; the brakes saw the whole plan."""
    fill(account, 10)
    rows = [{"unit_number": str(n), "price": n} for n in range(1, 4)]
    bench.wire = cut(account, method="PATCH", nth=2, after_effect=after_effect)

    with pytest.raises(Postpone):
        await bench.do(SYNC, sheet(*rows), key="k")
    bench.sent.clear()
    result = await bench.do(SYNC, sheet(*rows), key="k")

    assert result["state"] == "applied"
    assert result["summary"]["applied"] == 3
    assert [unit["price"] for unit in account.units.values()][:3] == [1, 2, 3]
    expected = (
        ["GET /api/units"] if after_effect else ["GET /api/units", f"PATCH /api/units/{ident(2)}", "GET /api/units"]
    )
    assert bench.paths() == expected


async def test_what_somebody_changed_meanwhile_is_left_alone(bench: Bench, account: Account) -> None:
    """A redelivery does not overwrite what a person changed between the cut and now; it says so."""
    ids = fill(account, 10)
    rows = [{"unit_number": "1", "price": 1}, {"unit_number": "2", "price": 2}]
    bench.wire = cut(account, method="PATCH", nth=1, after_effect=False)
    with pytest.raises(Postpone):
        await bench.do(SYNC, sheet(*rows), key="k")
    account.units[ids[0]]["price"] = 77

    result = await bench.do(SYNC, sheet(*rows), key="k")

    assert account.units[ids[0]]["price"] == 77
    assert result["not_applied"] == [{"id": ids[0], "key": "1", "reason": "changed by somebody else meanwhile"}]
    assert result["warnings"]


async def test_a_refused_batch_is_sent_unit_by_unit(bench: Bench) -> None:
    """One bad unit spoils its batch only: the others are written singly, and it is reported with the vendor's words."""
    bench.wire = account = Account("B")
    ids = fill(account, 10)

    def app(request: Request) -> Response:
        if request.method == "PATCH" and ids[1] in (request.json.get("ids") or [request.path.rpartition("/")[2]]):
            return answer({"message": "unit 2 is locked"}, 400)
        return account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": 1} for n in range(1, 4)]

    result = await bench.do(SYNC, sheet(*rows))

    assert [account.units[id]["price"] for id in ids[:3]] == [1, 102, 1]
    (left,) = result["not_applied"]
    assert left["id"] == ids[1]
    assert "unit 2 is locked" in left["reason"]
    assert result["summary"]["not_applied"] == 1


async def test_a_vendor_without_batches_is_written_to_unit_by_unit(bench: Bench) -> None:
    """404 or 405 on the batch: one is tried, the rest goes singly."""
    account = Account("A")
    fill(account, 10)

    def app(request: Request) -> Response:
        if request.method == "PATCH" and request.path == "/api/units":
            return answer({"message": "Method not allowed"}, 405)
        return account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": n % 2} for n in range(1, 7)]

    result = await bench.do(SYNC, sheet(*rows, max_changed=1))

    assert result["summary"]["applied"] == 6
    assert 1 <= bench.paths().count("PATCH /api/units") <= 2


async def test_a_batch_that_takes_over_half_is_noticed(bench: Bench) -> None:
    """A yes is not believed: what reading back shows missing is sent again, singly."""
    account = Account("B")
    fill(account, 10)

    def app(request: Request) -> Response:
        if request.method == "PATCH" and request.path == "/api/units":
            request.json["ids"] = request.json["ids"][:1]
        return account(request)

    bench.wire = app

    result = await bench.do(SYNC, sheet(*[{"unit_number": str(n), "price": 1} for n in range(1, 4)]))

    assert result["summary"]["applied"] == 3
    assert [unit["price"] for unit in account.units.values()][:3] == [1, 1, 1]


async def test_what_somebody_changes_between_writing_and_reading_back_stays(bench: Bench, account: Account) -> None:
    """A unit that is sold just after it was written is not put on hold a second time."""
    ids = fill(account, 10)

    def app(request: Request) -> Response:
        response = account(request)
        if request.method == "PATCH":
            account.units[ids[0]]["status"] = "Sold"
            del account.units[ids[1]]
        return response

    bench.wire = app

    result = await bench.do(SYNC, sheet(*[{"unit_number": str(n), "status": "OnHold"} for n in range(1, 4)]))

    assert account.units[ids[0]]["status"] == "Sold"
    assert result["not_applied"] == [
        {"id": ids[0], "key": "1", "reason": "it shows otherwise"},
        {"id": ids[1], "key": "2", "reason": "the project does not list it any more"},
    ]
    assert bench.paths() == ["GET /api/units", "PATCH /api/units", "GET /api/units"]


async def test_what_the_vendor_keeps_otherwise_is_reported(bench: Bench) -> None:
    """A value that does not stick ends as not applied, never as a silent success."""
    account = Account("B")
    fill(account, 10)

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            (request.json.get("patchData") or request.json).pop("price")
        return account(request)

    bench.wire = app

    result = await bench.do(SYNC, sheet({"unit_number": "1", "price": 1, "bed": 2}))

    assert result["not_applied"] == [{"id": ident(1), "key": "1", "reason": "it shows otherwise"}]


async def test_a_run_in_which_most_is_refused_stops_itself(bench: Bench) -> None:
    """Over 40 % of at least 20 refused: quarantined, and the rest is not sent."""
    account = Account("B")
    fill(account, 100)

    def app(request: Request) -> Response:
        return answer({"message": "no"}, 400) if request.method == "PATCH" else account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": n} for n in range(1, 101)]

    result = await bench.do(SYNC, sheet(*rows, max_changed=1))

    assert result["state"] == "quarantined"
    assert result["summary"]["applied"] == 0
    assert 20 <= bench.paths().count("PATCH /api/units") + sum("PATCH /api/units/" in p for p in bench.paths()) <= 30


async def test_failures_are_gathered_before_the_command_is_tried_again(bench: Bench) -> None:
    """Single failures don't stop the others, and a run that got on is no failed attempt: it goes on later."""
    account = Account("B")
    ids = fill(account, 40)
    failing = {ids[3], ids[17]}

    def app(request: Request) -> Response:
        if request.method == "PATCH" and request.path.rpartition("/")[2] in failing:
            raise Unavailable("500")
        return account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": n} for n in range(1, 41)]

    with pytest.raises(Postpone, match="unfinished"):
        await bench.do(SYNC, sheet(*rows, max_changed=1), key="k")
    assert sum(unit["price"] == int(unit["unitNumber"]) for unit in account.units.values()) == 38
    with pytest.raises(Unavailable):  # it got no further this time
        await bench.do(SYNC, sheet(*rows, max_changed=1), key="k")
    failing.clear()
    result = await bench.do(SYNC, sheet(*rows, max_changed=1), key="k")

    assert result["summary"]["applied"] == 40


async def test_a_vendor_that_is_down_is_left_in_peace(bench: Bench) -> None:
    """After 16 failures in a row nothing more is sent."""
    account = Account("B")
    fill(account, 200)

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            raise Unavailable("503")
        return account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": n} for n in range(1, 201)]

    with pytest.raises(Unavailable):
        await bench.do(SYNC, sheet(*rows, max_changed=1))

    assert sum(path.startswith("PATCH") for path in bench.paths()) < 16 + 8


@pytest.mark.parametrize("error", [RateLimited("gate"), Forbidden("403")])
async def test_what_stands_against_the_whole_account_ends_the_run_at_once(bench: Bench, error: Exception) -> None:
    """A closed gate or a refused account is not tried unit by unit."""
    account = Account("B")
    fill(account, 100)

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            raise error
        return account(request)

    bench.wire = app
    rows = [{"unit_number": str(n), "price": n} for n in range(1, 101)]

    with pytest.raises(type(error)):
        await bench.do(SYNC, sheet(*rows, max_changed=1))

    assert sum(path.startswith("PATCH") for path in bench.paths()) <= 8


async def test_a_draining_worker_parks_the_sync(bench: Bench, account: Account) -> None:
    """Between batches the run gives way, and goes on where it was."""
    fill(account, 10)
    rows = [{"unit_number": "1", "price": 1}]
    bench.draining = True
    with pytest.raises(Postpone):
        await bench.do(SYNC, sheet(*rows), key="k")
    bench.draining = False

    assert (await bench.do(SYNC, sheet(*rows), key="k"))["state"] == "applied"


async def test_units_that_the_sheet_lacks_get_a_status_when_asked(bench: Bench, account: Account) -> None:
    """`missing_status` touches units that no row mentions, and only those with a key."""
    ids = fill(account, 3)
    nameless = account.add("no number")

    await bench.do(SYNC, sheet({"unit_number": "1"}, missing_status="Unavailable", max_changed=1))

    assert [account.units[id]["status"] for id in ids] == ["Available", "Unavailable", "Unavailable"]
    assert account.units[nameless]["status"] == "Available"


async def test_missing_units_need_a_clean_sheet(bench: Bench, account: Account) -> None:
    """A row that can't be read must not make its unit seem missing: the plan is held."""
    fill(account, 10)
    rows = [{"unit_number": str(n)} for n in range(1, 9)]

    result = await bench.do(SYNC, sheet(*rows, {"unit_number": "9", "price": "x"}, missing_status="Unavailable"))

    assert result["state"] == "held"
    assert result["reasons"] == [
        "1 rows can't be used, so units may seem missing that are not; missing_status needs a clean sheet."
    ]
    assert result["summary"]["changed"] == 1


async def test_a_unit_that_is_spelt_otherwise_is_not_missing(bench: Bench, account: Account) -> None:
    """A row whose key is nearly that of a unit makes the sheet unclean; one that is like none does not."""
    fill(account, 9)
    account.add("a", unitNumber="A-01")
    rows = [{"unit_number": str(n)} for n in range(1, 10)]
    missing: dict[str, Any] = {"missing_status": "Unavailable", "max_changed": 1}

    result = await bench.do(SYNC, sheet(*rows, {"unit_number": "a 01", "price": 1}, **missing))

    assert result["state"] == "held"
    assert result["plan"]["rows"][0]["reason"] == "no unit has the unit_number 'a 01'; one has 'A-01'"
    assert (await bench.do(SYNC, sheet(*rows, {"unit_number": "B1", "price": 1}, **missing)))["state"] == "applied"


@pytest.mark.parametrize(("sold", "available"), [("sold", "available"), ("SOLD", "Available")])
async def test_a_tenants_own_spelling_of_sold_is_sold(
    bench: Bench, account: Account, sold: str, available: str
) -> None:
    """The brake on units that go back on sale sees them in any case."""
    fill(account, 10, status=available)
    account.units[ident(1)]["status"] = sold

    result = await bench.do(SYNC, sheet({"unit_number": "1", "status": "Available"}))

    assert (result["state"], result["summary"]["reopened"]) == ("held", 1)


async def test_a_list_that_is_not_whole_is_said_so_at_every_read(bench: Bench) -> None:
    """Planned, approved or read back: where the vendor counts more than it lists, the result warns."""
    bench.wire = account = Account("B")
    fill(account, 3)
    account.skew = 2
    held = await bench.do(SYNC, sheet({"unit_number": "1", "price": 1}))
    plan = await approve(bench, held["plan_id"])

    result = await bench.do(SYNC, plan.command()["data"])

    warning = ["Planpoint counts 5 and lists 3; it documents no way to get the rest."]
    assert (held["warnings"], result["warnings"]) == (warning, warning)
    assert result["state"] == "applied"


async def test_a_unit_that_went_is_not_applied(bench: Bench, account: Account) -> None:
    """Deleted between the cut and the redelivery: the result says which, and why."""
    ids = fill(account, 10)
    rows = [{"unit_number": "1", "price": 1}, {"unit_number": "2", "price": 2}]
    bench.wire = cut(account, method="PATCH", nth=1, after_effect=False)
    with pytest.raises(Postpone):
        await bench.do(SYNC, sheet(*rows), key="k")
    del account.units[ids[0]]

    result = await bench.do(SYNC, sheet(*rows), key="k")

    assert result["not_applied"] == [{"id": ids[0], "key": "1", "reason": "the project does not list it any more"}]


async def test_units_with_one_key_are_never_confused(bench: Bench, account: Account) -> None:
    """Two units of the same number: the row is a problem, both stay as they are."""
    first = account.add("a", unitNumber="1", price=1)
    second = account.add("b", unitNumber="1", price=2)
    fill(account, 8)

    result = await bench.do(SYNC, sheet({"unit_number": "1", "price": 9}))

    assert result["summary"]["invalid"] == 1 + 1 - 1
    assert (account.units[first]["price"], account.units[second]["price"]) == (1, 2)
    assert "units have the unit_number '1'" in result["plan"]["rows"][0]["reason"]


async def test_a_unit_whose_number_no_sheet_can_hold_hinders_no_other(bench: Bench, account: Account) -> None:
    """The vendor's own 1e15 is one that no row can mean."""
    fill(account, 8)
    account.add("odd", unitNumber=1e15)

    result = await bench.do(SYNC, sheet({"unit_number": "1", "price": 9}))

    assert (result["state"], result["summary"]["changed"], result["summary"]["missing"]) == ("applied", 1, 8)


async def test_a_number_beyond_all_prices_is_one_bad_row(bench: Bench, account: Account) -> None:
    """Rows in the command may hold an integer that no float can; a field that no unit has yet is a warning."""
    fill(account, 8)
    rows = [{"nr": "1", "price": 10**400}, {"nr": "2", "price": 9, "view": "sea"}]
    columns = {"nr": "unit_number", "price": "price", "view": "outlookToTheSea"}

    result = await bench.do(SYNC, sheet(*rows, columns=columns, mode="plan"))

    assert (result["summary"]["invalid"], result["summary"]["changed"]) == (1, 1)
    assert "No unit has these fields yet, which data.columns names: outlookToTheSea." in result["warnings"]


async def test_numbers_keep_the_form_that_the_tenant_has_them_in(bench: Bench) -> None:
    """Generation A keeps bedrooms as text: an equal number is no change, another is written as text."""
    bench.wire = account = Account("A")
    id = account.add("1", unitNumber="1", bed="2")
    same = await bench.do(SYNC, sheet({"unit_number": "1", "bed": 2}, max_changed=1))
    assert same["summary"]["changed"] == 0

    await bench.do(SYNC, sheet({"unit_number": "1", "bed": 3}, max_changed=1))

    assert account.units[id]["bed"] == "3"


@pytest.mark.parametrize("shown", ["2026-06-01T00:00:00.000Z", "2026-06-01T02:00:00+02:00", "2026-06-01"])
async def test_a_day_is_a_day_however_it_is_shown(bench: Bench, account: Account, shown: str) -> None:
    """A date from a sheet, kept as an instant by the vendor, is not written again each time."""
    fill(account, 10, onHoldExpiresAt=shown)

    result = await bench.do(
        SYNC,
        sheet(
            {"unit_number": "1", "onHoldExpiresAt": "2026-06-01"}, {"unit_number": "2", "onHoldExpiresAt": "2026-06-02"}
        ),
    )

    assert result["summary"]["changed"] == 1
    assert account.units[ident(2)]["onHoldExpiresAt"] == "2026-06-02"


async def test_rows_come_from_a_file_and_the_plan_goes_to_one(bench: Bench, account: Account, tmp_path: Path) -> None:
    """A CSV at an allowed place in, the plan as JSON Lines out."""
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    (tmp_path / "sheet.csv").write_text("Unit number;Price;Agent\n1;1.000,50;Ada\n2;;Bob\n", encoding="utf-8")
    ids = fill(account, 10)

    result = await bench.do(
        SYNC,
        {
            "project_id": PROJECT,
            "rows_url": (tmp_path / "sheet.csv").as_uri(),
            "key": "unit_number",
            "mode": "apply",
            "decimal_mark": ",",
            "destination": f"{tmp_path.as_uri()}/plan-{{date}}.jsonl",
        },
    )

    assert account.units[ids[0]]["price"] == 1000.5
    assert result["warnings"] == [
        "Columns that are no field of a unit, or none that a sheet changes, were left alone: Agent."
    ]
    assert result["plan"]["rows"] == 1
    (line,) = (tmp_path / "plan-2026-05-20.jsonl").read_text().splitlines()
    assert json.loads(line)["changes"] == {"price": {"before": 101, "after": 1000.5}}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"rows": None}, "either rows or rows_url"),
        ({"rows_url": "x.csv"}, "either rows or rows_url"),
        ({"mode": "plan", "plan_id": "0" * 12}, "goes with mode apply"),
        ({"key": "price"}, "key"),
        ({"max_changed": 1.5}, "max_changed"),
        ({"decimal_mark": "'"}, "decimal_mark"),
        ({"rows": [{"price": float("nan")}]}, "rows"),
        ({"rows": [{"price": [1]}]}, "rows"),
    ],
)
async def test_bad_data_is_refused_by_field(bench: Bench, data: dict[str, Any], says: str) -> None:
    """What can't be meant is refused before anything is read."""
    with pytest.raises(BadCommand, match=says):
        await bench.do(SYNC, {**sheet({"unit_number": "1"}), **data})

    assert bench.sent == []


prices = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), unique_by=lambda pair: pair[0], min_size=1)


@given(rows=prices, faults=st.lists(st.sampled_from(["ok", "before", "after", "500"]), max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_sheet_and_any_faults_end_as_planned(
    bench: Bench, kept: Plans, rows: list[tuple[int, int]], faults: list[str]
) -> None:
    """Whatever is cut or refused on the way: redelivered until it is done, the project is as the sheet has it."""
    account = Account("B")
    fill(account, 8, bed=1)
    script = iter(faults)

    def app(request: Request) -> Response:
        fault = next(script, "ok")
        if fault == "500":
            raise Unavailable("500")
        response = account(request) if fault != "before" else None
        if fault in {"before", "after"}:
            raise Unanswered("cut")
        assert response is not None
        return response

    fresh = Bench(tasks_of(bench))
    fresh.wire, fresh.plans = app, kept
    data = sheet(*[{"unit_number": str(n), "price": price} for n, price in rows], max_changed=1)
    result = None
    for _ in range(len(faults) + 1):
        try:
            result = await fresh.do(SYNC, data, key="k")
            break
        except (Unanswered, Unavailable, Postpone):
            continue

    assert result is not None
    assert result["state"] == "applied"
    wanted = {str(n): price for n, price in rows}
    for unit in account.units.values():
        assert unit["price"] == wanted.get(unit["unitNumber"], 100 + int(unit["unitNumber"]))


def tasks_of(bench: Bench) -> Any:
    """Give the module that a bench runs."""
    return bench.module
