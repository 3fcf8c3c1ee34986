from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.rest import Headers
from worker.retry_after import parse_retry_after, retry_after_of

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
ZERO = timedelta(0)

aware = st.datetimes(
    min_value=datetime(1950, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds beside timezones
    max_value=datetime(2149, 12, 31),  # noqa: DTZ001 - the same
    timezones=st.just(UTC),
)


def wait(value: str | None, now: datetime = NOW) -> timedelta | None:
    """Parse a value at noon, unless told otherwise."""
    return parse_retry_after(value, now=now)


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("120", 120), ("007", 7), ("3600", 3600), ("00000000000000000000005", 5)]
)
def test_delay_seconds_are_digits(value: str, seconds: int) -> None:
    """One or more ASCII digits are whole seconds, leading zeros included."""
    assert wait(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        *("+1", "-1", "-0", "1.0", "1.", ".5", "1e3", "0x10", "1_000", "1,000", "1 2", "1s", "inf", "nan", "Infinity"),
        *("²", "\u0665", "\uff11", "1\u0665"),
        *("1\n", "\n1", "1\r\n", "\u00a01", "1\x00", "1;", "1, 2", '"1"', "soon", "null"),
    ],
)
def test_any_other_number_is_no_number(value: str) -> None:
    """Signs, fractions, exponents, other scripts' digits and trailing junk are illegal: the header counts as absent."""
    assert wait(value) is None


@pytest.mark.parametrize("value", [None, "", " ", "\t \t"])
def test_empty_is_absent(value: str | None) -> None:
    """An absent or empty header asks for nothing."""
    assert wait(value) is None


def test_space_and_tab_around_the_value_are_ignored() -> None:
    """Optional white space of HTTP is space and tab, on either side of a number or a date."""
    assert wait(" \t5\t ") == timedelta(seconds=5)
    assert wait("\t Sun, 22 Nov 2026 12:00:05 GMT ") == timedelta(seconds=5)


@pytest.mark.parametrize(
    "value",
    ["Sun, 22 Nov 2026 12:01:30 GMT", "Sunday, 22-Nov-26 12:01:30 GMT", "Sun Nov 22 12:01:30 2026"],
)
def test_all_three_date_forms_are_read_as_utc(value: str) -> None:
    """IMF-fixdate, RFC 850 and asctime dates give the wait from now."""
    assert wait(value) == timedelta(seconds=90)


@pytest.mark.parametrize("value", ["Mon Dec  7 00:00:00 2026", "Mon Dec 07 00:00:00 2026"])
def test_an_asctime_day_is_padded_with_a_space_or_a_zero(value: str) -> None:
    """`date3 = month SP ( 2DIGIT / ( SP 1DIGIT ))`."""
    assert wait(value) == datetime(2026, 12, 7, tzinfo=UTC) - NOW


def test_now_may_stand_in_any_zone() -> None:
    """The date is UTC whatever zone `now` is in."""
    assert wait("Sun, 22 Nov 2026 12:00:05 GMT", NOW.astimezone(timezone(timedelta(hours=-7)))) == timedelta(seconds=5)


def test_the_process_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An asctime date, which names no zone, is UTC also where TZ says otherwise."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert wait("Sun Nov 22 12:00:05 2026") == timedelta(seconds=5)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_naive_now_is_refused() -> None:
    """A date can't be measured from a clock without a zone, so a naive `now` is a mistake of the caller."""
    with pytest.raises(ValueError, match="aware"):
        wait("5", NOW.replace(tzinfo=None))


@pytest.mark.parametrize("value", ["Sat, 21 Nov 2026 12:00:00 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", "0"])
def test_a_past_date_and_zero_mean_allowed_now(value: str) -> None:
    """A wait is never negative."""
    assert wait(value) == ZERO


