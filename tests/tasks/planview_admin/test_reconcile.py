"""`users.reconcile`: planned, held back by its brakes, approved, applied, and gone on with after a cut."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import tasks.planview_admin.tasks
from config.connections import Override
from tasks.planview_admin.diff import Directory
from tasks.planview_admin.protection import Protection
from tasks.planview_admin.reconcile import moved_on
from tests.tasks.bench import NOW, Bench, answer, cut
from tests.tasks.planview_admin.conftest import Customer
from worker.artifacts import Artifacts
from worker.errors import BadCommand, ContractBroken, Forbidden, RateLimited, Unanswered, Unavailable
from worker.plans import Plan, Plans, PlanState
from worker.rest import Request, Response
from worker.run import Postpone

RECONCILE = "planview_admin.users.reconcile"


@pytest.fixture(autouse=True)
def kept(bench: Bench, plans: Plans) -> Plans:
    """Lend the bench real plans."""
    bench.plans = plans
    return plans


def roster(*rows: dict[str, Any], mode: str = "apply", **more: Any) -> dict[str, Any]:
    """Make a command's data."""
    return {"roster": list(rows), "mode": mode, **more}


def rows(start: int, end: int, **fields: Any) -> list[dict[str, Any]]:
    """Make rows of numbered users."""
    return [{"email": f"user{number}@example.com", **fields} for number in range(start, end + 1)]


async def approve(bench: Bench, plan_id: str) -> dict[str, Any]:
    """Approve a plan as an operator does; gives the command that applies it."""
    plan: Plan = await bench.plans.approve(plan_id, by="ada", now=datetime(2026, 5, 20, 9, 0, tzinfo=UTC))
    return plan.command()


def written(bench: Bench) -> list[str]:
    """Give the requests that write."""
    return [path for path in bench.paths() if not path.startswith("GET")]


async def test_a_plan_shows_what_would_change_and_writes_nothing(bench: Bench, customer: Customer) -> None:
    """Mode `plan`: per user and field before and after, counts, a table for people; pages read and nothing else."""
    customer.fill(60)
    customer.add("boss@example.com", role="Administrator")
    wanted = [
        *rows(1, 1, first_name="Eda"),
        {"email": "new@example.com", "name": "New Person"},
        {"email": "boss@example.com", "role": "User"},
        {"email": "nobody"},
    ]

    result = await bench.do(RECONCILE, roster(*wanted, mode="plan"))

    assert result["state"] == "planned"
    assert [item["action"] for item in result["plan"]["rows"]] == ["invalid", "excluded", "create", "update"]
    assert result["plan"]["rows"][3]["changes"] == {"first_name": {"before": "Ada", "after": "Eda"}}
    assert "update      user1@example.com                        first_name: Ada → Eda" in result["table"]
    assert {name: result["summary"][name] for name in ("users", "active", "rows", "missing", "excluded")} == {
        "users": 61,
        "active": 61,
        "rows": 4,
        "missing": 59,
        "excluded": 1,
    }
    assert written(bench) == []
    assert len(bench.sent) == 2


async def test_applying_costs_the_pages_and_the_changes(bench: Bench, customer: Customer) -> None:
    """No more calls than pages and writes; repeated, the pages alone."""
    customer.fill(120)
    wanted = [*rows(1, 5, first_name="Eda"), *rows(6, 120), {"email": "n@x.y", "name": "New Person"}]

    first = await bench.do(RECONCILE, roster(*wanted))
    calls = len(bench.sent)
    again = await bench.do(RECONCILE, roster(*wanted))

    assert (first["state"], first["summary"]["applied"], calls) == ("applied", 6, 3 + 6)
    assert (again["state"], again["summary"]["unchanged"]) == ("applied", 121)
    assert len(bench.sent) == calls + 3


