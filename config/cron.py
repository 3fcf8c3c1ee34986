"""
Cron expressions: when a schedule ticks.

Pure: no clock. Five fields (minute, hour, day of the month, month, day of the week), each of `*`, numbers, names,
ranges, steps and lists, and the short forms `@hourly` … `@yearly`. What cron programs disagree about is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_WEEKDAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_LONGEST_MONTH: Final = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}

_SHORT_FORMS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_PART: Final = re.compile(r"(?:(?P<star>\*)|(?P<first>[0-9a-z]+)(?:-(?P<last>[0-9a-z]+))?)(?:/(?P<step>[0-9]{1,3}))?")


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: Mapping[str, int]


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of the month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),  # Sunday is 0 and 7
)


@dataclass(frozen=True, slots=True)
class Cron:
    """The minutes that a schedule ticks in, as the set of each field's values; Sunday is 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]


def parse_cron(text: str) -> Cron:
    """Read a cron expression; raises `ValueError` naming the field and the rule."""
    fields = _SHORT_FORMS.get(text.strip().lower(), text).lower().split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            "must have five fields (minute, hour, day of the month, month, day of the week) or be one of "
            f"{', '.join(_SHORT_FORMS)}; write it like 0 2 * * mon-fri"
        )
    minutes, hours, days, months, weekdays = (_values(text, field) for text, field in zip(fields, _FIELDS, strict=True))
    if fields[2] != "*" and fields[4] != "*":
        # Vixie cron ticks when either matches, Celery and others when both do.
        raise ValueError(
            "names days of the month and days of the week, which cron programs understand differently; "
            "make two schedules, or leave one of the two *"
        )
    if not any(day <= _LONGEST_MONTH[month] for month in months for day in days):
        raise ValueError("names a date that no year has; correct the day of the month or the month")
    return Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays))


def _values(text: str, field: _Field) -> frozenset[int]:
    return frozenset(value for part in text.split(",") for value in _part(part, field))


def _part(text: str, field: _Field) -> range:
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(f"has {text[:40]!r} as {field.name}; write *, 5, 1-5, */15 or a list of these")
    step = int(match["step"] or 1)
    if step == 0:
        raise ValueError(f"has a step of 0 as {field.name}; the least is 1")
    if match["star"]:
        last = 6 if field.last == 7 else field.last
        return range(field.first, last + 1, step)
    first = _number(match["first"], field)
    if match["last"] is None:  # "5/15" is "from 5 on, every 15"
        return range(first, field.last + 1 if match["step"] else first + 1, step)
    last = _number(match["last"], field)
    if last == 0 and field.last == 7:  # "fri-sun": the Sunday at the end of the week
        last = 7
    if last < first:
        raise ValueError(f"has the range {text!r} as {field.name}, which runs backwards; write two ranges")
    return range(first, last + 1, step)


def _number(text: str, field: _Field) -> int:
    # Names may be written out: "monday" begins with "mon".
    number = field.names.get(text[:3]) if text.isalpha() else None
    if number is None and text.isdecimal() and len(text) <= 2:
        number = int(text)
    if number is None or not field.first <= number <= field.last:
        names = f" or a name ({', '.join(field.names)})" if field.names else ""
        raise ValueError(f"has {text[:40]!r} as {field.name}; it is a number from {field.first} to {field.last}{names}")
    return number
