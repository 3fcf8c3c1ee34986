"""
The stand-in of barometerIT.

Sources: barometerit.txt (About Integrations: Basic, Accept and 406, content types, the report's steps) and the vendor's
service pages as far as they can be read (Entity, Field, Fieldset, Filter, Reporting, Search, Association and Proposal
Service, Getting Started). Not documented, and so the likeliest reading: paths and bodies of single entities and of
writes to them, `/reports/{assetBn}/size`, `POST /documents`, `GET /fieldsets?type=`, the answer while a report is
locked or not ready.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.barometerit.entities import Entities
from sandbox.barometerit.fields import Fields
from sandbox.barometerit.relations import Relations
from sandbox.barometerit.reports import Reports
from sandbox.barometerit.snapshots import rows_for
from sandbox.barometerit.tenant import TYPES, BarometeritSwitches, person, status
from sandbox.wire import JSON, Object, Routes

__all__ = ["Barometerit", "BarometeritSwitches"]


class Barometerit(Entities, Fields, Relations, Reports):
    """Entities, fields, fieldsets, associations, proposals, reports and documents of one tenant."""

    def seed(self, collection: str, items: Iterable[Object], traits: Mapping[str, JSON]) -> list[str]:
        """See the package's page: type and status of entities; rows, columns, size of reports; type of fieldsets."""
        target = self.collection(collection)
        makers: dict[str, tuple[Any, set[str]]] = {
            "entities": (self._seed_entity, {"type", "status"}),
            "reports": (self._seed_report, {"rows", "columns", "size"}),
            "fields": (lambda item, _: self._new_field(item), set()),
            "fieldsets": (self._seed_fieldset, {"type"}),
        }
        if collection not in makers:
            raise ValueError(f"{collection} come into being by requests; seed one of {', '.join(makers)}")
        make, allowed = makers[collection]
        self.check_traits(collection, traits, allowed)
        return [target.add(make(item, traits))["bn"] for item in items]

    def _seed_entity(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        kind = item.get("entityDiscriminator") or traits.get("type", "SYS")
        if kind not in TYPES:
            raise ValueError(f"there is no entity type {kind!r}; there are {', '.join(TYPES)}")
        entity = self._new_entity(kind, self.clock(), person("040E000004LM", "Integration", "Administrator"))
        entity["name"] = f"{TYPES[kind][0]} {self.entities.size(kind) + 1:06}"
        entity["contentStatus"] = status(item.pop("status", None) or traits.get("status", "IDFD"))
        return {**entity, **item}

    def _seed_report(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        columns = item.pop("columns", traits.get("columns", 7))
        size = item.pop("size", traits.get("size"))
        rows = item.pop("rows", traits.get("rows", 1000)) if size is None else rows_for(size, columns)
        entity = self.entities.add(self._seed_entity({**item, "entityDiscriminator": "ADQ"}, {}))
        return {"bn": entity["bn"], "name": entity["name"], "rows": rows, "columns": columns}

    def _seed_fieldset(self, item: Object, traits: Mapping[str, JSON]) -> Object:
        return self._new_fieldset({"entityType": traits.get("type", "SYS"), **item})


Barometerit.routes = Routes(Barometerit)
