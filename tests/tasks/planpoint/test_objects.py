"""Projects, groups, enterprises, floors: found, made once, changed, deleted; and what must never come out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks.planpoint.tasks
from config.connections import Connection
from tasks.planpoint import SYSTEM
from tests.tasks.bench import Bench, answer, cut
from tests.tasks.planpoint.conftest import FLOOR, PROJECT, Account, ident
from worker.artifacts import Artifacts
from worker.auth import Bearer, Login
from worker.errors import Conflict, ContractBroken, NotFound, OutcomeUnknown, Unanswered
from worker.rest import Request, Response

Things = list[dict[str, Any]]
MADE = {
    "planpoint.project.create": ({"name": "Tower", "namespace": "acme"}, "/api/projects/mine"),
    "planpoint.group.create": ({"name": "Downtown"}, "/api/groups"),
    "planpoint.floor.create": ({"project_id": PROJECT, "name": "Level 3"}, "/api/floors"),
}


def shelf(things: Things, *, counted: int = 0) -> Callable[[Request], Response]:
    """Answer lists of these things, and makes more of them; `counted` is what the vendor counts too many."""

    def app(request: Request) -> Response:
        if request.method == "POST":
            made = {**request.json, "_id": ident(len(things) + 1), "user": ident(9)}
            if isinstance(made.get("project"), dict):
                made["project"] = made["project"]["_id"]
            things.append(made)
            return answer(made, 201)
        if request.path.rpartition("/")[2] in {thing["_id"] for thing in things}:
            return answer(next(thing for thing in things if thing["_id"] == request.path.rpartition("/")[2]))
        return answer({"records": things, "count": len(things) + counted}, 201)

    return app


@pytest.mark.parametrize("type", MADE)
@pytest.mark.parametrize("after_effect", [True, False])
async def test_an_interrupted_create_makes_one(bench: Bench, type: str, after_effect: bool) -> None:
    """Projects, groups and floors: one is made whatever is cut, and an old namesake is not taken for it."""
    data, path = MADE[type]
    things: Things = [{"_id": ident(1), "project": PROJECT, "hostName": "old", **data}]
    bench.wire = cut(shelf(things), after_effect=after_effect)

    with pytest.raises(Unanswered):
        await bench.do(type, data, key="k")
    made = await bench.do(type, data, key="k")

    assert made["how"] == ("found" if after_effect else "created")
    assert made["id"] == ident(2)
    assert len(things) == 2
    assert f"GET {path}" in bench.paths()


@pytest.mark.parametrize("type", MADE)
async def test_match_on_adopts_the_one_that_is_there(bench: Bench, type: str) -> None:
    """With `match_on` nothing is made where something fits."""
    data, _ = MADE[type]
    things: Things = [{"_id": ident(1), "project": PROJECT, **data}]
    bench.wire = shelf(things)

    made = await bench.do(type, {**data, "match_on": ["name"]})

    assert (made["id"], made["how"], len(things)) == (ident(1), "adopted", 1)


@pytest.mark.parametrize("adopting", [True, False])
async def test_a_list_that_is_not_whole_proves_nothing(bench: Bench, adopting: bool) -> None:
    """Where the vendor counts more than it lists, "not there" is not known: no second object is risked."""
    things: Things = []
    bench.wire = cut(shelf(things, counted=1), after_effect=False)
    data = {"name": "Downtown", **({"match_on": ["name"]} if adopting else {})}

    if not adopting:
        with pytest.raises(Unanswered):
            await bench.do("planpoint.group.create", data, key="k")
    with pytest.raises(OutcomeUnknown, match="does not list all it has"):
        await bench.do("planpoint.group.create", data, key="k")

    assert things == []


async def test_a_project_that_was_found_is_told_whole(bench: Bench) -> None:
    """The list shows projects in short; a create's result is the whole project however it came about."""
    short = {"_id": ident(1), "name": "Tower", "namespace": "acme"}

    def app(request: Request) -> Response:
        return answer([short] if request.path.endswith("mine") else {**short, "hostName": "h", "floors": []}, 201)

    bench.wire = app

    made = await bench.do("planpoint.project.create", {"name": "Tower", "match_on": ["name"]})

    assert made == {
        "id": ident(1),
        "name": "Tower",
        "namespace": "acme",
        "host_name": "h",
        "floors": [],
        "how": "adopted",
    }


