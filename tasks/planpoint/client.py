"""
Typed calls on a connection's gateway: requests out, objects in our names back.

Every method raises the error tree; a body that speaks of a pause, where another is documented, is `Paused`. Methods
that write units take a *spelling*: the names under which this tenant's units show the fields that the two generations
name differently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint import models
from worker.errors import RESPONSE_EXCERPT, ContractBroken, Paused, RelayError
from worker.rest import Endpoint, Evidence
from worker.strict_json import read_vendors
from worker.vocabulary import Spelling, Vocabulary

if TYPE_CHECKING:
    from worker.gateway import Gateway
    from worker.rest import Response


def _call(
    name: str, call: str, *, source: str = "PP-OAS", evidence: Evidence = "public", replayable: bool = True
) -> Endpoint:
    method, _, path = call.partition(" ")
    return Endpoint(name=name, method=method, path=path, evidence=evidence, source=source, replayable=replayable)


# PP-OAS: api/openapi.yaml of github.com/planpoint-io/planpoint-sdk-java (generation B).
# PP-DOC: viewerdocs.planpoint.io/api-documentation/endpoint/… (generation A).
# planpoint.txt: the vendor's own page. Its finds are reads, though POSTs.
# Setting the same values twice is harmless (inferred), and so is deleting what is gone; making something twice is not.
PROJECT_FIND: Final = _call(
    "project.find", "POST /api/projects/find", source='planpoint.txt, "Fetch Projects"', evidence="seed"
)
PROJECT_MINE: Final = _call("project.mine", "GET /api/projects/mine")
PROJECT_READ: Final = _call("project.read", "GET /api/projects/{id}")
# PP-DOC shows the fields as query parameters; they go in a JSON body, as everything else does.
PROJECT_CREATE: Final = _call("project.create", "POST /api/projects", source="PP-DOC, projects/post", replayable=False)
PROJECT_UPDATE: Final = _call("project.update", "PATCH /api/projects/{id}")
# planpoint.txt speaks of deleting projects; no page shows how. Taken to be as with units.
PROJECT_DELETE: Final = _call(
    "project.delete", "DELETE /api/projects/{id}", source="planpoint.txt, in general terms", evidence="assumed"
)
GROUP_FIND: Final = _call(
    "group.find", "POST /api/groups/find", source='planpoint.txt, "Fetch Groups"', evidence="seed"
)
GROUP_LIST: Final = _call("group.list", "GET /api/groups")
GROUP_READ: Final = _call("group.read", "GET /api/groups/{id}")
GROUP_CREATE: Final = _call("group.create", "POST /api/groups", replayable=False)
GROUP_UPDATE: Final = _call("group.update", "PATCH /api/groups/{id}")
ENTERPRISE_FIND: Final = _call(
    "enterprise.find", "POST /api/enterprises/find", source='planpoint.txt, "Fetch Enterprises"', evidence="seed"
)
FLOOR_LIST: Final = _call("floor.list", "GET /api/floors")
FLOOR_READ: Final = _call("floor.read", "GET /api/floors/{id}")
FLOOR_CREATE: Final = _call("floor.create", "POST /api/floors", replayable=False)
FLOOR_UPDATE: Final = _call("floor.update", "PATCH /api/floors/{id}")
UNIT_LIST: Final = _call("unit.list", "GET /api/units")
UNIT_READ: Final = _call("unit.read", "GET /api/units/{id}")
UNIT_CREATE: Final = _call("unit.create", "POST /api/units", replayable=False)
UNIT_UPDATE: Final = _call("unit.update", "PATCH /api/units/{id}")
UNIT_UPDATE_MANY: Final = _call("unit.update_many", "PATCH /api/units")  # one patch for all ids; not in generation A
UNIT_DELETE: Final = _call("unit.delete", "DELETE /api/units/{id}")
LEAD_LIST: Final = _call("lead.list", "GET /api/leads")

AT_ONCE: Final = 100
"""Records that are read in one turn of the loop: a project may have thousands, and others have their turn between."""

_SECRETS: Final = r"token|access_?token|reset_?token|password|stripe\w*"
_SECRET: Final = re.compile(_SECRETS, re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(rf'(?P<name>"(?:{_SECRETS})"\s*:\s*)(?:"(?:[^"\\]|\\.)*"?|[^",}}\]]+)', re.IGNORECASE)

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list as the vendor gave it, in our names."""

    rows: list[Object]
    count: int
    spelling: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether the vendor counts as many as it lists."""
        return self.count == len(self.rows)

    @property
    def warnings(self) -> list[str]:
        """Say so where the vendor counts others than it lists: no page shows a way to get the rest."""
        if self.complete:
            return []
        return [f"Planpoint counts {self.count} and lists {len(self.rows)}; it documents no way to get the rest."]


class Planpoint:
    """Planpoint through one connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.unit = models.UNIT.configured(gateway.connection.fields)
        """The vocabulary of units, with the names that the operator has settled."""

    # Projects, groups, enterprises

    async def find_projects(self, namespace: str, host_name: str) -> Listed:
        """Give the projects of a namespace that a host has access to; an object counts as a list of one."""
        return await self._find(PROJECT_FIND, models.PROJECT, namespace, host_name)

    async def list_projects(self) -> Listed:
        """Give the account's projects, in short."""
        return await self._many(PROJECT_MINE, models.PROJECT)

    async def read_project(self, id: str) -> Object:
        """Give one project, whole: with floors, units, commercial spaces and collections."""
        return await self._one(PROJECT_READ, models.PROJECT, path={"id": id})

    async def create_project(self, fields: Mapping[str, Any]) -> Object:
        """Make a project."""
        return await self._one(PROJECT_CREATE, models.PROJECT, fields=fields)

    async def update_project(self, id: str, changes: Mapping[str, Any]) -> Object:
        """Set some fields of a project; gives it as it is then."""
        return await self._one(PROJECT_UPDATE, models.PROJECT, path={"id": id}, fields=changes)

    async def delete_project(self, id: str) -> str:
        """Delete a project; gives what the vendor says."""
        return _message(await self._gateway.send(PROJECT_DELETE, path={"id": id}))

    async def find_groups(self, namespace: str, host_name: str) -> Listed:
        """Give the groups of a namespace that a host has access to."""
        return await self._find(GROUP_FIND, models.GROUP, namespace, host_name)

    async def list_groups(self) -> Listed:
        """Give the account's groups."""
        return await self._many(GROUP_LIST, models.GROUP)

    async def read_group(self, id: str) -> Object:
        """Give one group."""
        return await self._one(GROUP_READ, models.GROUP, path={"id": id})

    async def create_group(self, fields: Mapping[str, Any]) -> Object:
        """Make a group."""
        return await self._one(GROUP_CREATE, models.GROUP, fields=fields)

    async def update_group(self, id: str, changes: Mapping[str, Any]) -> Object:
        """Set some fields of a group; gives it as it is then."""
        return await self._one(GROUP_UPDATE, models.GROUP, path={"id": id}, fields=changes)

    async def find_enterprises(self, namespace: str, host_name: str) -> Listed:
        """Give the enterprises of a namespace that a host has access to."""
        return await self._find(ENTERPRISE_FIND, models.ENTERPRISE, namespace, host_name)

    # Floors

    async def list_floors(self, project_id: str) -> Listed:
        """Give a project's floors."""
        return await self._many(FLOOR_LIST, models.FLOOR, query={"pid": project_id})

    async def read_floor(self, id: str) -> Object:
        """Give one floor."""
        return await self._one(FLOOR_READ, models.FLOOR, path={"id": id})

    async def project_of(self, floor_id: str) -> str:
        """Give the id of the project that a floor is in."""
        project = reference((await self.read_floor(floor_id)).get("project"))
        if project is None:
            raise ContractBroken(f"Planpoint shows the floor {floor_id} without its project, which each floor has.")
        return project

    async def create_floor(self, project_id: str, fields: Mapping[str, Any]) -> Object:
        """Make a floor in a project."""
        owner = {"project": {"_id": project_id}}
        return await self._one(FLOOR_CREATE, models.FLOOR, fields=fields, owner=owner)

    async def update_floor(self, id: str, changes: Mapping[str, Any]) -> Object:
        """Set some fields of a floor; gives it as it is then."""
        return await self._one(FLOOR_UPDATE, models.FLOOR, path={"id": id}, fields=changes)

    # Units

    async def list_units(self, project_id: str) -> Listed:
        """Give a project's units, all of them: there is no paging."""
        return await self._many(UNIT_LIST, self.unit, query={"pid": project_id})

    async def read_unit(self, id: str) -> tuple[Object, Spelling]:
        """Give one unit, and the names that its fields came under."""
        return await self._spelled(UNIT_READ, path={"id": id})

    async def create_unit(self, floor_id: str, fields: Mapping[str, Any], spelling: Spelling) -> Object:
        """Make a unit on a floor."""
        owner = {"floor": {"_id": floor_id}}
        return await self._one(UNIT_CREATE, self.unit, fields=fields, spelling=spelling, owner=owner)

    async def update_unit(self, id: str, changes: Mapping[str, Any], spelling: Spelling) -> tuple[Object, Spelling]:
        """Set some fields of a unit; gives the unit as it is then, and the names that its fields came under."""
        return await self._spelled(UNIT_UPDATE, path={"id": id}, fields=changes, spelling=spelling)

    async def update_units(self, ids: Sequence[str], changes: Mapping[str, Any], spelling: Spelling) -> None:
        """Set the same fields of many units. What came of it is to be read: ids that don't exist are no error."""
        patch = self._words(UNIT_UPDATE_MANY, self.unit).write(changes, spelling)
        _decoded(await self._gateway.send(UNIT_UPDATE_MANY, json={"ids": list(ids), "patchData": patch}))

    async def delete_unit(self, id: str) -> str:
        """Delete a unit; gives what the vendor says."""
        return _message(await self._gateway.send(UNIT_DELETE, path={"id": id}))

    # Leads

    async def list_leads(self, project_id: str) -> Listed:
        """Give a project's leads. What goes wrong is told without the answer, which may hold personal data."""
        count = None
        try:
            response = await self._gateway.send(LEAD_LIST, query={"pid": project_id})
            records = response.json()
            if isinstance(records, dict):
                count, records = records.get("count"), records.get("records")
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise _broken("a list of leads", response)
        except RelayError as error:
            raise _discreet(error) from None
        return Listed([models.LEAD.read(record) for record in records], _counted(count, records), {})

    # What the answers have in common

    def _words(self, endpoint: Endpoint, vocabulary: Vocabulary) -> Vocabulary:
        """Give the vocabulary with the names that the operator has settled for this one operation."""
        override = self._gateway.connection.operations.get(endpoint.name)
        return vocabulary.configured(override.fields) if override is not None else vocabulary

    async def _exchange(
        self,
        endpoint: Endpoint,
        words: Vocabulary,
        *,
        fields: Mapping[str, Any] | None = None,
        spelling: Spelling | None = None,
        owner: Mapping[str, Any] | None = None,
        **request: Any,
    ) -> Object:
        """Send fields in the vendor's names, beside what they belong to, and give the object that is answered."""
        if fields is not None:
            request["json"] = {**(owner or {}), **words.write(fields, spelling)}
        response = await self._gateway.send(endpoint, **request)
        return _checked(_decoded(response), response)

    async def _one(self, endpoint: Endpoint, vocabulary: Vocabulary, **said: Any) -> Object:
        words = self._words(endpoint, vocabulary)
        return _read(words, await self._exchange(endpoint, words, **said))

    async def _spelled(self, endpoint: Endpoint, **said: Any) -> tuple[Object, Spelling]:
        words = self._words(endpoint, self.unit)
        unit = await self._exchange(endpoint, words, **said)
        return _read(words, unit), words.spelling(unit)

    async def _find(self, endpoint: Endpoint, vocabulary: Vocabulary, namespace: str, host_name: str) -> Listed:
        return await self._many(endpoint, vocabulary, json={"namespace": namespace, "hostName": host_name})

    async def _many(self, endpoint: Endpoint, vocabulary: Vocabulary, **request: Any) -> Listed:
        words = self._words(endpoint, vocabulary)
        response = await self._gateway.send(endpoint, **request)
        count = None
        match _decoded(response):
            case list() as records:
                pass
            case {"records": list() as records, **rest}:
                count = rest.get("count")
            case dict() as one if endpoint.name.endswith(".find"):
                records = [one]  # PP-OAS has one object here, planpoint.txt all that the host can reach
            case _:
                raise _broken("a list is documented, or an object with its records", response)
        known = vocabulary is not models.ENTERPRISE  # whose shape no page shows
        rows: list[Object] = []
        spelling: dict[str, str] = {}
        for number, record in enumerate(records, start=1):
            rows.append(_read(words, _checked(record, response, known=known)))
            if vocabulary is self.unit:
                spelling = {**words.spelling(record), **spelling}
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return Listed(rows, _counted(count, rows), spelling)