async def test_users_are_reactivated_and_missing_ones_kept(bench: Bench, customer: Customer) -> None:
    """Who stands in the roster is to be active; who does not stands as before, unless asked otherwise."""
    customer.fill(3)
    customer.users["u1"]["status"] = "Inactive"

    result = await bench.do(RECONCILE, roster(*rows(1, 1)))

    assert result["summary"]["reactivate"] == 1
    assert [user["status"] for user in customer.users.values()] == ["Active"] * 3


async def test_missing_users_are_deactivated_after_two_readings(bench: Bench, customer: Customer) -> None:
    """With `deactivate_missing`: both readings first, deactivated and never deleted."""
    customer.fill(60)

    result = await bench.do(RECONCILE, roster(*rows(3, 60), deactivate_missing=True))

    assert (result["state"], result["summary"]["deactivate"]) == ("applied", 2)
    assert written(bench) == ["PATCH /public/v1/user/u1", "PATCH /public/v1/user/u2"]
    assert len(bench.sent) == 2 * 2 + 2
    assert [user["status"] for user in customer.users.values()][:3] == ["Inactive", "Inactive", "Active"]


async def test_a_removal_that_one_reading_alone_asks_for_is_not_done(bench: Bench, customer: Customer) -> None:
    """A user whose row did not fit in the first reading only, or in the second only, keeps their access."""
    customer.fill(60)
    readings = [0]

    def app(request: Request) -> Response:
        if request.method == "GET" and request.query["startIndex"] == "1":
            readings[0] += 1
            # While the first is read user 1 has another address: their row would mean nobody.
            customer.users["u1"]["email"] = "other@example.com" if readings[0] == 1 else "user1@example.com"
            customer.users["u2"]["email"] = "user2@example.com" if readings[0] == 1 else "other@example.com"
        return customer(request)

    bench.wire = app
    named = {"first_name": "Ada", "last_name": "Byron"}

    result = await bench.do(RECONCILE, roster(*rows(1, 2, **named), *rows(4, 60), deactivate_missing=True))

    assert result["state"] == "applied"
    inactive = [user["id"] for user in customer.users.values() if user["status"] == "Inactive"]
    assert inactive == ["u3"]
    (excluded,) = [item for item in result["plan"]["rows"] if item["action"] == "excluded"]
    assert (excluded["id"], excluded["reason"]) == ("u2", "only the second of two readings of the directory says so")


async def test_too_many_removals_hold_the_whole_plan(bench: Bench, customer: Customer) -> None:
    """More than `max_removals`: nothing at all is written, the plan is kept and says how to approve it."""
    customer.fill(300)

    result = await bench.do(RECONCILE, roster(*rows(12, 300, first_name="Eda"), deactivate_missing=True))

    assert result["state"] == "held"
    assert result["reasons"] == ["11 of 300 active users would lose access (3.7%); max_removals allows 10."]
    assert result["approve"] == f"planrelay plan approve {result['plan_id']}"
    assert written(bench) == []
    assert (await bench.plans.load(result["plan_id"])).state is PlanState.HELD


@pytest.mark.parametrize("content", ["email,first name\n", "email,first name\n,\n", "[]", "email\nnobody\n"])
async def test_an_empty_roster_never_means_that_everybody_left(
    bench: Bench, customer: Customer, tmp_path: Path, content: str
) -> None:
    """A file without a row that can be used is an error, not a plan."""
    customer.fill(3)
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    path = tmp_path / ("roster.json" if content == "[]" else "roster.csv")
    path.write_text(content, encoding="utf-8")

    with pytest.raises(BadCommand, match="never means that everybody has left"):
        await bench.do(RECONCILE, {"roster_url": path.as_uri(), "mode": "apply", "deactivate_missing": True})

    assert bench.sent == []