@pytest.mark.parametrize(
    "value",
    [
        *("SUN, 22 NOV 2026 12:01:30 GMT", "sun, 22 nov 2026 12:01:30 gmt", "Sun, 22 Nov 2026 12:01:30 gmt"),
        *("Sun, 22 Nov 2026 12:01:30 UTC", "Sun, 22 Nov 2026 12:01:30 +0000", "Sun, 22 Nov 2026 12:01:30"),
        *("Sun, 22 Nov 2026 12:01:30 EST", "22 Nov 2026 12:01:30 GMT", "Xyz, 22 Nov 2026 12:01:30 GMT"),
        *("Sunday, 22 Nov 2026 12:01:30 GMT", "Sun, 22-Nov-26 12:01:30 GMT", "Sunday, 22-Nov-2026 12:01:30 GMT"),
        *("Sun, 2 Nov 2026 12:01:30 GMT", "Sun, 22  Nov 2026 12:01:30 GMT", "Sun,22 Nov 2026 12:01:30 GMT"),
        *("Sun, 22 Nov 26 12:01:30 GMT", "Sun, 22 Nov 2026 1:01:30 GMT", "Sun, 22 Nov 2026 12:01 GMT"),
        *("Sun, 22 Nov 2026 12:01:30 GMT;", "Sun, 22 Nov 2026 12:01:30 GMT, 5", "Sun, 22 Nov 2026 12:01:30 GMT\n"),
        *("Sun Nov 22 12:01:30 2026 GMT", "Sun Nov 2 12:01:30 2026", "2026-11-22T12:01:30Z", "1795348890.0"),
    ],
)
def test_a_date_in_any_other_form_is_illegal(value: str) -> None:
    """Dates are case-sensitive, fixed in length and always GMT; nothing may follow them."""
    assert wait(value) is None


@pytest.mark.parametrize(
    "value",
    [
        *("Sun, 32 Dec 2026 12:00:00 GMT", "Sun, 00 Dec 2026 12:00:00 GMT", "Sun, 31 Nov 2026 12:00:00 GMT"),
        *("Mon, 29 Feb 2027 12:00:00 GMT", "Sun, 22 Nov 2026 24:00:00 GMT", "Sun, 22 Nov 2026 25:99:00 GMT"),
        *("Sun, 22 Nov 2026 12:60:00 GMT", "Sun, 22 Nov 2026 12:00:61 GMT", "Sun, 22 Nov 0000 12:00:00 GMT"),
        *("Sunday, 32-Dec-26 12:00:00 GMT", "Sun Dec 32 12:00:00 2026"),
    ],
)
def test_out_of_range_fields_are_refused_not_rolled_over(value: str) -> None:
    """A day, hour, minute or second that no calendar has makes the header illegal."""
    assert wait(value) is None


def test_a_leap_second_is_legal() -> None:
    """`23:59:60` is the second after `23:59:59`."""
    assert wait("Thu, 31 Dec 2026 23:59:60 GMT") == datetime(2027, 1, 1, tzinfo=UTC) - NOW


def test_the_last_leap_second_of_the_calendar_does_not_overflow() -> None:
    """The second after the last one that a datetime can hold is still a wait."""
    assert wait("Fri, 31 Dec 9999 23:59:60 GMT") == (
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - NOW + timedelta(seconds=1)
    )


def test_the_name_of_the_day_need_not_match() -> None:
    """The weekday must be a weekday, but the date alone counts: the RFC asks recipients to be robust."""
    assert wait("Mon, 22 Nov 2026 12:00:05 GMT") == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Sunday, 22-Nov-76 12:00:00 GMT", datetime(2076, 11, 22, 12, tzinfo=UTC) - NOW),  # 50 years: not more than
        ("Sunday, 22-Nov-76 12:00:01 GMT", ZERO),  # one second more: 1976
        ("Sunday, 06-Nov-94 08:49:37 GMT", ZERO),
        ("Thursday, 29-Feb-28 00:00:00 GMT", datetime(2028, 2, 29, tzinfo=UTC) - NOW),
    ],
)
def test_a_two_digit_year_more_than_fifty_years_ahead_is_past(value: str, expected: timedelta) -> None:
    """RFC 9110, 5.6.7: such a date means the most recent year in the past with these digits."""
    assert wait(value) == expected


def test_a_two_digit_year_may_lie_across_the_century() -> None:
    """Late in a century small digits mean the next one."""
    now = datetime(2099, 12, 31, tzinfo=UTC)
    assert wait("Friday, 01-Jan-00 00:00:00 GMT", now) == timedelta(days=1)


