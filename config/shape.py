"""
The settings as a tree of what may stand where, read off the models.

The environment is laid over the file along this tree, and unknown keys are held against its names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr


@dataclass(frozen=True, slots=True)
class Shape:
    """
    What a setting is.

    A `table` has known keys (`fields`), `named` things have names of the operator's choice, a `list` has an order;
    `each` is what the latter two hold. A `secret` may be a reference; a `text` is any single value.
    """

    form: Literal["table", "named", "list", "secret", "text"]
    fields: Mapping[str, Shape] = field(default_factory=dict)
    each: Shape | None = None

    def inside(self, part: str | int) -> Shape | None:
        """Give the shape one step down, None where nothing can be there."""
        return self.fields.get(part) if isinstance(part, str) and self.form == "table" else self.each

    def at(self, path: Iterable[str | int]) -> Shape | None:
        """Give the shape at the end of a path."""
        shape: Shape | None = self
        for part in path:
            shape = shape.inside(part) if shape is not None else None
        return shape


def shape_of(kind: Any) -> Shape:
    """Read the shape off a model or a field's annotation."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (Union, UnionType):
        return shape_of(next(one for one in arguments if one is not NoneType))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: shape_of(info.annotation) for name, info in kind.model_fields.items()}
        return Shape("table", fields=fields)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Shape("named", each=shape_of(arguments[1]))
    if origin in (tuple, list):
        return Shape("list", each=shape_of(arguments[0]))
    return Shape("secret" if kind is SecretStr else "text")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that was probably meant, None where nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else None
