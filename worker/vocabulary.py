"""
Field names: ours in commands and results, the vendor's on the wire.

Pure. A slice declares the documented fields of each kind of object once; reading and writing both follow from it. Where
a vendor has several names for one field (two generations of an API, a tenant's own keys), reading takes the first that
is present, and writing takes the name that this tenant's objects were read with: its *spelling*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from worker.errors import BadCommand

Spelling = Mapping[str, str]
"""For fields with several names: ours = the one that a tenant's objects use."""

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Give a vendor's camelCase name as one of ours: `unitNumber` is `unit_number`, `brochurePDF` `brochure_pdf`."""
    return _WORD.sub("_", name).lower()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """
    The fields of one kind of object: `names` maps ours to the vendor's, the default for writing first.

    `nested` says which of them hold objects (one, or a list) with a vocabulary of their own.
    """

    names: Mapping[str, tuple[str, ...]]
    nested: Mapping[str, Vocabulary] = field(default_factory=dict)
    _ours: Mapping[str, str] = field(init=False, repr=False, compare=False)
    _several: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """Fields with several names."""

    def __post_init__(self) -> None:
        ours = {theirs: name for name, several in self.names.items() for theirs in several}
        object.__setattr__(self, "_ours", ours)
        object.__setattr__(self, "_several", {name: all_ for name, all_ in self.names.items() if len(all_) > 1})

    @classmethod
    def of(
        cls, *documented: str, nested: Mapping[str, Vocabulary] | None = None, **several: str | tuple[str, ...]
    ) -> Vocabulary:
        """Declare fields by the vendor's names; as keywords those that are not simply ours in camelCase."""
        names: dict[str, tuple[str, ...]] = {snake_case(name): (name,) for name in documented}
        names.update({name: (theirs,) if isinstance(theirs, str) else theirs for name, theirs in several.items()})
        return cls(names, nested or {})

    def configured(self, names: Mapping[str, str]) -> Vocabulary:
        """Give the vocabulary with an operator's names (`[connections.X.fields]`), each alone in its field's place."""
        chosen = {ours: (theirs,) for ours, theirs in names.items() if ours in self.names}
        return replace(self, names={**self.names, **chosen}) if chosen else self

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Give a vendor's object in our names; fields that nobody documented stay as they came.

        A field that comes under two of its names is read from the first; the other stays as it came, unless it would
        take the first one's place (an object with both `_id` and `id`).
        """
        ours: dict[str, Any] = {}
        for key, value in theirs.items():
            name = self._ours.get(key)
            if name is None:
                if key not in self.names or self._first(key, theirs) is None:
                    ours[key] = value
            elif name not in self._several or self._first(name, theirs) == key:
                ours[name] = self._read_nested(name, value) if name in self.nested else value
            elif key != name:
                ours[key] = value
        return ours

    def _first(self, name: str, theirs: Mapping[str, Any]) -> str | None:
        return next((other for other in self.names[name] if other in theirs), None)

    def _read_nested(self, name: str, value: Any) -> Any:
        inner = self.nested[name]
        if isinstance(value, list):
            return [inner.read(one) if isinstance(one, Mapping) else one for one in value]
        return inner.read(value) if isinstance(value, Mapping) else value

    def spelling(self, theirs: Mapping[str, Any]) -> dict[str, str]:
        """Say, for each field with several names, which of them this object of the vendor's uses."""
        used = {name: self._first(name, theirs) for name in self._several}
        return {name: first for name, first in used.items() if first is not None}

    def ambiguous(self, values: Mapping[str, Any]) -> set[str]:
        """Give those of these fields that the vendor has several names for: writing them asks for a spelling."""
        return self._several.keys() & {self.name(key) for key in values}

    def name(self, key: str) -> str:
        """Give our name for a field that a command may have named in either language."""
        return key if key in self.names else self._ours.get(key, key)

    def ours(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give a command's values in our names; the same field in both languages raises `BadCommand`."""
        named: dict[str, Any] = {}
        for key, value in values.items():
            name = self.name(key)
            if name in named:
                raise BadCommand(f"{key} and {name} are the same field: give it once.")
            named[name] = value
        return named

    def write(self, values: Mapping[str, Any], spelling: Spelling | None = None) -> dict[str, Any]:
        """Give values in the vendor's names: as spelled, else the default; unknown fields go out as they are."""
        spelling = spelling or {}
        theirs = {}
        for name, value in self.ours(values).items():
            several = self.names.get(name, (name,))
            spelled = spelling.get(name)
            theirs[spelled if spelled in several else several[0]] = value
        return theirs
