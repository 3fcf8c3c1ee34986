"""What barometerIT's operations share: the vendor's words, the switches, who may, how a write becomes a proposal."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from sandbox.barometerit.snapshots import base36
from sandbox.stand_in import StandIn
from sandbox.store import Collection
from sandbox.switches import Switches, choice, duration, flag, optional, positive, text, whole
from sandbox.wire import JSON, Answer, Call, Object, Operation, Refusal, encode

# Getting Started, "Entity Types"; behind each code the kind in its BNs, where an example shows one (else made up).
TYPES = {
    "ACT": ("Actor", "0411"),
    "AST": ("Document", "0412"),
    "CAP": ("Capability", "0413"),
    "CIR": ("Collection", "0414"),
    "COM": ("Company", "0416"),
    "CON": ("Connection", "0417"),
    "CRL": ("Rule", "0419"),
    "DAT": ("Data", "041A"),
    "DEM": ("Demand", "041B"),
    "LYT": ("Dashboard", "041C"),
    "MKT": ("Market", "041D"),
    "ORG": ("Organization", "041E"),
    "PER": ("Person", "040E"),
    "PHY": ("Deployment", "0439"),
    "PRD": ("Product", "041F"),
    "ADQ": ("Report", "0424"),
    "SKI": ("Skill", "0415"),
    "STA": ("Standard", "041G"),
    "STR": ("Strategy", "041H"),
    "SYS": ("System", "0418"),
    "TAG": ("Tag", "041I"),
    "TEC": ("Technology", "041J"),
}
FORMATS = {"text/csv": "CSV", "application/json": "JSON", "application/xml": "XML"}
STATUSES = {"IDFD": ("Identified", 1), "DEFD": ("Defined", 2), "COMP": ("Completed", 3), "APPR": ("Approved", 4)}
HELD = ("COMP", "APPR")
"""Content statuses in which an edit is held as a proposal (About contributions)."""
OPTIONS = {
    "lifecycleState": ("Lifecycle State", ("In Use", "Planned", "Retired")),
    "enterpriseApproval": ("Enterprise Approval", ("Unspecified", "Approved", "Rejected")),
    "domain": ("Domain", ("Corporate", "Finance", "Operations")),
}
DATA_TYPES = ("BOOLEAN", "DATE", "DATE_TIME", "DECIMAL", "INTEGER", "TEXT", "TIME")
KEPT = ("bn", "createDate", "createdByBn", "entityDiscriminator", "lastUpdateDate", "updatedByBn")
"""What a write can't set."""
BASIC = ("description", "lifecycleState", "domain", "type")
"""What replacing all basic fields empties if it is left out; `name` is needed."""


@dataclass(frozen=True, kw_only=True)
class BarometeritSwitches(Switches):
    """How this barometerIT behaves."""

    username: Annotated[str, text] = "svc-relay"
    password: Annotated[str, text] = "sandbox-password"
    page_default: Annotated[int, positive] = 100
    page_max: Annotated[int, positive] = 1000
    unfiltered_spelling: Annotated[str, choice("unfilterdCount", "unfilteredCount")] = "unfilterdCount"
    create_answer: Annotated[str, choice("entity", "bn")] = "entity"
    put_replaces: Annotated[bool, flag] = True
    editor: Annotated[bool, flag] = True
    report_time: Annotated[timedelta, duration] = timedelta(0)
    report_not_ready: Annotated[str, choice("404", "202", "204", "empty")] = "404"
    report_answer: Annotated[str, choice("at_once", "when_ready")] = "at_once"
    report_busy: Annotated[int, choice(409, 423, 503)] = 409
    report_busy_retry_after: Annotated[timedelta | None, optional(duration)] = None
    report_framing: Annotated[str, choice("length", "chunked")] = "length"
    report_etag: Annotated[str, choice("none", "strong", "weak")] = "none"
    report_ranges: Annotated[bool, flag] = False
    report_content_type: Annotated[str, choice("text/plain", "by_format")] = "text/plain"
    report_rate: Annotated[int | None, optional(positive)] = None
    report_size_path: Annotated[bool, flag] = True
    report_size_delta: Annotated[int, whole] = 0


