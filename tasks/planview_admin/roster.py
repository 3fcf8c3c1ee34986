"""
What a roster says: each row's person and the fields they are to have, in our words.

Pure. Nothing is guessed: a status or role that nobody knows, a name that can be divided in two ways and an address that
is none are problems with their line, and the row is left out. Columns may be those of Planview's own export (name,
email, status, admin, products: PVA-USERS), the JSON keys, or whatever `columns` maps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.planview_admin.spelling import ACTIVE, ADMINISTRATOR, INACTIVE, ROLES, STATUSES, USER_ROLE, is_active
from worker.cells import Headings, Unclear, flag, folded, is_empty, text
from worker.natural_key import composed, fold, visible
from worker.rows import BadRow

if TYPE_CHECKING:
    from tasks.planview_admin.spelling import Spelling
    from worker.rows import Row

KEYS: Final = ("id", "username", "email")
"""By what a row tells whom it means, the surest first."""

FULL_NAME: Final = "full_name"
"""A wish's field for a name that can be divided in more than one way."""

_SYNONYMS: Final = {
    "name": "name",
    "admin": "admin",
    "emailaddress": "email",
    "userid": "id",
    "productenvironments": "products",
}
_TEXTS: Final = frozenset({"id", "username", "first_name", "last_name", "name"})
_NOT_OURS: Final = frozenset({"last_login"})
_ADMIN_ROLES: Final = {"admin": ADMINISTRATOR}
# One address: not "Ada <ada@x.y>", mailto:, or several in one cell.
_ADDRESS: Final = re.compile(r"[^\s\x00-\x1f\x7f@,;:<>]+@[^\s\x00-\x1f\x7f@,;:<>]+")
_LISTED: Final = re.compile(r"[;|\n]")


@dataclass(frozen=True, slots=True)
class Wish:
    """One row: this person is to have these fields (`id` is only for finding them)."""

    line: int
    id: str | None
    fields: Mapping[str, Any]

    @property
    def who(self) -> str:
        """By what the row names the person."""
        return str(self.fields.get("username") or self.fields.get("email") or self.id)

    @property
    def active(self) -> bool:
        """Whether the person is to be active; so is whoever stands in a roster without a status."""
        return is_active(self.fields.get("status"))


@dataclass(slots=True)
class Reading:
    """What came of a roster."""

    wishes: list[Wish] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Rows that can't be understood: `line` and `reason`."""
    mentioned: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in KEYS})
    """Ids, usernames and emails (folded) of all rows, also of those that can't be understood."""
    ignored: list[str] = field(default_factory=list)
    """Headings that are no field, or none that a roster may change."""

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return len(self.wishes) + len(self.problems)


