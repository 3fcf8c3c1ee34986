"""The stand-in of Planpoint: its two generations, and the refusals its documents name."""

from typing import Any

import pytest

from sandbox import Sandbox
from tests.sandbox.conftest import Client

RAW = {"Authorization": "sandbox-token"}


async def test_find_gives_all_of_the_namespace(sandbox: Sandbox, ask: Client) -> None:
    """As the vendor's page has it, find gives every project of the namespace that the host can reach."""
    sandbox.configure("planpoint", generation="A")
    sandbox.seed("planpoint", "projects", count=3, namespace="acme", host_name="tower")
    sandbox.seed("planpoint", "projects", count=1, namespace="acme", host_name="other")
    wanted = {"namespace": "acme", "hostName": "tower"}
    reply = await ask("planpoint", "POST", "/api/projects/find", json=wanted, headers=RAW)
    assert [one["hostName"] for one in reply.json] == ["tower"] * 3


@pytest.mark.parametrize(("shape", "kind"), [("object", dict), ("array", list)])
async def test_find_shape_can_be_switched(shape: str, kind: type, sandbox: Sandbox, ask: Client) -> None:
    """Either generation can be told to answer find with one object, or with an array."""
    sandbox.configure("planpoint", find_shape=shape)
    sandbox.seed("planpoint", "projects", count=1, namespace="acme", host_name="tower")
    wanted = {"namespace": "acme", "hostName": "tower"}
    assert isinstance((await ask("planpoint", "POST", "/api/projects/find", json=wanted)).json, kind)


async def test_find_of_nothing_is_404(ask: Client) -> None:
    """Generation B finds one project or answers 404."""
    wanted = {"namespace": "acme", "hostName": "nowhere"}
    assert (await ask("planpoint", "POST", "/api/projects/find", json=wanted)).status == 404


async def test_generation_a_names_unit_fields_otherwise(sandbox: Sandbox, ask: Client) -> None:
    """A shows availability, bedrooms, bathrooms and squareFeet, rooms as text, and none of B's names."""
    sandbox.configure("planpoint", generation="A")
    unit = sandbox.seed("planpoint", "units", objects=[{"status": "Sold", "bed": 2, "bath": 1, "sqft": 700}])[0]
    shown = (await ask("planpoint", "GET", f"/api/units/{unit}", headers=RAW)).json
    wanted = {"availability": "Sold", "bedrooms": "2", "bathrooms": "1", "squareFeet": 700}
    assert {name: shown.get(name) for name in (*wanted, "status", "bed")} == {**wanted, "status": None, "bed": None}


@pytest.mark.parametrize(
    ("generation", "written", "held"),
    [
        ("A", {"availability": "Sold"}, "Sold"),
        ("A", {"status": "Sold"}, "Available"),
        ("B", {"status": "Sold"}, "Sold"),
        ("B", {"availability": "Sold"}, "Available"),
    ],
)
async def test_names_of_the_other_generation_are_ignored(
    generation: str, written: dict[str, str], held: str, sandbox: Sandbox, ask: Client
) -> None:
    """A write by the other generation's name changes nothing, and the journal says which name was ignored."""
    sandbox.configure("planpoint", generation=generation)
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    headers = RAW if generation == "A" else {}
    assert (await ask("planpoint", "PATCH", f"/api/units/{unit}", json=written, headers=headers)).status == 200
    assert sandbox.state("planpoint", "units")[0]["status"] == held
    ignored = [effect for effect in sandbox.journal.entries()[-1].effects if effect[0] == "ignored"]
    assert bool(ignored) is (held == "Available")


@pytest.mark.parametrize("style", ["bearer", "raw"])
async def test_auth_style_can_be_switched(style: str, sandbox: Sandbox, ask: Client) -> None:
    """A token in the other style is 401."""
    sandbox.configure("planpoint", auth=style)
    raw = await ask("planpoint", "GET", "/api/projects/mine", headers=RAW)
    bearer = await ask("planpoint", "GET", "/api/projects/mine")
    assert (raw.status, bearer.status) == ((401, 201) if style == "bearer" else (201, 401))