async def test_match_on_may_name_a_further_field(bench: Bench) -> None:
    """Fields given in `properties` are as good for a key as the documented ones."""
    things: Things = [{"_id": ident(1), "name": "Old name", "externalRef": "X-1"}]
    bench.wire = shelf(things)

    made = await bench.do(
        "planpoint.group.create",
        {"name": "New name", "properties": {"externalRef": "X-1"}, "match_on": ["externalRef"]},
    )

    assert (made["id"], made["how"]) == (ident(1), "adopted")


async def test_match_on_that_fits_two_groups_is_a_conflict(bench: Bench) -> None:
    """Neither is adopted, no third is made."""
    things: Things = [{"_id": ident(n), "name": "Downtown"} for n in (1, 2)]
    bench.wire = shelf(things)

    with pytest.raises(Conflict, match="fits 2 groups"):
        await bench.do("planpoint.group.create", {"name": "Downtown", "match_on": ["name"]})


@pytest.mark.parametrize("noun", ["project", "group", "floor"])
async def test_an_update_goes_out_in_the_vendors_words(bench: Bench, noun: str) -> None:
    """Our names are translated, the vendor's own pass; the answer comes back in ours."""
    bench.wire = lambda request: answer({"_id": ident(1), "project": PROJECT, "user": ident(2), **request.json})

    changed = await bench.do(f"planpoint.{noun}.update", {"id": ident(1), "changes": {"name": "N", "fooBar": 1}})

    assert bench.sent[0].method == "PATCH"
    assert bench.sent[0].json == {"name": "N", "fooBar": 1}
    assert (changed["name"], changed["fooBar"]) == ("N", 1)


@pytest.mark.parametrize("noun", ["unit", "project"])
async def test_deleting_what_is_not_there_is_not_found(bench: Bench, noun: str) -> None:
    """A first 404 is an error: nothing was deleted."""
    with pytest.raises(NotFound):
        await bench.do(f"planpoint.{noun}.delete", {"id": ident(7)})

    assert all(request.method == "GET" for request in bench.sent)


@pytest.mark.parametrize("after_effect", [True, False])
async def test_an_interrupted_delete_ends_deleted(bench: Bench, account: Account, after_effect: bool) -> None:
    """Cut before or after the effect: the redelivery deletes what is left, and a 404 then is success."""
    id = account.add("101")
    bench.wire = cut(account, method="DELETE", after_effect=after_effect)

    with pytest.raises(Unanswered):
        await bench.do("planpoint.unit.delete", {"id": id}, key="k")
    result = await bench.do("planpoint.unit.delete", {"id": id}, key="k")

    assert result["deleted"] is True
    assert account.units == {}


async def test_a_delete_without_a_readable_answer_is_done(bench: Bench, account: Account) -> None:
    """The vendor said yes; its message may be missing or broken."""
    id = account.add("101")

    def app(request: Request) -> Response:
        response = account(request)
        return answer(b"", 204) if request.method == "DELETE" else response

    bench.wire = app

    assert await bench.do("planpoint.unit.delete", {"id": id}) == {"id": id, "deleted": True, "message": ""}


SECRETS = {"token": "t-secret", "resetToken": "r-secret", "stripeCustomerId": "cus-secret", "password": "p-secret"}


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("planpoint.project.read", {"id": ident(1)}),
        ("planpoint.project.find", {"namespace": "a", "host_name": "h"}),
        ("planpoint.group.read", {"id": ident(1)}),
        ("planpoint.enterprise.find", {"namespace": "a", "host_name": "h"}),
        ("planpoint.unit.read", {"id": ident(1)}),
        ("planpoint.unit.update", {"id": ident(1), "changes": {"price": 1}}),
        ("planpoint.floor.read", {"id": ident(1)}),
    ],
)
async def test_secrets_of_users_inside_objects_do_not_come_out(bench: Bench, type: str, data: dict[str, Any]) -> None:
    """A user inside another object loses its tokens and payment data, however deep; its names stay."""
    user = {"_id": ident(2), "email": "a@example.com", **SECRETS}
    bench.wire = lambda request: answer(
        {"_id": ident(1), "name": "N", "namespace": "a", "hostName": "h", "user": user, "administrators": [user]}
    )

    result = json.dumps(await bench.do(type, data))

    assert "secret" not in result
    assert "a@example.com" in result


def test_a_connection_signs_in_with_what_it_has() -> None:
    """A token in either style, else a login; without either it says what is missing."""

    def connection(**settings: Any) -> Connection:
        return Connection(name="tower", system="planpoint", base_url="https://app.planpoint.io", **settings)

    assert SYSTEM.auth(connection(token="k", auth="raw")) == Bearer("k", "raw")
    assert SYSTEM.auth(connection(username="u", password="p")) == Login("u", "p", "bearer")
    with pytest.raises(ValueError, match=r"connections\.tower needs token, or username and password"):
        SYSTEM.auth(connection())


