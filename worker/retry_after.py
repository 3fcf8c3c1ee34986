"""
Read `Retry-After`: how long the vendor asks us to stay away.

Pure: no I/O, no clock. The grammar is RFC 9110, 10.2.3 (`Retry-After`) and 5.6.7 (`HTTP-date`), and nothing else is
accepted: a value that is neither seconds nor one of the three date forms counts as absent, so that a broken header
never hides the answer it came with.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from worker.rest import Headers

_LONGEST_DATE: Final = len("Wednesday, 06-Nov-94 08:49:37 GMT")
"""No legal date is longer, so no longer text ever meets a regular expression."""

_MOST_DIGITS: Final = len(str(int(timedelta.max.total_seconds())))
"""A number of seconds with more digits than this does not fit a timedelta."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_DAY_NAME: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_DAY_NAME_LONG: Final = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_DAY: Final = "(?P<day>[0-9]{2})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_YEAR: Final = "(?P<year>[0-9]{4})"

# RFC 9110, 5.6.7: "A recipient that parses a timestamp value in an HTTP field MUST accept all three HTTP-date formats";
# "HTTP-date is case sensitive". The name of the day must be one, but is not held against the date: it carries nothing
# that the date does not, and the RFC asks recipients to be robust; making the two agree is the sender's duty (RFC 5322,
# 3.3).
_DATE_FORMS: Final = (
    re.compile(f"{_DAY_NAME}, {_DAY} {_MONTH} {_YEAR} {_TIME} GMT"),  # IMF-fixdate
    re.compile(f"{_DAY_NAME_LONG}, {_DAY}-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),  # rfc850-date, obsolete
    re.compile(f"{_DAY_NAME} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} {_YEAR}"),  # asctime-date, obsolete
)


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """
    Give the wait from `now` that a `Retry-After` value asks for, never negative.

    `now` is aware. A past date and 0 give `timedelta(0)`, a legal number too large for a timedelta `timedelta.max`, an
    absent or illegal value `None`. Space and tab around the value are ignored. No value makes it raise.
    Source: RFC 9110, 10.2.3.
    """
    if now.utcoffset() is None:
        raise ValueError("now must be an aware datetime: a date in the header is always UTC.")
    text = (value or "").strip(" \t")
    if text.isascii() and text.isdigit():  # delay-seconds = 1*DIGIT: isdigit alone would take other scripts' digits
        return _seconds(text)
    date = _parse_date(text, now=now)
    if date is None:
        return None
    moment, leap = date
    return max(moment - now + leap, timedelta(0))


def retry_after_of(headers: Headers, *, now: datetime) -> timedelta | None:
    """
    Give the wait that an answer asks for, measured from its arrival at `now`.

    A date counts from the answer's own `Date`, so that an error of our clock cancels out; without a legal one, from
    `now`. Of several `Retry-After` lines the first legal one counts.
    """
    dates = (_parse_date(line.strip(" \t"), now=now) for line in headers.all("Date"))
    answered = next((moment for moment, _ in filter(None, dates)), now)
    waits = (parse_retry_after(line, now=answered) for line in headers.all("Retry-After"))
    return next((wait for wait in waits if wait is not None), None)


def _seconds(digits: str) -> timedelta:
    significant = digits.lstrip("0")
    if len(significant) > _MOST_DIGITS:  # int() refuses thousands of digits, so the length decides first
        return timedelta.max
    try:
        return timedelta(seconds=int(significant or "0"))
    except OverflowError:
        return timedelta.max


def _parse_date(text: str, *, now: datetime) -> tuple[datetime, timedelta] | None:
    """Read an HTTP-date as a UTC instant and what a leap second adds to it; None where it is no legal date."""
    if len(text) > _LONGEST_DATE:
        return None
    match = next((found for form in _DATE_FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    month = _MONTHS.index(match["month"]) + 1
    day, hour, minute, second = (int(match[name]) for name in ("day", "hour", "minute", "second"))
    leap = second == 60  # "00:00:00 - 23:59:60 (leap second)"; a datetime has no such second
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = _full_year(year, (month, day, hour, minute, second), now=now)
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError:  # 32 Dec, 25:99, 29 Feb of a common year: refused, never rolled over
        return None
    return moment, timedelta(seconds=leap)


def _full_year(two_digits: int, rest: tuple[int, int, int, int, int], *, now: datetime) -> int:
    """
    Give the latest year with these last digits whose date is not more than 50 years ahead of `now`.

    RFC 9110, 5.6.7: a date that "appears to be more than 50 years in the future" means "the most recent year in the
    past that had the same last two digits".
    """
    utc = now.astimezone(UTC)
    horizon = (utc.year + 50, utc.month, utc.day, utc.hour, utc.minute, utc.second)
    century = horizon[0] // 100 * 100
    year = century + two_digits
    return year if (year, *rest) <= horizon else year - 100
