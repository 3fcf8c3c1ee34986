"""What a worker asks of a gate, and what it gets. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from worker.errors import Crowded, RateLimited
from worker.points import Start

if TYPE_CHECKING:
    from config.connections import Connection


class Hold(Enum):
    """Why a request has to wait. The first group is the vendor's word or the gate's, the second our own courtesy."""

    CLOSED = "closed"
    PAUSED = "paused"
    PROBE = "probe"
    POINTS = "points"
    SLOTS = "slots"
    PACE = "pace"

    @property
    def counted(self) -> bool:
        """Whether waiting for it is a deferral."""
        return self in {Hold.CLOSED, Hold.PAUSED, Hold.PROBE, Hold.POINTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the configuration allows a connection: requests in flight, seconds between starts (0: any), kept points."""

    in_flight: int
    gap: float = 0.0
    reserve: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one worker wants for one connection."""

    used: int
    """Requests in flight."""
    singles: int
    """Requests of single-object commands that wait."""
    bulk: int
    """Requests of bulk commands that wait."""
    keep: int = 0
    """Slots it would like to have ready although nothing waits."""
    ready: int = 0
    """Starts it was given before and has not used."""
    spare: int = 0
    """Starts it would like to have ready, where there are plenty."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self.singles + self.bulk


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What it gets."""

    held: int
    """Slots it may use."""
    target: int
    """Slots it should come down to as its requests end."""
    starts: tuple[Start, ...] | None
    """When requests may start; None: whenever there is a slot."""
    hold: Hold | None
    """What the next waiting request waits for; None: nothing but its turn."""
    wait: float | None
    """Seconds until asking again makes sense; None: when something changes."""
    each: float
    """Seconds that this worker should expect between two of its starts; 0: not known."""

    def expected(self, place: int) -> float:
        """Give the seconds that the request at `place` of this worker's queue may have to wait, as far as is known."""
        match self.hold:
            case Hold.CLOSED | Hold.PAUSED:
                return self.wait or 0.0
            case Hold.POINTS:
                return (self.wait or 0.0) + place * self.each
            case _:
                return place * self.each


def refusal(hold: Hold | None, connection: Connection, seconds: float) -> RateLimited:
    """Say to a request why it must go, with the time to come back in `after`."""
    after = timedelta(seconds=seconds)
    name, key = connection.name, connection.limit_key
    match hold:
        case Hold.PAUSED:
            return RateLimited(
                f"The gate of {key} is closed by an operator; `planrelay resume {name}` opens it.", after=after
            )
        case Hold.CLOSED:
            return RateLimited(f"The gate of {key} is closed: its vendor asked to wait.", after=after)
        case Hold.PROBE:
            return RateLimited(f"The gate of {key} waits for the first answer since it was closed.", after=after)
        case Hold.POINTS:
            return RateLimited(f"The points of {key} are spent for now.", after=after)
        case Hold.PACE:
            return Crowded(f"{name} has started as many requests as its pace allows.", after=after)
        case _:
            return Crowded(f"{name} has as many requests in flight as max_in_flight allows.", after=after)
