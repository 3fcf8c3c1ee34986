"""Every operation of the three vendors, one row each, over a socket."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox import Sandbox
from sandbox.barometerit import Barometerit
from sandbox.planpoint import Planpoint
from sandbox.planview_admin import PlanviewAdmin
from tests.sandbox.conftest import CLIENT, Client


@dataclass(frozen=True)
class Row:
    """An operation, what is sent, and what must come back. `{…}` stands for an id that was seeded."""

    vendor: str
    operation: str
    request: str
    status: int
    keys: tuple[str, ...] | None = ()
    """Keys of the object (or of each item of the list) that comes back; None: no JSON comes back."""
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] | None = None
    generation: str = "B"

    def __str__(self) -> str:
        return f"{self.vendor}-{self.operation}-{self.generation}"


def planpoint(operation: str, request: str, b: int, keys: tuple[str, ...], json: Any = None) -> list[Row]:
    """A row for each generation; A answers 200 wherever it succeeds."""
    raw = {"Authorization": "sandbox-token"}
    return [
        Row("planpoint", operation, request, b, keys, json),
        Row("planpoint", operation, request, 200, _a(keys), json, raw, generation="A"),
    ]


def _a(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Generation A: bare arrays, and other names for a unit's fields."""
    names = {"status": "availability", "bed": "bedrooms", "access_token": "token", "message": "email"}
    if "access_token" not in keys:
        del names["message"]
    return () if "records" in keys else tuple(names.get(key, key) for key in keys)


FIND = {"namespace": "acme", "hostName": "tower"}
UNIT = ("_id", "floor", "name", "status", "bed")

PLANPOINT = [
    *planpoint(
        "user.login",
        "POST /api/users/login",
        200,
        ("message", "access_token"),
        {"username": "relay@example.com", "password": "sandbox-password"},
    ),
    *planpoint("project.find", "POST /api/projects/find", 201, ("_id", "namespace", "hostName", "floors"), FIND),
    *planpoint("project.mine", "GET /api/projects/mine", 201, ("_id", "name", "namespace", "createdAt")),
    *planpoint("project.create", "POST /api/projects", 201, ("_id", "name", "namespace", "hostName"), {"name": "New"}),
    *planpoint("project.read", "GET /api/projects/{project}", 201, ("_id", "floors", "commercialSpaces")),
    *planpoint("project.update", "PATCH /api/projects/{project}", 201, ("_id", "logo"), {"logo": "x.png"}),
    *planpoint("project.delete", "DELETE /api/projects/{project}", 200, ("message",)),
    *planpoint("group.list", "GET /api/groups", 201, ("records", "count")),
    *planpoint("group.create", "POST /api/groups", 201, ("_id", "user", "projects"), {"name": "North"}),
    *planpoint("group.find", "POST /api/groups/find", 200, ("_id", "namespace"), FIND),
    *planpoint("group.read", "GET /api/groups/{group}", 201, ("_id", "user", "name")),
    *planpoint("group.update", "PATCH /api/groups/{group}", 201, ("_id", "type"), {"type": "city"}),
    *planpoint("enterprise.find", "POST /api/enterprises/find", 200, ("_id", "namespace"), FIND),
    *planpoint("floor.list", "GET /api/floors?pid={project}", 200, ("_id", "project", "name")),
    *planpoint(
        "floor.create", "POST /api/floors", 201, ("_id", "project"), {"project": {"_id": "{project}"}, "name": "Roof"}
    ),
    *planpoint("floor.read", "GET /api/floors/{floor}", 200, ("_id", "project", "name")),
    *planpoint("floor.update", "PATCH /api/floors/{floor}", 200, ("_id", "path"), {"path": "M0 0"}),
    *planpoint("unit.list", "GET /api/units?pid={project}", 201, ("records", "count")),
    *planpoint("unit.create", "POST /api/units", 201, ("_id", "floor"), {"floor": {"_id": "{floor}"}, "name": "U9"}),
    *planpoint("unit.update_many", "PATCH /api/units", 201, UNIT, {"ids": ["{unit}"], "patchData": {"price": 1}}),
    *planpoint("unit.read", "GET /api/units/{unit}", 200, UNIT),
    *planpoint("unit.update", "PATCH /api/units/{unit}", 200, ("_id", "price"), {"price": 7}),
    *planpoint("unit.delete", "DELETE /api/units/{unit}", 200, ("message",)),
    *planpoint("lead.list", "GET /api/leads?pid={project}", 200, ("_id", "email", "createdAt")),
]

PAGE = ("startIndex", "itemsPerPage", "Resources")
USER = ("id", "firstName", "lastName", "email", "role", "status", "products", "lastLogin")
ADA = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@example.com"}

