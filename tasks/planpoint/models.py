"""
What goes over Planpoint's wire, and the data of each command.

The vendor's objects are vocabularies: the documented fields of both generations under one set of names, everything else
kept as it came (the vendor's own Python models accept unknown fields and statuses too). Commands are strict.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from worker.command import CommandData
from worker.data import Changes, Creation, Destination, FieldName, Heading, Listing, Name, Number, PlanId, Share, Text
from worker.vocabulary import Vocabulary

# --- The wire ---------------------------------------------------------------------------------------------------------

STATUSES: Final = ("Available", "OnHold", "Sold", "Leased", "Unavailable")
"""The statuses of a unit that are documented (api/openapi.yaml, Unit.status). Tenants have others of their own."""

# api/openapi.yaml, Unit and UnitFull (generation B); viewerdocs.planpoint.io, endpoint/units/id/get and units/id/patch
# (generation A), which has four of them under other names.
UNIT: Final = Vocabulary.of(
    *("name", "unitNumber", "price", "model", "floor", "orientation", "parking", "unitmodels"),
    *("position", "isFeatured", "unitPriceTBD", "type", "specificType", "path", "lotPath", "unitImageUrl"),
    *(
        "onHoldExpiresAt",
        "layoutUrl",
        "layoutGallery",
        "downloadableAsset",
        "brochurePDF",
        "additionalInfo",
        "embedCode",
    ),
    *(
        "customButtonUrl",
        "customButtonSnippet",
        "payableAmount",
        "images",
        "clonedImages",
        "customFinishes",
        "finishes",
    ),
    *("clonedFinishes", "inclusions", "deliveryDate", "description", "lon", "lat", "perimeter", "svgLotId"),
    id="_id",
    status=("status", "availability"),
    bed=("bed", "bedrooms"),
    bath=("bath", "bathrooms"),
    sqft=("sqft", "squareFeet"),
)

# api/openapi.yaml, Floor and FloorFull; viewerdocs, endpoint/floors/id/get.
FLOOR: Final = Vocabulary.of(
    *("name", "project", "level", "position", "path", "alternativePaths", "image", "floorplanUrl", "units"),
    id="_id",
    nested={"units": UNIT},
)

# api/openapi.yaml, CommercialSpace and Collection: they come inside projects only.
SPACE: Final = Vocabulary.of("name", "status", "price", "sqft", id="_id")
COLLECTION: Final = Vocabulary.of("name", "units", id="_id")

# api/openapi.yaml, Project and ProjectSummary; viewerdocs, endpoint/projects/post.
PROJECT: Final = Vocabulary.of(
    *(
        "name",
        "namespace",
        "hostName",
        "projectType",
        "propertyType",
        "status",
        "statusOverride",
        "paused",
        "createdAt",
    ),
    *("user", "floors", "commercialSpaces", "collections", "projectLang", "styleNavigation", "initialView", "areaUnit"),
    *("showPrices", "showAvailability", "showBathrooms", "showParking", "showOrientation", "hideSold", "onlyAvailable"),
    *("logo", "coverImage", "colorBase", "colorAccent", "colorButton", "colorAvailable", "colorSold", "colorReserved"),
    *("customButtonTxt", "websiteURL", "customDomain", "sharePageEnabled", "unitImageOnGrid", "skipFloorStep"),
    *(
        "dayNightEnabled",
        "enableForms",
        "rentalObject",
        "deliveryDates",
        "lotsLayout",
        "projectImageUrl",
        "projectSVGUrl",
    ),
    id="_id",
    internal_urls="internalURLs",
    nested={"floors": FLOOR, "commercial_spaces": SPACE, "collections": COLLECTION},
)

# api/openapi.yaml, Group and GroupProject; viewerdocs, endpoint/groups/id/get. `projects` holds ids or short projects.
GROUP: Final = Vocabulary.of(
    *("name", "namespace", "hostName", "type", "propertyType", "user", "projects", "isOwner", "isAdmin", "isEditor"),
    *(
        "websiteURL",
        "internalURL",
        "groupLang",
        "linkBehavior",
        "accentColor",
        "groupImageUrl",
        "groupSVGUrl",
        "address",
    ),
    *("lon", "lat", "zoomLevel", "administrators", "editors", "invites", "showAvailableFirst", "showAllUnits"),
    *("showPrices", "showAvailability", "hideSold", "showTaxes", "pricesStartingAt", "initialView", "theme"),
    id="_id",
    nested={"projects": PROJECT},
)

# No page shows an enterprise. It is said to hold groups and projects (viewerdocs, enterprise).
ENTERPRISE: Final = Vocabulary.of(
    *("name", "namespace", "hostName", "groups", "projects", "enterpriseImageUrl"),
    id="_id",
    nested={"groups": GROUP, "projects": PROJECT},
)

# api/openapi.yaml, Lead; viewerdocs, endpoint/leads/get. Personal data.
LEAD: Final = Vocabulary.of(
    *("name", "firstName", "lastName", "email", "phone", "message", "unit", "source", "questions", "customFields"),
    "createdAt",
    id="_id",
)

# --- What commands are made of ----------------------------------------------------------------------------------------


Id = Annotated[
    str,
    Field(pattern=r"^[0-9a-fA-F]{24}$", description="A Planpoint id: 24 hexadecimal digits."),
]

BATCH_SIZE: Final = 50
BatchSize = Annotated[int, Field(strict=True, ge=1, le=500)]


class Mine(Listing):
    """A list of all that the account has."""


class Found(Listing):
    """A find: all in a namespace that a host has access to (planpoint.txt, "Fetch Projects")."""

    namespace: Name
    host_name: Name


class OfProject(Listing):
    """A list of what is in one project."""

    project_id: Id


class One(CommandData):
    """One object."""

    id: Id


class Update(CommandData):
    """Some fields of one object."""

    id: Id
    changes: Changes


# --- One per command type ---------------------------------------------------------------------------------------------


class ProjectRead(One):
    """One project, whole. With floors and units it may be too large for an event: `destination` takes it as a row."""

    destination: Destination | None = None


class ProjectCreate(Creation):
    """A new project (viewerdocs, endpoint/projects/post)."""

    name: Name
    namespace: Name | None = None
    host_name: Name | None = None
    project_type: Name | None = None
    property_type: Name | None = None
    project_lang: Name | None = None


class GroupCreate(Creation):
    """A new group (api/openapi.yaml, CreateGroupBody)."""

    name: Annotated[str, Field(min_length=3, max_length=120)]
    namespace: Name | None = None
    host_name: Name | None = None
    type: Name | None = None
    property_type: Name | None = None


class FloorCreate(Creation):
    """A new floor of a project (api/openapi.yaml, CreateFloorBody)."""

    project_id: Id
    name: Name
    position: Number | None = None
    path: Text | None = None
    alternative_paths: tuple[Text, ...] | None = None


class UnitCreate(Creation):
    """A new unit on a floor. `project_id` saves the request that asks for the floor's project."""

    floor_id: Id
    project_id: Id | None = None
    name: Name
    unit_number: Name | None = None
    status: Name | None = None
    price: Number | None = None
    bed: Number | None = None
    bath: Number | None = None
    sqft: Number | None = None
    model: Text | None = None
    orientation: Text | None = None
    parking: Number | None = None
    position: Number | None = None