async def test_a_roster_that_shrank_is_held_until_somebody_approves(bench: Bench, customer: Customer) -> None:
    """Its size is remembered from the last one applied, also from an approved one."""
    customer.fill(20)
    allowed: dict[str, Any] = {"deactivate_missing": True, "max_removals": 20, "max_removal_share": 1.0}
    await bench.do(RECONCILE, roster(*rows(1, 20), **allowed))

    held = await bench.do(RECONCILE, roster(*rows(6, 20), **allowed))
    assert held["state"] == "held"
    assert held["reasons"] == ["The roster has 15 rows, the last one had 20: it has shrunk."]
    command = await approve(bench, held["plan_id"])
    await bench.do(command["type"], command["data"], key=command["id"])

    assert (await bench.do(RECONCILE, roster(*rows(7, 20), **allowed)))["state"] == "applied"


async def test_a_directory_that_seems_to_have_shrunk_is_held(bench: Bench, customer: Customer) -> None:
    """How many users there were is remembered, those that were made among them: nobody is made twice."""
    named = {"first_name": "Ada", "last_name": "Byron"}
    await bench.do(RECONCILE, roster(*rows(1, 10, **named)))
    for id in list(customer.users)[:5]:
        del customer.users[id]

    held = await bench.do(RECONCILE, roster(*rows(1, 10, **named)))

    assert held["state"] == "held"
    assert held["reasons"][0].startswith("The directory shows 5 users, after the last reconcile it had 10")


async def test_an_approved_plan_is_applied_as_it_was_shown(bench: Bench, customer: Customer) -> None:
    """Held against a reading of its own, then written; the plan is then applied."""
    customer.fill(4)
    held = await bench.do(RECONCILE, roster(*rows(2, 4), deactivate_missing=True))
    command = await approve(bench, held["plan_id"])

    result = await bench.do(command["type"], command["data"], key=command["id"])

    assert (held["state"], result["state"], result["plan_id"]) == ("held", "applied", held["plan_id"])
    assert customer.users["u1"]["status"] == "Inactive"
    assert (await bench.plans.load(held["plan_id"])).state is PlanState.APPLIED


@pytest.mark.parametrize(
    "change",
    [
        lambda customer: customer.users["u1"].update(role="Administrator"),
        lambda customer: customer.users["u2"].update(firstName="Changed"),
        lambda customer: customer.users.pop("u1"),
        lambda customer: customer.add("new@example.com"),
        lambda customer: customer.add("new@example.com", firstName="New", lastName="Person"),
        lambda customer: customer.users["u1"].update(email="user3@example.com"),
        lambda customer: customer.users["u2"].update(email="other@example.com"),
    ],
    ids=["promoted", "changed", "deleted", "made", "made so", "takes an address of the roster", "is somebody else"],
)
async def test_an_approved_plan_is_not_applied_to_people_who_moved_on(
    bench: Bench, customer: Customer, change: Callable[[Customer], Any]
) -> None:
    """Promoted, changed, deleted or made meanwhile: a new plan is held, and nothing is written."""
    customer.fill(4)
    wanted = [*rows(2, 2, first_name="Eda"), *rows(3, 4), {"email": "new@example.com", "name": "New Person"}]
    held = await bench.do(RECONCILE, roster(*wanted, deactivate_missing=True))
    command = await approve(bench, held["plan_id"])
    change(customer)
    # so that the new plan trips a brake of its own, or has anything to write, whatever was changed
    customer.users["u4"]["status"] = "Inactive"

    result = await bench.do(command["type"], command["data"], key=command["id"])

    assert result["state"] == "held"
    assert result["reasons"][0].startswith("1 users have changed since plan")
    assert customer.writes == []


def test_a_plan_that_an_older_version_holds_is_compared_by_its_changes() -> None:
    """It does not say yet what else was seen of a user."""
    item = {"action": "update", "id": "u1", "changes": {"department": {"before": "HR", "after": "IT"}}}
    nobody = Protection([], [])

    assert not moved_on(item, Directory([{"id": "u1", "department": "HR"}]), nobody)
    assert moved_on(item, Directory([{"id": "u1", "department": "Sales"}]), nobody)