async def test_login_token_is_good_until_it_is_old(sandbox: Sandbox, ask: Client) -> None:
    """A token from login works; once tokens are invalidated it is 401, and a new login gives another."""
    said = {"username": "relay@example.com", "password": "sandbox-password"}
    first = (await ask("planpoint", "POST", "/api/users/login", json=said)).json["access_token"]
    headers = {"Authorization": f"Bearer {first}"}
    assert (await ask("planpoint", "GET", "/api/projects/mine", headers=headers)).status == 201
    sandbox.invalidate_tokens("planpoint")
    assert (await ask("planpoint", "GET", "/api/projects/mine", headers=headers)).status == 401
    assert (await ask("planpoint", "POST", "/api/users/login", json=said)).json["access_token"] != first


async def test_generation_a_login_answers_with_the_users_secrets(sandbox: Sandbox, ask: Client) -> None:
    """A's login takes query parameters and answers the user object, resetToken and stripe fields in it."""
    sandbox.configure("planpoint", generation="A")
    query = {"username": "relay@example.com", "password": "sandbox-password"}
    user = (await ask("planpoint", "POST", "/api/users/login", params=query)).json
    assert {"token", "resetToken", "stripeCustomerId", "role", "invites"} <= set(user)


@pytest.mark.parametrize(
    ("body", "status"), [({"username": "relay@example.com", "password": "wrong"}, 401), ({"password": "x"}, 400)]
)
async def test_login_refused(body: dict[str, str], status: int, ask: Client) -> None:
    """A wrong password is 401, a missing user name 400."""
    assert (await ask("planpoint", "POST", "/api/users/login", json=body)).status == status


@pytest.mark.parametrize("paused", [True, {"value": True, "reason": "unpaid"}])
async def test_paused_account(paused: Any, sandbox: Sandbox, ask: Client) -> None:
    """A paused account is 403 with `{message, paused}`, paused as it was set."""
    sandbox.configure("planpoint", paused=paused)
    reply = await ask("planpoint", "GET", "/api/projects/mine")
    assert (reply.status, reply.json["paused"]) == (403, paused)


async def test_paused_project(sandbox: Sandbox, ask: Client) -> None:
    """A project whose `paused` is set refuses what concerns it, its units included; other projects go on."""
    project = sandbox.seed("planpoint", "projects", objects=[{"paused": {"value": True, "reason": "unpaid"}}])[0]
    unit = sandbox.seed("planpoint", "units", count=1, project=project)[0]
    other = sandbox.seed("planpoint", "projects", count=1)[0]
    for path in (f"/api/projects/{project}", f"/api/units/{unit}", f"/api/units?pid={project}"):
        reply = await ask("planpoint", "GET", path)
        assert (reply.status, reply.json["paused"]["reason"]) == (403, "unpaid")
    assert (await ask("planpoint", "GET", f"/api/projects/{other}")).status == 201


async def test_editors_work_on_units_only(sandbox: Sandbox, ask: Client) -> None:
    """An editor's token reads units and is 403 on projects."""
    unit = sandbox.seed("planpoint", "units", count=1)[0]
    sandbox.configure("planpoint", editor=True)
    assert (await ask("planpoint", "GET", f"/api/units/{unit}")).status == 200
    assert (await ask("planpoint", "GET", "/api/projects/mine")).status == 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/projects/find", {"namespace": "acme"}),
        ("POST", "/api/projects/find", {"namespace": "", "hostName": "tower"}),
        ("POST", "/api/groups", {"name": "ab"}),
        ("POST", "/api/groups", {}),
        ("POST", "/api/floors", {"name": "Roof"}),
        ("POST", "/api/units", {"name": "U1"}),
        ("POST", "/api/units", {"floor": "65f000000000000000000000"}),
        ("POST", "/api/units", {"floor": {"_id": "65f000000000000000000000"}}),
        ("PATCH", "/api/units", {"ids": ["x"]}),
        ("PATCH", "/api/units", {"patchData": {}}),
        ("GET", "/api/units", None),
        ("GET", "/api/leads", None),
        ("GET", "/api/floors", None),
    ],
)
async def test_missing_fields(method: str, path: str, body: Any, ask: Client) -> None:
    """What a call needs and doesn't have is 400, with a message."""
    reply = await ask("planpoint", method, path, json=body)
    assert (reply.status, "message" in reply.json) == (400, True)