def _counted(count: Any, records: Sequence[Any]) -> int:
    """Give how many the vendor counts; where it says no number, as many as it lists."""
    if isinstance(count, str) and count.isascii() and count.isdigit():
        count = int(count[:18])
    whole = isinstance(count, float) and count.is_integer()
    return int(count) if type(count) is int or whole else len(records)


def reference(value: Any) -> str | None:
    """Give the id of an object that stands as its id (PP-OAS) or whole."""
    if isinstance(value, Mapping):
        value = value.get("_id", value.get("id"))
    return value if isinstance(value, str) else None


def _decoded(response: Response) -> Any:
    try:
        return response.json()
    except ContractBroken as error:
        error.response = _redacted(response.text)[:RESPONSE_EXCERPT]
        raise


def _checked(one: Any, response: Response, *, known: bool = True) -> Object:
    if not isinstance(one, dict) or (known and not isinstance(one.get("_id"), str)):
        raise _broken("each object has an _id, a text", response)
    return one


def _broken(documented: str, response: Response) -> RelayError:
    broken = ContractBroken(
        f"Planpoint answered {response.status} with another body than documented: {documented}.",
        status=response.status,
        response=_redacted(response.text),
    )
    return paused(broken) or broken


# Users may stand inside other objects, with tokens and payment data (PP-DOC, user/login): these never leave.


