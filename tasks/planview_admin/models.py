"""The data of each command of Planview Admin (contract §9). What users look like: `tasks.planview_admin.spelling`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.planview_admin.spelling import STATUSES
from worker.command import CommandData
from worker.data import Changes, Creation, FieldName, Listing, Name

PAGE_SIZE: Final = 100
"""Rows that are asked for in one page; the vendor's own largest is unpublished and holds (planview_admin.txt)."""


def _address(value: str) -> str:
    if value.count("@") < 1 or value != value.strip() or any(char.isspace() for char in value):
        raise ValueError("must be an email address; write it like ada@example.com")
    return value


Id = Annotated[
    str, Field(min_length=1, max_length=200, description="A user's or product's id, as the vendor gives it.")
]
Email = Annotated[str, Field(min_length=3, max_length=320), AfterValidator(_address)]
Role = Literal["Administrator", "User"]
Status = Literal["Active", "Pending", "Inactive"]
Products = Annotated[tuple[Name, ...], Field(max_length=500, description="Ids of product environments.")]


class Paged(Listing):
    """What every list of pages takes. `page_size`: rows asked for in one page, as far as the vendor allows."""

    page_size: Annotated[int, Field(strict=True, ge=1, le=10_000)] = PAGE_SIZE


class UserSearch(Paged):
    """
    Which users to list; all, where nothing is said.

    `query` goes to the vendor as it is. The other fields go there too, and are checked again here without regard to
    case. `filters`: further query parameters under the vendor's own names, unchecked.
    """

    query: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    email: Annotated[str, Field(min_length=1, max_length=320)] | None = None
    username: Name | None = None
    first_name: Name | None = None
    last_name: Name | None = None
    role: Role | None = None
    status: Status | None = None
    product: Id | None = None
    filters: Annotated[dict[FieldName, str], Field(max_length=20)] = Field(default_factory=dict)

    def fields(self) -> dict[str, str]:
        """Give what is asked of a user's fields, in our names."""
        names = ("email", "username", "first_name", "last_name", "role", "status")
        asked = {name: getattr(self, name) for name in names}
        asked["products"] = self.product
        return {name: value for name, value in asked.items() if value is not None}


class One(CommandData):
    """One user."""

    id: Id


class UserUpdate(CommandData):
    """Some fields of one user."""

    id: Id
    changes: Changes

    @model_validator(mode="after")
    def _known_status(self) -> Self:
        status: Any = self.changes.get("status")
        if isinstance(status, str) and status not in STATUSES:
            raise ValueError(
                f"changes.status must be one of {', '.join(STATUSES)}: the connection's fields translate it"
            )
        return self


class UserCreate(Creation):
    """A new user. `properties`: further fields, in our names or the vendor's own."""

    email: Email
    first_name: Name
    last_name: Name
    username: Name | None = None
    role: Role | None = None
    password_required: bool | None = None
    products: Products | None = None
