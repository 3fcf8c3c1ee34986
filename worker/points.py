"""
Points: what is left in a vendor's window, shared by the fleet and spent so that the next window is met, not run into.

Pure: times are seconds on one clock (the state store's) and come in as arguments.

The vendor tells how many points remain after each success and nothing else: neither how many there are, nor how long a
window is (planview_admin.txt, "Working with Rate Limits": "instead of planning for a specific rate of requests, your
code should inspect the X-Rate-Limit-Remaining"). So both are learned, from one sign that can't be mistaken: a request
that was sent when `n` points were known to be left is answered with more than `n`. Between the two a window began.

- While more than half is left, or enough for all that wait, nobody is held up.
- Below that, what is left is spread over the rest of the window, to its probable end. Requests then come steadily, so
  the beginning of the next window is seen within one gap, without running into the limit to find it.
- Nobody waits for a window's latest end but the scout: what was not spent by its end is lost.
- While the length is unknown, a window is taken to last as long again as it has lasted.
- With nothing left, one request (a scout) goes out at the latest end of the window; its answer opens the next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

AHEAD: Final = 0.25
"""Seconds ahead for which starts are handed out: one round trip for several, and still quick to change its mind."""

SCOUT_PATIENCE: Final = 3.0
"""Seconds a scout may take before the next goes out."""

SHORTEST: Final = 0.05
"""No window is taken to be shorter, in seconds."""

BLIND_WAIT: Final = (0.25, 30.0)
"""Shortest and longest wait, in seconds, for a window whose length is unknown."""

FEWEST: Final = 5
"""Requests of one window from which their cost is learned."""

IDLE: Final = 1.0
"""Seconds without a request after which an answer that tells of no cost is one of another window."""

SURE: Final = 0.3
"""How far from whole a number of windows may come out and still be believed."""

DENSE: Final = 0.6
"""The longest part of a window without a request after which its end was still seen."""

LONGER: Final = 1.25
"""How much longer than it has lasted a window is taken to be that outlasted its length; the next ones say it better."""

DEARER: Final = 1.25
"""A cost under this is taken as one point a request."""

MARGIN: Final = 0.005
"""Seconds after the latest end of a window, for clocks that tick in milliseconds."""


@dataclass(frozen=True, slots=True)
class Start:
    """A request may start at `at`. The rest says what was known of the points then, to read its answer by."""

    at: float
    seq: int = 0
    window: int = 0
    known: float = 0.0


@dataclass(frozen=True, slots=True)
class Remaining:
    """What one answer said: `value` points left, to a request sent and answered at these times."""

    value: float
    start: Start
    sent: float
    answered: float


@dataclass(slots=True)
class Points:
    """The points of one limit key."""

    left: float
    """Points that are not yet given out, as far as is known."""
    quota: float
    """The most that a window was seen to have."""
    window: int = 0
    begun_after: float | None = None
    begun_before: float = 0.0
    """The present window began between these; the first is None where nobody saw it begin."""
    begun: float = 0.0
    """When the present window probably began."""
    hunch: float = 0.0
    """How long a window may last, seen from inside one; 0: no idea."""
    length: float | None = None
    """A window lasts at most this long; None: not known yet."""
    least: float = 0.0
    """It lasts at least this long; 0: not known yet."""
    anchor: float | None = None
    """After this began the first of `since` windows in a row, which were counted to measure them."""
    anchored: float = 0.0
    """Before this it began."""
    since: int = 0
    inside: float = 0.0
    """When the last request that the present window answered was sent."""
    seq: int = 0
    newest: int = 0
    newest_value: float = 0.0
    first_seq: int = 0
    first_value: float = 0.0
    cost: float = 1.0
    """Points that a request takes, on average."""
    last_start: float = 0.0
    """When the last start was given out for."""
    spent_at: float | None = None
    scout_until: float = 0.0

    @classmethod
    def first(cls, seen: Remaining) -> Points:
        """Begin with the first answer that told."""
        return cls(
            left=seen.value,
            quota=seen.value,
            begun_before=seen.answered,
            begun=seen.answered,
            inside=seen.sent,
            newest_value=seen.value,
            first_value=seen.value,
        )

    def set_back(self, seconds: float) -> None:
        """The clock was set back."""
        for name in _TIMES:
            at = getattr(self, name)
            setattr(self, name, None if at is None else at - seconds)

    # What answers tell

    def observe(self, seen: Remaining) -> None:
        """Take in what an answer said. Answers may come in any order, and from workers that know less."""
        start = seen.start
        if start.window != self.window or not start.seq:
            return  # an answer to a request of an earlier window may belong to either
        if seen.value > start.known:
            self._begin(seen)
            return
        if seen.value == start.known and seen.sent - self.inside > IDLE:
            # It cost something and left as much: a window has begun since, but there is no telling when.
            self.window += 1
            self.begun_after, self.begun_before, self.begun = None, seen.answered, seen.answered
            self.anchor = None
        self.inside = max(self.inside, seen.sent)
        self._outlast(seen.sent)
        if start.seq > self.newest:
            self._settle(seen)

    def refuse(self, sent: float, start: Start) -> None:
        """Take in that a request was refused for want of points: this window has none left."""
        if start.window == self.window:
            self.inside = max(self.inside, sent)
            self._outlast(sent)
            self.left = min(self.left, 0.0)

    def give_back(self, starts: int) -> None:
        """Take back starts that nobody used; the scout may have been one of them."""
        self.left += starts * self.cost
        self.scout_until = 0.0

    def _begin(self, seen: Remaining) -> None:
        """A window has begun since `inside`, and before this answer."""
        self._measure(seen.answered)
        self._price()
        self.window += 1
        self.first_seq, self.first_value = seen.start.seq, seen.value
        self.begun_after, self.begun_before = self.inside, seen.answered
        self.inside = seen.sent
        self.quota = max(seen.value, 0.9 * self.quota)
        self.last_start = 0.0
        self.scout_until = 0.0
        self._settle(seen)

    def _measure(self, begun: float) -> None:
        """Learn how long a window lasts, at most, from one that began since `inside` and before `begun`."""
        windows = 0 if self.length is None else self._windows(begun - self.begun)
        probably = begun
        self.least = max(self.least, self.inside - self.begun_before)
        if begun - self.inside > DENSE * (begun - self.begun_before):
            self.anchor = None  # nobody asked for most of that time: windows may have passed unseen
        elif self.begun_after is None:
            self.hunch = begun - self.begun_before
        else:
            longest = max(begun - self.begun_after, SHORTEST)
            if self.anchor is None or not windows:
                self.anchor, self.anchored, self.since = self.begun_after, self.begun_before, 1
            else:
                # Over many windows the error of each end, a gap between two requests, counts for less and less.
                self.since += windows
                longest = min(longest, (begun - self.anchor) / self.since)
            self.least = max(self.least, (self.inside - self.anchored) / self.since)
            self.length = longest if self.length is None else min(self.length, longest)
            if self.least > self.length:
                self.least = 0.0  # windows have become shorter
        if windows and self.length is not None and self.inside < self.begun + windows * self.length < begun:
            probably = self.begun + windows * self.length  # where windows follow a clock, that is nearer than our gaps
        self.begun = probably

    def _windows(self, time: float) -> int:
        """Say how many windows make up a time; 0: it can't be told."""
        if self.length is None:
            return 0
        windows = round(time / self.length)
        return windows if abs(time / self.length - windows) < SURE else 0

    def _price(self) -> None:
        """Learn what a request costs from the window that has ended; a small excess may be others, or the order."""
        asked = self.newest - self.first_seq
        if asked >= FEWEST:
            cost = 0.5 * (self.cost + (self.first_value - self.newest_value) / asked)
            self.cost = cost if cost > DEARER else 1.0

    def _settle(self, seen: Remaining) -> None:
        self.newest, self.newest_value = seen.start.seq, seen.value
        self.left = seen.value - self.cost * (self.seq - seen.start.seq)
        if self.left >= self.cost:
            self.spent_at = None

    def _outlast(self, sent: float) -> None:
        """The present window was still there at `sent`: it is longer than thought, if it is."""
        lasted = sent - self.begun_before
        if self.length is not None and lasted > self.length:
            self.length, self.least = LONGER * lasted, lasted
            self.anchor = None

    # What may be spent

    @property
    def end(self) -> float | None:
        """The latest end of the present window; None: not known."""
        return None if self.length is None else self.begun_before + self.length + MARGIN

    def _probable_end(self, length: float) -> float:
        """Give when the present window ends, if it began and lasts as the middle of what is known has it."""
        begun = (
            self.begun if self.begun_after is None else min(self.begun, 0.5 * (self.begun_after + self.begun_before))
        )
        least = self.least if 0 < self.least < length else length
        return begun + 0.5 * (least + length)

    def plenty(self, demand: int) -> bool:
        """Whether nobody needs to be held up for points."""
        return self.left >= self.cost and (self.left > self.quota / 2 or self.left >= demand * self.cost)

    def give(self, now: float, wanted: int, *, demand: int, kept: float = 0.0, spread: float = 1.0) -> list[Start]:
        """
        Give out up to `wanted` starts, now or within a moment.

        `demand` is how many requests wait in the fleet; `kept` points are not for this asker. `spread` above 1 slows
        down by that factor, for a worker that can't see what the others spend.
        """
        starts: list[Start] = []
        while len(starts) < wanted:
            at = self._next(now, demand, kept, spread)
            if at is None or at > now + AHEAD:
                break
            starts.append(self._take(max(at, now), spread))
        return starts

    def probe(self, now: float) -> Start:
        """Give out the one start of a probe, whatever is left."""
        return self._take(now, 1.0)

    def wait(self, now: float, *, demand: int, kept: float = 0.0, spread: float = 1.0) -> float:
        """Give the seconds until the next start may be asked for."""
        at = self._next(now, demand, kept, spread)
        if at is None:  # a scout is out, its answer is near; or only what is kept is left
            return AHEAD
        return max(at - now, 0.0)

    def gap(self, *, demand: int, kept: float = 0.0, spread: float = 1.0) -> float:
        """Give the seconds between the last start and the next that what is left allows."""
        usable = self.left - kept
        if usable < self.cost or self.plenty(demand):
            return 0.0
        since = max(self.last_start, self.begun_before)
        if self.length is None:
            rest = max(since - self.begun, self.begun + self.hunch - since, SHORTEST)
        else:
            # Near the end no faster than twice the pace from window to window: in a rush they overtake each other.
            rest = max(self._probable_end(self.length) - since, 0.5 * self.length * usable / self.quota)
        return rest * self.cost * spread / usable

    def rate(self, now: float) -> float:
        """Give the requests a second that the points allow, from window to window; 0: not known."""
        if self.length is not None:
            return self.quota / (self.cost * self.length)
        spent = now - self.begun_before
        return (self.quota - self.left) / (self.cost * spent) if spent > SHORTEST else 0.0

    def _next(self, now: float, demand: int, kept: float, spread: float) -> float | None:
        if self.left - kept >= self.cost:
            return max(now, self.last_start + self.gap(demand=demand, kept=kept, spread=spread))
        if self.left >= self.cost and (self.end is None or now < self.end):
            return self.end  # what is left is kept for others: the next window
        if self.scout_until > now:
            return None
        return max(now, self._scout_at(now))

    def _scout_at(self, now: float) -> float:
        if self.end is not None:
            return self.end
        if self.spent_at is None:
            self.spent_at = now
        shortest, longest = BLIND_WAIT
        return self.spent_at + min(max(self.spent_at - self.begun_before, shortest), longest)

    def _take(self, at: float, spread: float) -> Start:
        if self.left < self.cost:
            self.scout_until = at + SCOUT_PATIENCE
        self.seq += 1
        self.left -= self.cost * spread
        self.last_start = at
        return Start(at, self.seq, self.window, self.newest_value)

    def dump(self) -> Any:
        """Give this as JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, value: Any) -> Points:
        """Read what `dump` gave."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: each for name, each in value.items() if name in known})


_TIMES: Final = (
    "begun_after",
    "begun_before",
    "begun",
    "anchor",
    "anchored",
    "inside",
    "last_start",
    "spent_at",
    "scout_until",
)
"""The fields of `Points` that are instants."""
