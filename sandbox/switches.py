"""
Switches: how a stand-in behaves where the vendor's documents are silent, checked when they are set.

A vendor's switches are a frozen dataclass whose fields are annotated with a reader: a function that turns what a
program or a JSON body says into the value, or raises ValueError with the rule.
"""

import difflib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Annotated, Any, TypeVar, get_type_hints

from sandbox.wire import JSON

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(value: JSON) -> timedelta:
    """Reads "250ms", "2s", "5m", "1h", "1d", a number of seconds, or a timedelta; never negative."""
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return timedelta(seconds=value)
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    raise ValueError(f'must be a duration such as "250ms", "2s" or "5m", not {value!r}')


@dataclass(frozen=True, slots=True)
class Span:
    """A duration drawn evenly between two."""

    low: timedelta
    high: timedelta

    def draw(self, rng: random.Random) -> float:
        """Seconds."""
        low = self.low.total_seconds()
        high = self.high.total_seconds()
        return low if low == high else rng.uniform(low, high)

    def __str__(self) -> str:
        low = f"{self.low.total_seconds():g}s"
        return low if self.low == self.high else f"{low}-{self.high.total_seconds():g}s"


def span(value: JSON) -> Span:
    """Reads a duration, or two with a hyphen between them: "80ms-120ms"."""
    if isinstance(value, Span):
        return value
    if isinstance(value, str) and "-" in value:
        low, high = map(duration, value.split("-", 1))
        if high < low:
            raise ValueError(f"must have the shorter duration first, not {value!r}")
        return Span(low, high)
    both = duration(value)
    return Span(both, both)


@dataclass(frozen=True, slots=True)
class Quota:
    """So many points in each window of such a length."""

    points: int
    period: timedelta

    def __str__(self) -> str:
        return f"{self.points}/{self.period.total_seconds():g}s"


def quota_of(value: JSON) -> Quota:
    """Reads "50/2s": points and the window's length, the 1 of "50/s" understood."""
    if isinstance(value, Quota):
        return value
    points, slash, period = str(value).partition("/")
    length = duration(f"1{period}" if period in _SECONDS else period) if slash else timedelta(0)
    if not points.isdigit() or not int(points) or not length:
        raise ValueError(f'must be points and a period such as "50/2s", not {value!r}')
    return Quota(int(points), length)


def text(value: JSON) -> str:
    """Reads a text that isn't empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def flag(value: JSON) -> bool:
    """Reads true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004  # one error for every switch
    return value


def whole(value: JSON) -> int:
    """Reads a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"must be a whole number, not {value!r}")  # noqa: TRY004  # one error for every switch
    return value


def positive(value: JSON) -> int:
    """Reads a whole number of at least 1."""
    if whole(value) < 1:
        raise ValueError(f"must be at least 1, not {value!r}")
    return int(value)


def choice(*allowed: JSON) -> Callable[[JSON], JSON]:
    """Reads one of some values; a number may come as text."""

    def read(value: JSON) -> JSON:
        for one in allowed:
            if value == one or (isinstance(one, int) and not isinstance(one, bool) and value == str(one)):
                return one
        raise ValueError(f"must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return read


def listed(*allowed: str) -> Callable[[JSON], tuple[str, ...]]:
    """Reads a list of some of these."""

    def read(value: JSON) -> tuple[str, ...]:
        if isinstance(value, list | tuple) and all(one in allowed for one in value):
            return tuple(value)
        raise ValueError(f"must be a list of {', '.join(allowed)}, not {value!r}")

    return read


def optional(read: Callable[[JSON], Any]) -> Callable[[JSON], Any]:
    """Reads null as None, else as `read` does."""
    return lambda value: None if value is None else read(value)


_NO_LATENCY = Span(timedelta(0), timedelta(0))


@dataclass(frozen=True, kw_only=True)
class Switches:
    """The switches every vendor has."""

    latency: Annotated[Span, span] = _NO_LATENCY
    quota: Annotated[Quota | None, optional(quota_of)] = None
    remaining_on_429: Annotated[bool, flag] = False


_Some = TypeVar("_Some", bound=Switches)


def changed(switches: _Some, changes: Mapping[str, JSON]) -> _Some:
    """The switches with some of them set anew; ValueError names the switch, the rule and the nearest name."""
    kind: type[Switches] = type(switches)
    known = _readers(kind)
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"there is no switch {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            values[name] = known[name](value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    return replace(switches, **values)


def _readers(switches: type[Switches]) -> Mapping[str, Callable[[JSON], Any]]:
    hints = get_type_hints(switches, include_extras=True)
    return {one.name: hints[one.name].__metadata__[0] for one in fields(switches)}


def shown(switches: Switches) -> dict[str, JSON]:
    """The switches as JSON, in the form in which they can be set."""
    values: dict[str, JSON] = {}
    for one in fields(switches):
        value = getattr(switches, one.name)
        if isinstance(value, timedelta):
            value = f"{value.total_seconds():g}s"
        elif isinstance(value, Span | Quota):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        values[one.name] = value
    return values
