"""The stand-in of barometerIT: headers, lists and filters, writes that are saved or held, associations, fields."""

from typing import Any

import pytest

from sandbox import Sandbox
from tests.sandbox.conftest import Client, Reply

ENTITIES = "/api/c/entities"


async def listed(ask: Client, query: str) -> list[str]:
    """Names of the entities that a query gives."""
    reply = await ask("barometerit", "GET", f"{ENTITIES}?{query}")
    assert reply.status == 200, reply.body
    return [one["name"] for one in reply.json["entities"]]


async def filter_text(ask: Client, path: str, body: dict[str, Any]) -> str:
    """What a filter service answers."""
    reply = await ask("barometerit", "POST", f"/api/c{path}", json=body, headers={"Accept": "text/plain"})
    assert reply.status == 200, reply.body
    return reply.body.decode()


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json;charset=UTF-8", 200),
        ("application/plain;charset=UTF-8", 200),
        ("*/*", 200),
        ("text/html, application/*;q=0.5", 200),
        ("text/plain", 406),
        ("application/json;q=0", 406),
        (None, 406),
    ],
)
async def test_accept(accept: str | None, status: int, ask: Client) -> None:
    """Who doesn't say that it accepts what comes gets 406."""
    assert (await ask("barometerit", "GET", "/api/c/fields", headers={"Accept": accept})).status == status


async def test_filters_answer_text(ask: Client) -> None:
    """The filter services answer text/plain, and 406 to who accepts JSON only."""
    headers = {"Accept": "application/json"}
    assert (await ask("barometerit", "POST", "/api/c/filter", json={}, headers=headers)).status == 406
    reply = await ask("barometerit", "POST", "/api/c/filter", json={}, headers={"Accept": "text/plain"})
    assert reply.headers["Content-Type"] == "text/plain;charset=UTF-8"


async def test_content_type(ask: Client) -> None:
    """A POST whose body isn't declared as JSON is 415."""
    headers = {"Content-Type": "text/xml"}
    assert (await ask("barometerit", "POST", ENTITIES, data=b"{}", headers=headers)).status == 415


@pytest.mark.parametrize("prefix", ["/api/c", "/api", "/api/58.1"])
async def test_versions(prefix: str, ask: Client) -> None:
    """The current version, a fixed one, and none at all lead to the same."""
    assert (await ask("barometerit", "GET", f"{prefix}/fields")).status == 200


async def test_roles(sandbox: Sandbox, ask: Client) -> None:
    """Without the Editor role reading goes on and writing is 403."""
    sandbox.configure("barometerit", editor=False)
    entity = sandbox.seed("barometerit", "entities", count=1)[0]
    assert (await ask("barometerit", "GET", f"{ENTITIES}/{entity}")).status == 200
    for method, path in (("POST", ENTITIES), ("PUT", f"{ENTITIES}/{entity}"), ("DELETE", f"{ENTITIES}/{entity}")):
        assert (await ask("barometerit", method, path, json={"name": "X"})).status == 403


async def test_paging_to_the_end(sandbox: Sandbox, ask: Client) -> None:
    """First and count give every entity once; unfilterdCount is how many there are."""
    entities = sandbox.seed("barometerit", "entities", count=250)
    sandbox.seed("barometerit", "entities", count=3, type="ORG")
    found: list[str] = []
    while True:
        page = (await ask("barometerit", "GET", f"{ENTITIES}?type=SYS&first={len(found)}&count=100")).json
        found += [one["bn"] for one in page["entities"]]
        if page["count"] < 100:
            break
    assert (found, page["unfilterdCount"]) == (entities, 250)


async def test_other_spelling(sandbox: Sandbox, ask: Client) -> None:
    """The count can be spelled as a dictionary would."""
    sandbox.configure("barometerit", unfiltered_spelling="unfilteredCount")
    page = (await ask("barometerit", "GET", f"{ENTITIES}?type=SYS")).json
    assert page == {"first": 0, "count": 0, "unfilteredCount": 0, "entities": []}


@pytest.mark.parametrize("query", ["", "type=APP", "type=SYS&first=-1", "type=SYS&updateDateStartDate=1.2.2026"])
async def test_list_parameters_are_checked(query: str, ask: Client) -> None:
    """A type nobody knows (APP is none), a page below 0 or a date in another form is 400."""
    assert (await ask("barometerit", "GET", f"{ENTITIES}?{query}")).status == 400