async def test_one_customer_is_reconciled_once_at_a_time(bench: Bench, customer: Customer) -> None:
    """Whichever of the customer's connections asks: they have one limit key."""
    customer.fill(2)
    held: list[str] = []

    async def hold(name: str, _token: str, _length: timedelta) -> None:
        held.append(name)

    bench.ledger.hold = hold
    bench.connection.limit_key = "acme"

    await bench.do(RECONCILE, roster(*rows(1, 1), mode="plan"))

    assert held == ["acme:users.reconcile"]


async def test_a_plan_that_nobody_approved_is_not_applied(bench: Bench, customer: Customer) -> None:
    """A `plan_id` alone opens nothing, nor does another roster's plan."""
    customer.fill(3)
    data = roster(*rows(2, 3), deactivate_missing=True)
    held = await bench.do(RECONCILE, data)

    with pytest.raises(BadCommand, match="approve it with"):
        await bench.do(RECONCILE, {**data, "plan_id": held["plan_id"]})
    await approve(bench, held["plan_id"])
    with pytest.raises(BadCommand, match="not of this roster"):
        await bench.do(RECONCILE, {**data, "roster": rows(1, 1), "plan_id": held["plan_id"]})
    assert customer.writes == []


@pytest.mark.parametrize("after_effect", [True, False])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_run_that_was_cut_goes_on_without_repeating_a_write(
    bench: Bench, customer: Customer, method: str, after_effect: bool
) -> None:
    """The one write in doubt is looked up; the others are done once, and the directory is not read again."""
    customer.fill(60)
    wanted = [*rows(1, 3, first_name="Eda"), *({"email": f"n{n}@x.y", "name": "New Person"} for n in range(3))]
    bench.wire = cut(customer, method=method, nth=2, after_effect=after_effect)
    with pytest.raises(Postpone):
        await bench.do(RECONCILE, roster(*wanted), key="k")
    asked = len(bench.sent)

    result = await bench.do(RECONCILE, roster(*wanted), key="k")

    assert result["summary"]["applied"] == 6
    assert len(customer.writes) == len(set(customer.writes)) == 6
    assert not any(request.query.get("startIndex") == "51" for request in bench.sent[asked:])


async def test_a_failing_user_does_not_stop_the_others_and_is_reported(bench: Bench, customer: Customer) -> None:
    """Failures are tried again with later attempts; with the last they are reported, and the rest is applied."""
    customer.fill(30)

    def app(request: Request) -> Response:
        if request.path.endswith("/u3") and request.method == "PATCH":
            raise Unavailable("500", status=500)
        return customer(request)

    bench.wire = app
    data = roster(*rows(1, 6, first_name="Eda"))
    with pytest.raises(Postpone, match="unfinished"):
        await bench.do(RECONCILE, data, key="k")
    assert sum(user["firstName"] == "Eda" for user in customer.users.values()) == 5
    with pytest.raises(Unavailable):
        await bench.do(RECONCILE, data, key="k")

    bench.attempt = bench.settings.retry.max_attempts + 1  # all attempts are used up: one last look
    result = await bench.do(RECONCILE, data, key="k")

    assert (result["state"], result["summary"]["applied"], result["summary"]["not_applied"]) == ("applied", 5, 1)
    assert result["not_applied"][0]["who"] == "user3@example.com"


async def test_nobody_is_deactivated_while_others_still_fail(bench: Bench, customer: Customer) -> None:
    """A vendor that can't make the new user now must not lose the old one meanwhile."""
    customer.fill(30)

    def app(request: Request) -> Response:
        if request.method == "POST":
            raise Unavailable("503", status=503)
        return customer(request)

    bench.wire = app
    wanted = [*rows(2, 30), {"email": "n@x.y", "name": "New Person"}]

    with pytest.raises(Unavailable):
        await bench.do(RECONCILE, roster(*wanted, deactivate_missing=True))

    assert customer.writes == []


