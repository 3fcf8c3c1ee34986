"""
What the cells and headings of a sheet say, where nothing may be guessed.

Pure. A cell that can't be understood raises `Unclear`; its text goes on after the cell's place ("line 4, price: …").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from worker.errors import BadCommand

ROUNDED: Final = 1e15
"""From here on a spreadsheet's numbers are no longer exact: it keeps fifteen digits."""

_YES: Final = {"true": True, "yes": True, "false": False, "no": False}


class Unclear(ValueError):
    """A cell that can't be understood; the text goes on after its place."""


def is_empty(cell: Any) -> bool:
    """Tell whether a cell says nothing: such a cell leaves its field alone."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def text(cell: Any) -> str:
    """Give a cell as text; a spreadsheet's 101.0 is 101, and what it has rounded is nobody's number."""
    if isinstance(cell, float) and cell.is_integer():
        if abs(cell) >= ROUNDED:
            raise Unclear(f"{cell:.15g} is a number that the spreadsheet has rounded; write it as text")
        return str(int(cell))
    return str(cell).strip()


def flag(cell: Any) -> bool:
    """Read true, false, yes or no."""
    value = cell if isinstance(cell, bool) else _YES.get(str(cell).strip().casefold())
    if value is None:
        raise Unclear(f"{str(cell)[:60]!r} is neither true nor false")
    return value


def folded(name: str) -> str:
    """Give what is the same in `First Name`, `first_name` and `firstName`."""
    return "".join(char for char in name.casefold() if char.isalnum())


def quoted(names: Iterable[str]) -> str:
    """List names for a sentence."""
    return ", ".join(repr(name) for name in names) or "none"


class Headings:
    """
    Which field each column is about.

    `known` maps folded headings to fields. `columns`, where a command gives it, maps headings as they stand, and only
    these are read; its values go through `name`. Fields in `refused` are left alone.
    """

    def __init__(
        self,
        known: Mapping[str, str],
        columns: Mapping[str, str] | None,
        *,
        name: Callable[[str], str],
        refused: Collection[str] = (),
    ) -> None:
        self._known = known
        self._columns = columns
        self._name = name
        self._refused = refused
        self.fields: dict[str, str | None] = {}
        """Each heading so far, with its field; None: left alone."""

    def field(self, heading: str) -> str | None:
        """Give the field of a column, None for one that is left alone; two columns of one field are an error."""
        if heading in self.fields:
            return self.fields[heading]
        if self._columns is not None:
            name = self._name(self._columns[heading]) if heading in self._columns else None
        else:
            name = self._known.get(folded(heading))
        if name in self._refused:
            name = None
        if name is not None and name in self.fields.values():
            other = next(known for known, its in self.fields.items() if its == name)
            raise BadCommand(f"The columns {other!r} and {heading!r} are both {name}: map one of them in data.columns.")
        self.fields[heading] = name
        return name

    @property
    def ignored(self) -> list[str]:
        """The headings that are no field, or none that may be changed."""
        return [heading for heading, name in self.fields.items() if name is None]