async def test_date_filters(sandbox: Sandbox, ask: Client) -> None:
    """Start and end dates of update and creation are inclusive days."""
    stamps = ["2026-01-01T23:59:59.999+0000", "2026-01-02T12:00:00.000+0000", "2026-01-03T00:00:00.000+0000"]
    sandbox.seed(
        "barometerit",
        "entities",
        objects=[{"name": stamp[:10], "lastUpdateDate": stamp, "createDate": stamps[0]} for stamp in stamps],
    )
    assert await listed(ask, "type=SYS&updateDateStartDate=2026-01-02") == ["2026-01-02", "2026-01-03"]
    assert await listed(ask, "type=SYS&updateDateStartDate=2026-01-02&updateDateEndDate=2026-01-02") == ["2026-01-02"]
    assert await listed(ask, "type=SYS&createDateEndDate=2025-12-31") == []


async def test_filter_string(sandbox: Sandbox, ask: Client) -> None:
    """The text of POST /filter, put into the URL as it is, lets through what has one of the values."""
    sandbox.seed("barometerit", "entities", objects=[{"name": "a"}, {"name": "b", "status": "COMP"}])
    properties = (await ask("barometerit", "GET", "/api/c/entityproperties/SYS")).json
    status = next(one for one in properties if one["name"] == "contentStatus")
    text = await filter_text(ask, "/filter", {"params": [{status["filterBn"]: ["COMP"]}], "searchString": None})
    assert text.startswith("%7B%22params%22%3A")
    assert await listed(ask, f"type=SYS&filter={text}") == ["b"]
    any_value = await filter_text(ask, "/filter", {"params": [{status["filterBn"]: []}]})
    assert await listed(ask, f"type=SYS&filter={any_value}") == ["a", "b"]


async def test_filter_encoded_twice(ask: Client) -> None:
    """A filter string that is encoded a second time is 400, and the message says why."""
    text = await filter_text(ask, "/filter", {"searchString": "x"})
    reply = await ask("barometerit", "GET", ENTITIES, params={"type": "SYS", "filter": text})
    assert (reply.status, "encoded twice" in reply.json["message"]) == (400, True)


@pytest.mark.parametrize(("joining", "names"), [(None, []), ("AND", []), ("OR", ["a", "c"])])
async def test_operable_filter(joining: str | None, names: list[str], sandbox: Sandbox, ask: Client) -> None:
    """Its params are joined by AND unless it says OR."""
    sandbox.seed("barometerit", "entities", objects=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    properties = (await ask("barometerit", "GET", "/api/c/entityproperties/SYS")).json
    state = next(one for one in properties if one["name"] == "lifecycleState")
    planned, retired = (next(v["bn"] for v in state["values"] if v["name"] == n) for n in ("Planned", "Retired"))
    bns = [one["bn"] for one in sandbox.state("barometerit", "entities")]
    for bn, value in ((bns[0], planned), (bns[2], retired)):
        await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": "ac"[bn == bns[2]], "lifecycleState": value})
    params = [{"keyBn": state["filterBn"], "operator": "EQUALS", "valueBn": value} for value in (planned, retired)]
    body = {"params": params, **({"joiningOperator": joining} if joining else {})}
    text = await filter_text(ask, "/operablefilter", body)
    assert await listed(ask, f"type=SYS&operableFilter={text}") == names


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/filter", {"params": {}}),
        ("/filter", {"params": [{"0446": "x"}]}),
        ("/filter", {"searchString": 7}),
        ("/operablefilter", {"params": [{"keyBn": "x"}]}),
        ("/operablefilter", {"joiningOperator": "XOR"}),
        ("/operablefilter", {"params": [{"keyBn": "x", "operator": "LIKE", "valueBn": "y"}]}),
    ],
)
async def test_filter_bodies_are_checked(path: str, body: dict[str, Any], ask: Client) -> None:
    """A filter that can't be read is 400."""
    reply = await ask("barometerit", "POST", f"/api/c{path}", json=body, headers={"Accept": "*/*"})
    assert reply.status == 400


async def test_unknown_filter_bn(sandbox: Sandbox, ask: Client) -> None:
    """A filter BN that the entity type doesn't have is 400."""
    sandbox.seed("barometerit", "entities", count=1)
    text = await filter_text(ask, "/filter", {"params": [{"0446000000ZZ": []}]})
    assert (await ask("barometerit", "GET", f"{ENTITIES}?type=SYS&filter={text}")).status == 400