async def test_a_vendor_that_is_down_fails_the_command(bench: Bench, customer: Customer) -> None:
    """After 16 failures in a row nothing more is sent; nothing applied at all is no success."""
    customer.fill(100)

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            raise Unavailable("503", status=503)
        return customer(request)

    bench.wire = app

    with pytest.raises(Unavailable):
        await bench.do(RECONCILE, roster(*rows(1, 100, first_name="Eda")))
    assert len(written(bench)) < 16 + 8


async def test_a_run_in_which_most_is_refused_stops_itself(bench: Bench, customer: Customer) -> None:
    """Over 40 % of at least 20 refused: quarantined, and the rest is not sent."""
    customer.fill(100)

    def app(request: Request) -> Response:
        return answer({"message": "no"}, 400) if request.method == "PATCH" else customer(request)

    bench.wire = app

    result = await bench.do(RECONCILE, roster(*rows(1, 100, first_name="Eda")))

    assert (result["state"], result["summary"]["applied"]) == ("quarantined", 0)
    assert 20 <= len(written(bench)) <= 30
    assert (await bench.plans.load(result["plan_id"])).state is PlanState.PLANNED


@pytest.mark.parametrize(("error", "calls"), [(RateLimited("gate"), 8), (Forbidden("403", status=403), 3)])
async def test_what_stands_against_the_account_fails_the_command(
    bench: Bench, customer: Customer, error: Exception, calls: int
) -> None:
    """A closed gate ends the run at once; a refusal of every single write is one of the account."""
    customer.fill(50)

    def app(request: Request) -> Response:
        if request.method == "PATCH":
            raise error
        return customer(request)

    bench.wire = app

    with pytest.raises(type(error)):
        await bench.do(RECONCILE, roster(*rows(1, 3 if calls == 3 else 50, first_name="Eda")))
    assert len(written(bench)) <= calls


async def test_what_somebody_changed_during_a_long_pause_is_left_alone(bench: Bench, customer: Customer) -> None:
    """A plan that waited more than an hour is held against the directory again before it goes on."""
    customer.fill(30)
    bench.wire = cut(customer, method="PATCH", after_effect=False)
    data = roster(*rows(1, 3, first_name="Eda"))
    with pytest.raises(Postpone):
        await bench.do(RECONCILE, data, key="k")
    (left,) = [id for id in ("u1", "u2", "u3") if customer.users[id]["firstName"] == "Ada"]
    customer.users[left]["firstName"] = "Own"
    later = bench.clock() + timedelta(hours=2)
    bench.clock = lambda: later

    result = await bench.do(RECONCILE, data, key="k")

    assert customer.users[left]["firstName"] == "Own"
    assert result["not_applied"][0]["reason"] == "changed by somebody else meanwhile"


async def test_a_plan_that_is_rejected_while_it_is_applied_goes_no_further(bench: Bench, customer: Customer) -> None:
    """Between two runs of its command, that is: what was written stays, nothing more is."""
    customer.fill(30)
    bench.wire = cut(customer, method="PATCH", after_effect=False)
    data = roster(*rows(1, 3, first_name="Eda"))
    with pytest.raises(Postpone):
        await bench.do(RECONCILE, data, key="k")
    (plan,) = await bench.plans.list()
    await bench.plans.reject(plan.id, by="ada", now=NOW)
    written_before = list(customer.writes)

    with pytest.raises(BadCommand, match="was rejected by ada"):
        await bench.do(RECONCILE, data, key="k")
    assert customer.writes == written_before


