"""
What a sheet of units says: each row's unit and the fields it is to have, in our names and as values.

Pure. Nothing is guessed: a number that can be read in two ways, a status that nobody knows and a key that comes twice
are problems with their line, and the row is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint import models
from worker.cells import ROUNDED, Headings, Unclear, flag, folded, is_empty, quoted, text
from worker.errors import BadCommand
from worker.rows import BadRow

if TYPE_CHECKING:
    from worker.rows import Row
    from worker.vocabulary import Vocabulary

NUMBERS: Final = frozenset(
    {"price", "bed", "bath", "sqft", "parking", "position", "payable_amount", "lon", "lat", "level"}
)
FLAGS: Final = frozenset({"is_featured", "unit_price_tbd"})
AMOUNTS: Final = frozenset({"price", "bed", "bath", "sqft", "parking", "payable_amount"})
"""Numbers of which less than none makes no sense."""
REFERENCES: Final = frozenset({"id", "floor", "project"})
"""Fields that a sheet may name its units by, and never changes."""
# viewerdocs, units/id/get and units/id/patch; api/openapi.yaml, Unit.unitmodels.
LISTS: Final = frozenset(
    {"unitmodels", "layout_gallery", "additional_info", "images", "cloned_images", "custom_finishes", "finishes"}
) | {"cloned_finishes"}
"""Fields that hold lists or objects: a cell has neither, so a sheet never changes them."""

_GROUPS: Final = {".": ",", ",": "."}
_BLANKS: Final = " '\N{RIGHT SINGLE QUOTATION MARK}\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}"


@dataclass(frozen=True, slots=True)
class Wish:
    """One row: the unit with this key is to have these fields."""

    line: int
    key: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Reading:
    """What came of a sheet."""

    wishes: list[Wish] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Rows that can't be understood: `line` and `reason`."""
    mentioned: set[str] = field(default_factory=set)
    """The keys of all rows, also of those that can't be understood."""
    missing_status: str | None = None
    """The status for units that no row mentions, as this tenant writes it."""
    ignored: list[str] = field(default_factory=list)
    """Headings that are no field, or none that a sheet may change."""
    absent: list[str] = field(default_factory=list)
    """Headings that `columns` names and no row has."""
    unseen: list[str] = field(default_factory=list)
    """Fields that `columns` names and no unit has yet: a tenant's own, filled for the first time."""


