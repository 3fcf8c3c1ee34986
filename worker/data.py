"""
What the data of many commands are made of: lists and where they go, changes, new objects.

Each slice's models build on these, so that a field means the same at every vendor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from worker.command import CommandData
from worker.vocabulary import Vocabulary


def _no_id(values: dict[str, Any]) -> dict[str, Any]:
    if "id" in values or "_id" in values:
        raise ValueError("an object's id can't be changed; leave it out")
    return values


def _rows_file(destination: str) -> str:
    if not destination.lower().endswith((".jsonl", ".ndjson", ".csv")):
        raise ValueError("must end in .jsonl, .ndjson or .csv: rows are written as its ending says")
    return destination


Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,119}$")]
Heading = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
PlanId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Changes = Annotated[
    dict[FieldName, JsonValue],
    Field(min_length=1, max_length=200, description="Fields and their new values; our names or the vendor's own."),
    AfterValidator(_no_id),
]
Properties = Annotated[
    dict[FieldName, JsonValue],
    Field(max_length=200, description="Further fields of the new object; our names or the vendor's own."),
    AfterValidator(_no_id),
]
Destination = Annotated[
    str,
    Field(min_length=1, max_length=1_024, description="Where rows are written, as JSONL or CSV by its ending."),
    AfterValidator(_rows_file),
]


class Listing(CommandData):
    """What every list takes: where its rows go, and how many at most."""

    destination: Destination | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None


class Creation(CommandData):
    """
    A new object.

    `match_on` names fields of the command by which an object that is there already is taken as the result.
    """

    properties: Properties = Field(default_factory=dict)
    match_on: Annotated[tuple[FieldName, ...], Field(min_length=1, max_length=10)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = sorted(self.properties.keys() & type(self).model_fields.keys())
        if twice:
            raise ValueError(f"{', '.join(twice)} is a field of its own: take it out of properties")
        given = (self.model_fields_set - {"properties", "match_on"}) | self.properties.keys()
        unknown = [name for name in self.match_on or () if name not in given]
        if unknown:
            names = ", ".join(unknown)
            raise ValueError(
                f"match_on names {names}, which the command does not give: match on {', '.join(sorted(given))}"
            )
        return self

    @classmethod
    def noun(cls) -> str:
        """Give the word for what is made: `unit`."""
        return cls.__name__.removesuffix("Create").lower()

    def fields(self, *references: str) -> dict[str, Any]:
        """Give the new object's fields, those of the command and the further ones, without its `references`."""
        own = self.model_dump(mode="json", exclude_none=True, exclude={"properties", "match_on", *references})
        return {**own, **self.properties}


def match_on(data: Creation, vocabulary: Vocabulary, **references: str | None) -> list[str] | None:
    """
    Give the names of the fields that `match_on` names, as read objects have them.

    `references` translates the command's references (`floor_id="floor"`); None leaves out what all candidates share.
    """
    if data.match_on is None:
        return None
    names = [references.get(name, vocabulary.name(name)) for name in data.match_on]
    return [name for name in names if name is not None]


def with_warnings(result: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Give a result with its warnings, if there are any."""
    return {**result, "warnings": warnings} if warnings else dict(result)