class Tenant(StandIn):
    """One tenant's collections, and what every operation does with them."""

    vendor = "barometerit"
    switches: BarometeritSwitches

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.entities = Collection("bn", natural=_type_and_name, group=lambda one: one["entityDiscriminator"])
        self.reports = Collection("bn")
        self.assets = Collection("bn", group=lambda one: one["reportBn"])
        self.proposals = Collection("bn", natural=lambda one: one["groupByHash"], group=lambda one: one["entityBn"])
        self.fields = Collection("bn", natural=lambda one: one["name"])
        self.fieldsets = Collection("bn", natural=lambda one: one["name"], group=lambda one: one["entityType"])
        self.associations = Collection("bn", natural=ends, group=lambda one: one["sourceBn"])
        self.documents = Collection("bn", natural=lambda one: one["name"])
        self.collections = {
            "entities": self.entities,
            "reports": self.reports,
            "assets": self.assets,
            "proposals": self.proposals,
            "fields": self.fields,
            "fieldsets": self.fieldsets,
            "associations": self.associations,
            "documents": self.documents,
        }
        self._values: dict[str, dict[str, JSON]] = {}
        self._options = {
            name: [
                {"bn": f"ZZ0M{base36(16 * kind + number, 8)}", "name": value, "label": label, "description": label}
                for number, value in enumerate(values)
            ]
            for kind, (name, (label, values)) in enumerate(OPTIONS.items())
        }
        self._self = person("040E000000R1", "Relay", "Service")

    def locate(self, path: str) -> list[str]:
        """`/api/c/…`, `/api/<version>/…`, and `/api/entities` without a version, as some examples have it."""
        segments = path.strip("/").split("/")
        if segments[0] != "api":
            raise Refusal(404, f"there is nothing at {path}")
        return segments[2:] if len(segments) > 1 and (segments[1] == "c" or segments[1][:1].isdigit()) else segments[1:]

    def authorize(self, call: Call, wanted: Operation) -> None:
        """Basic; then the headers that barometerit.txt demands under "Content Type"; the Editor role for writes."""
        if call.basic() != (self.switches.username, self.switches.password):
            raise Refusal(401, "user name and password don't match", headers={"WWW-Authenticate": "Basic"})
        produced = self.produced(call, wanted)
        if not _accepts(call.headers.get("Accept"), produced):
            raise Refusal(406, f"this answers {produced}; the Accept header doesn't allow it")
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        expected = FORMATS if wanted.name == "report.generate" else ("application/json", "application/plain")
        if call.method in ("POST", "PUT") and not wanted.upload and kind not in expected:
            raise Refusal(415, f"the Content-Type must be {' or '.join(expected)}")
        writes = call.method in ("PUT", "DELETE") or wanted.name.endswith((".create", ".update", ".upload"))
        if writes and not self.switches.editor:
            raise Refusal(403, "the Editor role is needed")

    def produced(self, call: Call, wanted: Operation) -> str:  # noqa: ARG002  # reports look at the call
        """The media type of an operation's answer."""
        return wanted.produces or "application/json"

    # Reading

    def _type(self, code: JSON) -> str:
        if not isinstance(code, str) or code not in TYPES:
            raise Refusal(400, f"the entity type must be one of {', '.join(TYPES)}, not {code!r}")
        return code

    def _entity(self, call: Call) -> Object:
        found = self.entities.get(call.ident)
        if found is None:
            raise Refusal(404, f"there is no entity {call.ident}")
        return found

    def _valued(self, field: Object, bn: str) -> Object:
        shown = {name: field[name] for name in ("bn", "name", "dataType", "displayType", "controlLevel")}
        return {**shown, "value": self._values.get(bn, {}).get(field["bn"])}

    def _paged(self, call: Call, found: list[Object]) -> list[Object]:
        first = call.integer("first", 0, least=0)
        count = min(call.integer("count", self.switches.page_default, least=1), self.switches.page_max)
        return found[first : first + count]

    # Writing

    def _edit(self, call: Call, bn: str, fields: Object) -> tuple[bool, str]:
        """Saves, or holds as a proposal: whether it is saved, and the entity's or the proposal's BN."""
        entity = self.entities.get(bn)
        assert entity is not None  # noqa: S101  # the callers looked
        if entity["contentStatus"]["id"] in HELD:
            return self._propose(call, entity, fields)
        stamped = {**fields, "lastUpdateDate": _stamp(call.now), "updatedByBn": self._self}
        self.entities.change(bn, stamped)
        call.did("updated", "entities", bn)
        return True, bn

    def _touch(self, call: Call) -> None:
        self.entities.change(call.ident, {"lastUpdateDate": _stamp(call.now), "updatedByBn": self._self})
        call.did("updated", "entities", call.ident)

    def _propose(self, call: Call, entity: Object, fields: Object) -> tuple[bool, str]:
        """A proposal that waits already isn't made again; one that wants the same field otherwise conflicts."""
        key = hashlib.sha1(encode([entity["bn"], fields]), usedforsecurity=False).hexdigest().upper()
        waiting = self.proposals.having(key)
        if waiting:
            call.did("proposed", "proposals", waiting[0]["bn"])
            return False, waiting[0]["bn"]
        rivals = [one for one in self.proposals.page(0, None, entity["bn"]) if set(one["changes"]) & set(fields)]
        for one in rivals:
            self.proposals.change(one["bn"], {"conflicted": True})
        kind, now = entity["entityDiscriminator"], _stamp(call.now)
        proposal = {
            "bn": self._bn("0410"),
            "createDate": now,
            "lastUpdateDate": now,
            "updatedByBn": self._self,
            "relationshipTypeName": "RELATED_TO" if "added" in fields else None,
            "conflicted": bool(rivals),
            "contributedByBn": self._self["bn"],
            "contributedDate": now,
            "controlLevel": "EDITABLE",
            "entityBn": entity["bn"],
            "entityType": {"code": kind, "name": TYPES[kind][0]},
            "groupByHash": key,
            "processedByBn": None,
            "changes": fields,
        }
        self.proposals.add(proposal)
        call.did("proposed", "proposals", proposal["bn"])
        return False, proposal["bn"]

    def _envelope(self, outcomes: Sequence[tuple[bool, str]], call: Call) -> Answer:
        transaction = hashlib.md5(f"{call.now}/{self.serial()}".encode(), usedforsecurity=False).hexdigest()
        return self.answer(
            {
                "successfulBns": [bn for saved, bn in outcomes if saved],
                "proposedChangeBns": [bn for saved, bn in outcomes if not saved],
                "transactionIds": [transaction],
            }
        )

    def _deleted(self, call: Call, collection: str) -> Answer:
        self.existing(collection, call.ident)
        self.collections[collection].remove(call.ident)
        call.did("deleted", collection, call.ident)
        return self._envelope([(True, call.ident)], call)

    def _basics(self, said: Object) -> Object:
        """The fields a write may set, with options by BN or name put in full."""
        fields = {name: value for name, value in said.items() if name not in KEPT and name != "entityType"}
        if isinstance(fields.get("type"), str) and fields["type"] in TYPES:
            del fields["type"]
        if "name" in fields and (not isinstance(fields["name"], str) or not fields["name"].strip()):
            raise Refusal(400, "name must be a text")
        for name in ("lifecycleState", "enterpriseApproval"):
            if fields.get(name) is not None:
                fields[name] = self._option(name, fields[name])
        if fields.get("contentStatus") is not None:
            wanted = fields["contentStatus"]
            wanted = wanted.get("id") if isinstance(wanted, dict) else wanted
            if not isinstance(wanted, str) or wanted not in STATUSES:
                raise Refusal(400, f"contentStatus must be one of {', '.join(STATUSES)}")
            fields["contentStatus"] = status(wanted)
        return fields

    def _option(self, name: str, value: JSON) -> Object:
        wanted = value.get("bn", value.get("name")) if isinstance(value, dict) else value
        for option in self._options[name]:
            if wanted in (option["bn"], option["name"]):
                return option
        allowed = ", ".join(option["name"] for option in self._options[name])
        raise Refusal(400, f"{name} must be one of {allowed}, or their BN")

    # Making

    def _bn(self, kind: str) -> str:
        return kind + base36(self.serial(), 8)

    def _new_entity(self, kind: str, now: float, by: Object) -> Object:
        return {
            "entityDiscriminator": kind,
            "bn": self._bn(TYPES[kind][1]),
            "name": "",
            "contentCompletionDate": None,
            "contentStatus": status("IDFD"),
            "description": None,
            "details": None,
            "domain": None,
            "enterpriseApproval": self._options["enterpriseApproval"][0],
            "lifecycleState": self._options["lifecycleState"][0],
            "createDate": _stamp(now),
            "lastUpdateDate": _stamp(now),
            "updatedByBn": by,
            "createdByBn": by,
        }


