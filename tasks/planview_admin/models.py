"""The data of each command of Planview Admin (contract §9). What users look like: `tasks.planview_admin.spelling`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue, model_validator

from tasks.planview_admin.spelling import STATUSES
from worker.command import CommandData
from worker.data import Changes, Creation, Destination, FieldName, Heading, Listing, Name, PlanId, Properties, Share

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


Seconds = Annotated[int, Field(strict=True, ge=0, le=30 * 86_400)]
PageSize = Annotated[int, Field(strict=True, ge=1, le=10_000)]


class Paged(Listing):
    """What every list of pages takes. `page_size`: rows asked for in one page, as far as the vendor allows."""

    page_size: PageSize = PAGE_SIZE


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


class UserProvision(CommandData):
    """
    How one person is to be; what is left out stays as it is.

    `products` is the whole list; `add_products` and `remove_products` change it. `active`: false deactivates, and makes
    nobody new. `id`: the user meant; else `username`, else `email` tells.
    """

    id: Id | None = None
    email: Email
    username: Name | None = None
    first_name: Name | None = None
    last_name: Name | None = None
    role: Role | None = None
    password_required: bool | None = None
    active: bool = True
    products: Products | None = None
    add_products: Products = ()
    remove_products: Products = ()
    properties: Properties = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.products is not None and (self.add_products or self.remove_products):
            raise ValueError("give either products, the whole list, or add_products and remove_products")
        both = sorted({*self.add_products} & {*self.remove_products})
        if both:
            raise ValueError(f"{', '.join(both)} can't be both added and removed")
        twice = sorted(self.properties.keys() & (type(self).model_fields.keys() | {"status"}))
        if twice:
            raise ValueError(f"{', '.join(twice)} is a field of its own: take it out of properties")
        return self

    def fields(self) -> dict[str, Any]:
        """Give the fields that the person is to have, without status and products."""
        names = ("email", "username", "first_name", "last_name", "role", "password_required")
        own = {name: getattr(self, name) for name in names}
        return {**{name: value for name, value in own.items() if value is not None}, **self.properties}


class UsersReconcile(CommandData):
    """
    A roster of users and what it may do to a customer's directory.

    `columns` maps the roster's headings to fields (left out: headings that are a field's name in either language, or
    of Planview's own export); no other column is touched, and an empty cell leaves its field alone.
    """

    roster: Annotated[tuple[dict[Heading, JsonValue], ...], Field(min_length=1, max_length=100_000)] | None = None
    roster_url: Annotated[str, Field(min_length=1, max_length=1_024)] | None = None
    mode: Literal["plan", "apply"]
    columns: Annotated[dict[Heading, FieldName], Field(min_length=1, max_length=100)] | None = None
    deactivate_missing: bool = False
    """Deactivate who is not in the roster; left out, they are left alone."""
    max_removals: Annotated[int, Field(strict=True, ge=0)] = 10
    """How many users may lose their access (be deactivated, or lose a product environment) without approval."""
    max_removal_share: Share = 0.05
    """The same as a share of the active users."""
    protected_users: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    """Users never touched, beside those of the connection: names or addresses, `*` for any part, or `id:` and an id."""
    page_size: PageSize = PAGE_SIZE
    destination: Destination | None = None
    """Where the plan's rows are written."""
    plan_id: PlanId | None = None
    """The approved plan to apply; `planrelay plan approve` sets it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.roster is None) == (self.roster_url is None):
            raise ValueError("give either roster or roster_url")
        if self.plan_id is not None and self.mode != "apply":
            raise ValueError("plan_id goes with mode apply")
        return self


class Audit(Paged):
    """
    Which audit records to read.

    `since`: none before this instant. `as_events`: each record goes out as an event `planview_admin.audit.recorded`.
    `only_new`: those that earlier runs did not have; left out, that is so with a `destination` or `as_events`. What
    earlier runs had is kept for each history, and apart for each schedule. `overlap`: seconds by which a
    record may turn up later than its instant and still be found.
    """

    since: AwareDatetime | None = None
    as_events: bool = False
    only_new: bool | None = None
    overlap: Seconds = 3_600

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.as_events and self.destination is not None:
            raise ValueError("give either destination or as_events")
        return self

    @property
    def incremental(self) -> bool:
        """Whether only new records are asked for."""
        return (self.as_events or self.destination is not None) if self.only_new is None else self.only_new


class UserAudit(Audit):
    """The audit history of one user."""

    id: Id


class ProductUsers(Paged):
    """Who is provisioned to a product environment."""

    product_id: Id
