"""Schedules: commands that beat sends again and again."""

from __future__ import annotations

import math
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from config.connections import check_name
from config.cron import Cron, parse_cron
from config.shape import nearest
from config.values import Duration, Section

_COMMAND_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")


def _check_cron(value: str) -> str:
    parse_cron(value)
    return value


def _check_timezone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = nearest(value, zoneinfo.available_timezones())
        hint = f"did you mean {near}?" if near else 'write a name like "Europe/Paris"'
        raise ValueError(f"must be a time zone of the IANA database; {hint}") from None
    return value


def _check_type(value: str) -> str:
    if not _COMMAND_TYPE.fullmatch(value):
        raise ValueError("must be a command type; see `planrelay operations`")
    return value


def _check_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    for path, inner in _leaves(value):
        if isinstance(inner, datetime | date | time):
            rule = f"has a TOML date or time at {path}, which JSON has no word for; write it in quotes"
            raise ValueError(rule)  # noqa: TRY004 - pydantic collects ValueErrors only
        if isinstance(inner, float) and not math.isfinite(inner):
            raise ValueError(f"has nan or inf at {path}, which JSON has no word for; write a number")
    return value


def _leaves(value: Any, path: str = "data") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{index}")
    else:
        yield path, value


class Schedule(Section):
    """A command that beat sends again and again."""

    name: Annotated[str, AfterValidator(check_name)]
    cron: Annotated[str, AfterValidator(_check_cron)]
    timezone: Annotated[str, AfterValidator(_check_timezone)] = "UTC"
    jitter: Duration = timedelta(0)
    """Each tick is late by up to this much."""
    overlap: Literal["skip", "queue"] = "skip"
    """What a tick does while the last run is unfinished."""
    catch_up: Literal["once", "skip"] = "once"
    """What becomes of ticks missed while beat was away."""
    type: Annotated[str, AfterValidator(_check_type)]
    connection: str
    data: Annotated[Mapping[str, Any], AfterValidator(_check_json)] = Field(default_factory=dict)

    @property
    def ticks(self) -> Cron:
        """The cron expression as sets of numbers."""
        return parse_cron(self.cron)

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone that the cron expression is read in."""
        return zoneinfo.ZoneInfo(self.timezone)
