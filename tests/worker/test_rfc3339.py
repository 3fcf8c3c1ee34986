from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import rfc3339

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-22T12:00:00Z", "2026-11-22t12:00:00z", "2026-11-22T12:00:00.000Z", "2026-11-22T13:00:00+01:00"),
        *("2026-11-22T12:00:00-00:00", "2026-11-21T22:30:00-13:30"),
    ],
)
def test_an_instant_is_read_as_utc(text: str) -> None:
    """Whatever its zone, the instant is the same."""
    assert rfc3339.read(text) == NOON


def test_digits_below_the_microsecond_are_dropped() -> None:
    """Go and Java write nanoseconds."""
    assert rfc3339.read("2026-11-22T12:00:00.123456789Z") == NOON.replace(microsecond=123_456)


def test_a_leap_second_is_the_second_after() -> None:
    """`23:59:60` is legal, and a datetime has no such second."""
    assert rfc3339.read("2026-12-31T23:59:60Z") == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026-11-22", "2026-11-22T12:00:00", "2026-11-22 12:00:00Z", "20261122T120000Z", "2026-11-22T12:00Z"),
        *("2026-13-22T12:00:00Z", "2026-11-31T12:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T12:00:61Z"),
        *("2026-11-22T12:00:00+25:00", "2026-11-22T12:00:00+0100", "2026-11-22T12:00:00Z\n", " 2026-11-22T12:00:00Z"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60Z", "2026-11-22T12:00:00,5Z", "\uff12026-11-22T12:00:00Z"),
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """No zone, no rolling over, no other form of ISO 8601, nothing outside the calendar."""
    assert rfc3339.read(text) is None


@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_no_text_makes_it_raise(text: str) -> None:
    """An instant in UTC, or None."""
    found = rfc3339.read(text)
    assert found is None or found.tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_is_read_back(moment: datetime) -> None:
    """Writing loses nothing."""
    assert rfc3339.read(rfc3339.write(moment)) == moment


def test_what_is_written_is_utc_and_ends_in_z() -> None:
    """Instants of every zone are written alike."""
    moment = NOON.astimezone(timezone(timedelta(hours=9)))
    assert rfc3339.write(moment) == "2026-11-22T12:00:00.000000Z"
