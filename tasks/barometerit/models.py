"""
The data of each command: strict, but for one thing.

A BN of another shape than all examples have is worth a warning in the result, not an error. Long because there are 32
command types.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from tasks.barometerit.wire import BN_SHAPE, ENTITY_CODES, Format
from worker import data
from worker.command import CommandData
from worker.data import FieldName, Name, Text

# --- What commands are made of ----------------------------------------------------------------------------------------


def _entity_code(code: str) -> str:
    if code in ENTITY_CODES:
        return code
    words = {**{name: known for known, name in ENTITY_CODES.items()}, **{known: known for known in ENTITY_CODES}}
    near = difflib.get_close_matches(code, words, n=1) or difflib.get_close_matches(code.upper(), words, n=1)
    near = near or difflib.get_close_matches(code.lower(), words, n=1)
    hint = f"; did you mean {words[near[0]]}?" if near else ""
    raise ValueError(f"must be an entity code, one of {', '.join(ENTITY_CODES)}{hint}")


def _no_bn(values: dict[str, Any]) -> dict[str, Any]:
    if "bn" in values:
        raise ValueError("a BN is the vendor's to give; leave it out")
    return values


def _day(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return value
    raise ValueError("must be a day written as 2026-05-20 (BIT-ENT: yyyy-mm-dd)")


Bn = Annotated[
    str,
    Field(pattern=r"^\S+$", max_length=100, description="A Barometer Number: 12 digits and capitals."),
]
EntityCode = Annotated[
    str,
    AfterValidator(_entity_code),
    Field(description="A type of entity, by its three letters.", json_schema_extra={"enum": list(ENTITY_CODES)}),
]
Day = Annotated[date, BeforeValidator(_day)]
Properties = Annotated[
    dict[FieldName, JsonValue],
    Field(min_length=1, max_length=200, description="Basic fields and their values; our names or the vendor's own."),
    AfterValidator(_no_bn),
]
File = Annotated[str, Field(min_length=1, max_length=1_024, description="A place under [artifacts].allowed.")]


class Data(CommandData):
    """What every command of barometerIT is made of."""

    def odd_bns(self) -> Iterator[str]:
        """Give the BNs in here that have another shape than all examples, each with its field."""
        for name, value in self:
            several = value if isinstance(value, tuple) else (value,)
            for one in several:
                if isinstance(one, Data):
                    yield from one.odd_bns()
                elif isinstance(one, str) and name.endswith(("bn", "bns")) and not BN_SHAPE.fullmatch(one):
                    yield f"{name} {one!r}"


class Listing(Data, data.Listing):
    """What every list takes: where its rows go, and how many at most."""


class Paged(Listing):
    """A list that comes in pages (BIT-ENT names no largest `count`)."""

    page_size: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 100


class One(Data):
    """One object."""

    bn: Bn


class RowsOfOne(Listing):
    """What one object has several of."""

    bn: Bn


class Creation(Data, data.Creation):
    """A new object."""


# --- Filters ----------------------------------------------------------------------------------------------------------


class FilterSpec(Data):
    """What a filter lets through: for each filter BN any of its value BNs; none means any value (BIT-FILT)."""

    params: Annotated[tuple[dict[Bn, tuple[Bn, ...]], ...], Field(max_length=100)] = ()
    search_string: Name | None = None


class OperableParam(Data):
    """One comparison of an operable filter. No page lists the operators that can be read (BIT-FILT)."""

    key_bn: Bn
    operator: Name
    value_bn: Bn


class OperableFilterSpec(Data):
    """What an operable filter lets through: all of its comparisons, or any (BIT-FILT)."""

    params: Annotated[tuple[OperableParam, ...], Field(max_length=100)] = ()
    joining_operator: Literal["AND", "OR"] = "AND"
    search_string: Name | None = None


FilterString = Annotated[str, Field(min_length=2, max_length=20_000, description="What a filter.build gave.")]

# --- Entities ---------------------------------------------------------------------------------------------------------


class EntityList(Paged):
    """
    The entities of a type. Filters are strings that were built before, or what they are built from.

    `only_changed`: those that earlier exports with these data did not have; left out, that is so where a schedule sends
    it with `updated_from`, which is then where the first export starts. Kept apart for each schedule.
    """

    type: EntityCode
    filter: FilterSpec | FilterString | None = None
    operable_filter: OperableFilterSpec | FilterString | None = None
    updated_from: Day | None = None
    updated_to: Day | None = None
    created_from: Day | None = None
    created_to: Day | None = None
    fieldsets: Annotated[bool, Field(strict=True)] = False
    only_changed: Annotated[bool, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _can_go_on(self) -> Self:
        if self.only_changed and self.updated_to is not None:
            raise ValueError(
                "only_changed goes without updated_to: what changed after that day would never be exported"
            )
        return self


class EntityCreate(Creation):
    """A new entity (BIT-GS: it needs a few basic properties; which values they may have, entity_properties tells)."""

    type: EntityCode
    properties: Properties

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Deployments have a basic property called type, too (BIT-GS): only `match_on` can't tell them apart.
        name = self.properties.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError("properties needs name, a text: it is what an entity is found again by")
        unknown = [one for one in self.match_on or () if one not in self.properties and one != "type"]
        if unknown:
            known = ", ".join(["type", *self.properties])
            raise ValueError(f"match_on names {', '.join(unknown)}, which the command does not give: match on {known}")
        return self


class EntityUpdate(Data):
    """Some basic fields of one entity."""

    bn: Bn
    properties: Properties


class EntityUpdateMany(Data):
    """The same basic fields of many entities. `batch_size`: BNs in one request (no page names a largest number)."""

    bns: Annotated[tuple[Bn, ...], Field(min_length=1, max_length=5_000)]
    properties: Properties
    batch_size: Annotated[int, Field(strict=True, ge=1, le=500)] = 100


class EntityFieldsUpdate(Data):
    """Custom field values of one entity, by the fields' BNs."""

    bn: Bn
    fields: Annotated[dict[Bn, JsonValue], Field(min_length=1, max_length=500)]

    def odd_bns(self) -> Iterator[str]:
        """Give the odd BNs, those of the fields among them."""
        yield from super().odd_bns()
        yield from (f"fields {bn!r}" for bn in self.fields if not BN_SHAPE.fullmatch(bn))