async def test_fieldsets_in_lists(sandbox: Sandbox, ask: Client) -> None:
    """With fieldsets=true every entity brings its type's fieldsets with values."""
    field = sandbox.seed("barometerit", "fields", objects=[{"name": "Cost"}])[0]
    sandbox.seed("barometerit", "fieldsets", objects=[{"name": "Money", "fields": [field]}])
    bn = sandbox.seed("barometerit", "entities", count=1)[0]
    assert (await ask("barometerit", "PUT", f"{ENTITIES}/{bn}/fields", json={field: "12"})).status == 200
    page = (await ask("barometerit", "GET", f"{ENTITIES}?type=SYS&fieldsets=true")).json
    (fieldset,) = page["entities"][0]["fieldsets"]
    assert (fieldset["name"], fieldset["fields"][0]["value"]) == ("Money", "12")


@pytest.mark.parametrize("form", ["entityDiscriminator", "entityType", "type"])
async def test_create_takes_the_type(form: str, sandbox: Sandbox, ask: Client) -> None:
    """The entity type may come under any of the names that the pages show."""
    reply = await ask("barometerit", "POST", ENTITIES, json={form: "PHY", "name": "Host"})
    assert (reply.status, reply.json["entityDiscriminator"]) == (200, "PHY")
    assert sandbox.journal.entries()[-1].effects == [("created", "entities", reply.json["bn"])]


async def test_create_can_answer_with_the_bn_alone(sandbox: Sandbox, ask: Client) -> None:
    """`create_answer` makes a create answer `{bn}`."""
    sandbox.configure("barometerit", create_answer="bn")
    reply = await ask("barometerit", "POST", ENTITIES, json={"type": "PHY", "name": "Host"})
    assert list(reply.json) == ["bn"]


@pytest.mark.parametrize(
    "body", [{"name": "Host"}, {"type": "PHY"}, {"type": "PHY", "name": "H", "lifecycleState": "Nowhere"}]
)
async def test_create_is_checked(body: dict[str, str], ask: Client) -> None:
    """No type, no name, or a value that isn't allowed is 400."""
    assert (await ask("barometerit", "POST", ENTITIES, json=body)).status == 400


async def test_created_twice_is_counted(sandbox: Sandbox, ask: Client) -> None:
    """BarometerIT makes a second entity of the same type and name; duplicates counts it."""
    for _ in range(2):
        await ask("barometerit", "POST", ENTITIES, json={"type": "PHY", "name": "Host"})
    await ask("barometerit", "POST", ENTITIES, json={"type": "SYS", "name": "Host"})
    (double,) = sandbox.duplicates("barometerit")
    assert (double["collection"], double["key"], len(double["ids"])) == ("entities", ("PHY", "Host"), 2)


async def test_put_replaces_basic_fields(sandbox: Sandbox, ask: Client) -> None:
    """All basic fields are replaced: name is needed, what is left out becomes empty; or merged if so switched."""
    bn = sandbox.seed("barometerit", "entities", objects=[{"name": "A", "description": "long"}])[0]
    assert (await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"description": "x"})).status == 400
    await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": "B"})
    assert (await ask("barometerit", "GET", f"{ENTITIES}/{bn}")).json["description"] is None
    sandbox.configure("barometerit", put_replaces=False)
    await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"description": "again"})
    shown = (await ask("barometerit", "GET", f"{ENTITIES}/{bn}")).json
    assert (shown["name"], shown["description"]) == ("B", "again")


async def test_writes_are_stamped_with_the_account(sandbox: Sandbox, ask: Client) -> None:
    """LastUpdateDate and updatedByBn change with a write, to the API's own account."""
    bn = sandbox.seed("barometerit", "entities", objects=[{"lastUpdateDate": "2016-05-20T20:04:39.074+0000"}])[0]
    before = (await ask("barometerit", "GET", f"{ENTITIES}/{bn}")).json
    await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": "B"})
    after = (await ask("barometerit", "GET", f"{ENTITIES}/{bn}")).json
    assert after["lastUpdateDate"] > before["lastUpdateDate"]
    assert (before["updatedByBn"]["lastName"], after["updatedByBn"]["lastName"]) == ("Administrator", "Service")


def bns(reply: Reply) -> tuple[int, int]:
    """How many were saved and how many are held."""
    return len(reply.json["successfulBns"]), len(reply.json["proposedChangeBns"])


async def test_held_writes_become_proposals(sandbox: Sandbox, ask: Client) -> None:
    """A write to a completed entity changes nothing and answers with the proposal's BN."""
    bn = sandbox.seed("barometerit", "entities", objects=[{"name": "A"}], status="COMP")[0]
    reply = await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": "B"})
    assert (reply.status, bns(reply)) == (200, (0, 1))
    assert (await ask("barometerit", "GET", f"{ENTITIES}/{bn}")).json["name"] == "A"
    (proposal,) = (await ask("barometerit", "GET", f"/api/c/proposals?entityBn={bn}")).json
    assert (proposal["bn"], proposal["entityType"]) == (
        reply.json["proposedChangeBns"][0],
        {"code": "SYS", "name": "System"},
    )


