"""Single users, products and lists: asked, made at most once, changed, under whatever names the tenant has."""

from types import SimpleNamespace
from typing import Any

import pytest

import tasks.planview_admin.tasks
from config.connections import Override
from tests.tasks.bench import Bench, answer, cut
from tests.tasks.planview_admin.conftest import Customer
from worker.errors import BadCommand, Conflict, ContractBroken, Invalid, NotFound, RateLimited, Unanswered
from worker.rest import Request, Response
from worker.run import Postpone

SEARCH = "planview_admin.user.search"
CREATE = "planview_admin.user.create"
UPDATE = "planview_admin.user.update"
PROVISION = "planview_admin.user.provision"
NEW = {"email": "new@example.com", "first_name": "New", "last_name": "Person"}


async def test_all_pages_are_read(bench: Bench, customer: Customer) -> None:
    """A list is read to its end, each user once, in our names."""
    customer.fill(120)

    found = await bench.do(SEARCH, {})

    assert (found["count"], found["complete"]) == (120, True)
    assert [request.query["startIndex"] for request in bench.sent] == ["1", "51", "101"]
    assert found["rows"][0].keys() >= {"id", "first_name", "last_name", "password_required", "last_login"}


@pytest.mark.parametrize(("limit", "complete"), [(3, False), (5, True), (6, True)])
async def test_a_limited_list_says_whether_it_is_complete(
    bench: Bench, customer: Customer, limit: int, complete: bool
) -> None:
    """`complete` tells whether there were more; no more rows are asked for than that takes."""
    customer.fill(5)

    found = await bench.do(SEARCH, {"limit": limit})

    assert (found["count"], found["complete"]) == (min(limit, 5), complete)
    assert bench.sent[0].query["count"] == str(limit + 1)


async def test_what_the_vendor_does_not_filter_is_filtered_here(bench: Bench, customer: Customer) -> None:
    """Search parameters are unpublished: one that is ignored must not give other users."""
    customer.fill(60)
    customer.filters = False

    found = await bench.do(SEARCH, {"email": "USER7@example.com"})

    assert [user["email"] for user in found["rows"]] == ["user7@example.com"]


async def test_a_search_by_product_looks_into_the_lists(bench: Bench, customer: Customer) -> None:
    """Products are ids, or objects with one."""
    customer.add("a@x.y", products=[{"id": 7, "name": "Teams"}])
    customer.add("b@x.y", products=["8"])
    customer.filters = False

    found = await bench.do(SEARCH, {"product": "7"})

    assert [(user["email"], user["products"]) for user in found["rows"]] == [("a@x.y", ["7"])]


async def test_a_page_size_that_is_refused_is_left_out(bench: Bench, customer: Customer) -> None:
    """Each endpoint has its own maximum (planview_admin.txt, "Paging Query Parameters"): after a 400, its default."""
    customer.fill(70)

    def app(request: Request) -> Response:
        return answer({"message": "count is at most 50"}, 400) if "count" in request.query else customer(request)

    bench.wire = app

    assert (await bench.do(SEARCH, {}))["count"] == 70
    assert len(bench.sent) == 3


async def test_rows_that_move_are_told(bench: Bench, customer: Customer) -> None:
    """Somebody new before the page: nobody comes twice, and a warning says that others may be missing."""
    customer.fill(60)

    def app(request: Request) -> Response:
        response = customer(request)
        if request.query["startIndex"] == "1":
            moved = dict(customer.users)
            customer.users = {"new": {**moved["u1"], "id": "new"}, **moved}
        return response

    bench.wire = app
    found = await bench.do(SEARCH, {})

    assert found["count"] == 60
    assert "1 rows came twice" in found["warnings"][0]


@pytest.mark.parametrize("error", [RateLimited("gate"), Unanswered("cut"), Postpone])
async def test_a_list_that_is_cut_short_goes_on_where_it_was(bench: Bench, customer: Customer, error: Any) -> None:
    """Whatever ends a run between two pages: the next asks only for those that are missing."""
    customer.fill(180)
    left = [2]

    def app(request: Request) -> Response:
        left[0] -= 1
        if left[0] < 0 and error is not Postpone:
            raise error
        bench.draining = left[0] < 1 and error is Postpone
        return customer(request)

    bench.wire = app
    with pytest.raises((RateLimited, Postpone)):
        await bench.do(SEARCH, {}, key="k")
    bench.wire, bench.draining = customer, False
    asked = len(bench.sent)
    found = await bench.do(SEARCH, {}, key="k")

    assert found["count"] == 180
    assert [request.query["startIndex"] for request in bench.sent[asked:]] == ["101", "151"]