class OfType(Listing):
    """What belongs to one type of entity."""

    type: EntityCode


class Search(Data):
    """A search over all entities, or those of some types (BIT-SRCH)."""

    search_string: Name
    max_results: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 100
    entity_types: Annotated[tuple[EntityCode, ...], Field(max_length=len(ENTITY_CODES))] = ()


# --- Fields and fieldsets ---------------------------------------------------------------------------------------------

DataType = Literal["BOOLEAN", "DATE", "DATE_TIME", "DECIMAL", "INTEGER", "TEXT", "TIME"]


class Choice(Data):
    """One choice of a custom field."""

    bn: Bn | None = None
    display_value: Name
    stored_value: Name | None = None


class FieldChanges(Data):
    """A custom field's own settings (BIT-FLD)."""

    name: Name | None = None
    data_type: DataType | None = None
    display_type: Name | None = None
    """TEXT_BOX, SINGLE_SELECT, MULTI_SELECT; others exist."""
    control_level: Literal["NONE", "VISIBLE", "EDITABLE"] | None = None
    choices: Annotated[tuple[Choice, ...], Field(max_length=1_000)] | None = None
    decimal_places: Annotated[int, Field(strict=True, ge=0, le=100)] | None = None
    field_length: Annotated[int, Field(strict=True, ge=1)] | None = None
    field_id: Name | None = None
    help_text: Text | None = None
    notes: Text | None = None


class FieldCreate(FieldChanges, Creation):
    """A new custom field."""

    name: Name
    data_type: DataType = "TEXT"


class FieldUpdate(FieldChanges):
    """Some settings of a custom field."""

    bn: Bn


