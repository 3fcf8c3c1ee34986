"""What Planpoint's operations share: the two generations' names and shapes, the switches, who may, seeding."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from sandbox.stand_in import StandIn, Tokens
from sandbox.store import Collection
from sandbox.switches import Switches, choice, duration, flag, optional, positive, text, whole
from sandbox.wire import JSON, Answer, Call, Object, Operation, Refusal

# Our name (B's) and A's.
_UNIT_NAMES = {"status": "availability", "bed": "bedrooms", "bath": "bathrooms", "sqft": "squareFeet"}
_UNIT_NUMBERS = ("price", "bed", "bath", "sqft", "parking")
SUMMARY = ("_id", "name", "namespace", "hostName", "projectType", "status", "statusOverride", "paused", "createdAt")


def _paused(value: JSON) -> JSON:
    if value is None or isinstance(value, bool):
        return value or None
    if isinstance(value, dict) and isinstance(value.get("value"), bool):
        return value
    raise ValueError(f'must be null, true or {{"value": true, "reason": …}}, not {value!r}')


@dataclass(frozen=True, kw_only=True)
class PlanpointSwitches(Switches):
    """How this Planpoint behaves."""

    generation: Annotated[str, choice("A", "B")] = "B"
    auth: Annotated[str | None, optional(choice("bearer", "raw"))] = None
    token: Annotated[str, text] = "sandbox-token"
    username: Annotated[str, text] = "relay@example.com"
    password: Annotated[str, text] = "sandbox-password"
    token_lifetime: Annotated[timedelta, duration] = timedelta(hours=1)
    find_shape: Annotated[str | None, optional(choice("object", "array"))] = None
    find_auth: Annotated[bool | None, optional(flag)] = None
    paused: Annotated[JSON, _paused] = None
    editor: Annotated[bool, flag] = False
    count_skew: Annotated[int, whole] = 0
    batch_max: Annotated[int | None, optional(positive)] = None


class Account(StandIn):
    """One account's collections, and what every operation does with them."""

    vendor = "planpoint"
    json_type = "application/json; charset=utf-8"
    switches: PlanpointSwitches

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = Tokens()
        named = Collection("_id", natural=lambda one: _key(one, "namespace", "name"))
        self.projects = named
        self.floors = Collection("_id", natural=lambda one: _key(one, "project", "name"), group=_of("project"))
        self.units = Collection("_id", natural=lambda one: _key(one, "floor", "name"), group=_of("floor"))
        self.groups = Collection("_id", natural=lambda one: _key(one, "namespace", "name"))
        self.enterprises = Collection("_id", natural=lambda one: _key(one, "namespace", "name"))
        self.leads = Collection("_id", group=_of("project"))
        self.collections = {
            "projects": self.projects,
            "floors": self.floors,
            "units": self.units,
            "groups": self.groups,
            "enterprises": self.enterprises,
            "leads": self.leads,
        }

    def locate(self, path: str) -> list[str]:
        """Paths start `/api` (planpoint.txt, "Endpoints"; OpenAPI)."""
        segments = path.strip("/").split("/")
        if segments[0] != "api":
            raise Refusal(404, f"there is nothing at {path}")
        return segments[1:]

    def authorize(self, call: Call, wanted: Operation) -> None:
        """A bearer token (B), or the key as it is (A); an editor's token is good for units only (help.planpoint.io)."""
        style = self.switches.auth or ("bearer" if self._b else "raw")
        needed = True
        if wanted.name == "project.find":
            needed = not self._b if self.switches.find_auth is None else self.switches.find_auth
        if needed:
            token = call.bearer() if style == "bearer" else call.headers.get("Authorization")
            if token is None or not (token == self.switches.token or self.tokens.valid(token, call.now)):
                raise Refusal(401, "Unauthorized: the token is missing or not valid")
        if self.switches.paused is not None:
            raise Refusal(403, "the account is paused", paused=self.switches.paused)
        if self.switches.editor and not wanted.name.startswith("unit."):
            raise Refusal(403, "editors may work on units only")

    # Seeding

    def seed(self, collection: str, items: Iterable[Object], traits: Mapping[str, JSON]) -> list[str]:
        """See the package's page: namespace, host_name, project, floor."""
        target = self.collection(collection)
        self.check_traits(collection, traits, ("namespace", "host_name", "project", "floor"))
        make = getattr(self, f"_seed_{collection.removesuffix('s')}")
        return [target.add(self._identified(collection, make(item, traits)))["_id"] for item in items]

    def _seed_project(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        given = {"namespace": traits.get("namespace", "sandbox"), **item}
        number = len(self.projects) + 1
        given.setdefault("name", f"Project {number:06}")
        given.setdefault("hostName", traits.get("host_name", f"project-{number:06}"))
        return self._new_project(given)

    def _seed_group(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        number = len(self.groups) + 1
        given = {"namespace": traits.get("namespace", "sandbox"), "name": f"Group {number:06}", **item}
        given.setdefault("hostName", traits.get("host_name", f"group-{number:06}"))
        return self._new_group(given)

    def _seed_enterprise(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        number = len(self.enterprises) + 1
        given = {"namespace": traits.get("namespace", "sandbox"), "name": f"Enterprise {number:06}", **item}
        given.setdefault("hostName", traits.get("host_name", f"enterprise-{number:06}"))
        return {"groups": [], "projects": [], **given}

    def _seed_floor(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        project = item.get("project") or self._some_project(traits)
        level = self.floors.size(project) + 1
        return {"name": f"Floor {level}", "level": level, "position": level, **item, "project": project}

    def _seed_unit(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        floor = item.get("floor") or traits.get("floor") or self._first_floor(self._some_project(traits))["_id"]
        number = self.units.size(floor) + 1
        made = {
            "name": f"Unit {number:06}",
            "unitNumber": f"{number:06}",
            "status": "Available",
            "price": 200_000 + 1_000 * (number % 500),
            "bed": 1 + number % 4,
            "bath": 1 + number % 2,
            "sqft": 500 + 10 * (number % 100),
            "model": f"Model {number % 7}",
            "orientation": ("N", "E", "S", "W")[number % 4],
            "parking": number % 2,
        }
        return {**made, **item, "floor": floor}

    def _seed_lead(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        project = item.get("project") or self._some_project(traits)
        number = self.leads.size(project) + 1
        made = {
            "name": f"Lead{number} Person{number}",
            "email": f"lead{number}@example.com",
            "phone": f"+1555{number:07}",
            "message": f"Is unit {number} still free?",
            "createdAt": _instant(self.clock()),
        }
        return {**made, **item, "project": project}

    # How things are shown

    @property
    def _b(self) -> bool:
        return self.switches.generation == "B"

    def _say(self, value: JSON, created: int) -> Answer:
        return self.answer(value, created if self._b else 200)

    def _records(self, records: list[Object], created: int) -> Answer:
        if self._b:
            return self.answer({"records": records, "count": len(records) + self.switches.count_skew}, created)
        return self.answer(records)

    def _found(self, found: list[Object], *, created: int) -> Answer:
        shape = self.switches.find_shape or ("object" if self._b else "array")
        if shape == "array":
            return self._say(found, created)
        if not found:
            raise Refusal(404, "nothing was found in that namespace for that host")
        return self._say(found[0], created)

    def _shown(self, unit: Object) -> Object:
        if self._b:
            return unit
        shown = {_UNIT_NAMES.get(name, name): value for name, value in unit.items()}
        for name in ("bedrooms", "bathrooms"):
            if name in shown and shown[name] is not None:
                shown[name] = str(shown[name])
        return shown

    def _full(self, project: Object) -> Object:
        floors = []
        for floor in self.floors.page(0, None, project["_id"]):
            units = [self._shown(unit) for unit in self._units(floor)]
            shown: Object = {name: floor[name] for name in ("_id", "name", "level", "image") if name in floor}
            floors.append({**shown, "units": units})
        return {**project, "floors": floors}

    def _lead(self, lead: Object) -> Object:
        if self._b:
            return lead
        shown = {**lead, "source": lead.get("source", "website"), "questions": [], "customFields": []}
        first, _, last = str(shown.pop("name", "")).partition(" ")
        return {"firstName": first, "lastName": last, **shown}

    def _units(self, floor: Object) -> list[Object]:
        return self.units.page(0, None, floor["_id"])

    # What comes in

    def _inputs(self, call: Call) -> Object:
        """B takes a JSON body; A's pages show query parameters, so either there."""
        if self._b:
            return call.object()
        return {**call.query, **(call.object() if call.body else {})}

    def _required(self, said: Object, *names: str) -> None:
        for name in names:
            if not isinstance(said.get(name), str) or not said[name].strip():
                raise Refusal(400, f"{name} is required: a text")

    def _reference(self, said: Object, name: str, target: Collection) -> Object:
        value = said.get(name)
        ident = value.get("_id") if isinstance(value, dict) else None
        if not isinstance(ident, str):
            raise Refusal(400, f"{name} is required: an object with an _id")
        found = target.get(ident)
        if found is None:
            raise Refusal(400, f"{name}: there is no {name} {ident}")
        return found

    def _pid(self, call: Call) -> str:
        pid = call.query.get("pid")
        if not pid:
            raise Refusal(400, "pid is required: a project's id")
        self._refuse_paused(self.existing("projects", pid))
        return pid

    def _find(self, call: Call, target: Collection) -> list[Object]:
        said = call.object()
        self._required(said, "namespace", "hostName")
        wanted = (said["namespace"], said["hostName"])
        return [one for one in target if (one.get("namespace"), one.get("hostName")) == wanted]

    def _unit_fields(self, said: Object, call: Call) -> Object:
        ours = {a: b for b, a in _UNIT_NAMES.items()} if not self._b else {}
        foreign = set(_UNIT_NAMES.values()) if self._b else set(_UNIT_NAMES)
        fields: Object = {}
        for name, value in said.items():
            if name in foreign:
                call.did("ignored", "units", name)
            elif name not in ("_id", "floor", "project", "pid"):
                fields[ours.get(name, name)] = value
        if self._b:
            for name in _UNIT_NUMBERS:
                value = fields.get(name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise Refusal(400, f"{name} must be a number")
        if "status" in fields and not isinstance(fields["status"], str):
            raise Refusal(400, "the status must be a text")
        return fields

    def _patch(self, call: Call, collection: str, ident: str) -> Object:
        changes = {name: value for name, value in call.object().items() if name not in ("_id", "floors")}
        changed = self.collections[collection].change(ident, changes)
        call.did("updated", collection, ident)
        return changed

    # Making

    def _new_project(self, given: Object) -> Object:
        slug = str(given["name"]).lower().replace(" ", "-")
        return {
            "namespace": "sandbox",
            "hostName": slug,
            "commercialSpaces": [],
            "collections": [],
            "projectLang": "en",
            "showPrices": True,
            "showAvailability": True,
            "projectType": "residential",
            "paused": False,
            "createdAt": _instant(self.clock()),
            **given,
        }

    def _new_group(self, given: Object) -> Object:
        slug = str(given["name"]).lower().replace(" ", "-")
        owner = {"user": self._ident("user", 1), "isOwner": True, "isAdmin": True, "isEditor": True}
        return {"namespace": "sandbox", "hostName": slug, "projects": [], **owner, **given}

    def _made(self, target: Collection, item: Object) -> Object:
        kind = next(name for name, one in self.collections.items() if one is target)
        return target.add(self._identified(kind, {name: value for name, value in item.items() if name != "_id"}))

    def _identified(self, kind: str, item: Object) -> Object:
        return {"_id": item["_id"] if "_id" in item else self._ident(kind, self.serial()), **item}

    def _ident(self, kind: str, number: int) -> str:
        """24 hexadecimal digits (OpenAPI), different for every tenant and kind."""
        return f"{self.fingerprint(kind):08x}{number:016x}"

    def _some_project(self, traits: Mapping[str, JSON]) -> str:
        wanted = traits.get("project")
        if wanted is not None:
            if wanted not in self.projects:
                raise ValueError(f"there is no project {wanted}")
            return str(wanted)
        if not self.projects:
            self.seed("projects", [{}], {})
        return str(next(iter(self.projects))["_id"])

    def _first_floor(self, project: str) -> Object:
        floors = self.floors.page(0, 1, project)
        return floors[0] if floors else self._made(self.floors, self._seed_floor({}, {"project": project}))

    def _project_of(self, unit: Object | None) -> Object | None:
        floor = None if unit is None else self.floors.get(unit["floor"])
        return None if floor is None else self.projects.get(floor["project"])

    def _refuse_paused(self, project: Object | None) -> None:
        paused = project.get("paused") if project else None
        if paused is True or (isinstance(paused, dict) and paused.get("value")):
            raise Refusal(403, "the project is paused", paused=paused)


def _key(one: Object, *names: str) -> tuple[JSON, ...] | None:
    values = tuple(one.get(name) for name in names)
    return values if all(isinstance(value, str) for value in values) else None


def _of(name: str) -> Any:
    return lambda one: one.get(name)


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
