"""
Every call of barometerIT's API: method, path, where it is known from, and whether sending it twice does harm.

Putting the same values twice is harmless, and so are deleting what is gone and associating what is associated (all
inferred). Making something twice is not; a snapshot too many is (contract §5).
"""

from __future__ import annotations

from typing import Final

from worker.rest import Endpoint, Evidence

LOCKED: Final = frozenset({409, 423, 503})
"""Taken for "a snapshot of this report is being generated"; BIT-REP tells of the lock and not of the status."""


def _call(
    name: str,
    call: str,
    *,
    source: str = "named in Entity_Service; path assumed",
    evidence: Evidence = "assumed",
    replayable: bool = True,
    busy: frozenset[int] = frozenset(),
) -> Endpoint:
    method, _, path = call.partition(" ")
    return Endpoint(
        name=name, method=method, path=path, evidence=evidence, source=source, replayable=replayable, busy=busy
    )


def _public(
    name: str, call: str, source: str, *, replayable: bool = True, busy: frozenset[int] = frozenset()
) -> Endpoint:
    return _call(name, call, source=source, evidence="public", replayable=replayable, busy=busy)


ENTITY_LIST: Final = _public("entity.list", "GET /entities", "Entity_Service")
ENTITY_READ: Final = _call("entity.read", "GET /entities/{bn}")
ENTITY_CREATE: Final = _call("entity.create", "POST /entities", replayable=False)
ENTITY_UPDATE: Final = _call("entity.update", "PUT /entities/{bn}")
ENTITY_UPDATE_MANY: Final = _call("entity.update_many", "PUT /entities")
ENTITY_DELETE: Final = _call("entity.delete", "DELETE /entities/{bn}")
ENTITY_FIELDS_READ: Final = _call("entity.fields.read", "GET /entities/{bn}/fields")
ENTITY_FIELDS_UPDATE: Final = _call("entity.fields.update", "PUT /entities/{bn}/fields")
ENTITY_LINKS: Final = _call("entity.links", "GET /entities/{bn}/links")
ENTITY_TAGS: Final = _call("entity.tags", "GET /entities/{bn}/tags")
ENTITY_PROPERTIES_READ: Final = _public(
    "entity_properties.read", "GET /entityproperties/{type}", "2Getting_Started, Filter_Service"
)
FIELD_LIST: Final = _public("field.list", "GET /fields", "Field_Services")
FIELD_READ: Final = _public("field.read", "GET /fields/{bn}", "Field_Services")
FIELD_CREATE: Final = _public("field.create", "POST /fields", "Field_Services", replayable=False)
FIELD_UPDATE: Final = _call(
    "field.update", "PUT /fields/{bn}", source='barometerit.txt, "Field Services"; path assumed'
)
FIELD_DELETE: Final = _call(
    "field.delete", "DELETE /fields/{bn}", source='barometerit.txt, "Field Services"; path assumed'
)
FIELDSET_LIST: Final = _call("fieldset.list", "GET /fieldsets")
FIELDSET_READ: Final = _public("fieldset.read", "GET /fieldsets/{bn}", "Fieldset_Service")
FIELDSET_CREATE: Final = _public("fieldset.create", "POST /fieldsets", "Fieldset_Service", replayable=False)
FIELDSET_UPDATE: Final = _public("fieldset.update", "PUT /fieldsets/{bn}", "Fieldset_Service")
FIELDSET_DELETE: Final = _call(
    "fieldset.delete", "DELETE /fieldsets/{bn}", source='barometerit.txt, "Fieldset Services"; path assumed'
)
FILTER_BUILD: Final = _public("filter.build", "POST /filter", "Filter_Service")
OPERABLE_FILTER_BUILD: Final = _public("operable_filter.build", "POST /operablefilter", "Filter_Service")
SEARCH: Final = _public("search", "POST /search/unified", "Search_Service")
ASSOCIATION_UPDATE: Final = _public("association.update", "POST /association", "Association_Service")
ASSOCIATION_LIST: Final = _public("association.list", "GET /association", "Association_Service")
PROPOSAL_LIST: Final = _public("proposal.list", "GET /proposals", "Proposal_Service")
REPORT_GENERATE: Final = _public("report.generate", "POST /reports/{report_bn}", "Reporting_Service", busy=LOCKED)
REPORT_SIZE: Final = _call(
    "report.size", "GET /reports/{asset_bn}/size", source='barometerit.txt, "Reporting Service"; path assumed'
)
REPORT_DOWNLOAD: Final = _public(
    "report.download", "GET /reports/{asset_bn}", "Reporting_Service", busy=frozenset({409, 423})
)
DOCUMENT_UPLOAD: Final = _call(
    "document.upload",
    "POST /documents",
    source='barometerit.txt, "Reporting Service"; path and form assumed',
    replayable=False,
)