async def test_a_list_that_gets_nowhere_is_a_failed_attempt(bench: Bench, customer: Customer) -> None:
    """A page that fails again and again is not asked for for ever."""
    customer.fill(80)

    def app(request: Request) -> Response:
        if request.query["startIndex"] == "51":
            raise Unanswered("cut")
        return customer(request)

    bench.wire = app

    with pytest.raises(Postpone, match="unfinished"):
        await bench.do(SEARCH, {}, key="k")
    with pytest.raises(Unanswered):
        await bench.do(SEARCH, {}, key="k")


async def test_users_without_an_id_break_the_contract(bench: Bench) -> None:
    """The error names the setting that may be wrong."""
    bench.wire = lambda request: answer({"startIndex": 1, "itemsPerPage": 9, "Resources": [{"uid": "1"}]})

    with pytest.raises(ContractBroken, match=r"fields\.id"):
        await bench.do(SEARCH, {})


async def test_a_tenants_own_names_go_over_the_wire() -> None:
    """`fields` of the connection, and of one operation before them; values of status too."""
    fields = {"last_name": "surname", "department": "dept", "status.inactive": "Disabled"}
    operations = {"user.read": Override(fields={"last_name": "familyName"})}
    bench = Bench(tasks.planview_admin.tasks, fields=fields, operations=operations)
    said: list[Any] = []

    def app(request: Request) -> Response:
        said.append(request.json)
        return answer({"id": 5, "familyName": "B", "surname": "C", "dept": "Sales", "status": "DISABLED"})

    bench.wire = app

    read = await bench.do("planview_admin.user.read", {"id": "5"})
    await bench.do(UPDATE, {"id": "5", "changes": {"last_name": "D", "department": "IT", "status": "Inactive"}})

    assert (read["id"], read["last_name"], read["department"], read["status"]) == ("5", "B", "Sales", "Inactive")
    assert said[1] == {"surname": "D", "dept": "IT", "status": "Disabled"}


async def test_where_an_update_replaces_the_whole_user_is_sent(customer: Customer) -> None:
    """With `method = "PUT"` what is not changed is sent as it is, but for what nobody sets."""
    bench = Bench(tasks.planview_admin.tasks, operations={"user.update": Override(method="PUT")})
    bench.wire = customer
    id = customer.add("a@x.y", extra="kept", lastLogin="2026-01-01")

    await bench.do(UPDATE, {"id": id, "changes": {"first_name": "Eda"}})

    assert bench.paths() == [f"GET /public/v1/user/{id}", f"PUT /public/v1/user/{id}"]
    assert bench.sent[1].json == {
        **{name: value for name, value in customer.users[id].items() if name != "lastLogin"},
        "firstName": "Eda",
        "extra": "kept",
    }


async def test_an_update_without_an_answer_is_read_back(bench: Bench, customer: Customer) -> None:
    """204: the user as it is then is asked for; what it does not show as asked is a warning."""
    id = customer.add("a@x.y")
    customer.ignored = {"firstName"}

    def app(request: Request) -> Response:
        response = customer(request)
        return response if request.method == "GET" else Response(status=204, headers=response.headers, body=b"")

    bench.wire = app
    user = await bench.do(UPDATE, {"id": id, "changes": {"first_name": "Eda"}})

    assert user["email"] == "a@x.y"
    assert user["warnings"] == ["Planview Admin's answer does not show what was asked: first_name."]


@pytest.mark.parametrize("body", [{"status": "Inactive"}, {"message": "done"}, {"id": None}, [], b"OK"])
async def test_a_write_whose_answer_is_no_user_is_read_back(bench: Bench, customer: Customer, body: Any) -> None:
    """The vendor has done it: an echo without an id, a message or a word is no broken contract."""
    id = customer.add("a@x.y")

    def app(request: Request) -> Response:
        response = customer(request)
        return response if request.method == "GET" else answer(body)

    bench.wire = app
    user = await bench.do("planview_admin.user.deactivate", {"id": id})

    assert (user["id"], user["status"]) == (id, "Inactive")
    assert bench.paths() == [f"PATCH /public/v1/user/{id}", f"GET /public/v1/user/{id}"]


async def test_deactivating_and_reactivating_keep_the_user(bench: Bench, customer: Customer) -> None:
    """Both set the status alone."""
    id = customer.add("a@x.y")

    gone = await bench.do("planview_admin.user.deactivate", {"id": id})
    back = await bench.do("planview_admin.user.reactivate", {"id": id})

    assert (gone["status"], back["status"]) == ("Inactive", "Active")
    assert [request.json for request in bench.sent] == [{"status": "Inactive"}, {"status": "Active"}]


async def test_a_delete_that_was_cut_off_is_done(bench: Bench, customer: Customer) -> None:
    """Gone when looked for again is what was asked; not there from the start is `not_found`."""
    id = customer.add("a@x.y")
    bench.wire = cut(customer, method="DELETE")
    with pytest.raises(Unanswered):
        await bench.do("planview_admin.user.delete", {"id": id}, key="k")

    assert (await bench.do("planview_admin.user.delete", {"id": id}, key="k"))["deleted"]
    with pytest.raises(NotFound):
        await bench.do("planview_admin.user.delete", {"id": id})


