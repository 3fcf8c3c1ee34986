"""
Users in our words and in the vendor's: the names of fields, and the values of status and role.

Pure. The vendor's JSON keys and values are unpublished, so each is a default that the connection's `fields` overrule
(see `tasks.planview_admin`). Keys that nobody documented stay as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.natural_key import folded, same
from worker.vocabulary import Vocabulary

ACTIVE: Final = "Active"
PENDING: Final = "Pending"
INACTIVE: Final = "Inactive"
ADMINISTRATOR: Final = "Administrator"
USER_ROLE: Final = "User"

STATUSES: Final = (ACTIVE, PENDING, INACTIVE)
ROLES: Final = (ADMINISTRATOR, USER_ROLE)

VALUES: Final[Mapping[str, tuple[str, ...]]] = {"status": STATUSES, "role": ROLES}
"""Fields whose values have a meaning to us (PVA-USERS; the older text of that page has Inactive)."""

# PVA-USERS: the columns of the user interface; the JSON keys are assumed.
USER: Final = Vocabulary.of(
    *("id", "firstName", "lastName", "email", "username", "role", "passwordRequired", "products", "status"),
    "lastLogin",
)

# PVA-PROD: Managing Products; the JSON keys are assumed.
PRODUCT: Final = Vocabulary.of("id", "name", "environment", "primary")

# Nothing is published of audit records: they stay as received, and only these are looked at.
RECORD: Final = Vocabulary.of("id", "timestamp", "since")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one connection's vendor spells users."""

    names: Vocabulary = USER
    theirs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Per field of `VALUES`, our value (without regard to case) = the vendor's."""
    ours: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The other way round."""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Spelling:
        """Give what an operator's `fields` say, over the defaults."""
        keys = {ours: (theirs,) for ours, theirs in fields.items() if "." not in ours}
        theirs: dict[str, dict[str, str]] = {}
        ours: dict[str, dict[str, str]] = {}
        for name, values in VALUES.items():
            said = {value: fields.get(f"{name}.{value.lower()}", value) for value in values}
            theirs[name] = {value.casefold(): spelled for value, spelled in said.items()}
            ours[name] = {spelled.casefold(): value for value, spelled in said.items()}
        return cls(Vocabulary({**USER.names, **keys}), theirs, ours)

    def read(self, user: Mapping[str, Any]) -> dict[str, Any]:
        """Give a vendor's user in our words; its id and its products' as text."""
        read = self.names.read(user)
        for name, values in self.ours.items():
            if isinstance(read.get(name), str):
                read[name] = values.get(read[name].casefold(), read[name])
        if isinstance(read.get("products"), list):
            read["products"] = [reference(product) for product in read["products"]]
        read["id"] = reference(read.get("id"))
        return read

    def write(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Give fields as the vendor has them; a name that nobody knows goes out as it is."""
        said = self.names.ours(fields)
        for name, values in self.theirs.items():
            if isinstance(said.get(name), str):
                said[name] = values.get(said[name].casefold(), said[name])
        return self.names.write(said)


def alike(name: str, one: Any, other: Any) -> bool:
    """
    Tell whether two values of a user's field are the same to us.

    Addresses and names to sign in by are the same in any case, products in any order. Pending is as good as active: a
    user who was invited becomes active by their own doing.
    """
    match name:
        case "email" | "username":
            return folded(one, other)
        case "status":
            return is_active(one) == is_active(other)
        case "products":
            return set(one or ()) == set(other or ())
        case _:
            return same(one, other)


def is_active(status: Any) -> bool:
    """Tell whether somebody with this status may sign in, or could by accepting an invitation."""
    return bool(status != INACTIVE)


def otherwise(user: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Give the fields that a user does not show as asked; those that are not shown, nobody can tell."""
    return sorted(name for name, value in asked.items() if name in user and not alike(name, user[name], value))


def doubts(user: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Say in a warning what an answer does not show as asked."""
    names = otherwise(user, asked)
    return [f"Planview Admin's answer does not show what was asked: {', '.join(names)}."] if names else []


def reference(value: Any) -> Any:
    """Give the id of an object that stands as its id, a number perhaps, or whole."""
    if isinstance(value, Mapping):
        value = value.get("id", value.get("name"))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
