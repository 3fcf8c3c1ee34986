"""
Environment variables over the settings file: `PLANRELAY_WORKER__CONCURRENCY` is `[worker] concurrency`.

`__` goes one table down. Names are matched without regard to case and punctuation, so that
`PLANRELAY_CONNECTIONS__ACME_BIT__PASSWORD` reaches `[connections.acme-bit] password`; a name written exactly wins, and
one that is like two others is refused. A connection that only the environment names is called as there, in lower case.
Lists and whole tables are JSON. A secret is a literal, or a reference: `…__PASSWORD__FILE`, `…__PASSWORD__ENV`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from config.shape import Shape, nearest

PREFIX: Final = "PLANRELAY_"

_NOT_SETTINGS: Final = re.compile(r"PLANRELAY_(?:CONFIG|TEST_.*)")
"""Where the settings file is, and what the tests use."""

_SERVICE: Final = re.compile(
    r"PLANRELAY_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)"
)
"""What Kubernetes gives every container for a service called planrelay or planrelay-…"""


@dataclass(slots=True)
class Overlay:
    """Raw settings with the environment laid over them."""

    raw: dict[str, Any]
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Which variable a setting came from, by its path."""
    problems: list[str] = field(default_factory=list)


def overlay(raw: Mapping[str, Any], environ: Mapping[str, str], shape: Shape) -> Overlay:
    """Lay `PLANRELAY_…` variables over raw settings; one that leads nowhere is a problem, and all of them are told."""
    result = Overlay(_copy(raw))
    references = set(_secret_variables(raw))  # { env = "PLANRELAY_…" } is a secret's name, not a setting's
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in references and not _is_foreign(variable, environ[variable]):
            _lay(result, variable, environ[variable], shape)
    return result


def _is_foreign(variable: str, text: str) -> bool:
    if _NOT_SETTINGS.fullmatch(variable) or _SERVICE.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))


def _lay(result: Overlay, variable: str, text: str, root: Shape) -> None:
    parts = variable.removeprefix(PREFIX).split("__")
    table, shape, path = result.raw, root, list[str]()
    for depth, part in enumerate(parts):
        alike = _alike(part, shape.fields if shape.form == "table" else table)
        if len(alike) > 1:
            result.problems.append(f"{variable}: may mean {' or '.join(alike)}; write the name exactly")
            return
        name = alike[0] if alike else part.lower()
        inner = shape.inside(name)
        if inner is None:
            result.problems.append(_unknown(variable, parts[:depth], shape, root))
            return
        path.append(name)
        rest = parts[depth + 1 :]
        if not rest or inner.form == "secret":
            table[name] = {"__".join(rest).lower(): text} if rest else _value(result, variable, text, inner)
            result.origins[tuple(path)] = variable
            return
        if inner.form not in {"table", "named"}:
            result.problems.append(f"{variable}: {'.'.join(path)} is no table; leave out __{'__'.join(rest)}")
            return
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            return  # the file has no table here: that is told as the file's problem
        table, shape = below, inner


def _alike(part: str, names: Mapping[str, Any]) -> list[str]:
    """Give the names that a variable's part may mean: the exact one alone, if there is one."""
    return [part] if part in names else [name for name in names if _plain(name) == _plain(part)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.casefold())


def _value(result: Overlay, variable: str, text: str, shape: Shape) -> Any:
    if shape.form in {"text", "secret"}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        result.problems.append(f'{variable}: is a list or a table, which is written as JSON, like ["a", "b"]')
        return [] if shape.form == "list" else {}


def _unknown(variable: str, above: list[str], shape: Shape, root: Shape) -> str:
    known = [*_spelled(shape, above), *_spelled(root, [])]
    near = nearest(variable.removeprefix(PREFIX), known)
    return f"{variable}: is no setting; {f'did you mean {PREFIX}{near}?' if near else 'remove it'}"


def _spelled(shape: Shape, above: list[str]) -> Iterator[str]:
    """Spell every key of a table and of the tables in it as a variable, without the prefix."""
    for name, inner in shape.fields.items():
        path = [*above, name.upper()]
        yield "__".join(path)
        yield from _spelled(inner, path)


def _secret_variables(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if len(value) == 1 and isinstance(value.get("env"), str):
            yield value["env"]
        for inner in value.values():
            yield from _secret_variables(inner)


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(inner) if isinstance(inner, Mapping) else inner for name, inner in value.items()}
