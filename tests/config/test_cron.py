from __future__ import annotations

import pytest
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from config.cron import Cron, parse_cron

MINUTES = frozenset(range(60))
HOURS = frozenset(range(24))
DAYS = frozenset(range(1, 32))
MONTHS = frozenset(range(1, 13))
WEEKDAYS = frozenset(range(7))


def test_five_fields_are_five_sets() -> None:
    """Minute, hour, day of the month, month, day of the week."""
    assert parse_cron("0 2 * * *") == Cron(frozenset({0}), frozenset({2}), DAYS, MONTHS, WEEKDAYS)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("*", MINUTES),
        ("5", {5}),
        ("5,10", {5, 10}),
        ("5-8", {5, 6, 7, 8}),
        ("*/15", {0, 15, 30, 45}),
        ("10-30/10", {10, 20, 30}),
        ("50/5", {50, 55}),
        ("0,30-32,*/20", {0, 20, 30, 31, 32, 40}),
        ("07", {7}),
    ],
)
def test_a_field_is_numbers_ranges_steps_and_lists(text: str, minutes: set[int]) -> None:
    """As in every cron."""
    assert parse_cron(f"{text} * * * *").minutes == minutes


@pytest.mark.parametrize(
    ("text", "weekdays"),
    [
        *(("0", {0}), ("7", {0}), ("sun", {0}), ("SUN", {0}), ("Sunday", {0}), ("mon-fri", {1, 2, 3, 4, 5})),
        *(("1-5", {1, 2, 3, 4, 5}), ("fri-sun", {5, 6, 0}), ("5-7", {5, 6, 0}), ("sat,sun", {6, 0}), ("*", WEEKDAYS)),
        *(("0-7", WEEKDAYS), ("*/2", {0, 2, 4, 6})),
    ],
)
def test_days_of_the_week_have_names(text: str, weekdays: set[int]) -> None:
    """Three letters or written out, in any case; Sunday is 0 and 7."""
    assert parse_cron(f"0 0 * * {text}").weekdays == weekdays


def test_months_have_names() -> None:
    """Three letters or written out."""
    assert parse_cron("0 0 1 jan,March,OCT-dec *").months == {1, 3, 10, 11, 12}


@pytest.mark.parametrize(
    ("text", "same"),
    [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@Weekly", "0 0 * * 0"), ("@monthly", "0 0 1 * *")],
)
def test_short_forms_stand_for_five_fields(text: str, same: str) -> None:
    """`@hourly` … `@yearly`."""
    assert parse_cron(text) == parse_cron(same)


def test_any_white_space_parts_the_fields() -> None:
    """Columns may be aligned."""
    assert parse_cron(" 0\t2  * * * ") == parse_cron("0 2 * * *")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must have five fields"),
        ("0 2 * *", "must have five fields"),
        ("0 0 2 * * *", "must have five fields"),
        ("@reboot", "must have five fields"),
        ("60 * * * *", "'60' as minute; it is a number from 0 to 59"),
        ("0 24 * * *", "'24' as hour; it is a number from 0 to 23"),
        ("0 0 0 * *", "'0' as day of the month; it is a number from 1 to 31"),
        ("0 0 32 * *", "'32' as day of the month"),
        ("0 0 * 13 *", "'13' as month; it is a number from 1 to 12 or a name"),
        ("0 0 * * 8", "'8' as day of the week"),
        ("0 0 * * fnord", "'fnord' as day of the week; .* or a name"),
        ("mon * * * *", "'mon' as minute"),
        ("-5 * * * *", "'-5' as minute"),
        ("1.5 * * * *", "'1.5' as minute"),
        ("5- * * * *", "'5-' as minute"),
        ("5,,6 * * * *", "'' as minute"),
        ("*/0 * * * *", "step of 0 as minute"),
        ("*/ * * * *", "as minute"),
        ("30-10 * * * *", "runs backwards"),
        ("0 0 * * sat-mon", "runs backwards"),
        ("0 0 L * *", "'l' as day of the month"),
        ("0 0 * * mon#1", "as day of the week"),
        ("0 0 ? * *", "as day of the month"),
        ("\u0665 * * * *", "as minute"),
    ],
)
def test_what_is_no_cron_expression_says_why(text: str, rule: str) -> None:
    """The error names the field and what it may hold."""
    with pytest.raises(ValueError, match=rule):
        parse_cron(text)


def test_days_of_both_kinds_are_refused() -> None:
    """Cron ticks when either matches, Celery when both do: nobody could say what was meant."""
    with pytest.raises(ValueError, match="make two schedules"):
        parse_cron("0 0 1 * mon")


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *"])
def test_a_date_that_never_comes_is_refused(text: str) -> None:
    """Such a schedule would be silent for ever."""
    with pytest.raises(ValueError, match="no year has"):
        parse_cron(text)


def test_a_date_that_comes_every_four_years_is_allowed() -> None:
    """29 February is a date."""
    assert parse_cron("0 0 29 2 *").days == {29}


@given(st.text(alphabet="0123456789*,-/ @monjasuflbcdeghp", max_size=30) | st.text(max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    """It is an expression, or a ValueError that says why not; and no field is ever empty."""
    try:
        cron = parse_cron(text)
    except ValueError:
        return
    assert all([cron.minutes, cron.hours, cron.days, cron.months, cron.weekdays])


numbers = st.integers(min_value=0, max_value=59)
parts = (
    st.just("*")
    | numbers.map(str)
    | st.integers(min_value=1, max_value=59).map("*/{}".format)
    | st.tuples(numbers, numbers).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
)


@given(st.lists(parts, min_size=1, max_size=4).map(",".join))
def test_celery_understands_the_same(minutes: str) -> None:
    """Where Celery's own parser takes an expression, it means the same sets."""
    assert parse_cron(f"{minutes} * * * *").minutes == crontab(minute=minutes).minute