@pytest.mark.parametrize("after_effect", [True, False])
async def test_a_create_that_was_cut_off_makes_one_user(bench: Bench, customer: Customer, after_effect: bool) -> None:
    """The redelivery finds the user by email, in whatever case the vendor keeps it, and makes none twice."""
    customer.fill(3)
    bench.wire = cut(customer, after_effect=after_effect)
    data = {**NEW, "email": "New@Example.com"}
    with pytest.raises(Unanswered):
        await bench.do(CREATE, data, key="k")
    for user in customer.users.values():
        user["email"] = user["email"].lower()

    made = await bench.do(CREATE, data, key="k")

    assert made["how"] == ("found" if after_effect else "created")
    assert len(customer.users) == 4


async def test_who_was_there_before_is_adopted_only_by_match_on(bench: Bench, customer: Customer) -> None:
    """Without `match_on` the vendor decides about a double; with it the user there is the result."""
    id = customer.add(NEW["email"])

    with pytest.raises(Conflict):
        await bench.do(CREATE, NEW)
    adopted = await bench.do(CREATE, {**NEW, "match_on": ["email"]})

    assert (adopted["id"], adopted["how"]) == (id, "adopted")


async def test_products_and_their_users_are_listed(bench: Bench, customer: Customer) -> None:
    """Product environments with id and name; who is provisioned to one."""
    customer.products = [{"id": number, "name": f"Product {number}"} for number in range(60)]
    customer.add("a@x.y", products=["7"])
    customer.add("b@x.y")

    products = await bench.do("planview_admin.product.list", {})
    users = await bench.do("planview_admin.product.users", {"product_id": "7"})

    assert (products["count"], products["rows"][0]["id"]) == (60, "0")
    assert [user["email"] for user in users["rows"]] == ["a@x.y"]


# --- One person, made so ----------------------------------------------------------------------------------------------


async def test_a_person_who_is_not_there_is_made(bench: Bench, customer: Customer) -> None:
    """One look, one create; repeated, one look and `unchanged`."""
    made = await bench.do(PROVISION, NEW)
    again = await bench.do(PROVISION, {**NEW, "email": "NEW@example.com"})

    assert (made["state"], again["state"]) == ("created", "unchanged")
    assert made["changes"]["first_name"] == {"before": None, "after": "New"}
    assert again["changes"] == {}
    assert [path.split()[0] for path in bench.paths()] == ["GET", "POST", "GET"]


async def test_only_what_differs_is_changed(bench: Bench, customer: Customer) -> None:
    """Before and after of each field; nothing else is sent."""
    customer.add(NEW["email"], firstName="New", lastName="Maiden", status="Inactive")

    result = await bench.do(PROVISION, NEW)

    assert (result["state"], bench.sent[-1].json) == ("updated", {"lastName": "Person", "status": "Active"})
    assert result["changes"] == {
        "last_name": {"before": "Maiden", "after": "Person"},
        "status": {"before": "Inactive", "after": "Active"},
    }


@pytest.mark.parametrize(
    ("asked", "products"),
    [
        ({"add_products": ["Teams"]}, ["p1", "p2"]),
        ({"remove_products": ["p1"]}, []),
        ({"products": ["teams"]}, ["p2"]),
        ({"add_products": ["p1"]}, None),
        ({"products": []}, []),
    ],
)
async def test_product_environments_are_added_and_removed(
    bench: Bench, customer: Customer, asked: dict[str, Any], products: list[str] | None
) -> None:
    """By id or by name; what the person has already is no change."""
    customer.products = [{"id": "p1", "name": "Portfolios"}, {"id": "p2", "name": "Teams"}]
    id = customer.add("a@x.y", products=["p1"])

    result = await bench.do(PROVISION, {"email": "a@x.y", **asked})

    assert result["state"] == ("unchanged" if products is None else "updated")
    assert customer.users[id]["products"] == (["p1"] if products is None else products)


async def test_a_product_that_nobody_knows_is_refused(bench: Bench, customer: Customer) -> None:
    """Before anything is written."""
    customer.products = [{"id": "p1", "name": "Teams"}, {"id": "p2", "name": "Teams"}]
    customer.add("a@x.y")

    for name, says in (("Payroll", "neither the id nor the name"), ("Teams", "name of 2 product environments")):
        with pytest.raises(BadCommand, match=says):
            await bench.do(PROVISION, {"email": "a@x.y", "add_products": [name]})
    assert customer.writes == []


