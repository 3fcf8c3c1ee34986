"""The stand-in of Planview Admin: tokens, points, paging, users and their history."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from sandbox import Sandbox
from tests.sandbox.conftest import CLIENT, Client

USERS = "/public/v1/user"
ADA = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.com"}


async def test_token_is_a_jwt_with_its_end(sandbox: Sandbox, ask: Client) -> None:
    """`id_token` has three parts, and `exp` in the second says when it ends."""
    sandbox.configure("planview_admin", token_lifetime="5m")
    payload = (await ask.token()).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert abs(claims["exp"] - time.time() - 300) < 5


@pytest.mark.parametrize(
    ("form", "headers", "status"),
    [
        ({"grant_type": "password"}, {"Authorization": CLIENT}, 400),
        ({"grant_type": "client_credentials"}, {"Authorization": "Basic eDp5"}, 401),
        ({"grant_type": "client_credentials"}, {"Authorization": "Basic ???"}, 401),
        ({"grant_type": "client_credentials"}, {"Authorization": CLIENT, "Content-Type": "text/plain"}, 415),
    ],
)
async def test_token_refused(form: dict[str, str], headers: dict[str, str], status: int, ask: Client) -> None:
    """Another grant is 400, a wrong secret 401, another content type 415."""
    body = "&".join(f"{name}={value}" for name, value in form.items())
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    assert (await ask("planview_admin", "POST", "/io/v1/oauth2/token", data=body, headers=sent)).status == status


async def test_token_answer_can_say_more(sandbox: Sandbox, ask: Client) -> None:
    """`expires_in` and `access_token` come only when switched on."""
    form, headers = {"grant_type": "client_credentials"}, {"Authorization": CLIENT}
    plain = (await ask("planview_admin", "POST", "/io/v1/oauth2/token", data=form, headers=headers)).json
    sandbox.configure("planview_admin", expires_in=True, access_token=True)
    full = (await ask("planview_admin", "POST", "/io/v1/oauth2/token", data=form, headers=headers)).json
    assert set(full) - set(plain) == {"expires_in", "access_token"}


async def test_tokens_expire(sandbox: Sandbox, ask: Client) -> None:
    """A token is good while it lives, and 401 from then on."""
    sandbox.configure("planview_admin", token_lifetime="300ms")
    assert (await ask("planview_admin", "GET", USERS)).status == 200
    deadline = time.monotonic() + 5
    while (await ask("planview_admin", "GET", USERS)).status != 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert sandbox.journal.count(operation="user.list", status=200) >= 1


async def test_tokens_can_be_invalidated(sandbox: Sandbox, ask: Client) -> None:
    """After invalidate_tokens the old token is 401 and a new one is good."""
    assert (await ask("planview_admin", "GET", USERS)).status == 200
    sandbox.invalidate_tokens("planview_admin")
    assert (await ask("planview_admin", "GET", USERS)).status == 401
    ask.tokens.clear()
    assert (await ask("planview_admin", "GET", USERS)).status == 200


async def test_points_window(sandbox: Sandbox, ask: Client) -> None:
    """Remaining falls by one a success; at 0 comes 429 with Retry-After; after so long the window is new."""
    await ask.token()
    sandbox.configure("planview_admin", quota="3/1s")
    deadline = time.monotonic() + 10
    while True:  # a window may end in the middle of a round
        replies = [await ask("planview_admin", "GET", USERS) for _ in range(4)]
        if [reply.status for reply in replies] == [200, 200, 200, 429]:
            break
        assert time.monotonic() < deadline
    assert [reply.headers.get("X-Rate-Limit-Remaining") for reply in replies] == ["2", "1", "0", None]
    assert replies[-1].headers["Retry-After"] == "1"
    await asyncio.sleep(1.0)  # not a race hidden: what Retry-After asks for is the claim
    assert (await ask("planview_admin", "GET", USERS)).status == 200


async def test_points_can_be_told_with_429(sandbox: Sandbox, ask: Client) -> None:
    """With `remaining_on_429` the header is there too; the token call costs nothing."""
    sandbox.configure("planview_admin", quota="1/1h", remaining_on_429=True)
    await ask("planview_admin", "GET", USERS)
    reply = await ask("planview_admin", "GET", USERS)
    assert (reply.status, reply.headers["X-Rate-Limit-Remaining"]) == (429, "0")
    assert await ask.token()


async def test_limits_are_each_tenants_own(sandbox: Sandbox, ask: Client) -> None:
    """One customer over the limit leaves another alone."""
    sandbox.configure("planview_admin", quota="1/1h")
    assert [(await ask("planview_admin", "GET", USERS)).status for _ in range(2)] == [200, 429]
    assert (await ask("planview_admin", "GET", USERS, tenant="other")).status == 200


async def test_paging_to_the_end(sandbox: Sandbox, ask: Client) -> None:
    """Asking on at startIndex + itemsPerPage gives everybody once, in 6 pages, the last one short."""
    users = sandbox.seed("planview_admin", "users", count=1_050)
    found: list[str] = []
    start, pages = 1, 0
    while True:
        query = f"{USERS}?startIndex={start}&count=500"
        page = (await ask("planview_admin", "GET", query)).json
        found += [user["id"] for user in page["Resources"]]
        pages += 1
        if len(page["Resources"]) < page["itemsPerPage"]:
            break
        start = page["startIndex"] + page["itemsPerPage"]
    assert (found, pages, page["itemsPerPage"]) == (users, 6, 200)


async def test_default_page(sandbox: Sandbox, ask: Client) -> None:
    """Without startIndex and count the first page of the default size comes, without totalResults."""
    sandbox.seed("planview_admin", "users", count=60)
    page = (await ask("planview_admin", "GET", USERS)).json
    assert (page["startIndex"], page["itemsPerPage"], len(page["Resources"])) == (1, 50, 50)
    assert "totalResults" not in page


@pytest.mark.parametrize("query", ["startIndex=0", "startIndex=x", "count=-1", "count=²"])
async def test_paging_parameters_are_checked(query: str, ask: Client) -> None:
    """A startIndex below 1, or no number, is 400."""
    assert (await ask("planview_admin", "GET", f"{USERS}?{query}")).status == 400


async def test_page_bugs(sandbox: Sandbox, ask: Client) -> None:
    """`page_bug` makes the pages that a careless reader runs in circles on."""
    sandbox.seed("planview_admin", "users", count=3)
    sandbox.configure("planview_admin", page_bug="zero")
    assert (await ask("planview_admin", "GET", USERS)).json["itemsPerPage"] == 0
    sandbox.configure("planview_admin", page_bug="missing")
    assert "itemsPerPage" not in (await ask("planview_admin", "GET", USERS)).json
    sandbox.configure("planview_admin", page_bug="repeat")
    second = (await ask("planview_admin", "GET", f"{USERS}?startIndex=3&count=2")).json
    assert [user["id"] for user in second["Resources"]] == [
        user["id"] for user in sandbox.state("planview_admin", "users", count=2)
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("email=ADA@example.com", ["Ada"]),
        ("status=Inactive", ["Ada", "Bob"]),
        ("role=Administrator&status=Inactive", ["Bob"]),
        ("query=love", ["Ada"]),
        ("products=p1", ["Cleo"]),
        ("email=nobody@example.com", []),
    ],
)
async def test_user_filters(query: str, names: list[str], sandbox: Sandbox, ask: Client) -> None:
    """Users are found by a field's value regardless of case, several together, or by part of a name or email."""
    sandbox.seed(
        "planview_admin",
        "users",
        objects=[
            {**ADA, "status": "Inactive"},
            {"firstName": "Bob", "role": "Administrator", "status": "Inactive"},
            {"firstName": "Cleo", "products": ["p1"]},
        ],
    )
    page = (await ask("planview_admin", "GET", f"{USERS}?{query}")).json
    assert [user["firstName"] for user in page["Resources"]] == names


