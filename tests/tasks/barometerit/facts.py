"""
What the pages say goes over barometerIT's wire, as a table: requests and answers of every operation.

Sources: barometerit.txt and the vendor's service pages (see `tasks.barometerit`). Where these name an operation and
show nothing of it, the table has the reading that is shipped: `assumed`. Objects may have more fields than documented.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
MAYBE: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
BN: Schema = {"type": "string", "pattern": "^[0-9A-Z]{12}$"}
DATA_TYPE: Schema = {"enum": ["BOOLEAN", "DATE", "DATE_TIME", "DECIMAL", "INTEGER", "TEXT", "TIME"]}
NAMED: Schema = {"type": "string", "minLength": 1}


def thing(*required: str, closed: bool = False, **properties: Schema) -> Schema:
    """Describe an object: these fields required, those of this type where they are; `closed`: and no others."""
    names = {name.removesuffix("_"): schema for name, schema in properties.items()}
    return {"type": "object", "required": list(required), "properties": names, "additionalProperties": not closed}


def each(schema: Schema) -> Schema:
    """Describe a bare array."""
    return {"type": "array", "items": schema}


OPTION: Schema = {"anyOf": [{"type": "null"}, thing("bn", "name", bn=BN, name=TEXT)]}
PERSON: Schema = thing("bn", "firstName", "lastName", bn=BN)
ENTITY: Schema = thing(
    *("entityDiscriminator", "bn", "name", "lastUpdateDate"),
    entityDiscriminator={"type": "string", "pattern": "^[A-Z]{3}$"},
    bn=BN,
    name=TEXT,
    description=MAYBE,
    details=MAYBE,
    contentStatus=thing("id", "displayableName", "editName"),
    enterpriseApproval=OPTION,
    lifecycleState=OPTION,
    lastUpdateDate={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000$"},
    updatedByBn=PERSON,
    createdByBn=PERSON,
)
ENTITIES: Schema = thing("first", "count", "entities", first=NUMBER, count=NUMBER, entities=each(ENTITY))
ENVELOPE: Schema = thing(
    *("successfulBns", "proposedChangeBns", "transactionIds"),
    successfulBns=each(BN),
    proposedChangeBns=each(BN),
    transactionIds=each(TEXT),
)
FIELD_SHORT: Schema = thing("bn", "dataType", "displayType", "controlLevel", "name", bn=BN, dataType=DATA_TYPE)
FIELD: Schema = thing(
    *(
        "bn",
        "choices",
        "dataType",
        "decimalPlaces",
        "displayType",
        "fieldId",
        "fieldLength",
        "helpText",
        "name",
        "notes",
    ),
    bn=BN,
    dataType=DATA_TYPE,
    choices=each(thing("displayValue")),
    controlLevel={"enum": ["NONE", "VISIBLE", "EDITABLE"]},
)
FIELDSET: Schema = thing("bn", "expanded", "fields", "name", bn=BN, expanded=FLAG, name=TEXT)
FIELDSET_WHOLE: Schema = thing("bn", "expanded", "fields", "helpText", "name", "notes", fields=each(thing("sortVal")))
HIT: Schema = thing("name", "bn", "controlLevel", "entityType", bn=BN)
PROPOSAL: Schema = thing(
    "bn", "createDate", "conflicted", "entityBn", "entityType", bn=BN, entityBn=BN, conflicted=FLAG
)

NEW_ENTITY: Schema = thing("entityDiscriminator", "name", entityDiscriminator=TEXT, name=NAMED)
BASIC: Schema = {**thing("name", name=NAMED), "not": {"anyOf": [{"required": ["bn"]}, {"required": ["updatedByBn"]}]}}
MANY: Schema = thing("bns", "properties", closed=True, bns=each(BN), properties={"type": "object", "minProperties": 1})
VALUES: Schema = {"type": "array", "minItems": 1, "items": thing("bn", "value", closed=True, bn=BN, value={})}
SETTINGS: Schema = {**thing("name", name=NAMED, dataType=DATA_TYPE), "not": {"required": ["bn"]}}
NEW_FIELDSET: Schema = {
    **thing("name", "fields", "expanded", name=NAMED, fields=each(BN), expanded=FLAG),
    "not": {"required": ["bn"]},
}
FILTER: Schema = thing("params", closed=True, params=each({"additionalProperties": each(TEXT)}), searchString=TEXT)
COMPARED: Schema = thing("keyBn", "operator", "valueBn", closed=True, keyBn=BN, operator=TEXT, valueBn=TEXT)
OPERABLE: Schema = thing(
    "params", closed=True, params=each(COMPARED), joiningOperator={"enum": ["AND", "OR"]}, searchString=TEXT
)
SOUGHT: Schema = thing(
    "searchString", closed=True, searchString=NAMED, maxResults=NUMBER, entityTypes=each({"pattern": "^[A-Z]{3}$"})
)
ASSOC: Schema = thing("targetBn", closed=True, targetBn=BN, relationshipIdentifier=MAYBE, relationshipType=MAYBE)
ASSOCIATION: Schema = thing(
    *("sourceBn", "addedAssocs", "removedAssocs"),
    closed=True,
    sourceBn=BN,
    indexBn=MAYBE,
    relationshipType=MAYBE,
    addedAssocs=each(ASSOC),
    removedAssocs=each(ASSOC),
)


@dataclass(frozen=True)
class Fact:
    """One operation: what it takes and answers. `asks`: the query's names, those in brackets optional."""

    method: str
    path: str
    answers: Schema | None
    """None: no JSON."""
    takes: Schema | None = None
    asks: str = ""
    accepts: str = "application/json;charset=UTF-8"
    sends: str = "application/json;charset=UTF-8"
    assumed: bool = False