class UnitUpdateMany(CommandData):
    """The same fields of many units. `batch_size`: ids in one request (PP-OAS names no largest number)."""

    ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=10_000)]
    changes: Changes
    batch_size: BatchSize = BATCH_SIZE


class LeadList(OfProject):
    """
    A project's leads. `only_new`: those that earlier exports did not have; left out, that is so with a `destination`.

    What earlier exports had is kept for each project, and apart for each schedule.
    """

    only_new: bool | None = None


Cell = str | int | Annotated[float, Field(allow_inf_nan=False)] | bool | None


class UnitsSync(CommandData):
    """
    A sheet of units and what it may do to a project.

    `key` tells which unit a row means. `columns` maps the sheet's headings to fields (left out: headings that are a
    field's name in either language); no other column is touched, and an empty cell leaves its field alone. A heading
    in `columns` that a table lacks, and a field that seems misspelt, are errors; one that no unit has yet is written.
    """

    project_id: Id
    rows: Annotated[tuple[dict[Heading, Cell], ...], Field(min_length=1, max_length=20_000)] | None = None
    rows_url: Annotated[str, Field(min_length=1, max_length=1_024)] | None = None
    key: Literal["unit_number", "name", "id"]
    mode: Literal["plan", "apply"]
    columns: Annotated[dict[Heading, FieldName], Field(min_length=1, max_length=100)] | None = None
    decimal_mark: Literal[".", ","] | None = None
    """What stands before the decimals of numbers that are text; the other one may group thousands."""
    statuses: Annotated[tuple[Name, ...], Field(max_length=50)] = ()
    """Statuses of the tenant's own, beside the documented ones and those that its units have."""
    missing_status: Name | None = None
    """The status that units get which the sheet does not have; left out, they are left alone."""
    max_changed: Share = 0.30
    """The share of the project's units that may change without approval."""
    max_reopened: Annotated[int, Field(strict=True, ge=0)] = 0
    """How many units may go from Sold or Leased to Available without approval."""
    batch_size: BatchSize = BATCH_SIZE
    destination: Destination | None = None
    """Where the plan's rows are written."""
    plan_id: PlanId | None = None
    """The approved plan to apply; `planrelay plan approve` sets it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.rows is None) == (self.rows_url is None):
            raise ValueError("give either rows or rows_url")
        if self.plan_id is not None and self.mode != "apply":
            raise ValueError("plan_id goes with mode apply")
        return self