async def test_another_reconcile_in_between_is_noticed(bench: Bench, customer: Customer) -> None:
    """A plan that was parked while another command reconciled does not overwrite what that one wrote."""
    customer.fill(30)
    bench.wire = cut(customer, method="PATCH", after_effect=False)
    with pytest.raises(Unanswered):
        await bench.do(RECONCILE, roster(*rows(1, 1, first_name="Old")), key="old")
    bench.wire = customer
    await bench.do(RECONCILE, roster(*rows(1, 1, first_name="New")), key="new")

    result = await bench.do(RECONCILE, roster(*rows(1, 1, first_name="Old")), key="old")

    assert customer.users["u1"]["firstName"] == "New"
    assert result["summary"]["not_applied"] == 1


async def test_a_draining_worker_parks_the_reconcile(bench: Bench, customer: Customer) -> None:
    """Between pages and writes the run gives way, and goes on where it was."""
    customer.fill(10)
    bench.draining = True
    with pytest.raises(Postpone):
        await bench.do(RECONCILE, roster(*rows(1, 1, first_name="Eda")), key="k")
    bench.draining = False

    assert (await bench.do(RECONCILE, roster(*rows(1, 1, first_name="Eda")), key="k"))["state"] == "applied"


async def test_what_the_vendor_keeps_otherwise_is_reported(bench: Bench, customer: Customer) -> None:
    """A value that does not stick ends as not applied, never as a silent success."""
    customer.fill(3)
    customer.ignored = {"firstName"}

    result = await bench.do(RECONCILE, roster(*rows(1, 1, first_name="Eda", last_name="Byron")))

    assert result["not_applied"][0]["reason"] == "Planview Admin's answer shows otherwise: first_name"


async def test_a_tenants_own_way_to_deactivate_is_used(customer: Customer, kept: Plans) -> None:
    """Where `user.deactivate` has a path of its own, a status goes there and other fields to the update."""
    operations = {"user.deactivate": Override(method="POST", path="/public/v1/user/{id}/deactivate")}
    bench = Bench(
        tasks.planview_admin.tasks, protected_users=(), client_id="relay", username=None, operations=operations
    )
    bench.plans = kept
    customer.fill(30)

    def app(request: Request) -> Response:
        if request.path.endswith("/deactivate"):
            customer.users[request.path.split("/")[-2]]["status"] = "Inactive"
            return Response(status=204, headers=answer({}).headers, body=b"")
        return customer(request)

    bench.wire = app
    await bench.do(RECONCILE, roster(*rows(1, 1, status="Inactive", first_name="Eda")))

    assert written(bench) == ["PATCH /public/v1/user/u1", "POST /public/v1/user/u1/deactivate"]
    assert (customer.users["u1"]["status"], customer.users["u1"]["firstName"]) == ("Inactive", "Eda")


async def test_a_wrong_field_map_makes_nobody(bench: Bench, customer: Customer) -> None:
    """Where no user shows an email or username every row would be a new person: an error names the settings."""
    customer.fill(3)
    for user in customer.users.values():
        user["mail"] = user.pop("email")

    with pytest.raises(ContractBroken, match=r"fields\.email"):
        await bench.do(RECONCILE, roster({"email": "n@x.y", "name": "New Person"}))


async def test_protected_users_of_the_connection_are_protected(customer: Customer, kept: Plans) -> None:
    """`protected_users` and the connection's own account hold without a word in the command."""
    bench = Bench(tasks.planview_admin.tasks, protected_users=("id:u1",), client_id="user2@example.com", username=None)
    bench.wire, bench.plans = customer, kept
    customer.fill(40)

    result = await bench.do(RECONCILE, roster(*rows(3, 40), deactivate_missing=True))

    assert (result["summary"]["excluded"], result["summary"]["removals"]) == (2, 0)
    assert customer.writes == []


