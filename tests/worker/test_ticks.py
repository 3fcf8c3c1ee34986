"""When schedules tick, where clocks change, and which tick is due."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.cron import parse_cron
from config.settings import Schedule
from worker import ticks
from worker.ticks import ON_TIME, Look, Ticks, command_id, lateness, look

PARIS = "Europe/Paris"
ZONES = (
    "UTC",
    PARIS,  # 02:00 → 03:00 and 03:00 → 02:00
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "America/Sao_Paulo",  # changed at midnight until 2019
    "Pacific/Apia",  # left out 30 December 2011 whole
    "Asia/Kathmandu",
)
CRONS = (
    "* * * * *",
    "*/15 * * * *",
    "30 * * * *",
    "0 2 * * *",
    "30 2 * * *",
    "5 0,12 * * *",
    "0 0 1 * *",
    "15 3 * * sun",
)
MINUTE = timedelta(minutes=1)
instants = st.integers(0, 20 * 365 * 24 * 3600).map(lambda s: datetime(2010, 1, 1, tzinfo=UTC) + timedelta(seconds=s))


def at(text: str) -> datetime:
    """Read an instant of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks_of(cron: str, zone: str) -> Ticks:
    """Make ticks from texts."""
    return Ticks(parse_cron(cron), ZoneInfo(zone))


def schedule(**more: Any) -> Schedule:
    """Make a schedule that says only what matters."""
    given = {"name": "s", "cron": "0 2 * * *", "type": "planpoint.project.mine", "connection": "tower", **more}
    return Schedule.model_validate(given)


@given(st.sampled_from(CRONS), st.sampled_from(ZONES), instants)
@example("0 2 * * *", PARIS, at("2026-03-28T12:00"))
@example("30 2 * * *", PARIS, at("2026-10-24T12:00"))
@example("15 3 * * sun", "Pacific/Apia", at("2011-12-29T12:00"))
@example("5 0,12 * * *", "America/Sao_Paulo", at("2018-11-03T12:00"))
def test_the_next_tick_is_the_next_one(cron: str, zone: str, instant: datetime) -> None:
    """Nothing lies between an instant and the tick after it, looked at from either side."""
    times = ticks_of(cron, zone)
    coming = times.after(instant)
    assert coming is not None
    assert coming > instant
    assert times.latest(coming) == coming
    assert times.after(coming - timedelta(microseconds=1)) == coming
    before = times.latest(coming - timedelta(microseconds=1))
    assert before is None or before <= instant
    if before is not None:
        assert times.after(before) == coming


def wall_minutes(zone: ZoneInfo, first: datetime, hours: int) -> Iterator[tuple[datetime, datetime]]:
    """Give each minute of a stretch of time with what the clock on the wall shows then."""
    for n in range(hours * 60):
        instant = first + n * MINUTE
        yield instant, instant.astimezone(zone)


@given(st.sampled_from(CRONS), st.sampled_from(ZONES), instants)
@example("* * * * *", PARIS, at("2026-03-28T22:00"))
@example("* * * * *", PARIS, at("2026-10-24T22:00"))
@example("30 * * * *", "Australia/Lord_Howe", at("2026-04-04T12:00"))
@example("*/15 * * * *", "Pacific/Apia", at("2011-12-30T00:00"))
def test_ticks_are_the_minutes_that_the_wall_clock_shows(cron: str, zone: str, instant: datetime) -> None:
    """Each minute whose wall time fits is a tick (of two alike the second where every hour is named); no other is."""
    times, first = ticks_of(cron, zone), instant.replace(second=0, microsecond=0)
    found = set(times.between(first - MINUTE, first + timedelta(hours=30) - MINUTE))
    fields = times.cron
    for minute, wall in wall_minutes(times.zone, first, 30):
        fits = (
            wall.minute in fields.minutes
            and wall.hour in fields.hours
            and wall.day in fields.days
            and wall.month in fields.months
            and wall.isoweekday() % 7 in fields.weekdays
            and (wall.fold == 0 or len(fields.hours) == 24)
        )
        if fits:
            assert minute in found
        elif minute in found:
            leap = [(minute - timedelta(hours=n)).astimezone(times.zone).utcoffset() for n in range(26)]
            assert leap[0] is not None
            assert any(each is not None and each < leap[0] for each in leap[1:])


def test_a_nightly_run_is_not_lost_where_the_clocks_go_forward() -> None:
    """02:00 does not exist on 29 March 2026 in Paris: the run comes at 03:00, once."""
    times = ticks_of("0 2 * * *", PARIS)
    found = list(times.between(at("2026-03-28T12:00"), at("2026-03-30T12:00")))
    assert found == [at("2026-03-29T01:00"), at("2026-03-30T00:00")]


def test_a_nightly_run_comes_once_where_the_clocks_go_back() -> None:
    """02:30 comes twice on 25 October 2026 in Paris: the run comes at the first."""
    times = ticks_of("30 2 * * *", PARIS)
    found = list(times.between(at("2026-10-24T12:00"), at("2026-10-26T12:00")))
    assert found == [at("2026-10-25T00:30"), at("2026-10-26T01:30")]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_an_hourly_run_comes_each_hour_that_there_is(day: str, hours: int) -> None:
    """A day of 23 hours has 23 hourly ticks, one of 25 has 25, each an hour after the other."""
    times, zone = ticks_of("0 * * * *", PARIS), ZoneInfo(PARIS)
    midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
    found = list(
        times.between(midnight.astimezone(UTC) - MINUTE, (midnight + timedelta(days=1)).astimezone(UTC) - MINUTE)
    )
    assert len(found) == hours
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_a_tick_eight_years_off_is_found() -> None:
    """29 February after that of 2096 is in 2104."""
    assert ticks_of("0 0 29 2 *", "UTC").after(at("2096-03-01T00:00")) == at("2104-02-29T00:00")