async def test_update_many_tells_saved_from_held(sandbox: Sandbox, ask: Client) -> None:
    """Of many, the saved and the held come apart, and BNs nobody has in neither."""
    free = sandbox.seed("barometerit", "entities", count=2)
    held = sandbox.seed("barometerit", "entities", count=1, status="APPR")
    edits = [{"bn": bn, "description": "new"} for bn in [*free, *held, "041800000000"]]
    reply = await ask("barometerit", "PUT", ENTITIES, json=edits)
    assert (reply.json["successfulBns"], bns(reply)) == (free, (2, 1))


async def test_equal_proposals_are_one_and_rivals_conflict(sandbox: Sandbox, ask: Client) -> None:
    """The same change proposed again is the same proposal; another wish for the same field conflicts with it."""
    bn = sandbox.seed("barometerit", "entities", count=1, status="COMP")[0]
    for name in ("B", "B", "C"):
        await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": name})
    conflicts = (await ask("barometerit", "GET", "/api/c/proposals?entityType=SYS&conflicts=true")).json
    assert (len(conflicts), sandbox.count("barometerit", "proposals")) == (2, 2)


@pytest.mark.parametrize("query", ["", "entityBn=1&entityType=SYS", "entityType=SYS&type=OURS", "entityType=XXX"])
async def test_proposal_parameters_are_checked(query: str, ask: Client) -> None:
    """Neither or both of entityBn and entityType, or another scope than MINE and ALL, is 400."""
    assert (await ask("barometerit", "GET", f"/api/c/proposals?{query}")).status == 400


async def test_mine_are_those_one_may_resolve(sandbox: Sandbox, ask: Client) -> None:
    """Without the Editor role MINE is empty and ALL is not."""
    bn = sandbox.seed("barometerit", "entities", count=1, status="COMP")[0]
    await ask("barometerit", "PUT", f"{ENTITIES}/{bn}", json={"name": "B"})
    sandbox.configure("barometerit", editor=False)
    found = [
        len((await ask("barometerit", "GET", f"/api/c/proposals?entityBn={bn}{scope}")).json)
        for scope in ("", "&type=ALL")
    ]
    assert found == [0, 1]


async def test_associations(sandbox: Sandbox, ask: Client) -> None:
    """Associations are added once, listed by target type, shown as tags for TAG, and removed."""
    source, system = sandbox.seed("barometerit", "entities", count=2)
    tag = sandbox.seed("barometerit", "entities", count=1, type="TAG")[0]
    links = [{"targetBn": bn, "relationshipIdentifier": None, "relationshipType": None} for bn in (system, tag)]
    body = {"sourceBn": source, "indexBn": system, "relationshipType": None, "addedAssocs": links, "removedAssocs": []}
    for _ in range(2):
        reply = await ask("barometerit", "POST", "/api/c/association", json=body)
        assert reply.json["successfulBns"] == [system, tag]
    path = f"/api/c/association?sourceBn={source}&targetEntityType=SYS"
    assert [one["targetBn"] for one in (await ask("barometerit", "GET", path)).json] == [system]
    assert [one["bn"] for one in (await ask("barometerit", "GET", f"{ENTITIES}/{source}/tags")).json] == [tag]
    await ask("barometerit", "POST", "/api/c/association", json={**body, "addedAssocs": [], "removedAssocs": links})
    assert sandbox.count("barometerit", "associations") == 0


async def test_association_with_a_person_needs_its_type(sandbox: Sandbox, ask: Client) -> None:
    """RelationshipType may be left out but for a Person, where that is 400."""
    source = sandbox.seed("barometerit", "entities", count=1)[0]
    person = sandbox.seed("barometerit", "entities", count=1, type="PER")[0]
    body = {"sourceBn": source, "addedAssocs": [{"targetBn": person}], "removedAssocs": []}
    assert (await ask("barometerit", "POST", "/api/c/association", json=body)).status == 400
    typed = {**body, "relationshipType": "CONTACT_OF"}
    assert (await ask("barometerit", "POST", "/api/c/association", json=typed)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"sourceBn": "041800000000"},
        {"sourceBn": "{entity}", "addedAssocs": {}},
        {"sourceBn": "{entity}", "addedAssocs": [{"targetBn": "041800000000"}]},
        {"sourceBn": "{entity}", "addedAssocs": ["041800000000"]},
    ],
)
async def test_association_is_checked(body: dict[str, Any], sandbox: Sandbox, ask: Client) -> None:
    """A source or a target nobody has is 400."""
    entity = sandbox.seed("barometerit", "entities", count=1)[0]
    said = {name: entity if value == "{entity}" else value for name, value in body.items()}
    assert (await ask("barometerit", "POST", "/api/c/association", json=said)).status == 400