async def test_hundred_thousand_users(sandbox: Sandbox, ask: Client) -> None:
    """100,000 users are seeded in seconds, the last page is at hand, and one is found by email."""
    began = time.monotonic()
    users = sandbox.seed("planview_admin", "users", count=100_000)
    assert time.monotonic() - began < 15
    page = (await ask("planview_admin", "GET", f"{USERS}?startIndex=99951&count=200")).json
    assert [user["id"] for user in page["Resources"]] == users[99_950:]
    email = page["Resources"][-1]["email"]
    assert len((await ask("planview_admin", "GET", f"{USERS}?email={email}")).json["Resources"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**ADA, "email": "no address"},
        {**ADA, "lastName": " "},
        {**ADA, "role": "King"},
        {**ADA, "status": "Gone"},
        {**ADA, "products": "p1"},
    ],
)
async def test_user_create_is_checked(body: dict[str, Any], sandbox: Sandbox, ask: Client) -> None:
    """A user without a name or an address, or with a role nobody knows, is 400 and isn't there."""
    assert (await ask("planview_admin", "POST", USERS, json=body)).status == 400
    assert sandbox.count("planview_admin", "users") == 0


async def test_email_is_unique(sandbox: Sandbox, ask: Client) -> None:
    """The same email again, in other case, is 409."""
    assert (await ask("planview_admin", "POST", USERS, json=ADA)).status == 201
    again = {**ADA, "email": "ADA@EXAMPLE.com"}
    assert (await ask("planview_admin", "POST", USERS, json=again)).status == 409
    assert sandbox.count("planview_admin", "users") == 1