class Reader:
    """Reads the rows of one roster."""

    def __init__(self, spelling: Spelling, columns: Mapping[str, str] | None) -> None:
        names = spelling.names
        known = {folded(name): ours for ours, theirs in names.names.items() for name in (ours, *theirs)}
        self._headings = Headings(
            {**_SYNONYMS, **known},
            columns,
            name=lambda name: name if name in _SYNONYMS else names.name(name),
            refused=_NOT_OURS,
        )
        self._values = {name: {**spelled} for name, spelled in spelling.ours.items()}
        for name, values in (("status", STATUSES), ("role", ROLES)):
            self._values.setdefault(name, {}).update({value.casefold(): value for value in values})
        self._values["role"] |= _ADMIN_ROLES
        self.reading = Reading()

    def read(self, row: Row | BadRow) -> None:
        """Take one row in."""
        if isinstance(row, BadRow):
            self._problem(row.line, row.reason)
            return
        try:
            self.reading.wishes.append(self._wish(row))
        except Unclear as unclear:
            self._problem(row.line, str(unclear))

    def finish(self) -> Reading:
        """Give what came of all rows."""
        self.reading.ignored = self._headings.ignored
        return self.reading

    def _problem(self, line: int, reason: str) -> None:
        self.reading.problems.append({"line": line, "reason": reason})

    def _wish(self, row: Row) -> Wish:
        cells: dict[str, tuple[str, Any]] = {}
        for heading, cell in row.values.items():
            name = self._headings.field(heading)
            if name is not None and not is_empty(cell):
                cells[name] = (heading, cell)
        fields: dict[str, Any] = {}
        wrong: Unclear | None = None
        for name in sorted(cells, key=_keys_first):
            heading, cell = cells[name]
            try:
                fields[name] = self._value(name, cell)
            except Unclear as unclear:
                wrong = wrong or Unclear(f"{heading}: {unclear}")
        for key in KEYS:
            if key in fields:
                self.reading.mentioned[key].add(fields[key] if key == "id" else fold(fields[key]))
        if wrong is not None:
            raise wrong
        if not any(key in fields for key in KEYS):
            raise Unclear("has none of id, username and email")
        _settle_role(fields)
        _settle_name(fields)
        return Wish(row.line, fields.pop("id", None), fields)

    def _value(self, name: str, cell: Any) -> Any:
        if name == "products":
            return _products(cell)
        if isinstance(cell, (list, dict)):
            raise Unclear(f"a JSON {'array' if isinstance(cell, list) else 'object'} is no value of it")
        if name in {"admin", "password_required"}:
            return flag(cell)
        if name in self._values:
            return self._named(name, cell)
        if name == "email":
            return _email(cell)
        return text(cell) if name in _TEXTS or isinstance(cell, str) else cell

    def _named(self, name: str, cell: Any) -> str:
        known = self._values[name]
        value = known.get(text(cell).casefold())
        if value is None:
            raise Unclear(f"{text(cell)[:60]!r} is none of {', '.join(dict.fromkeys(known.values()))}")
        return _as_wanted(name, value)


def _as_wanted(name: str, value: str) -> str:
    # Pending is no wish: a user who was invited becomes active by their own doing.
    return value if name != "status" else ACTIVE if is_active(value) else INACTIVE


def _keys_first(name: str) -> int:
    return KEYS.index(name) if name in KEYS else len(KEYS)


def _email(cell: Any) -> str:
    address = composed(visible(text(cell)))
    if not _ADDRESS.fullmatch(address):
        raise Unclear(f"{address[:60]!r} is no address")
    return address


def _products(cell: Any) -> tuple[str, ...]:
    """Read a list, or text divided by semicolons, bars or lines, else by commas."""
    if isinstance(cell, list):
        if not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in cell):
            raise Unclear("products are a list of ids or names")
        parts = [str(one) for one in cell]
    else:
        said = text(cell)
        parts = _LISTED.split(said) if _LISTED.search(said) else said.split(",")
    return tuple(sys.intern(part.strip()) for part in dict.fromkeys(parts) if part.strip())


def _settle_role(fields: dict[str, Any]) -> None:
    """Make a role of Planview's own column `admin`."""
    admin = fields.pop("admin", None)
    if admin is None:
        return
    role = ADMINISTRATOR if admin else USER_ROLE
    if fields.setdefault("role", role) != role:
        raise Unclear(f"the columns of role and admin contradict each other: {fields['role']}, and admin is {admin}")


def _settle_name(fields: dict[str, Any]) -> None:
    """Divide Planview's own column `name` where first and last name don't stand in columns of their own."""
    name = fields.pop("name", None)
    if name is None or ("first_name" in fields and "last_name" in fields):
        return
    if name.count(",") == 1:
        last, first = (part.strip() for part in name.split(","))
    else:
        first, _, last = name.partition(" ")
    if not first or not last or " " in last.strip():
        fields[FULL_NAME] = " ".join(name.split())  # whoever has this very name already needs no division
        return
    fields.setdefault("first_name", first)
    fields.setdefault("last_name", last.strip())