class Reader:
    """
    Reads the rows of one sheet for one project, whose units say which statuses and fields a tenant has of its own.

    Raises `BadCommand` for columns and a `missing_status` that can't be meant.
    """

    def __init__(self, data: models.UnitsSync, unit: Vocabulary, units: Collection[Mapping[str, Any]]) -> None:
        self._data = data
        self._unit = unit
        self._known = {folded(name): ours for ours, theirs in unit.names.items() for name in (ours, *theirs)}
        holding_lists = {name for one in units for name, value in one.items() if isinstance(value, (list, dict))}
        refused = (REFERENCES | LISTS | holding_lists) - {data.key}
        self._headings = Headings(self._known, data.columns, name=unit.name, refused=refused)
        own = {one["status"] for one in units if isinstance(one.get("status"), str)}
        # The tenant's own way to write a status holds; where its units write one in several ways, the documented.
        statuses = [*models.STATUSES, *data.statuses, *sorted(own), *own.intersection(models.STATUSES)]
        self._statuses: dict[str, str] = {folded(status): status for status in statuses}
        seen = {name for one in units for name in one}
        self.reading = Reading(unseen=self._unseen(seen | refused) if seen else [])
        if data.missing_status is not None:
            try:
                self.reading.missing_status = self._status(data.missing_status)
            except Unclear as unclear:
                raise BadCommand(f"data.missing_status: {unclear}.") from None
        self._lines: dict[str, int] = {}
        self._twice: set[str] = set()
        self._tabular = False

    def _unseen(self, seen: Collection[str]) -> list[str]:
        """Give the fields in `columns` that nobody knows; one that is nearly a known one is taken for misspelt."""
        unseen = []
        for heading, said in (self._data.columns or {}).items():
            name = self._unit.name(said)
            if name in self._unit.names or name in seen:
                continue
            near = get_close_matches(folded(said), self._known, 1, 0.75)
            if near:
                raise BadCommand(
                    f"data.columns: {heading!r} is mapped to {said}, which no page documents and no unit of this "
                    f"project has (did you mean {self._known[near[0]]}?)."
                )
            unseen.append(said)
        return unseen

    def head(self, heading: Sequence[str]) -> None:
        """Take in a table's heading: a sheet of rows that name their own fields has none."""
        self._tabular = bool(heading)
        times = Counter(name.casefold() for name in heading)
        for name in heading:
            if name and times[name.casefold()] == 1:  # of those that stand there twice, none is read
                self._headings.field(name)

    def read(self, row: Row | BadRow) -> None:
        """Take one row in."""
        if isinstance(row, BadRow):
            self._problem(row.line, row.reason)
            return
        try:
            key, fields = self._understood(row.values)
        except Unclear as unclear:
            self._problem(row.line, str(unclear))
            return
        if key in self._lines:
            self._twice.add(key)
            self._problem(row.line, f"{self._data.key} {key!r} stands in line {self._lines[key]} already")
            return
        self._lines[key] = row.line
        self.reading.wishes.append(Wish(row.line, key, fields))

    def finish(self) -> Reading:
        """Give what came of all rows; of those whose key came twice, none is believed."""
        reading, headings = self.reading, self._headings.fields
        if not reading.wishes and not reading.problems:
            raise BadCommand("The sheet has no rows.")
        if not headings:
            first = min(reading.problems, key=lambda problem: problem["line"])
            raise BadCommand(f"No row of the sheet can be read; line {first['line']}: {first['reason']}.")
        if self._data.key not in headings.values():
            raise BadCommand(
                f"The sheet has no column for data.key, {self._data.key}: it has {quoted(headings)}. "
                "Name the column so, or map its heading in data.columns."
            )
        reading.absent = [heading for heading in self._data.columns or () if heading not in headings]
        if reading.absent and self._tabular:
            raise BadCommand(
                f"data.columns names {quoted(reading.absent)}, which the sheet does not have once: "
                f"it has {quoted(headings)}."
            )
        for wish in [wish for wish in reading.wishes if wish.key in self._twice]:
            self._problem(wish.line, f"{self._data.key} {wish.key!r} stands in another line too")
        reading.wishes = [wish for wish in reading.wishes if wish.key not in self._twice]
        reading.problems.sort(key=lambda problem: problem["line"])
        known = {} if self._data.columns is not None else self._known
        reading.ignored = [f"{name}{_nearest(name, known)}" for name in self._headings.ignored]
        return reading

    def _problem(self, line: int, reason: str) -> None:
        self.reading.problems.append({"line": line, "reason": reason})

    def _understood(self, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        field_of = self._headings.field
        cells = {field_of(heading): (heading, cell) for heading, cell in values.items() if not is_empty(cell)}
        if self._data.key not in cells:
            raise Unclear(f"has no {self._data.key}")
        key = unit_key(cells.pop(self._data.key)[1], self._data.key)
        self.reading.mentioned.add(key)
        fields: dict[str, Any] = {}
        for name, (heading, cell) in cells.items():
            if name is not None:
                try:
                    fields[name] = self._value(name, cell)
                except Unclear as unclear:
                    raise Unclear(f"{heading}: {unclear}") from None
        return key, fields

    def _value(self, name: str, cell: Any) -> Any:
        if isinstance(cell, (list, dict)):
            raise Unclear(f"a JSON {'array' if isinstance(cell, list) else 'object'} is no value of it")
        if name in NUMBERS:
            value = number(cell, self._data.decimal_mark)
            if value < 0 and name in AMOUNTS:
                raise Unclear(f"{str(cell)[:60]!r} is less than nothing")
            return value
        if name in FLAGS:
            return flag(cell)
        if name == "status":
            return self._status(cell)
        if name in self._unit.names:
            return text(cell)
        return cell  # a field that only this tenant knows

    def _status(self, cell: Any) -> str:
        known = self._statuses.get(folded(str(cell)))
        if known is None:
            raise Unclear(
                f"{str(cell)[:60]!r} is neither one of {', '.join(models.STATUSES)} nor a status that a unit of this "
                "project has; if it is right, give it in data.statuses"
            )
        return known


def unit_key(value: Any, key: str) -> str:
    """Give what tells units apart as text: a number's and its text's are one, however its letters are encoded."""
    known = unicodedata.normalize("NFC", text(value))
    return known.lower() if key == "id" else known


def _nearest(name: str, known: Mapping[str, str]) -> str:
    near = [] if folded(name) in known else get_close_matches(folded(name), known, 1, 0.75)
    return f" (did you mean {known[near[0]]}?)" if near else ""


def number(cell: Any, decimal_mark: str | None) -> int | float:
    """
    Read a number: as it is, or from text with this decimal mark, currency signs and grouped thousands allowed.

    Without a decimal mark only whole numbers are read from text, in groups divided by blanks or apostrophes perhaps:
    `1.234` is a thousand to some and a bit over one to others.
    """
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise Unclear(f"{str(cell)[:60]!r} is no number")
    if not isinstance(cell, str):
        if not abs(cell) < ROUNDED:  # nor is NaN
            raise Unclear(f"{str(cell)[:60]} is no number of at most fifteen digits")
        return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
    text = "".join(char for char in cell if unicodedata.category(char) != "Sc").strip(_BLANKS)
    groups = re.escape((_GROUPS[decimal_mark] if decimal_mark else "") + _BLANKS)
    whole = rf"(?P<whole>\d{{1,15}}|\d{{1,3}}(?P<group>[{groups}])\d{{3}}(?:(?P=group)\d{{3}})*)"
    part = rf"(?:{re.escape(decimal_mark)}(?P<part>\d{{1,15}}))?" if decimal_mark else "(?P<part>)"
    match = re.fullmatch(rf"(?P<sign>[+-]?){whole}{part}", text, re.ASCII)
    if match is not None:
        digits = re.sub(r"\D", "", match["whole"])
        decimals = (match["part"] or "").rstrip("0")
        return float(f"{match['sign']}{digits}.{decimals}") if decimals else int(match["sign"] + digits)
    if decimal_mark is None and re.search(r"\d[.,]\d", text):
        raise Unclear(f"{cell[:60]!r} can be read in two ways; give data.decimal_mark")
    raise Unclear(f"{cell[:60]!r} is no number")
