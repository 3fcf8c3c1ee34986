"""
When a schedule ticks, and which tick is to be run now.

Pure: no clock, no I/O; `now` is an argument. Instants are aware; those given are in UTC. A tick is a minute of the
schedule's own zone:

- Where the clocks go forward, a time that doesn't exist is taken as long after midnight as it would have been: 02:30
  becomes 03:30. A nightly run is not lost.
- Where they go back, a time that comes twice ticks the first time only; a schedule that names every hour ticks both
  times, so that an hourly run has no gap of two hours.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from config.cron import Cron
from worker import rfc3339

if TYPE_CHECKING:
    from config.settings import Schedule

SOURCE: Final = "/planrelay/schedule/"
"""Where scheduled commands come from: this and the schedule's name."""

ON_TIME: Final = timedelta(minutes=1)
"""How late a tick may be run that was not missed: a second beat takes over within this."""

HORIZON: Final = timedelta(days=366 * 9)
"""How far to look for the next tick: 29 February may be eight years off."""

_DAY: Final = timedelta(days=1)
_SPILL: Final = 2
"""Days beside a tick's own whose times may come before or after it, where clocks change around midnight."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """A cron expression in a time zone."""

    cron: Cron
    zone: ZoneInfo

    def after(self, instant: datetime) -> datetime | None:
        """Give the first tick after an instant; None where there is none within nine years."""
        day = instant.astimezone(self.zone).date() - _SPILL * _DAY
        last = (instant + HORIZON).date()
        while day <= last:
            if (found := self._on(day)) and found[-1] > instant:
                near = (self._on(day + n * _DAY) for n in range(_SPILL + 1))
                return min(each[at] for each in near if (at := bisect_right(each, instant)) < len(each))
            day += _DAY
        return None

    def latest(self, instant: datetime) -> datetime | None:
        """Give the last tick at or before an instant; None where there was none within nine years."""
        day = instant.astimezone(self.zone).date() + _DAY
        first = (instant - HORIZON).date()
        while day >= first:
            if (found := self._on(day)) and found[0] <= instant:
                near = (self._on(day - n * _DAY) for n in range(_SPILL + 1))
                return max(each[at - 1] for each in near if (at := bisect_right(each, instant)))
            day -= _DAY
        return None

    def between(self, first: datetime, last: datetime) -> Iterator[datetime]:
        """Give the ticks after `first` up to and including `last`, in order."""
        tick = self.after(first)
        while tick is not None and tick <= last:
            yield tick
            tick = self.after(tick)

    def _on(self, day: date) -> tuple[datetime, ...]:
        cron = self.cron
        if day.month not in cron.months or day.day not in cron.days or day.isoweekday() % 7 not in cron.weekdays:
            return ()
        return _ticks_on(cron, self.zone, day)


@lru_cache(maxsize=4096)
def _ticks_on(cron: Cron, zone: ZoneInfo, day: date) -> tuple[datetime, ...]:
    """Give the ticks whose local time is on this day, in order, each once."""
    times = (time(hour, minute) for hour in cron.hours for minute in cron.minutes)
    midnight = datetime.combine(day, time(), zone)
    if midnight.utcoffset() == (midnight + _DAY).utcoffset():  # the clocks don't change
        start = midnight.astimezone(UTC)
        return tuple(sorted(start + timedelta(hours=each.hour, minutes=each.minute) for each in times))
    both = len(cron.hours) == 24
    found = set()
    for each in times:
        local = datetime.combine(day, each, zone)
        found.add(local.astimezone(UTC))
        again = local.replace(fold=1).astimezone(UTC)
        if both and again.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
            found.add(again)
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the clock found."""

    tick: datetime | None = None
    """The tick to run now."""
    settled: datetime | None = None
    """Ticks up to this one need no further look, whether they are run or passed over; None: nothing came due."""
    passed_over: bool = field(default=False)
    """Whether the last settled tick was missed and is not run any more."""
    next: datetime | None = None
    """When the next tick comes due, its jitter included; None: never."""


def look(schedule: Schedule, *, since: datetime, now: datetime) -> Look:
    """
    Tell what is due of a schedule whose ticks up to `since` are settled.

    Of several that came due, the last one is run for all. Those that came due over a minute ago were missed: `catch_up`
    says whether the last of them is still run.
    """
    ticks = Ticks(schedule.ticks, schedule.zone)
    due = ticks.latest(now - schedule.jitter)
    if due is not None and due <= since:
        due = None
    coming: datetime | None = None
    for tick in ticks.between(due or since, now):
        if lateness(schedule, tick) > now - tick:
            coming = tick
            break
        due = tick
    if coming is None:
        coming = ticks.after(max(due or since, now))
    following = None if coming is None else coming + lateness(schedule, coming)
    if due is None:
        return Look(next=following)
    missed = now - (due + lateness(schedule, due)) > ON_TIME
    if missed and schedule.catch_up == "skip":
        return Look(settled=due, passed_over=True, next=following)
    return Look(tick=due, settled=due, next=following)


def lateness(schedule: Schedule, tick: datetime) -> timedelta:
    """
    Give the jitter of one tick: anywhere up to the schedule's, and the same for everybody who asks.

    It ends before the next tick, so that each is run on its own and in order.
    """
    if not schedule.jitter:
        return timedelta(0)
    following = Ticks(schedule.ticks, schedule.zone).after(tick)
    longest = schedule.jitter if following is None else min(schedule.jitter, following - tick)
    drawn = hashlib.sha256(f"{schedule.name}\n{tick.isoformat()}".encode()).digest()
    return longest * (int.from_bytes(drawn[:6]) / 2**48)


def command_id(schedule: Schedule, tick: datetime) -> str:
    """Give the id of a tick's command: two beats that run one tick publish one command."""
    return f"{schedule.name}-{tick.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def command(schedule: Schedule, id: str, at: datetime) -> dict[str, Any]:
    """Give the CloudEvent that a schedule sends; `at` is the tick, or when somebody asked for it."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": f"{SOURCE}{schedule.name}",
        "type": schedule.type,
        "time": rfc3339.write(at),
        "connection": schedule.connection,
        "datacontenttype": "application/json",
        "data": dict(schedule.data),
    }