async def test_an_operation_may_be_elsewhere(bench: Bench) -> None:
    """`[connections.X.operations]` moves what apis marks as assumed."""
    bench.connection.operations = {
        "project.delete": type("Override", (), {"method": "POST", "path": "/api/p/{id}/gone", "fields": {}})
    }
    bench.wire = lambda request: answer({"_id": PROJECT, "name": "N", "namespace": "a", "hostName": "h"})

    await bench.do("planpoint.project.delete", {"id": PROJECT})

    assert bench.paths()[-1] == f"POST /api/p/{PROJECT}/gone"


async def test_a_floor_without_its_project_is_a_broken_contract(bench: Bench) -> None:
    """Making a unit needs the floor's project; a floor that names none is not as documented."""
    bench.wire = lambda request: answer({"_id": FLOOR, "name": "1"})

    with pytest.raises(ContractBroken, match="which each floor has"):
        await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": "101"})


async def test_a_field_may_be_called_otherwise_in_one_operation(bench: Bench) -> None:
    """`[connections.X.operations."group.create"].fields` is obeyed there, and only there."""
    override = {"method": None, "path": None, "fields": {"name": "title"}}
    bench.connection.operations = {"group.create": type("Override", (), override)}

    def app(request: Request) -> Response:
        return answer([] if request.method == "GET" else {"_id": ident(1), "title": "Downtown"})

    bench.wire = app

    made = await bench.do("planpoint.group.create", {"name": "Downtown"})

    assert bench.sent[-1].json == {"title": "Downtown"}
    assert made["name"] == "Downtown"


async def test_a_project_too_large_for_an_event_goes_to_a_file(bench: Bench, tmp_path: Path) -> None:
    """`project.read` with a destination writes the whole project as one row."""
    bench.artifacts = Artifacts(("./",), cwd=tmp_path)
    units = [{"_id": ident(n), "unitNumber": str(n)} for n in range(1, 6_000)]
    project = {"_id": PROJECT, "name": "N", "floors": [{"_id": FLOOR, "units": units}]}
    bench.wire = lambda request: answer(project)

    result = await bench.do("planpoint.project.read", {"id": PROJECT, "destination": "{project_id}.jsonl"})

    assert (result["rows"], result["complete"]) == (1, True)
    (line,) = (tmp_path / f"{PROJECT}.jsonl").read_text().splitlines()
    assert len(json.loads(line)["floors"][0]["units"]) == 5_999


async def test_an_enterprise_may_have_any_shape(bench: Bench) -> None:
    """No page shows one: an object without an id is a row all the same."""
    bench.wire = lambda request: answer({"name": "Acme", "enterpriseImageUrl": "https://example.com/a.png"})

    found = await bench.do("planpoint.enterprise.find", {"namespace": "acme", "host_name": "h"})

    assert found["rows"] == [{"name": "Acme", "enterprise_image_url": "https://example.com/a.png"}]


@pytest.mark.parametrize("cut_at", [10, 40, 70, 100, 130, -1])
async def test_secrets_stay_out_of_the_error_for_a_body_that_is_cut(bench: Bench, cut_at: int) -> None:
    """A project that breaks off, its owner's secrets in it: the error's excerpt is without them."""
    body = json.dumps({"user": {**SECRETS, "name": "Ada"}, "_id": PROJECT}).encode()[:cut_at]
    bench.wire = lambda request: answer(body)

    with pytest.raises(ContractBroken) as raised:
        await bench.do("planpoint.project.read", {"id": PROJECT})

    assert "secret" not in str(raised.value.response)


async def test_a_floors_project_is_asked_once(bench: Bench, account: Account) -> None:
    """The second unit on a floor costs no second question about it."""
    for name in ("101", "102"):
        await bench.do("planpoint.unit.create", {"floor_id": FLOOR, "name": name})

    assert bench.paths().count(f"GET /api/floors/{FLOOR}") == 1


def test_every_command_says_what_it_promises() -> None:
    """Each operation has a promise, a source, and data that forbids unknown fields."""
    for operation in Bench(tasks.planpoint.tasks).operations.values():
        assert operation.promise.endswith(".")
        assert "Source:" in (operation.body.__doc__ or "")
        assert operation.data.model_json_schema()["additionalProperties"] is False
