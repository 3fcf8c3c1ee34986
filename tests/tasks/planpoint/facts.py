"""
What the pages say goes over Planpoint's wire, as a table: requests and answers of every operation, both generations.

Sources: planpoint.txt; api/openapi.yaml of planpoint-io/planpoint-sdk-java (generation B); viewerdocs.planpoint.io
(generation A). Objects may have more fields than documented; documented ones have the documented type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ID: Schema = {"type": "string", "pattern": "^[0-9a-fA-F]{24}$"}
NAMED: Schema = {"type": "string", "minLength": 1}
LIST: Schema = {"type": "array"}
MESSAGE: Schema = {"type": "object", "required": ["message"], "properties": {"message": TEXT}}


def thing(*required: str, **properties: Schema) -> Schema:
    """Describe an object with an id: these fields required, those of this type where they are."""
    return {"type": "object", "required": ["_id", *required], "properties": {"_id": ID, **properties}}


def body(*required: str, closed: bool = True, **properties: Schema) -> Schema:
    """Describe a request's body."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": not closed}


def each(schema: Schema) -> Schema:
    """Describe a bare array."""
    return {"type": "array", "items": schema}


def counted(schema: Schema) -> Schema:
    """Describe B's list: its records, and how many."""
    properties = {"records": each(schema), "count": NUMBER}
    return {"type": "object", "required": ["records", "count"], "properties": properties}


REFERENCE: Schema = {"type": "object", "required": ["_id"], "properties": {"_id": ID}, "additionalProperties": False}
FREE: Schema = {"type": "object", "minProperties": 1, "not": {"required": ["_id"]}}
FIND: Schema = body("namespace", "hostName", namespace=NAMED, hostName=NAMED)
STATUS: Schema = {"enum": ["Available", "OnHold", "Sold", "Leased", "Unavailable"]}

_UNIT = {"name": TEXT, "unitNumber": TEXT, "price": NUMBER, "model": TEXT, "orientation": TEXT, "parking": NUMBER}
_OF_B = {"status": STATUS, "bed": NUMBER, "bath": NUMBER, "sqft": NUMBER}
_OF_A = {"availability": TEXT, "bedrooms": TEXT}
UNIT_B: Schema = {**thing("floor", floor=ID, **_UNIT, **_OF_B), "not": {"required": ["availability"]}}
UNIT_A: Schema = {**thing("floor", floor=ID, **_UNIT, **_OF_A), "not": {"required": ["status"]}}
FLOOR: Schema = thing("project", project=ID, name=TEXT, level=NUMBER, position=NUMBER, path=TEXT, alternativePaths=LIST)
PROJECT: Schema = thing("name", "namespace", "hostName", name=TEXT, namespace=TEXT, hostName=TEXT, floors=LIST)
SUMMARY: Schema = thing("name", name=TEXT, namespace=TEXT, hostName=TEXT, createdAt=TEXT)
GROUP: Schema = thing("user", user=ID, name=TEXT, namespace=TEXT, hostName=TEXT, projects=LIST, isOwner=FLAG)
LEAD: Schema = {"type": "object", "properties": {"name": TEXT, "email": TEXT, "phone": TEXT, "message": TEXT}}

NEW_UNIT: Schema = body("floor", floor=REFERENCE, closed=False)
NEW_FLOOR: Schema = body(
    "project", "name", project=REFERENCE, name=NAMED, position=NUMBER, path=TEXT, alternativePaths=each(TEXT)
)
NEW_GROUP: Schema = body(
    "name",
    name={"type": "string", "minLength": 3, "maxLength": 120},
    namespace=TEXT,
    hostName=TEXT,
    type=TEXT,
    propertyType=TEXT,
)
NEW_PROJECT: Schema = body("name", name=NAMED, closed=False)
BATCH: Schema = body("ids", "patchData", ids=each(ID), patchData=FREE)


@dataclass(frozen=True)
class Fact:
    """One operation: what it takes, and what a generation answers with. `created` is B's success status; A's is 200."""

    method: str
    path: str
    b: Schema
    a: Schema
    created: int = 200
    takes: Schema | None = None
    asks: tuple[str, ...] = field(default=())


_ONE = "[0-9a-fA-F]{24}"
FACTS: Mapping[str, Fact] = {
    # PP-OAS: one project. planpoint.txt: all that the host can reach.
    "project.find": Fact("POST", "/api/projects/find", PROJECT, each(PROJECT), 201, FIND),
    "project.mine": Fact("GET", "/api/projects/mine", each(SUMMARY), each(SUMMARY), 201),
    "project.read": Fact("GET", f"/api/projects/{_ONE}", PROJECT, PROJECT, 201),
    "project.create": Fact("POST", "/api/projects", PROJECT, PROJECT, 201, NEW_PROJECT),
    "project.update": Fact("PATCH", f"/api/projects/{_ONE}", PROJECT, PROJECT, 201, FREE),
    "project.delete": Fact("DELETE", f"/api/projects/{_ONE}", MESSAGE, MESSAGE),
    "group.find": Fact("POST", "/api/groups/find", {"anyOf": [GROUP, each(GROUP)]}, each(GROUP), 200, FIND),
    "group.list": Fact("GET", "/api/groups", counted(GROUP), each(GROUP), 201),
    "group.read": Fact("GET", f"/api/groups/{_ONE}", GROUP, GROUP, 201),
    "group.create": Fact("POST", "/api/groups", GROUP, GROUP, 201, NEW_GROUP),
    "group.update": Fact("PATCH", f"/api/groups/{_ONE}", GROUP, GROUP, 201, FREE),
    "enterprise.find": Fact(
        "POST", "/api/enterprises/find", {"anyOf": [thing(), each(thing())]}, each(thing()), 200, FIND
    ),
    "floor.list": Fact("GET", "/api/floors", each(FLOOR), each(FLOOR), asks=("pid",)),
    "floor.read": Fact("GET", f"/api/floors/{_ONE}", FLOOR, FLOOR),
    "floor.create": Fact("POST", "/api/floors", FLOOR, FLOOR, 201, NEW_FLOOR),
    "floor.update": Fact("PATCH", f"/api/floors/{_ONE}", FLOOR, FLOOR, 200, FREE),
    "unit.list": Fact("GET", "/api/units", counted(UNIT_B), each(UNIT_A), 201, asks=("pid",)),
    "unit.read": Fact("GET", f"/api/units/{_ONE}", UNIT_B, UNIT_A),
    "unit.create": Fact("POST", "/api/units", UNIT_B, UNIT_A, 201, NEW_UNIT),
    "unit.update": Fact("PATCH", f"/api/units/{_ONE}", UNIT_B, UNIT_A, 200, FREE),
    "unit.update_many": Fact("PATCH", "/api/units", each(UNIT_B), each(UNIT_A), 201, BATCH),
    "unit.delete": Fact("DELETE", f"/api/units/{_ONE}", MESSAGE, MESSAGE),
    "lead.list": Fact("GET", "/api/leads", each(LEAD), each(LEAD), asks=("pid",)),
}

ERROR: Schema = {
    "type": "object",
    "required": ["message"],
    "properties": {
        "message": TEXT,
        "paused": {
            "anyOf": [
                FLAG,
                {"type": "object", "required": ["value"], "properties": {"value": FLAG, "reason": TEXT}},
            ]
        },
    },
}