class TestLook:
    """Which tick is due."""

    def test_nothing_is_due_before_its_time(self) -> None:
        """A look a microsecond before a tick finds nothing, and says when to come."""
        tick = at("2026-06-02T02:00")
        found = look(schedule(), since=at("2026-06-01T02:00"), now=tick - timedelta(microseconds=1))
        assert found == Look(next=tick)

    def test_a_tick_is_due_at_its_time(self) -> None:
        """A look at the very instant finds it, and what comes next."""
        tick = at("2026-06-02T02:00")
        found = look(schedule(), since=at("2026-06-01T02:00"), now=tick)
        assert found == Look(tick=tick, settled=tick, next=at("2026-06-03T02:00"))

    def test_missed_ticks_are_caught_up_once(self) -> None:
        """After a week away the last missed tick is run, and settles those before it."""
        last = at("2026-06-08T02:00")
        found = look(schedule(catch_up="once"), since=at("2026-06-01T02:00"), now=last + timedelta(hours=9))
        assert found == Look(tick=last, settled=last, next=last + timedelta(days=1))

    def test_missed_ticks_are_passed_over_where_the_schedule_says_so(self) -> None:
        """With `catch_up = "skip"` nothing missed is run."""
        last = at("2026-06-08T02:00")
        found = look(schedule(catch_up="skip"), since=at("2026-06-01T02:00"), now=last + timedelta(hours=9))
        assert found == Look(settled=last, passed_over=True, next=last + timedelta(days=1))

    def test_a_tick_that_waited_for_a_second_beat_was_not_missed(self) -> None:
        """A tick up to a minute late is run also with `catch_up = "skip"`."""
        tick = at("2026-06-02T02:00")
        found = look(schedule(catch_up="skip"), since=at("2026-06-01T02:00"), now=tick + ON_TIME)
        assert found.tick == tick

    def test_a_clock_that_was_set_back_repeats_nothing(self) -> None:
        """Where the settled ticks lie ahead of the clock, nothing is due before the clock has passed them."""
        found = look(schedule(), since=at("2026-06-02T02:00"), now=at("2026-06-01T12:00"))
        assert found.tick is None
        assert found.settled is None
        assert found.next is not None
        assert look(schedule(), since=at("2026-06-02T02:00"), now=found.next).tick in {None, at("2026-06-03T02:00")}

    @given(
        st.sampled_from(["* * * * *", "*/5 * * * *", "0 * * * *"]),
        st.sampled_from(["0s", "30s", "3m", "2h"]),
        st.lists(st.integers(1, 4000), min_size=1, max_size=60),
        st.sampled_from(["once", "skip"]),
    )
    def test_whoever_looks_whenever_runs_each_tick_at_most_once_and_in_order(
        self, cron: str, jitter: str, pauses: list[int], catch_up: str
    ) -> None:
        """Ticks are run in order, none twice, none before its time; what is due is never put off again."""
        its = schedule(cron=cron, jitter=jitter, catch_up=catch_up)
        now = since = at("2026-06-01T00:00")
        run: list[datetime] = []
        for pause in pauses:
            now += timedelta(seconds=pause)
            found = look(its, since=since, now=now)
            if found.settled is not None:
                assert since < found.settled <= now
                since = found.settled
            if found.tick is not None:
                assert found.tick + lateness(its, found.tick) <= now
                run.append(found.tick)
            assert found.next is not None
            assert found.next > now
        assert run == sorted(set(run))
        assert len({command_id(its, tick) for tick in run}) == len(run)

    @given(st.sampled_from(["0s", "45s", "10m"]), st.integers(0, 10_000))
    def test_a_beat_that_looks_when_told_misses_nothing(self, jitter: str, start: int) -> None:
        """Looking at each `next` runs every tick."""
        its = schedule(cron="*/5 * * * *", jitter=jitter, catch_up="skip")
        since = now = at("2026-06-01T00:00") + timedelta(seconds=start)
        run = []
        for _ in range(30):
            found = look(its, since=since, now=now)
            if found.settled is not None:
                since = found.settled
            if found.tick is not None:
                run.append(found.tick)
            assert found.next is not None
            now = found.next
        wanted = list(Ticks(its.ticks, its.zone).between(at("2026-06-01T00:00") + timedelta(seconds=start), since))
        assert run == wanted


@given(instants, st.sampled_from(["0s", "1s", "1h"]))
def test_jitter_is_within_its_limit_and_the_same_for_all(tick: datetime, jitter: str) -> None:
    """Two beats agree on how late a tick is."""
    its = schedule(jitter=jitter)
    assert timedelta(0) <= lateness(its, tick) <= its.jitter
    assert lateness(its, tick) == lateness(schedule(jitter=jitter), tick.astimezone(ZoneInfo(PARIS)).astimezone(UTC))


def test_a_tick_has_one_command() -> None:
    """The same tick of the same schedule makes the same CloudEvent, whoever makes it."""
    its, tick = schedule(name="nightly", data={"a": 1}), at("2026-06-02T02:00")
    id_ = command_id(its, tick)
    assert id_ == "nightly-20260602T020000Z"
    assert ticks.command(its, id_, tick) == {
        "specversion": "1.0",
        "id": id_,
        "source": "/planrelay/schedule/nightly",
        "type": "planpoint.project.mine",
        "time": "2026-06-02T02:00:00.000000Z",
        "connection": "tower",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
