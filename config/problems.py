"""
What is wrong with the settings, told so that an operator can mend it.

Each problem is one line: the key, the rule, the remedy. Values are never repeated: they may be secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from config.environment import Overlay
from config.shape import Shape, nearest

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
"""What TOML calls a bare key."""


class ConfigError(ValueError):
    """The configuration can't be used: one line a problem, with its key, the rule and the remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def explain(error: ValidationError, layered: Overlay, shape: Shape) -> Iterator[str]:
    """Give one line for each thing that validation found, calling keys as the file does."""
    for found in error.errors(include_url=False, include_input=False):
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            yield from cause.problems
            continue
        if found["type"] == "default_factory_not_called":  # it waits for a key that is told already
            continue
        path = found["loc"]
        key = ".".join(_shown_path(path, layered.raw)) or "the settings"
        origin = layered.origins.get(tuple(str(part) for part in path))
        yield f"{key}{f' ({origin})' if origin else ''}: {_rule(found, path, cause, shape)}"


def _shown_path(path: tuple[str | int, ...], raw: Mapping[str, Any]) -> Iterator[str]:
    """Write a path as TOML does, a schedule by its name where it has one."""
    match path:
        case ("schedules", int(index), *rest):
            tables = raw.get("schedules")
            table = tables[index] if isinstance(tables, list) else None
            name = table.get("name") if isinstance(table, Mapping) else None
            path = ("schedules", name if isinstance(name, str) else index, *rest)
    for part in path:
        text = str(part)
        yield text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _rule(found: Mapping[str, Any], path: tuple[str | int, ...], cause: Exception | None, shape: Shape) -> str:
    match found["type"]:
        case "value_error" if cause is not None:
            return str(cause)
        case "extra_forbidden":
            above = shape.at(path[:-1])
            known = list(above.fields) if above is not None else []
            near = nearest(str(path[-1]), known)
            return "is not known; " + (f"did you mean {near}?" if near else f"known: {', '.join(known)}")
        case "missing":
            return "is required; add it"
        case "literal_error":
            return f"must be {found['ctx']['expected']}; write one of these in quotes"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            return _bound(found["ctx"])
        case "string_type":
            return "must be text; write it in quotes"
        case "tuple_type":
            return "must be a list; write it in brackets"
        case "string_too_short":
            return "must not be empty; write it, or leave the key out"
        case "mapping_type" | "dict_type" | "model_type" | "model_attributes_type":
            return "must be a table; write its keys under a heading in brackets"
        case _:
            return str(found["msg"]).replace("Input should be", "must be") + "; correct it"


def _bound(context: Mapping[str, Any]) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    name = next(name for name in words if name in context)
    return f"must be {words[name]} {context[name]}; change it"
