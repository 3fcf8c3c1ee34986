"""What goes over barometerIT's wire: each object's documented fields under our names, everything else as it came."""

from __future__ import annotations

import re
from typing import Final, Literal

from worker.vocabulary import Vocabulary

ENTITY_CODES: Final = {
    "ACT": "actors",
    "AST": "documents",
    "CAP": "capabilities",
    "CIR": "collections",
    "COM": "companies",
    "CON": "connections",
    "CRL": "rules",
    "DAT": "data",
    "DEM": "demands",
    "LYT": "dashboards",
    "MKT": "markets",
    "ORG": "organizations",
    "PER": "people",
    "PHY": "deployments",
    "PRD": "products",
    "ADQ": "reports",
    "SKI": "skills",
    "STA": "standards",
    "STR": "strategies",
    "SYS": "systems",
    "TAG": "tags",
    "TEC": "technologies",
}
"""What the API calls each type of entity (BIT-GS, "Entity Types"): all 22."""

DOCUMENT: Final = "AST"

BN_SHAPE: Final = re.compile(r"[0-9A-Z]{12}")
"""12 digits and capitals, in all examples (BIT-*)."""

# BIT-ENT, the example of GET /entities. `entityDiscriminator` is the entity code.
ENTITY: Final = Vocabulary.of(
    *("entityDiscriminator", "bn", "name", "description", "details", "domain", "contentCompletionDate"),
    *("contentStatus", "enterpriseApproval", "lifecycleState", "lastUpdateDate", "createDate", "updatedByBn"),
    *("createdByBn", "fieldsets", "links", "tags"),
)

SERVER_KEPT: Final = frozenset(
    {
        *("entity_discriminator", "bn", "content_completion_date", "last_update_date", "create_date"),
        *("updated_by_bn", "created_by_bn", "fieldsets", "links", "tags", "details"),
    }
)
"""What an entity shows and an update of its basic fields does not send back: BIT-ENT has other operations for them."""

# BIT-FLD. Choices have BNs of their own.
CHOICE: Final = Vocabulary.of("bn", "displayValue", "storedValue")
FIELD: Final = Vocabulary.of(
    *("bn", "choices", "dataType", "decimalPlaces", "displayType", "fieldId", "fieldLength", "helpText"),
    *("controlLevel", "name", "notes", "sortVal", "value"),
    nested={"choices": CHOICE},
)

# BIT-FS. `fields` holds whole fields when read and BNs when written. `entityType` is not documented.
FIELDSET: Final = Vocabulary.of(
    *("bn", "expanded", "fields", "fieldsetId", "helpText", "name", "notes"),
    type="entityType",
    nested={"fields": FIELD},
)

# No page shows them.
FIELD_VALUE: Final = Vocabulary.of("bn", "value")
LINK: Final = Vocabulary.of("bn", "name", "url")
TAG: Final = Vocabulary.of("bn", "name")
PROPERTY: Final = Vocabulary.of("name", "label", "filterBn", "required", "values")
MANY: Final = Vocabulary.of("bns", "properties")
SIZE: Final = Vocabulary.of("assetBn", "size")
DOCUMENT_FORM: Final = Vocabulary.of("name", "file")

# BIT-FILT.
FILTER: Final = Vocabulary.of("params", "searchString")
OPERABLE_PARAM: Final = Vocabulary.of("keyBn", "operator", "valueBn")
OPERABLE_FILTER: Final = Vocabulary.of("params", "joiningOperator", "searchString")

# BIT-SRCH.
HIT: Final = Vocabulary.of("name", "bn", "controlLevel", "entityType")
MATCHES: Final = Vocabulary.of("entityTypeCode", "entityTypeResults", nested={"entity_type_results": HIT})
SEARCH: Final = Vocabulary.of(
    *("searchString", "maxResults", "entityTypes", "count", "topHit", "matches"),
    nested={"top_hit": HIT, "matches": MATCHES},
)

# BIT-ASSOC. The answer's three lists are those of other writes, too.
ASSOCIATED: Final = Vocabulary.of("bn", "targetBn", "relationshipIdentifier", "relationshipType", "sourceBn", "entity")
ASSOCIATION: Final = Vocabulary.of("sourceBn", "indexBn", "relationshipType", "addedAssocs", "removedAssocs")
ENVELOPE: Final = Vocabulary.of(saved="successfulBns", proposed="proposedChangeBns", transaction_ids="transactionIds")

# BIT-PROP.
PROPOSAL: Final = Vocabulary.of(
    *("bn", "createDate", "lastUpdateDate", "updatedByBn", "relationshipTypeName", "conflicted", "contributedByBn"),
    *("contributedDate", "controlLevel", "entityBn", "entityType", "groupByHash", "processedByBn"),
)

# BIT-REP.
SNAPSHOT: Final = Vocabulary.of("assetBn", "fileFormat")

Format = Literal["csv", "json", "xml"]
MEDIA_TYPES: Final[dict[Format, str]] = {"csv": "text/csv", "json": "application/json", "xml": "application/xml"}
