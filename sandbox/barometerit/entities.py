"""barometerIT's entities: lists with filters and dates, single ones, details, links, tags and custom field values."""

import itertools
from datetime import UTC, datetime

from sandbox.barometerit import filters
from sandbox.barometerit.snapshots import base36
from sandbox.barometerit.tenant import BASIC, HELD, OPTIONS, STATUSES, TYPES, Tenant
from sandbox.wire import Answer, Call, Object, Refusal, operation


class Entities(Tenant):
    """The Entity Service, the Filter Service and the Search Service."""

    @operation("GET", "/entities", "entity.list")
    def entity_list(self, call: Call) -> Answer:
        """A page of one type's entities, filtered by dates and by filter strings (Entity_Service)."""
        kind = self._type(call.query.get("type"))
        first = call.integer("first", 0, least=0)
        count = min(call.integer("count", self.switches.page_default, least=1), self.switches.page_max)
        tests = self._tests(call)
        if tests:
            passing = (one for one in self.entities.page(0, None, kind) if all(test(one) for test in tests))
            found = list(itertools.islice(passing, first, first + count))
        else:
            found = self.entities.page(first, count, kind)
        if call.query.get("fieldsets", "false").lower() == "true":
            found = [{**one, "fieldsets": self._fieldsets_of(one)} for one in found]
        counted = {"first": first, "count": len(found), self.switches.unfiltered_spelling: self.entities.size(kind)}
        return self.answer({**counted, "entities": found})

    @operation("POST", "/entities", "entity.create")
    def entity_create(self, call: Call) -> Answer:
        """The type comes as `entityDiscriminator` (or `entityType`, `type`; also in the query); `name` is needed."""
        said = call.object()
        codes = [said.get("entityDiscriminator"), said.get("entityType"), said.get("type"), call.query.get("type")]
        kind = self._type(next((one for one in codes if isinstance(one, str) and one in TYPES), codes[0]))
        if not isinstance(said.get("name"), str) or not said["name"].strip():
            raise Refusal(400, "name is required: a text")
        entity = self._new_entity(kind, call.now, self._self)
        entity.update(self._basics(said))
        self.entities.add(entity)
        call.did("created", "entities", entity["bn"])
        return self.answer(entity if self.switches.create_answer == "entity" else {"bn": entity["bn"]})

    @operation("PUT", "/entities", "entity.update_many")
    def entity_update_many(self, call: Call) -> Answer:
        """`[{bn, …}]`, or `{bns: […], properties: {…}}`: the given fields on many; unknown BNs are skipped."""
        said = call.json()
        if isinstance(said, dict) and isinstance(said.get("bns"), list) and isinstance(said.get("properties"), dict):
            edits = [(bn, said["properties"]) for bn in said["bns"]]
        elif isinstance(said, list) and all(isinstance(one, dict) and "bn" in one for one in said):
            edits = [(one["bn"], one) for one in said]
        else:
            raise Refusal(400, 'the body must be [{"bn": …, …}] or {"bns": […], "properties": {…}}')
        outcomes = [self._edit(call, bn, self._basics(fields)) for bn, fields in edits if bn in self.entities]
        return self._envelope(outcomes, call)

    @operation("GET", "/entities/*", "entity.read")
    def entity_read(self, call: Call) -> Answer:
        """One entity."""
        return self.answer(self._entity(call))

    @operation("PUT", "/entities/*", "entity.update")
    def entity_update(self, call: Call) -> Answer:
        """All basic fields: what is left out becomes empty, and `name` is needed (unless `put_replaces` is off)."""
        self._entity(call)
        fields = self._basics(call.object())
        if self.switches.put_replaces:
            if "name" not in fields:
                raise Refusal(400, "name is required: all basic fields are replaced")
            fields = {**dict.fromkeys(BASIC), **fields}
        return self._envelope([self._edit(call, call.ident, fields)], call)

    @operation("DELETE", "/entities/*", "entity.delete")
    def entity_delete(self, call: Call) -> Answer:
        """Gone, with its custom field values and associations."""
        self._entity(call)
        self.entities.remove(call.ident)
        self._values.pop(call.ident, None)
        for one in [one["bn"] for one in self.associations if call.ident in (one["sourceBn"], one["targetBn"])]:
            self.associations.remove(one)
        call.did("deleted", "entities", call.ident)
        return self._envelope([(True, call.ident)], call)

    @operation("GET", "/entities/*/details", "entity.details.read")
    def details_read(self, call: Call) -> Answer:
        """The long text."""
        return self.answer({"bn": call.ident, "details": self._entity(call)["details"]})

    @operation("PUT", "/entities/*/details", "entity.details.update")
    def details_update(self, call: Call) -> Answer:
        """`{details}`."""
        self._entity(call)
        details = call.object().get("details")
        if details is not None and not isinstance(details, str):
            raise Refusal(400, "details must be a text")
        return self._envelope([self._edit(call, call.ident, {"details": details})], call)

    @operation("GET", "/entities/*/links", "entity.links")
    def links(self, call: Call) -> Answer:
        """Its links: `[{name, url}]`, as seeded."""
        return self.answer(self._entity(call).get("links", []))

    @operation("GET", "/entities/*/tags", "entity.tags")
    def tags(self, call: Call) -> Answer:
        """Its tags: the TAG entities associated with it, and those seeded."""
        entity = self._entity(call)
        targets = [self.entities.get(one["targetBn"]) for one in self.associations.page(0, None, call.ident)]
        tagged = [
            {"bn": one["bn"], "name": one["name"]} for one in targets if one and one["entityDiscriminator"] == "TAG"
        ]
        return self.answer([*entity.get("tags", []), *tagged])

    @operation("GET", "/entities/*/fields", "entity.fields.read")
    def values_read(self, call: Call) -> Answer:
        """Every custom field, with its value here or null."""
        self._entity(call)
        return self.answer([self._valued(field, call.ident) for field in self.fields])

    @operation("PUT", "/entities/*/fields", "entity.fields.update")
    def values_update(self, call: Call) -> Answer:
        """`[{bn | fieldBn, value}]`, the same under `fields`, or `{fieldBn: value}`."""
        entity = self._entity(call)
        said = call.json()
        if isinstance(said, dict) and isinstance(said.get("fields"), list | dict):
            said = said["fields"]
        try:
            values = said if isinstance(said, dict) else {one.get("bn") or one["fieldBn"]: one["value"] for one in said}
        except (AttributeError, KeyError, TypeError) as error:
            raise Refusal(400, "the body must name fields by BN, each with a value") from error
        unknown = [bn for bn in values if bn not in self.fields]
        if unknown:
            raise Refusal(400, f"there is no field {unknown[0]}")
        if entity["contentStatus"]["id"] in HELD:
            return self._envelope([self._propose(call, entity, {"fields": values})], call)
        self._values.setdefault(call.ident, {}).update(values)
        self._touch(call)
        return self._envelope([(True, call.ident)], call)

    @operation("GET", "/entityproperties/*", "entity_properties.read")
    def properties(self, call: Call) -> Answer:
        """The type's basic properties: filter BNs and allowed values."""
        kind = self._type(call.ident)
        statuses = [{"bn": status, "name": name} for status, (name, _) in STATUSES.items()]
        labels = {name: label for name, (label, _) in OPTIONS.items()} | {"contentStatus": "Content Status"}
        known = {**self._options, "contentStatus": statuses}
        filtered = [
            {
                "name": name,
                "label": labels[name],
                "filterBn": _filter_bn(kind, name),
                "required": False,
                "values": values,
            }
            for name, values in known.items()
        ]
        return self.answer([{"name": "name", "label": "Name", "required": True}, *filtered])

    # Filter_Service, Search_Service

    @operation("POST", "/filter", "filter.build", produces="text/plain")
    def filter_build(self, call: Call) -> Answer:
        """URL-encoded JSON for the `filter` parameter, as text/plain."""
        return self._text(filters.encoded(filters.checked_filter(call.object())))

    @operation("POST", "/operablefilter", "operable_filter.build", produces="text/plain")
    def operable_filter_build(self, call: Call) -> Answer:
        """URL-encoded JSON for the `operableFilter` parameter, as text/plain."""
        return self._text(filters.encoded(filters.checked_operable(call.object())))

    @operation("POST", "/search/unified", "search")
    def search(self, call: Call) -> Answer:
        """Names and BNs that contain the search string, by type."""
        said = call.object()
        part, most = said.get("searchString"), said.get("maxResults", 100)
        kinds = said.get("entityTypes") or list(TYPES)
        if not isinstance(part, str) or not part:
            raise Refusal(400, "searchString is required: a text")
        if not isinstance(most, int) or most < 1:
            raise Refusal(400, "maxResults must be a whole number of at least 1")
        for kind in kinds:
            self._type(kind)
        hits = (
            one
            for one in self.entities
            if one["entityDiscriminator"] in kinds and (part.casefold() in one["name"].casefold() or one["bn"] == part)
        )
        found = [
            {"name": one["name"], "bn": one["bn"], "controlLevel": "EDITABLE", "entityType": one["entityDiscriminator"]}
            for one in itertools.islice(hits, most)
        ]
        by_type: dict[str, list[Object]] = {}
        for one in found:
            by_type.setdefault(one["entityType"], []).append(one)
        matches = [{"entityTypeCode": kind, "entityTypeResults": results} for kind, results in by_type.items()]
        return self.answer({"count": len(found), "topHit": found[0] if found else None, "matches": matches})

    # Filtering

    def _tests(self, call: Call) -> list[filters.Test]:
        tests: list[filters.Test] = []
        for name, key in (("updateDate", "lastUpdateDate"), ("createDate", "createDate")):
            low, high = (_date(call, f"{name}{end}") for end in ("StartDate", "EndDate"))
            if low or high:
                tests.append(_between(key, low or "", high or "9999-12-31"))
        if "filter" in call.query:
            tests.append(filters.read_filter(call.query["filter"], self._filtered_value))
        if "operableFilter" in call.query:
            tests.append(filters.read_operable(call.query["operableFilter"], self._filtered_value))
        return tests

    def _filtered_value(self, entity: Object, filter_bn: str) -> str | None:
        kind = entity["entityDiscriminator"]
        for name in (*self._options, "contentStatus"):
            if filter_bn == _filter_bn(kind, name):
                held = entity.get(name)
                return held.get("bn") or held.get("id") if isinstance(held, dict) else held
        raise KeyError(filter_bn)

    def _fieldsets_of(self, entity: Object) -> list[Object]:
        return [
            {
                "bn": one["bn"],
                "name": one["name"],
                "fields": [self._valued(field, entity["bn"]) for field in map(self.fields.get, one["fields"]) if field],
            }
            for one in self.fieldsets.page(0, None, entity["entityDiscriminator"])
        ]

    def _text(self, value: str) -> Answer:
        return Answer(200, value.encode(), {"Content-Type": "text/plain;charset=UTF-8"})


def _filter_bn(kind: str, name: str) -> str:
    number = list(TYPES).index(kind) * 16 + [*OPTIONS, "contentStatus"].index(name)
    return "0446" + base36(number, 8)


def _date(call: Call, name: str) -> str | None:
    value = call.query.get(name)
    if value is None:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError as error:
        raise Refusal(400, f"{name} must be a date yyyy-mm-dd, not {value!r}") from error


def _between(key: str, low: str, high: str) -> filters.Test:
    return lambda entity: low <= entity[key][:10] <= high