async def test_search(sandbox: Sandbox, ask: Client) -> None:
    """Search finds parts of names regardless of case, by type, maxResults at most, best first."""
    sandbox.seed("barometerit", "entities", objects=[{"name": f"Ledger {number}"} for number in range(5)])
    sandbox.seed("barometerit", "entities", objects=[{"name": "Ledger team"}], type="ORG")
    body = {"searchString": "LEDGER", "maxResults": 3, "entityTypes": ["SYS"]}
    found = (await ask("barometerit", "POST", "/api/c/search/unified", json=body)).json
    assert (found["count"], found["topHit"]["name"]) == (3, "Ledger 0")
    everywhere = (await ask("barometerit", "POST", "/api/c/search/unified", json={"searchString": "team"})).json
    assert [match["entityTypeCode"] for match in everywhere["matches"]] == ["ORG"]


@pytest.mark.parametrize(
    "body", [{}, {"searchString": "x", "maxResults": 0}, {"searchString": "x", "entityTypes": ["A"]}]
)
async def test_search_is_checked(body: dict[str, Any], ask: Client) -> None:
    """Nothing to search for, no results wanted, or an unknown type is 400."""
    assert (await ask("barometerit", "POST", "/api/c/search/unified", json=body)).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fields", {}),
        ("/fields", {"name": "Cost", "dataType": "MONEY"}),
        ("/fieldsets", {"name": " "}),
        ("/fieldsets", {"name": "Money", "fields": ["040L00000000"]}),
    ],
)
async def test_fields_are_checked(path: str, body: dict[str, Any], ask: Client) -> None:
    """No name, a data type nobody knows, or a field nobody has is 400."""
    assert (await ask("barometerit", "POST", f"/api/c{path}", json=body)).status == 400


async def test_fieldset_shows_its_fields_in_order(sandbox: Sandbox, ask: Client) -> None:
    """A fieldset read brings its fields in full with sortVal; created or updated it answers with their BNs."""
    fields = sandbox.seed("barometerit", "fields", count=2)
    body = {"name": "Money", "fields": fields[::-1], "expanded": True, "fieldsetId": "money"}
    made = (await ask("barometerit", "POST", "/api/c/fieldsets", json=body)).json
    assert made["fields"] == fields[::-1]
    read = (await ask("barometerit", "GET", f"/api/c/fieldsets/{made['bn']}")).json
    assert [(one["bn"], one["sortVal"]) for one in read["fields"]] == [(fields[1], 0), (fields[0], 1)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([{"bn": "{field}", "value": 1}], 200),
        ([{"fieldBn": "{field}", "value": 1}], 200),
        ({"fields": [{"bn": "{field}", "value": 1}]}, 200),
        ({"{field}": 1}, 200),
        ([{"bn": "{field}"}], 400),
        (["{field}"], 400),
        ({"040L00000000": 1}, 400),
    ],
)
async def test_custom_values(body: Any, status: int, sandbox: Sandbox, ask: Client) -> None:
    """Values may come in the forms that are likely; a field without value, or that nobody has, is 400."""
    field = sandbox.seed("barometerit", "fields", count=1)[0]
    bn = sandbox.seed("barometerit", "entities", count=1)[0]
    text = repr(body).replace("{field}", field).replace("'", '"')
    reply = await ask("barometerit", "PUT", f"{ENTITIES}/{bn}/fields", data=text)
    assert reply.status == status
    values = (await ask("barometerit", "GET", f"{ENTITIES}/{bn}/fields")).json
    assert [one["value"] for one in values] == [1 if status == 200 else None]


async def test_deleting_an_entity_takes_its_associations(sandbox: Sandbox, ask: Client) -> None:
    """With an entity go the associations that lead to it."""
    source, target = sandbox.seed("barometerit", "entities", count=2)
    body = {"sourceBn": source, "addedAssocs": [{"targetBn": target}], "removedAssocs": []}
    await ask("barometerit", "POST", "/api/c/association", json=body)
    await ask("barometerit", "DELETE", f"{ENTITIES}/{target}")
    assert sandbox.count("barometerit", "associations") == 0