async def test_a_roster_comes_from_a_file_and_the_plan_goes_to_one(
    bench: Bench, customer: Customer, tmp_path: Path
) -> None:
    """Planview's own columns, semicolons, a foreign encoding; bad rows with their line; the plan as JSON Lines."""
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    customer.products = [{"id": "p1", "name": "Teams"}]
    customer.fill(5)
    text = "Name;Email;Status;Admin;Products;Shoe\nZoë Müller;user1@example.com;Active;No;Teams;43\nX;nobody;;;;\n"
    (tmp_path / "roster.csv").write_bytes(text.encode("cp1252"))

    result = await bench.do(
        RECONCILE,
        {
            "roster_url": (tmp_path / "roster.csv").as_uri(),
            "mode": "apply",
            "destination": f"{tmp_path.as_uri()}/plan-{{date}}.jsonl",
        },
    )

    user = customer.users["u1"]
    assert (user["firstName"], user["lastName"], user["products"]) == ("Zoë", "Müller", ["p1"])
    assert result["warnings"] == ["Columns that are no field of a user were left alone: Shoe."]
    lines = [json.loads(line) for line in (tmp_path / "plan-2026-05-20.jsonl").read_text().splitlines()]
    assert [(line["action"], line["line"]) for line in lines] == [("invalid", 3), ("update", 2)]


async def test_a_reading_that_was_cut_short_goes_on(bench: Bench, customer: Customer) -> None:
    """A closed gate in the middle of the directory: the pages before it are not asked for again."""
    customer.fill(200)
    left = [3]

    def app(request: Request) -> Response:
        left[0] -= 1
        if left[0] == 0:
            raise RateLimited("gate", after=timedelta(seconds=30))
        return customer(request)

    bench.wire = app
    data = roster(*rows(1, 1, first_name="Eda"), *rows(3, 200), deactivate_missing=True)
    with pytest.raises(RateLimited):
        await bench.do(RECONCILE, data, key="k")

    result = await bench.do(RECONCILE, data, key="k")

    assert (result["state"], result["summary"]["applied"]) == ("applied", 2)
    assert len(bench.sent) == 2 * 5 + 1 + 2  # two readings of five pages, the one that was refused, two writes


async def test_one_command_unfinished_does_not_take_the_steps_of_another(bench: Bench, customer: Customer) -> None:
    """Two commands with one roster: each has its own plan, the second finds nothing left."""
    customer.fill(5)
    data = roster(*rows(1, 2, first_name="Eda"))

    first = await bench.do(RECONCILE, data)
    second = await bench.do(RECONCILE, data)

    assert first["plan_id"] != second["plan_id"]
    assert (first["summary"]["update"], second["summary"]["update"]) == (2, 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"roster": None}, "either roster or roster_url"),
        ({"roster_url": "x.csv"}, "either roster or roster_url"),
        ({"roster": []}, "roster"),
        ({"mode": "plan", "plan_id": "0" * 12}, "goes with mode apply"),
        ({"max_removals": -1}, "max_removals"),
        ({"max_removal_share": 1.5}, "max_removal_share"),
        ({"delete_missing": True}, "is not a field"),
    ],
)
async def test_bad_data_is_refused_by_field(bench: Bench, data: dict[str, Any], says: str) -> None:
    """What can't be meant is refused before anything is read."""
    with pytest.raises(BadCommand, match=says):
        await bench.do(RECONCILE, {**roster(*rows(1, 1)), **data})
    assert bench.sent == []


async def test_an_unanswered_write_alone_has_to_wait(bench: Bench, customer: Customer) -> None:
    """Until its request can no longer be running only that user waits; all others are written."""
    customer.fill(20)
    bench.wire = cut(customer, method="PATCH", nth=1, after_effect=True)
    data = roster(*rows(1, 5, first_name="Eda"))
    with pytest.raises((Unanswered, Postpone)):
        await bench.do(RECONCILE, data, key="k")

    for name in bench.ledger.intents["k"]:
        bench.ledger.intents["k"][name] = timedelta(seconds=1)
    with pytest.raises(Postpone, match="unresolved") as raised:
        await bench.do(RECONCILE, data, key="k")

    assert raised.value.wait == timedelta(seconds=64)
    assert len(customer.writes) == 5