async def test_an_email_of_several_people_names_none(bench: Bench, customer: Customer) -> None:
    """Where usernames are in use: `Conflict`, nothing written; a username or an id tells them apart."""
    first = customer.add("a@x.y", username="ada")
    customer.add("a@x.y", username="eve")
    customer.usernames = True

    with pytest.raises(Conflict, match="2 users have the email"):
        await bench.do(PROVISION, {"email": "a@x.y", "first_name": "X"})
    assert customer.writes == []
    await bench.do(PROVISION, {"email": "a@x.y", "username": "ADA", "first_name": "X"})
    await bench.do(PROVISION, {"email": "a@x.y", "id": first, "last_name": "Y"})

    assert (customer.users[first]["firstName"], customer.users[first]["lastName"]) == ("X", "Y")
    assert len(customer.users) == 2


async def test_a_person_who_is_to_be_inactive_is_not_made(bench: Bench, customer: Customer) -> None:
    """`active: false` deactivates whoever is there, and nobody else."""
    id = customer.add("a@x.y")

    absent = await bench.do(PROVISION, {"email": "b@x.y", "active": False})
    gone = await bench.do(PROVISION, {"email": "a@x.y", "active": False})

    assert (absent["state"], gone["state"], customer.users[id]["status"]) == ("unchanged", "updated", "Inactive")
    assert len(customer.users) == 1


async def test_a_tenants_own_way_to_deactivate_is_used_for_one_person(customer: Customer) -> None:
    """Where `user.deactivate` has a path of its own, a provision's status goes there and the other fields do not."""
    operations = {"user.deactivate": Override(method="POST", path="/public/v1/user/{id}/deactivate")}
    bench = Bench(tasks.planview_admin.tasks, client_id="relay", operations=operations)
    customer.add("a@x.y", id="u1")

    def app(request: Request) -> Response:
        if request.path.endswith("/deactivate"):
            customer.users["u1"]["status"] = "Inactive"
            return answer(customer.users["u1"])
        return customer(request)

    bench.wire = app

    result = await bench.do(PROVISION, {"email": "a@x.y", "first_name": "Eda", "active": False})

    assert (result["state"], customer.users["u1"]["firstName"]) == ("updated", "Eda")
    assert [request.json for request in bench.sent[1:]] == [{"firstName": "Eda"}, {"status": "Inactive"}]


async def test_somebody_new_needs_a_name(bench: Bench, customer: Customer) -> None:
    """Said before anything is sent but the look."""
    with pytest.raises(Invalid, match="first_name and last_name"):
        await bench.do(PROVISION, {"email": "a@x.y"})
    assert customer.writes == []


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("after_effect", [True, False])
async def test_a_provision_that_was_cut_off_tells_the_same(
    bench: Bench, customer: Customer, method: str, after_effect: bool
) -> None:
    """After a cut the redelivery makes nobody twice, and its result tells what the command has changed."""
    if method == "PATCH":
        customer.add(NEW["email"], firstName="Old", lastName="Person")
    bench.wire = cut(customer, method=method, after_effect=after_effect)
    with pytest.raises((Unanswered, Postpone)):
        await bench.do(PROVISION, NEW, key="k")

    result = await bench.do(PROVISION, NEW, key="k")

    assert result["state"] == ("created" if method == "POST" else "updated")
    assert result["changes"]["first_name"]["after"] == "New"
    assert [user["firstName"] for user in customer.users.values()] == ["New"]
    assert len(customer.writes) == 1


@pytest.mark.parametrize(
    ("type", "data", "says"),
    [
        (PROVISION, {"email": "a@x.y", "products": [], "add_products": ["p"]}, "either products"),
        (PROVISION, {"email": "a@x.y", "add_products": ["p"], "remove_products": ["p"]}, "both added and removed"),
        (PROVISION, {"email": "a@x.y", "properties": {"status": "Active"}}, "take it out of properties"),
        (PROVISION, {"email": "ada"}, "must be an email address"),
        (UPDATE, {"id": "1", "changes": {"status": "Gone"}}, "must be one of"),
        (UPDATE, {"id": "1", "changes": {"id": "2"}}, "can't be changed"),
        (UPDATE, {"id": "", "changes": {"email": "a@x.y"}}, "id"),
        (SEARCH, {"destination": "users.txt"}, "must end in"),
    ],
)
async def test_bad_data_is_refused_by_field(bench: Bench, type: str, data: dict[str, Any], says: str) -> None:
    """What can't be meant is refused before anything is sent."""
    with pytest.raises(BadCommand, match=says):
        await bench.do(type, data)
    assert bench.sent == []


def test_a_connection_without_credentials_says_what_is_missing() -> None:
    """The sign-in names the settings."""
    connection: Any = SimpleNamespace(name="admin", client_id=None, client_secret=None, operations={})

    with pytest.raises(ValueError, match=r"connections\.admin needs client_id and client_secret"):
        tasks.planview_admin.SYSTEM.auth(connection)