@pytest.mark.parametrize("value", ["86400000000000", "9" * 14, "9" * 15, "9" * 5_000, "1" + "0" * 100_000])
def test_a_number_too_large_for_a_timedelta_is_its_maximum(value: str) -> None:
    """Huge numbers neither overflow nor raise: they are over every cap."""
    assert wait(value) == timedelta.max


def test_the_largest_number_that_fits_is_read_exactly() -> None:
    """The bound is the timedelta's, not ours."""
    assert wait("86399999999999") == timedelta(seconds=86_399_999_999_999)


@pytest.mark.parametrize(
    "value", [" " * 100_000, "Sun, " + " " * 100_000, "Sun, 22 Nov 2026 " + "1" * 100_000, "1" * 100_000 + "x"]
)
def test_a_long_header_costs_no_time(value: str) -> None:
    """Length is bounded before any regular expression sees the text."""
    started = time.perf_counter()
    assert wait(value) is None
    assert time.perf_counter() - started < 0.5


@given(st.text() | st.text(alphabet="0123456789:, -GMTSunMonNov\t"))
def test_no_text_makes_it_raise(value: str) -> None:
    """Whatever a vendor sends, the answer is a wait that is not negative, or none."""
    found = wait(value)
    assert found is None or found >= ZERO


@given(st.integers(min_value=0, max_value=10**13))
def test_every_number_is_read_as_it_stands(seconds: int) -> None:
    """delay-seconds is the wait itself."""
    assert wait(str(seconds)) == timedelta(seconds=seconds)


@given(now=aware, then=aware)
def test_every_date_in_every_form_gives_the_same_wait(now: datetime, then: datetime) -> None:
    """The three forms of one instant ask for the same wait, where the year's century is not in question."""
    then = then.replace(microsecond=0)
    expected = max(then - now, ZERO)
    assert parse_retry_after(format_datetime(then, usegmt=True), now=now) == expected
    assert parse_retry_after(f"{then:%a %b} {then.day:2} {then:%H:%M:%S} {then.year:04}", now=now) == expected
    if abs(then - now) < timedelta(days=49 * 365):
        assert parse_retry_after(f"{then:%A, %d-%b-%y %H:%M:%S} GMT", now=now) == expected


def test_an_answer_without_the_header_asks_for_nothing() -> None:
    """No `Retry-After`, no wait."""
    assert retry_after_of(Headers([("Date", "Sun, 22 Nov 2026 12:00:00 GMT")]), now=NOW) is None


def test_a_date_is_measured_from_the_answers_own_date() -> None:
    """An error of our clock cancels out where the vendor says what time it has."""
    headers = Headers([("Date", "Sun, 22 Nov 2026 10:00:00 GMT"), ("Retry-After", "Sun, 22 Nov 2026 10:00:30 GMT")])
    assert retry_after_of(headers, now=NOW) == timedelta(seconds=30)


@pytest.mark.parametrize("date", [[], [("Date", "yesterday")], [("Date", "5")]])
def test_a_date_is_measured_from_now_without_a_legal_date(date: list[tuple[str, str]]) -> None:
    """An absent or broken `Date` leaves our own clock."""
    headers = Headers([*date, ("Retry-After", "Sun, 22 Nov 2026 12:00:30 GMT")])
    assert retry_after_of(headers, now=NOW) == timedelta(seconds=30)


def test_seconds_are_not_touched_by_the_answers_date() -> None:
    """delay-seconds count from the answer's arrival, whatever its `Date` says."""
    headers = Headers([("Date", "Sun, 22 Nov 2026 10:00:00 GMT"), ("Retry-After", "7")])
    assert retry_after_of(headers, now=NOW) == timedelta(seconds=7)


def test_of_several_lines_the_first_legal_one_counts() -> None:
    """A broken line does not hide the legal one after it."""
    headers = Headers([("Retry-After", "soon"), ("retry-after", "9"), ("RETRY-AFTER", "1")])
    assert retry_after_of(headers, now=NOW) == timedelta(seconds=9)