async def test_usernames_let_emails_be_shared(sandbox: Sandbox, ask: Client) -> None:
    """With usernames in use several users may share an email, and the username is what is unique."""
    sandbox.configure("planview_admin", usernames=True)
    said = [{**ADA, "username": "ada"}, {**ADA, "username": "ada2"}, {**ADA, "username": "Ada"}]
    assert [(await ask("planview_admin", "POST", USERS, json=one)).status for one in said] == [201, 201, 409]
    assert sandbox.duplicates() == []


async def test_double_creation_can_be_allowed(sandbox: Sandbox, ask: Client) -> None:
    """With `unique` off a user can be made twice, and duplicates says so."""
    sandbox.configure("planview_admin", unique=False)
    for _ in range(2):
        await ask("planview_admin", "POST", USERS, json=ADA)
    (double,) = sandbox.duplicates()
    assert (double["collection"], double["key"], len(double["ids"])) == ("users", "ada@example.com", 2)


async def test_put_replaces_and_patch_sets(sandbox: Sandbox, ask: Client) -> None:
    """PATCH leaves the other fields; PUT empties them, but not the id, the status and the last login."""
    seeded = {**ADA, "role": "Administrator", "products": ["p"], "status": "Inactive", "lastLogin": "2026-01-01"}
    user = sandbox.seed("planview_admin", "users", objects=[seeded])[0]
    await ask("planview_admin", "PATCH", f"{USERS}/{user}", json={"lastName": "King"})
    patched = sandbox.state("planview_admin", "users")[0]
    assert (patched["lastName"], patched["role"]) == ("King", "Administrator")
    await ask("planview_admin", "PUT", f"{USERS}/{user}", json=ADA)
    put = sandbox.state("planview_admin", "users")[0]
    assert (put["role"], put["products"], put["status"], put["id"]) == ("User", [], "Inactive", user)


async def test_method_of_editing_can_be_switched(sandbox: Sandbox, ask: Client) -> None:
    """Where only PUT is possible PATCH is 405."""
    sandbox.configure("planview_admin", methods=["PUT"])
    user = sandbox.seed("planview_admin", "users", count=1)[0]
    assert (await ask("planview_admin", "PATCH", f"{USERS}/{user}", json={"lastName": "X"})).status == 405


async def test_audit_history(sandbox: Sandbox, ask: Client) -> None:
    """Every write leaves a record with before and after, readable per user and for the customer, even once deleted."""
    user = (await ask("planview_admin", "POST", USERS, json=ADA)).json["id"]
    await ask("planview_admin", "PATCH", f"{USERS}/{user}", json={"status": "Inactive"})
    await ask("planview_admin", "POST", USERS, json={**ADA, "email": "b@example.com"})
    await ask("planview_admin", "DELETE", f"{USERS}/{user}")
    mine = (await ask("planview_admin", "GET", f"{USERS}/{user}/audit")).json["Resources"]
    assert [one["event"] for one in mine] == ["User created", "User updated", "User deleted"]
    assert mine[1]["changes"] == {"status": ["Pending", "Inactive"]}
    whole = (await ask("planview_admin", "GET", "/public/v1/customer/audit")).json["Resources"]
    assert len(whole) == 4


async def test_audit_since(sandbox: Sandbox, ask: Client) -> None:
    """`since` takes records from that instant on, itself included; what is no instant is 400."""
    stamps = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]
    sandbox.seed("planview_admin", "audit", objects=[{"timestamp": stamp} for stamp in stamps])
    path = "/public/v1/customer/audit?since="
    found = (await ask("planview_admin", "GET", f"{path}{stamps[1]}")).json["Resources"]
    assert [one["timestamp"] for one in found] == stamps[1:]
    assert (await ask("planview_admin", "GET", f"{path}yesterday")).status == 400


async def test_product_users(sandbox: Sandbox, ask: Client) -> None:
    """A product's users are those that it was assigned to."""
    product = sandbox.seed("planview_admin", "products", count=2)[0]
    sandbox.seed("planview_admin", "users", count=2)
    wanted = sandbox.seed("planview_admin", "users", count=3, products=[product])
    page = (await ask("planview_admin", "GET", f"/public/v1/product/{product}/user")).json
    assert [user["id"] for user in page["Resources"]] == wanted
