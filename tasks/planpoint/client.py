"""
Typed calls on a connection's gateway: requests out, objects in our names back.

Every method raises the error tree; an error body that speaks of a pause raises `Paused`. Methods that write units take
a *spelling*: the names under which this tenant's units show the fields that the two generations name differently.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint import models
from worker.errors import ContractBroken, Paused, Rejection, RelayError
from worker.rest import Endpoint
from worker.vocabulary import Spelling, Vocabulary

if TYPE_CHECKING:
    from worker.gateway import Gateway
    from worker.rest import Response

# PP-OAS: api/openapi.yaml of github.com/planpoint-io/planpoint-sdk-java (generation B).
# PP-DOC: viewerdocs.planpoint.io/api-documentation/endpoint/… (generation A).
# planpoint.txt: the vendor's own page. Setting the same values twice is harmless, so PATCH is replayable (inferred).
PROJECT_FIND: Final = Endpoint(  # a read, though a POST (planpoint.txt, "Fetch Projects")
    name="project.find",
    method="POST",
    path="/api/projects/find",
    evidence="seed",
    source="planpoint.txt",
    replayable=True,
)
PROJECT_MINE: Final = Endpoint(
    name="project.mine", method="GET", path="/api/projects/mine", evidence="public", source="PP-OAS", replayable=True
)
FLOOR_READ: Final = Endpoint(
    name="floor.read", method="GET", path="/api/floors/{id}", evidence="public", source="PP-OAS", replayable=True
)
UNIT_LIST: Final = Endpoint(
    name="unit.list", method="GET", path="/api/units", evidence="public", source="PP-OAS", replayable=True
)
UNIT_READ: Final = Endpoint(
    name="unit.read", method="GET", path="/api/units/{id}", evidence="public", source="PP-OAS", replayable=True
)
UNIT_CREATE: Final = Endpoint(
    name="unit.create", method="POST", path="/api/units", evidence="public", source="PP-OAS", replayable=False
)
UNIT_UPDATE: Final = Endpoint(
    name="unit.update", method="PATCH", path="/api/units/{id}", evidence="public", source="PP-OAS", replayable=True
)

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

    async def stream(self) -> AsyncIterator[Object]:
        """Give the rows one by one."""
        for row in self.rows:
            yield row


class Planpoint:
    """Planpoint through one connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.unit = models.UNIT.configured(gateway.connection.fields)
        """The vocabulary of units, with the names that the operator has settled."""

    # Projects

    async def find_projects(self, namespace: str, host_name: str) -> Listed:
        """Give the projects of a namespace that a host has access to; an object counts as a list of one."""
        return await self._find(PROJECT_FIND, models.PROJECT, namespace, host_name)

    # Floors

    async def read_floor(self, id: str) -> Object:
        """Give one floor."""
        return self._object(await self._send(FLOOR_READ, path={"id": id}), models.FLOOR)

    async def project_of(self, floor_id: str) -> str:
        """Give the id of the project that a floor is in."""
        response = await self._send(FLOOR_READ, path={"id": floor_id})
        project = reference(self._object(response, models.FLOOR).get("project"))
        if project is None:
            raise _broken("each floor has a project, an id", response)
        return project

    # Units

    async def list_units(self, project_id: str) -> Listed:
        """Give a project's units, all of them: there is no paging."""
        return self._list(await self._send(UNIT_LIST, query={"pid": project_id}), self.unit)

    async def read_unit(self, id: str) -> tuple[Object, Spelling]:
        """Give one unit, and the names that its fields came under."""
        return self._spelled(await self._send(UNIT_READ, path={"id": id}))

    async def create_unit(self, floor_id: str, fields: Mapping[str, Any], spelling: Spelling) -> Object:
        """Make a unit on a floor."""
        body = {"floor": {"_id": floor_id}, **self.unit.write(fields, spelling)}
        return self._object(await self._send(UNIT_CREATE, json=body), self.unit)

    async def update_unit(self, id: str, changes: Mapping[str, Any], spelling: Spelling) -> tuple[Object, Spelling]:
        """Set some fields of a unit; gives the unit as it is then, and the names that its fields came under."""
        return self._spelled(await self._send(UNIT_UPDATE, path={"id": id}, json=self.unit.write(changes, spelling)))

    # What the answers have in common

    async def _send(self, endpoint: Endpoint, **request: Any) -> Response:
        try:
            response: Response = await self._gateway.send(endpoint, **request)
        except Rejection as error:
            raise _paused(error) or error from None
        return response

    async def _find(self, endpoint: Endpoint, vocabulary: Vocabulary, namespace: str, host_name: str) -> Listed:
        # One object (PP-OAS) or all that the host can reach (planpoint.txt): accept both.
        response = await self._send(endpoint, json={"namespace": namespace, "hostName": host_name})
        return self._list(response, vocabulary)

    def _object(self, response: Response, vocabulary: Vocabulary) -> Object:
        return vocabulary.read(_checked(response.object(), response))

    def _spelled(self, response: Response) -> tuple[Object, Spelling]:
        unit = _checked(response.object(), response)
        return self.unit.read(unit), self.unit.spelling(unit)

    def _list(self, response: Response, vocabulary: Vocabulary) -> Listed:
        match response.json():
            case list() as records:
                count = len(records)
            case {"records": list() as records, "count": int() as count}:
                pass
            case {"records": list() as records}:
                count = len(records)
            case {"_id": _} as one:
                records, count = [one], 1
            case _:
                raise _broken("a list is documented, or an object with its records", response)
        rows = [vocabulary.read(_checked(record, response)) for record in records]
        spelling: dict[str, str] = {}
        for record in records:
            for name, spelled in vocabulary.spelling(record).items():
                spelling.setdefault(name, spelled)
        return Listed(rows, count, spelling)


def reference(value: Any) -> str | None:
    """Give the id of an object that stands as its id (PP-OAS) or whole."""
    if isinstance(value, Mapping):
        value = value.get("_id", value.get("id"))
    return value if isinstance(value, str) else None


def _checked(one: Any, response: Response) -> Object:
    if not isinstance(one, dict) or not isinstance(one.get("_id"), str):
        raise _broken("each object has an _id, a text", response)
    return one


def _broken(documented: str, response: Response) -> ContractBroken:
    return ContractBroken(
        f"Planpoint answered {response.status} with another body than documented: {documented}.",
        status=response.status,
        response=response.text,
    )


def _paused(error: RelayError) -> Paused | None:
    """Understand an error body that says the account or project is paused (api/openapi.yaml, ErrorResponse.paused)."""
    try:
        body = json.loads(error.response or "")
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