def _read(words: Vocabulary, one: Object) -> Object:
    read: Object = _without_secrets(words.read(one))
    return read


@lru_cache(1_024)
def _is_secret(name: str) -> bool:
    return _SECRET.fullmatch(name) is not None


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items() if not _is_secret(name)}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value


def _redacted(text: str) -> str:
    """Take secrets out of a body that is no object: whole or cut off, it may hold them."""
    return _SECRET_PAIR.sub(r"\g<name>\"…\"", text)


def _message(response: Response) -> str:
    """Give the message of a delete; one that can't be read changes nothing: the vendor has said yes."""
    try:
        body = read_vendors(response.body or b"{}")
    except ValueError:
        return ""
    return body["message"] if isinstance(body, dict) and isinstance(body.get("message"), str) else ""


def _discreet(error: RelayError) -> RelayError:
    """Take the vendor's own words out of an error, in place: of its kind, with its status and its wait."""
    error.response = None
    answered = "" if error.status is None else f" was answered {error.status}"
    fact = (type(error).__doc__ or "").strip().partition("\n")[0]
    error.message = f"{LEAD_LIST.method} {LEAD_LIST.path}{answered}. {fact} (Its words are left out: personal data.)"
    error.args = (error.message,)
    return error


def paused(error: RelayError) -> Paused | None:
    """Understand an error body that says the account or project is paused (api/openapi.yaml, ErrorResponse.paused)."""
    try:
        body = read_vendors(error.response or "")
    except ValueError:
        return None
    match body:
        case {"paused": True}:
            reason = ""
        case {"paused": {"value": True, **rest}}:
            reason = f": {rest['reason']}" if isinstance(rest.get("reason"), str) and rest["reason"] else ""
        case _:
            return None
    return Paused(
        f"Planpoint has paused the account or project{reason}. {error.message}",
        status=error.status,
        response=error.response,
    )
