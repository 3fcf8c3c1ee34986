"""
Instants as text: RFC 3339, the form that CloudEvents uses.

Pure: no clock. Everything read is UTC, everything written ends in `Z`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_INSTANT: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt](?P<minute>[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?P<fraction>\.[0-9]{1,9})?(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def read(text: str) -> datetime | None:
    """
    Give the instant in UTC, or None where the text is not one.

    A zone is required; digits below the microsecond are dropped; a leap second is the second after `:59`.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        return None
    leap = match["second"] == "60"
    plain = f"{match['date']}T{match['minute']}:{'59' if leap else match['second']}{match['fraction'] or ''}"
    try:
        moment = datetime.fromisoformat(plain + match["zone"].upper())
        return moment.astimezone(UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError):  # the 32nd, 25:99, or a zone that leads out of the calendar
        return None


def write(moment: datetime) -> str:
    """Write an aware instant, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