_BN = "[0-9A-Z]{12}"
_DAYS = "[updateDateStartDate] [updateDateEndDate] [createDateStartDate] [createDateEndDate]"
FACTS: Mapping[str, Fact] = {
    "entity.list": Fact(
        "GET", "/entities", ENTITIES, asks=f"type first count {_DAYS} [filter] [operableFilter] [fieldsets]"
    ),
    "entity.read": Fact("GET", f"/entities/{_BN}", ENTITY, assumed=True),
    "entity.create": Fact("POST", "/entities", ENTITY, NEW_ENTITY, assumed=True),
    "entity.update": Fact("PUT", f"/entities/{_BN}", ENVELOPE, BASIC, assumed=True),
    "entity.update_many": Fact("PUT", "/entities", ENVELOPE, MANY, assumed=True),
    "entity.delete": Fact("DELETE", f"/entities/{_BN}", ENVELOPE, assumed=True),
    "entity.fields.read": Fact("GET", f"/entities/{_BN}/fields", each(thing("bn", "value")), assumed=True),
    "entity.fields.update": Fact("PUT", f"/entities/{_BN}/fields", ENVELOPE, VALUES, assumed=True),
    "entity.links": Fact("GET", f"/entities/{_BN}/links", each(thing("name", "url")), assumed=True),
    "entity.tags": Fact("GET", f"/entities/{_BN}/tags", each(thing("bn", "name")), assumed=True),
    "entity_properties.read": Fact("GET", "/entityproperties/[A-Z]{3}", each(thing("name"))),
    "field.list": Fact("GET", "/fields", each(FIELD_SHORT)),
    "field.read": Fact("GET", f"/fields/{_BN}", FIELD),
    "field.create": Fact("POST", "/fields", FIELD, SETTINGS),
    "field.update": Fact("PUT", f"/fields/{_BN}", FIELD, SETTINGS, assumed=True),
    "field.delete": Fact("DELETE", f"/fields/{_BN}", ENVELOPE, assumed=True),
    "fieldset.list": Fact("GET", "/fieldsets", each(FIELDSET_WHOLE), asks="type", assumed=True),
    "fieldset.read": Fact("GET", f"/fieldsets/{_BN}", FIELDSET_WHOLE),
    "fieldset.create": Fact("POST", "/fieldsets", FIELDSET, NEW_FIELDSET),
    "fieldset.update": Fact("PUT", f"/fieldsets/{_BN}", FIELDSET, NEW_FIELDSET),
    "fieldset.delete": Fact("DELETE", f"/fieldsets/{_BN}", ENVELOPE, assumed=True),
    "filter.build": Fact("POST", "/filter", None, FILTER, accepts="text/plain"),
    "operable_filter.build": Fact("POST", "/operablefilter", None, OPERABLE, accepts="text/plain"),
    "search": Fact(
        "POST",
        "/search/unified",
        thing(
            *("count", "topHit", "matches"),
            count=NUMBER,
            topHit={"anyOf": [HIT, {"type": "null"}]},
            matches=each(thing("entityTypeCode", "entityTypeResults", entityTypeResults=each(HIT))),
        ),
        SOUGHT,
    ),
    "association.update": Fact("POST", "/association", ENVELOPE, ASSOCIATION),
    "association.list": Fact(
        "GET", "/association", each(thing()), asks="sourceBn targetEntityType [relationshipType] first count"
    ),
    "proposal.list": Fact(
        "GET", "/proposals", each(PROPOSAL), asks="[entityBn] [entityType] type [conflicts] first count"
    ),
    "report.generate": Fact(
        "POST",
        f"/reports/{_BN}",
        thing("assetBn", "fileFormat", assetBn=BN, fileFormat={"enum": ["CSV", "JSON", "XML"]}),
        sends="text/csv;charset=UTF-8",
    ),
    "report.size": Fact("GET", f"/reports/{_BN}/size", thing("size", size=NUMBER), assumed=True),
    "report.download": Fact("GET", f"/reports/{_BN}", None, asks="[deleteAsset]", accepts="*/*"),
    "document.upload": Fact(
        "POST", "/documents", thing("bn", "name", bn=BN), sends="multipart/form-data; boundary=", assumed=True
    ),
}