class FieldsetCreate(Creation):
    """
    A new fieldset; `fields` are BNs, in their order (BIT-FS).

    `type` is the entity type that it is for. No page shows it in the request; without it nobody can look for what an
    interrupted request made, because fieldsets are listed by type only.
    """

    name: Name
    field_bns: Annotated[tuple[Bn, ...], Field(max_length=500, alias="fields")] = ()
    expanded: Annotated[bool, Field(strict=True)] = False
    fieldset_id: Name | None = None
    help_text: Text | None = None
    notes: Text | None = None
    type: EntityCode | None = None

    def fields(self, *references: str) -> dict[str, Any]:
        """Give the new fieldset's settings, its fields' BNs among them."""
        return {**super().fields("field_bns", *references), "fields": list(self.field_bns)}

    @model_validator(mode="after")
    def _can_be_matched(self) -> Self:
        if self.match_on is not None and self.type is None:
            raise ValueError("match_on needs type: fieldsets are listed by entity type only")
        return self


class FieldsetUpdate(Data):
    """Some settings of a fieldset; `fields` are BNs, in their order (BIT-FS)."""

    bn: Bn
    name: Name | None = None
    fields: Annotated[tuple[Bn, ...], Field(max_length=500)] | None = None
    expanded: Annotated[bool, Field(strict=True)] | None = None
    fieldset_id: Name | None = None
    help_text: Text | None = None
    notes: Text | None = None


# --- Associations and proposals ---------------------------------------------------------------------------------------


class Association(Data):
    """One association to be there or to be gone."""

    target_bn: Bn
    relationship_identifier: Name | None = None
    relationship_type: Name | None = None


class AssociationUpdate(Data):
    """What is to be associated with an entity, and what no longer. `relationship_type` is for people (BIT-ASSOC)."""

    source_bn: Bn
    index_bn: Bn | None = None
    relationship_type: Name | None = None
    added_assocs: Annotated[tuple[Association, ...], Field(max_length=1_000)] = ()
    removed_assocs: Annotated[tuple[Association, ...], Field(max_length=1_000)] = ()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.added_assocs and not self.removed_assocs:
            raise ValueError("give added_assocs, removed_assocs or both: otherwise nothing would change")
        return self


class AssociationList(Paged):
    """What one entity is associated with, of one type."""

    source_bn: Bn
    target_entity_type: EntityCode
    relationship_type: Name | None = None


class ProposalList(Paged):
    """Proposals of an entity or of a type of entity: those that this account may resolve, or all (BIT-PROP)."""

    entity_bn: Bn | None = None
    entity_type: EntityCode | None = None
    type: Literal["MINE", "ALL"] = "MINE"
    conflicts: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _of_one_thing(self) -> Self:
        if (self.entity_bn is None) == (self.entity_type is None):
            raise ValueError("give entity_bn or entity_type, one of them")
        return self


# --- Reports and documents --------------------------------------------------------------------------------------------

Seconds = Annotated[int, Field(strict=True, ge=0, le=86_400)]


class ReportGenerate(Data):
    """A new snapshot of a report."""

    report_bn: Bn
    format: Format = "csv"


class ReportAsset(Data):
    """One snapshot of a report."""

    asset_bn: Bn


class Saving(Data):
    """How a snapshot is brought home."""

    destination: File
    check_size: Annotated[bool, Field(strict=True)] = True
    """Compare with the asset's size where barometerIT tells it."""
    delete_asset: Annotated[bool, Field(strict=True)] = False
    """Remove the snapshot once the file is verified; costs a second read of it."""


class ReportDownload(Saving):
    """A snapshot to save. `format` decides how it is verified; left out, its media type or the destination's ending."""

    asset_bn: Bn
    format: Format | None = None
    ready_within: Seconds = 60
    """Seconds until a snapshot that is not there counts as missing, not as unfinished."""


class ReportExport(Saving):
    """A report to bring home. `format` left out: as the destination's ending says, else csv."""

    report_bn: Bn
    format: Format | None = None
    upload_as: Name | None = None
    """The name of the document that barometerIT gets of the file; may hold what a destination may."""
    ready_within: Seconds = 3_600
    """Seconds that generating may take."""


class DocumentUpload(Data):
    """A file that becomes a document, an entity of type AST."""

    name: Name
    path: File
