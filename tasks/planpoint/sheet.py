"""
What a sheet of units says: each row's unit and the fields it is to have, in our names and as values.

Pure. Nothing is guessed: a number that can be read in two ways, a status that nobody knows and a key that comes twice
are problems with their line, and the row is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.planpoint import models
from worker.cells import Headings, Unclear, flag, folded, is_empty, quoted, text
from worker.errors import BadCommand
from worker.rows import BadRow

if TYPE_CHECKING:
    from worker.rows import Row
    from worker.vocabulary import Vocabulary

NUMBERS: Final = frozenset(
    {"price", "bed", "bath", "sqft", "parking", "position", "payable_amount", "lon", "lat", "level"}
)
FLAGS: Final = frozenset({"is_featured", "unit_price_tbd"})
REFERENCES: Final = frozenset({"id", "floor", "project"})
"""Fields that a sheet may name its units by, and never changes."""

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
    ignored: list[str] = field(default_factory=list)
    """Headings that are no field, or none that a sheet may change."""


class Reader:
    """
    Reads the rows of one sheet for one project.

    `own_statuses` are those that the project's units have: a tenant's own are as good as the documented ones.
    """

    def __init__(self, data: models.UnitsSync, unit: Vocabulary, own_statuses: Iterable[str]) -> None:
        self._data = data
        self._unit = unit
        self._headings = Headings(
            {folded(name): ours for ours, theirs in unit.names.items() for name in (ours, *theirs)},
            data.columns,
            name=unit.name,
            refused=REFERENCES - {data.key},
        )
        statuses = [*own_statuses, *data.statuses, *models.STATUSES]
        self._statuses = {folded(status): status for status in statuses}
        self.reading = Reading()
        self._lines: dict[str, int] = {}
        self._twice: set[str] = set()

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
        reading = self.reading
        if not any(name == self._data.key for name in self._headings.fields.values()):
            raise BadCommand(
                f"The sheet has no column for data.key, {self._data.key}: it has {quoted(self._headings.fields)}. "
                "Name the column so, or map its heading in data.columns."
            )
        for wish in [wish for wish in reading.wishes if wish.key in self._twice]:
            reading.wishes.remove(wish)
            self._problem(wish.line, f"{self._data.key} {wish.key!r} stands in another line too")
        reading.problems.sort(key=lambda problem: problem["line"])
        reading.ignored = self._headings.ignored
        return reading

    def _problem(self, line: int, reason: str) -> None:
        self.reading.problems.append({"line": line, "reason": reason})

    def _understood(self, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        field_of = self._headings.field
        cells = {field_of(heading): (heading, cell) for heading, cell in values.items() if not is_empty(cell)}
        if self._data.key not in cells:
            raise Unclear(f"has no {self._data.key}")
        key = text(cells.pop(self._data.key)[1])
        key = key.lower() if self._data.key == "id" else key
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
        if name in NUMBERS:
            return number(cell, self._data.decimal_mark)
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


def number(cell: Any, decimal_mark: str | None) -> int | float:
    """
    Read a number: as it is, or from text with this decimal mark, currency signs and grouped thousands allowed.

    Without a decimal mark only whole numbers are read from text: `1.234` is a thousand to some and a bit over one to
    others.
    """
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise Unclear(f"{str(cell)[:60]!r} is no number")
    if not isinstance(cell, str):
        return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
    text = "".join(char for char in cell if unicodedata.category(char) != "Sc").strip(_BLANKS)
    if decimal_mark is None:
        if re.fullmatch(r"[+-]?\d{1,15}", text, re.ASCII):
            return int(text)
        if re.search(r"\d[.,]\d", text):
            raise Unclear(f"{cell[:60]!r} can be read in two ways; give data.decimal_mark")
    else:
        groups = re.escape(_GROUPS[decimal_mark] + _BLANKS)
        whole = rf"(?P<whole>\d{{1,15}}|\d{{1,3}}(?P<group>[{groups}])\d{{3}}(?:(?P=group)\d{{3}})*)"
        match = re.fullmatch(
            rf"(?P<sign>[+-]?){whole}(?:{re.escape(decimal_mark)}(?P<part>\d{{1,15}}))?", text, re.ASCII
        )
        if match is not None:
            digits = re.sub(r"\D", "", match["whole"])
            part = (match["part"] or "").rstrip("0")
            return float(f"{match['sign']}{digits}.{part}") if part else int(match["sign"] + digits)
    raise Unclear(f"{cell[:60]!r} is no number")
