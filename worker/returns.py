"""
When parked commands come back: each at a time of its own, so that nothing returns together and nothing idles.

Pure: times are seconds on one clock (the state store's) and come in as arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

PAGE: Final = 2.0
"""Seconds in which returns are booked together."""

PAGES: Final = 120
"""Pages ahead for which returns are booked; commands beyond that come back to look."""

HASTE: Final = 1.5
"""How much faster than the fleet sends commands come back: one that comes too early is parked again, one that comes too
late leaves the vendor idle."""

SOON: Final = 30.0
"""Seconds within which all that are parked come back, where how fast the fleet goes is a guess from the past: a vendor
that was slow a moment ago may be quick again, and must not be left idle while its commands wait."""

LOOKS: Final = 100.0
"""Commands a second that come back for that reason, at most."""

MEASURED: Final = 1.0
"""Seconds over which requests are counted."""

FORGOTTEN: Final = 5.0
"""Seconds after which a count tells nothing of how fast the fleet can go."""


@dataclass(slots=True)
class Returns:
    """The bookings of one limit key, and how fast its fleet lately went."""

    booked: dict[int, int] = field(default_factory=dict)
    """How many commands come back in each page of time."""
    rate: float = 0.0
    """Requests a second that the fleet starts while it does all that its limits allow; 0: not known."""
    counted: int = 0
    counted_since: float = 0.0

    def book(
        self, now: float, count: int, *, wait: float, rate: float, most: float = math.inf, sure: bool = False
    ) -> list[float]:
        """
        Give `count` times to come back, in seconds from now, none before `wait`, somewhat faster than `rate`.

        Where that is not `sure`, sooner: to see whether more can be done by now. `most` is what is allowed a second.
        """
        rate = HASTE * min(rate, most)
        if not sure:
            rate = max(rate, min((self.ahead(now) + count) / SOON, LOOKS, HASTE * most))
        earliest = now + wait
        first = int(earliest / PAGE)
        self.booked = {page: booked for page, booked in self.booked.items() if (page + 1) * PAGE > now}
        pages = range(first, first + PAGES)
        times = []
        for _ in range(count):
            page = next((page for page in pages if self.booked.get(page, 0) < _room(page, earliest, rate)), None)
            if page is None:  # more than can be told: wherever there is the most room
                page = min(pages, key=lambda page: self.booked.get(page, 0))
            else:
                pages = range(page, first + PAGES)
            booked, room = self.booked.get(page, 0), _room(page, earliest, rate)
            self.booked[page] = booked + 1
            at = _begin(page, earliest) + booked % room * _span(page, earliest) / room
            times.append(max(at - now, wait))
        return times

    def ahead(self, now: float) -> int:
        """Give how many are still to come; those of the present page are back, or nearly."""
        return sum(booked for page, booked in self.booked.items() if page * PAGE > now)

    def count(self, now: float, started: int, *, steady: bool, full: bool) -> None:
        """Count requests; `steady`: nothing holds the fleet up but its own limits; `full`: those do."""
        if steady and not full:  # it could do more, and nobody knows how much
            self.rate, self.counted, self.counted_since = 0.0, 0, now
            return
        self.counted += started
        spent = now - self.counted_since
        if spent < MEASURED:
            return
        if spent > FORGOTTEN:
            self.rate = 0.0
        elif steady:
            seen = self.counted / spent
            self.rate = 0.5 * (self.rate + seen) if self.rate else seen
        self.counted, self.counted_since = 0, now

    def dump(self) -> Any:
        """Give this as JSON values."""
        booked = {str(page): booked for page, booked in self.booked.items()}
        return [booked, round(self.rate, 3), self.counted, round(self.counted_since, 3)]

    @classmethod
    def load(cls, value: Any) -> Returns:
        """Read what `dump` gave."""
        booked, *rest = value
        return cls({int(page): count for page, count in booked.items()}, *rest)


def _begin(page: int, earliest: float) -> float:
    return max(page * PAGE, earliest)


def _span(page: int, earliest: float) -> float:
    """Give the seconds of a page that may be booked."""
    return (page + 1) * PAGE - _begin(page, earliest)


def _room(page: int, earliest: float, rate: float) -> int:
    """Give how many may come back in a page."""
    return max(int(rate * _span(page, earliest)), 1)