async def test_prices_are_numbers(sandbox: Sandbox, ask: Client) -> None:
    """In B a price that is a text is 400, and nothing changes."""
    unit = sandbox.seed("planpoint", "units", objects=[{"price": 5}])[0]
    assert (await ask("planpoint", "PATCH", f"/api/units/{unit}", json={"price": "7"})).status == 400
    assert sandbox.state("planpoint", "units")[0]["price"] == 5


async def test_batch_patch(sandbox: Sandbox, ask: Client) -> None:
    """One patch changes all ids at once; ids nobody has are skipped; the answer holds the changed units."""
    units = sandbox.seed("planpoint", "units", count=3)
    body = {"ids": [units[0], "65f000000000000000000000", units[2]], "patchData": {"status": "Sold"}}
    reply = await ask("planpoint", "PATCH", "/api/units", json=body)
    assert [one["_id"] for one in reply.json] == [units[0], units[2]]
    assert [one["status"] for one in sandbox.state("planpoint", "units")] == ["Sold", "Available", "Sold"]


async def test_batch_maximum(sandbox: Sandbox, ask: Client) -> None:
    """A batch over `batch_max` is 400."""
    sandbox.configure("planpoint", batch_max=2)
    body = {"ids": sandbox.seed("planpoint", "units", count=3), "patchData": {"status": "Sold"}}
    assert (await ask("planpoint", "PATCH", "/api/units", json=body)).status == 400


async def test_count_that_differs(sandbox: Sandbox, ask: Client) -> None:
    """`count_skew` makes count differ from the records."""
    sandbox.configure("planpoint", count_skew=2)
    sandbox.seed("planpoint", "units", count=3)
    project = sandbox.state("planpoint", "projects")[0]["_id"]
    reply = (await ask("planpoint", "GET", f"/api/units?pid={project}")).json
    assert (reply["count"], len(reply["records"])) == (5, 3)


async def test_project_shows_its_floors_and_units(sandbox: Sandbox, ask: Client) -> None:
    """A project comes with its floors, and each floor with its units."""
    project = sandbox.seed("planpoint", "projects", count=1)[0]
    floors = sandbox.seed("planpoint", "floors", count=2, project=project)
    sandbox.seed("planpoint", "units", count=2, floor=floors[1])
    shown = (await ask("planpoint", "GET", f"/api/projects/{project}")).json
    assert [len(floor["units"]) for floor in shown["floors"]] == [0, 2]


async def test_deleting_a_project_takes_all_with_it(sandbox: Sandbox, ask: Client) -> None:
    """Floors, units and leads of a deleted project are gone; another project's stay."""
    project, other = sandbox.seed("planpoint", "projects", count=2)
    for one in (project, other):
        sandbox.seed("planpoint", "units", count=2, project=one)
        sandbox.seed("planpoint", "leads", count=1, project=one)
    await ask("planpoint", "DELETE", f"/api/projects/{project}")
    assert {name: sandbox.count("planpoint", name) for name in ("projects", "floors", "units", "leads")} == {
        "projects": 1,
        "floors": 1,
        "units": 2,
        "leads": 1,
    }


async def test_generation_a_creates_units_from_the_query(sandbox: Sandbox, ask: Client) -> None:
    """A's pages show query parameters: name and project; the unit comes onto the project's first floor."""
    sandbox.configure("planpoint", generation="A")
    project = sandbox.seed("planpoint", "projects", count=1)[0]
    query = {"name": "U1", "project": project}
    reply = await ask("planpoint", "POST", "/api/units", params=query, headers=RAW)
    assert (reply.status, reply.json["name"], sandbox.count("planpoint", "floors")) == (200, "U1", 1)


async def test_leads_of_generation_a(sandbox: Sandbox, ask: Client) -> None:
    """A needs no pid and gives first and last name apart."""
    sandbox.configure("planpoint", generation="A")
    sandbox.seed("planpoint", "leads", objects=[{"name": "Ada Lovelace"}])
    lead = (await ask("planpoint", "GET", "/api/leads", headers=RAW)).json[0]
    assert (lead["firstName"], lead["lastName"]) == ("Ada", "Lovelace")