PLANVIEW_ADMIN = [
    Row(
        "planview_admin",
        "token.create",
        "POST /io/v1/oauth2/token",
        200,
        ("id_token",),
        headers={"Authorization": CLIENT},
        form={"grant_type": "client_credentials"},
    ),
    Row("planview_admin", "user.list", "GET /public/v1/user?startIndex=1&count=50", 200, PAGE),
    Row("planview_admin", "user.create", "POST /public/v1/user", 201, USER, ADA),
    Row("planview_admin", "user.read", "GET /public/v1/user/{user}", 200, USER),
    Row("planview_admin", "user.update", "PATCH /public/v1/user/{user}", 200, USER, {"status": "Inactive"}),
    Row("planview_admin", "user.replace", "PUT /public/v1/user/{user}", 200, USER, ADA),
    Row("planview_admin", "user.delete", "DELETE /public/v1/user/{user}", 204, None),
    Row("planview_admin", "user.audit", "GET /public/v1/user/{user}/audit", 200, PAGE),
    Row("planview_admin", "customer.audit", "GET /public/v1/customer/audit", 200, PAGE),
    Row("planview_admin", "product.list", "GET /public/v1/product", 200, PAGE),
    Row("planview_admin", "product.users", "GET /public/v1/product/{product}/user", 200, PAGE),
]

ENVELOPE = ("successfulBns", "proposedChangeBns", "transactionIds")
ENTITY = ("bn", "entityDiscriminator", "name", "contentStatus", "lifecycleState", "lastUpdateDate", "updatedByBn")
LISTED = ("first", "count", "unfilterdCount", "entities")
TEXT = {"Accept": "text/plain;charset=UTF-8"}
SET = {"expanded": True, "fields": ["{field}"], "fieldsetId": "money", "name": "Money"}
ASSOCIATION = {
    "sourceBn": "{entity}",
    "indexBn": "{other}",
    "relationshipType": None,
    "addedAssocs": [
        {"targetBn": "{other}", "relationshipIdentifier": "040M000007ZR", "relationshipType": "RELATED_TO"}
    ],
    "removedAssocs": [],
}