def _type_and_name(entity: Object) -> tuple[str, str]:
    return entity["entityDiscriminator"], entity["name"]


def ends(said: Object) -> tuple[JSON, ...]:
    """What makes two associations the same."""
    return tuple(str(said.get(name)) for name in ("sourceBn", "targetBn", "relationshipIdentifier", "relationshipType"))


def person(bn: str, first: str, last: str) -> Object:
    """A person as entities name their authors."""
    return {"bn": bn, "firstName": first, "lastName": last, "deleted": False}


def status(ident: str) -> Object:
    """A content status as entities show it; ValueError for an id nobody knows."""
    if ident not in STATUSES:
        raise ValueError(f"there is no content status {ident!r}; there are {', '.join(STATUSES)}")
    name, number = STATUSES[ident]
    return {"id": ident, "displayableName": name, "editName": f"{number}) {name}"}


def _stamp(now: float) -> str:
    """As in the Entity Service's example: 2016-05-20T20:04:39.074+0000."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "+0000")


def _accepts(accept: str | None, produced: str) -> bool:
    """Whether the header allows the media type; a missing one doesn't (barometerit.txt, "Content Type")."""
    allowed = {produced, f"{produced.partition('/')[0]}/*", "*/*"}
    if produced == "application/json":
        # Some of the vendor's header lists say so where the answer is JSON.
        allowed.add("application/plain")
    for part in (accept or "").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind in allowed and not any(one.replace(" ", "") in ("q=0", "q=0.0") for one in parameters):
            return True
    return False