def bit(operation: str, request: str, keys: tuple[str, ...] | None, json: Any = None, **headers: str) -> Row:
    """A row of barometerIT, which answers 200."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Row("barometerit", operation, f"{request.replace(' ', ' /api/c', 1)}", 200, keys, json, named)


BAROMETERIT = [
    bit("entity.list", "GET /entities?type=SYS&first=0&count=2", LISTED),
    bit("entity.create", "POST /entities", ENTITY, {"entityDiscriminator": "PHY", "name": "Host"}),
    bit("entity.update_many", "PUT /entities", ENVELOPE, {"bns": ["{entity}"], "properties": {"domain": "Finance"}}),
    bit("entity.read", "GET /entities/{entity}", ENTITY),
    bit("entity.update", "PUT /entities/{entity}", ENVELOPE, {"name": "Renamed"}),
    bit("entity.delete", "DELETE /entities/{entity}", ENVELOPE),
    bit("entity.details.read", "GET /entities/{entity}/details", ("bn", "details")),
    bit("entity.details.update", "PUT /entities/{entity}/details", ENVELOPE, {"details": "long"}),
    bit("entity.links", "GET /entities/{entity}/links", ()),
    bit("entity.tags", "GET /entities/{entity}/tags", ()),
    bit("entity.fields.read", "GET /entities/{entity}/fields", ("bn", "name", "value")),
    bit("entity.fields.update", "PUT /entities/{entity}/fields", ENVELOPE, [{"bn": "{field}", "value": "7"}]),
    bit("entity_properties.read", "GET /entityproperties/PHY", ("name", "label", "required")),
    bit("field.list", "GET /fields", ("bn", "dataType", "displayType", "controlLevel", "name")),
    bit("field.create", "POST /fields", ("bn", "choices", "dataType", "fieldId"), {"name": "Cost"}),
    bit("field.read", "GET /fields/{field}", ("bn", "choices", "decimalPlaces", "helpText", "notes")),
    bit("field.update", "PUT /fields/{field}", ("bn", "name"), {"name": "Costs"}),
    bit("field.delete", "DELETE /fields/{field}", ENVELOPE),
    bit("fieldset.list", "GET /fieldsets?type=SYS", ("bn", "name", "fields")),
    bit("fieldset.create", "POST /fieldsets", ("bn", "expanded", "fields", "name"), SET),
    bit("fieldset.read", "GET /fieldsets/{fieldset}", ("bn", "expanded", "fields", "helpText", "name", "notes")),
    bit("fieldset.update", "PUT /fieldsets/{fieldset}", ("bn", "expanded", "fields", "name"), SET),
    bit("fieldset.delete", "DELETE /fieldsets/{fieldset}", ENVELOPE),
    bit("filter.build", "POST /filter", None, {"params": [], "searchString": "x"}, **TEXT),
    bit("operable_filter.build", "POST /operablefilter", None, {"params": [], "searchString": "x"}, **TEXT),
    bit("search", "POST /search/unified", ("count", "topHit", "matches"), {"searchString": "System", "maxResults": 2}),
    bit("association.update", "POST /association", ENVELOPE, ASSOCIATION),
    bit("association.list", "GET /association?sourceBn={entity}&targetEntityType=SYS", ()),
    bit("proposal.list", "GET /proposals?entityBn={held}&type=ALL", ("bn", "entityBn", "entityType", "conflicted")),
    bit("report.generate", "POST /reports/{report}", ("assetBn", "fileFormat"), Content_Type="text/csv;charset=UTF-8"),
    bit("report.download", "GET /reports/{asset}", None, Accept="*/*"),
    bit("report.size", "GET /reports/{asset}/size", ("assetBn", "size")),
    bit("document.upload", "POST /documents?name=capacity.csv", ("bn", "name", "size"), Content_Type="text/csv"),
]

ROWS = [*PLANPOINT, *PLANVIEW_ADMIN, *BAROMETERIT]


async def seeded(sandbox: Sandbox, ask: Client) -> dict[str, str]:
    """One of everything; ids by name."""
    ids = {
        "project": sandbox.seed("planpoint", "projects", objects=[{"name": "Tower", **FIND}])[0],
        "group": sandbox.seed("planpoint", "groups", objects=[{"name": "City", **FIND}])[0],
        "enterprise": sandbox.seed("planpoint", "enterprises", objects=[{"name": "Acme", **FIND}])[0],
        "unit": sandbox.seed("planpoint", "units", count=2)[0],
        "lead": sandbox.seed("planpoint", "leads", count=2)[0],
        "product": sandbox.seed("planview_admin", "products", count=1)[0],
        "user": sandbox.seed("planview_admin", "users", count=3)[0],
        "entity": sandbox.seed("barometerit", "entities", count=3)[0],
        "other": sandbox.seed("barometerit", "entities", count=1)[0],
        "held": sandbox.seed("barometerit", "entities", count=1, status="COMP")[0],
        "field": sandbox.seed("barometerit", "fields", count=2)[0],
        "report": sandbox.seed("barometerit", "reports", count=1)[0],
    }
    ids["floor"] = sandbox.state("planpoint", "floors")[0]["_id"]
    ids["fieldset"] = sandbox.seed("barometerit", "fieldsets", objects=[{"name": "S", "fields": [ids["field"]]}])[0]
    await ask("barometerit", "PUT", f"/api/c/entities/{ids['held']}", json={"name": "Wished"})
    kind = {"Content-Type": "text/csv"}
    made = await ask("barometerit", "POST", f"/api/c/reports/{ids['report']}", headers=kind)
    return {**ids, "asset": made.json["assetBn"]}


def filled(value: Any, ids: dict[str, str]) -> Any:
    """The value with the ids put in."""
    if isinstance(value, str):
        for name, ident in ids.items():
            value = value.replace(f"{{{name}}}", ident)
        return value
    if isinstance(value, dict):
        return {name: filled(one, ids) for name, one in value.items()}
    return [filled(one, ids) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_operation(row: Row, sandbox: Sandbox, ask: Client) -> None:
    """An operation answers on its path with its status and its keys, and is in the journal under its name."""
    ids = await seeded(sandbox, ask)
    sandbox.configure("planpoint", generation=row.generation)
    method, _, path = filled(row.request, ids).partition(" ")
    options: dict[str, Any] = {"headers": row.headers}
    if row.form is not None:
        options["data"] = row.form
    elif row.json is not None:
        options["json"] = filled(row.json, ids)
    elif row.operation == "document.upload":
        options["data"] = b"A,B\n1,2\n"
    reply = await ask(row.vendor, method, path, **options)
    assert reply.status == row.status, reply.body
    if row.keys is not None:
        said = reply.json if isinstance(reply.json, list) else [reply.json]
        assert said or not row.keys, "the list is empty, so its keys can't be seen"
        assert all(key in one for one in said for key in row.keys), said
    entry = sandbox.journal.entries()[-1]
    assert (entry.vendor, entry.operation, entry.status) == (row.vendor, row.operation, row.status)


def test_every_operation_has_a_row() -> None:
    """No operation of the stand-ins is left out of the table above."""
    there = {
        (one.vendor, operation.name) for one in (Barometerit, Planpoint, PlanviewAdmin) for operation in one.routes
    }
    assert there == {(row.vendor, row.operation) for row in ROWS}


PUBLIC = {"user.login", "token.create"}
GUARDED = [row for row in ROWS if row.operation not in PUBLIC]


@pytest.mark.parametrize("row", GUARDED, ids=str)
async def test_no_entry_without_credentials(row: Row, sandbox: Sandbox, ask: Client) -> None:
    """Every operation but the two that give tokens is 401 without credentials; B's project find needs none."""
    ids = await seeded(sandbox, ask)
    sandbox.configure("planpoint", generation=row.generation)
    method, _, path = filled(row.request, ids).partition(" ")
    reply = await ask(row.vendor, method, path, headers={"Authorization": None}, json=filled(row.json, ids))
    open_find = row.operation == "project.find" and row.generation == "B"
    assert reply.status == (201 if open_find else 401)


@pytest.mark.parametrize("vendor", ["planpoint", "planview_admin", "barometerit"])
async def test_unknown_path(vendor: str, ask: Client) -> None:
    """A path nobody documents is 404."""
    assert (await ask(vendor, "GET", "/api/c/nothing/at/all")).status == 404


@pytest.mark.parametrize(
    ("vendor", "method", "path"),
    [
        ("planpoint", "PUT", "/api/units/1"),
        ("planview_admin", "DELETE", "/public/v1/user"),
        ("barometerit", "DELETE", "/api/c/reports/042400000001"),
    ],
)
async def test_method_not_allowed(vendor: str, method: str, path: str, ask: Client) -> None:
    """A known path with a method it doesn't have is 405 and names those it has (reports: POST and GET only)."""
    reply = await ask(vendor, method, path)
    assert (reply.status, "GET" in reply.headers["Allow"]) == (405, True)


@pytest.mark.parametrize(
    ("vendor", "path"),
    [
        ("planpoint", "/api/units/65f000000000000000000000"),
        ("planview_admin", "/public/v1/user/nobody"),
        ("barometerit", "/api/c/entities/041800000000"),
    ],
)
async def test_unknown_id(vendor: str, path: str, ask: Client) -> None:
    """An id that nobody has is 404, with a message."""
    reply = await ask(vendor, "GET", path)
    assert (reply.status, "message" in reply.json) == (404, True)


@pytest.mark.parametrize(
    ("vendor", "method", "path", "body"),
    [
        ("planpoint", "POST", "/api/units", b"{"),
        ("planview_admin", "POST", "/public/v1/user", b"[]"),
        ("barometerit", "POST", "/api/c/entities", b"\xff"),
    ],
)
async def test_body_that_is_no_object(vendor: str, method: str, path: str, body: bytes, ask: Client) -> None:
    """A body that isn't a JSON object is 400."""
    kind = {"Content-Type": "application/json"}
    assert (await ask(vendor, method, path, data=body, headers=kind)).status == 400


NASTY: list[Any] = [
    None,
    [],
    {},
    "x",
    7,
    [[]],
    {"name": []},
    {"name": {}, "email": [], "type": {}, "contentStatus": []},
]


@pytest.mark.parametrize("row", [row for row in ROWS if row.json is not None], ids=str)
async def test_nasty_bodies(row: Row, sandbox: Sandbox, ask: Client) -> None:
    """Whatever JSON comes in, of any shape anywhere, a stand-in answers below 500."""
    ids = await seeded(sandbox, ask)
    sandbox.configure("planpoint", generation=row.generation)
    method, _, path = filled(row.request, ids).partition(" ")
    good = filled(row.json, ids)
    bodies = [*NASTY]
    if isinstance(good, dict):
        bodies += [{**good, name: value} for name in good for value in NASTY]
    for body in bodies:
        headers = {**row.headers, "Content-Type": row.headers.get("Content-Type", "application/json")}
        reply = await ask(row.vendor, method, path, json=body, headers=headers)
        assert reply.status < 500, (body, reply.body)


async def test_tenants_are_apart(sandbox: Sandbox, ask: Client) -> None:
    """Each tenant has its own objects, and no two tenants share an id."""
    here = sandbox.seed("planpoint", "units", count=1)[0]
    there = sandbox.seed("planpoint", "units", count=1, tenant="acme")[0]
    assert here != there
    assert (await ask("planpoint", "GET", f"/api/units/{there}", tenant="acme")).status == 200
    assert (await ask("planpoint", "GET", f"/api/units/{there}")).status == 404
