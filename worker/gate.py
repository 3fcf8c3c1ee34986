"""
One gate per limit key: what the whole fleet knows of a vendor's limit, and who may send the next request.

Pure: a value with decisions, no I/O, no clock, no chance. Times are seconds on the state store's clock and come in as
arguments. `worker.throttle` keeps the gate in the state store, so every worker decides on the same facts, and the same
decisions can be simulated with any number of workers in no time.

```
open ──429, or 5xx with Retry-After──▶ closed ──time is up──▶ half-open ──the one probe is answered──▶ ramp ──▶ open
  ▲                                      ▲                        │ 429 again, or a 5xx with Retry-After
  │                                      └────────────────────────┘
  └── pause for a time (an operator's) and resume close and open it beside that
```
A closed gate is never opened earlier by a later answer. While it is half-open one request in the fleet is under way;
after that the number of requests in flight doubles from two until the connection's own limit holds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from worker.grants import Ask, Grant, Hold, Limits
from worker.points import AHEAD, Points, Remaining, Start
from worker.returns import Returns
from worker.slots import TURN, Share, Slots

FLOOR: Final = 5.0
"""Seconds for which a 429 without Retry-After closes the gate at first; doubled with each such answer in a row."""

NO_WAIT: Final = 0.5
"""A vendor's wait shorter than this (a 0, a past date) is none; a longer one is kept as it is, however often."""

PROBE_PATIENCE: Final = 5.0
"""Seconds after which a probe without an answer may be followed by another."""

LONGEST_PROBING: Final = 30.0
"""Seconds between probes of a vendor that does not answer at all, at most."""

RAMP_STEP: Final = (0.05, 1.0)
"""Shortest and longest time, in seconds, in which the requests in flight double after an opening."""

FAST: Final = 4.0
"""Requests a second, for each that may be in flight, where nothing is known yet."""

PAUSE_LOOK: Final = 60.0
"""Seconds after which a command parked by an operator's pause comes back to look, at most."""


LONG_AGO: Final = -1e9

SET_BACK: Final = 2.0
"""Seconds by which the clock must lie behind what it was before it is taken for set back."""


class Phase(Enum):
    """Where a gate stands."""

    OPEN = "open"
    RAMP = "ramp"
    HALF_OPEN = "half_open"
    CLOSED = "closed"
    PAUSED = "paused"


@dataclass(slots=True)
class Gate:
    """What the fleet knows of one limit key."""

    closed_until: float = 0.0
    paused_until: float = LONG_AGO
    shut: bool = False
    """Closed by the vendor, and no request has been answered since."""
    generation: int = 0
    """Counts the closings."""
    refusals: int = 0
    """Closings in a row, without an answered request between."""
    probe_until: float = 0.0
    probes_lost: int = 0
    opened_at: float = LONG_AGO
    ramp_step: float = RAMP_STEP[0]
    settled_at: float = LONG_AGO
    """The latest time at which anything was decided."""
    returns: Returns = field(default_factory=Returns)
    points: Points | None = None
    slots: dict[str, Slots] = field(default_factory=dict)

    # Where it stands

    def phase(self, now: float) -> Phase:
        """Say where the gate stands."""
        if now < self.paused_until:
            return Phase.PAUSED
        if now < self.closed_until:
            return Phase.CLOSED
        if self.shut:
            return Phase.HALF_OPEN
        if self._ramped(now) is not None:
            return Phase.RAMP
        return Phase.OPEN

    def closed_for(self, now: float) -> float:
        """Give the seconds until the gate opens; 0: it is open, or waits for its probe."""
        return max(self.closed_until - now, self.paused_until - now, 0.0)

    @property
    def workers(self) -> int:
        """Workers that hold or want something."""
        return max(len({name for slots in self.slots.values() for name in slots.shares}), 1)

    def _ramped(self, now: float) -> int | None:
        """Give the requests in flight that the ramp allows; None: it is over."""
        opened = max(self.opened_at, self.paused_until)
        steps = int((now - opened) / self.ramp_step)
        return 2 << steps if steps < 10 else None

    @property
    def outlook(self) -> tuple[object, ...]:
        """What of it others wait for: they want to know of a change at once."""
        return (
            self.shut,
            self.generation,
            self.closed_until,
            self.paused_until,
            None if self.points is None else self.points.window,
            [slots.outlook for slots in self.slots.values()],
        )

    def look_at(self, now: float) -> None:
        """Take in the time. Where the clock was set back, all that is to come stays as far off as it was, at most."""
        back = self.settled_at - now
        if back > SET_BACK:
            self.closed_until -= back
            self.paused_until -= back
            self.probe_until -= back
            self.opened_at -= back
            self.returns = Returns()
            if self.points is not None:
                self.points.set_back(back)
            for slots in self.slots.values():
                slots.set_back(back)
            self.settled_at = now
        self.settled_at = max(self.settled_at, now)

    # What closes and opens it

    def close(self, now: float, *, until: float | None, generation: int, ceiling: float) -> None:
        """
        Take in that the vendor refused a request: 429, or a 5xx with Retry-After.

        `until` is when the vendor lets us come back, None where it did not say. `generation` is the one under which the
        request was sent. What a vendor says counts always; our own guess only once for all that was in flight then.
        """
        fresh = generation >= self.generation
        if until is None:
            if not fresh:
                return
            until = now + max(FLOOR, min(FLOOR * 2 ** min(self.refusals, 30), ceiling))
        elif fresh and self.refusals and until - now < NO_WAIT:  # "now" over and over is no leave to hammer
            until = now + min(0.5 * 2 ** min(self.refusals, 30), FLOOR)
        if fresh:
            self.refusals += 1
        if fresh or not self.shut:
            self.generation += 1
        self.closed_until = max(self.closed_until, until)
        self.shut = True
        self.probe_until = 0.0

    def answered(self, now: float, *, generation: int, took: float) -> None:
        """Take in that a request was answered, and not refused: a probe's answer opens the gate."""
        if self.shut and generation == self.generation and now >= self.closed_until:
            self._open(now, took)

    def unanswered(self, now: float, *, generation: int) -> None:
        """Take in that a probe got no answer: the next one waits longer."""
        if self.shut and generation == self.generation and now >= self.closed_until:
            self.probes_lost += 1
            self.probe_until = now + min(2.0 ** min(self.probes_lost - 1, 10), LONGEST_PROBING)

    def pause(self, until: float) -> None:
        """Close the gate on an operator's word; `math.inf`: until `resume`."""
        self.paused_until = until

    def resume(self, now: float) -> None:
        """Open the gate on an operator's word, a vendor's closing included."""
        self.paused_until = LONG_AGO
        self.closed_until = 0.0
        self._open(now, RAMP_STEP[0])

    def _open(self, now: float, took: float) -> None:
        shortest, longest = RAMP_STEP
        self.shut = False
        self.refusals = self.probes_lost = 0
        self.probe_until = 0.0
        self.opened_at = now
        self.ramp_step = min(max(took, shortest), longest)

    def give_back(self, now: float, starts: int) -> None:
        """Take back starts that nobody used. While the gate waits for its probe, that is what was given back."""
        if starts and self.points is not None:
            self.points.give_back(starts)
        if starts and self.phase(now) is Phase.HALF_OPEN:
            self.probe_until = 0.0

    # Who may send

    def ask(self, now: float, worker: str, connection: str, ask: Ask, limits: Limits, *, alone: int = 1) -> Grant:
        """
        Give `worker` what it may use of `connection` from now on; this renews its lease.

        `alone` above 1: the worker can't see the others, of whom there were so many: it goes that much slower.
        """
        for each in self.slots.values():
            each.expire(now)
        slots = self.slots.setdefault(connection, Slots())
        wish = Share(used=ask.used, wants=ask.waiting, singles=ask.singles)
        most = limits.in_flight
        phase = self.phase(now)
        match phase:
            case Phase.CLOSED | Phase.PAUSED:
                slots.ask(now, worker, wish, keep=0, limit=0)
                hold = Hold.PAUSED if phase is Phase.PAUSED else Hold.CLOSED
                return Grant(held=ask.used, target=ask.used, starts=(), hold=hold, wait=self.closed_for(now), each=0.0)
            case Phase.HALF_OPEN:
                return self._probe(now, worker, slots, wish, most)
            case Phase.RAMP | Phase.OPEN:
                ramped = self._ramped(now)
                if ramped is not None:
                    most = min(most, ramped)
                target = slots.ask(now, worker, wish, keep=ask.keep, limit=most)
                return self._grant(now, slots, wish, target, ask, limits, alone)

    def _probe(self, now: float, worker: str, slots: Slots, wish: Share, most: int) -> Grant:
        slots.ask(now, worker, wish, keep=0, limit=0)
        if not wish.wants or now < self.probe_until:
            wait = max(self.probe_until - now, 0.0) if wish.wants else None
            return Grant(held=wish.held, target=wish.held, starts=(), hold=Hold.PROBE, wait=wait, each=0.0)
        if sum(share.held for share in slots.shares.values()) >= most:  # what was in flight before the closing
            return Grant(held=wish.held, target=wish.held, starts=(), hold=Hold.SLOTS, wait=None, each=0.0)
        self.probe_until = now + PROBE_PATIENCE
        wish.held += 1
        return Grant(
            held=wish.held,
            target=wish.held,
            starts=(Start(now) if self.points is None else self.points.probe(now),),
            hold=Hold.PROBE,
            wait=PROBE_PATIENCE,
            each=0.0,
        )

    def _grant(self, now: float, slots: Slots, wish: Share, target: int, ask: Ask, limits: Limits, alone: int) -> Grant:
        crowded = wish.lacks
        ramping = self._ramped(now) is not None
        wait = TURN - now % TURN if slots.lacking and len(slots.shares) > 1 else None
        if crowded and ramping:
            wait = min(wait or self.ramp_step, self.ramp_step)
        each = max(self._each(slots), limits.gap * self._sharers(slots))
        hold = Hold.SLOTS if crowded else None
        if not limits.gap and self.points is None:
            each = each if crowded else 0.0
            return Grant(held=wish.held, target=target, starts=None, hold=hold, wait=wait, each=each)
        room = min(wish.held - wish.used, ask.waiting) - ask.ready
        starts: list[Start] = []
        singles = min(max(room, 0), ask.singles)
        bulk = max(room, 0) - singles
        for wanted, is_bulk in ((singles, False), (bulk, True)):
            starts += self._starts(now, slots, wanted, limits, is_bulk=is_bulk, alone=alone)
        if len(starts) < room:
            hold, soon = self._starved(now, slots, ask, limits, alone)
            wait = soon if wait is None else min(wait, soon)
            if self.points is not None:
                rate = self.points.rate(now)
                each = self._sharers(slots) / rate if hold is Hold.POINTS and rate else each
        elif (
            self.points is not None
            and not limits.gap
            and ask.spare > ask.ready
            and self.points.plenty(self._demand(now))
        ):
            lot = min(ask.spare - ask.ready, int(self.points.left / (8 * self.workers)))
            starts += self.points.give(now, lot, demand=self._demand(now))
        return Grant(held=wish.held, target=target, starts=tuple(starts), hold=hold, wait=wait, each=each)

    def _starts(
        self, now: float, slots: Slots, wanted: int, limits: Limits, *, is_bulk: bool, alone: int
    ) -> list[Start]:
        """Give out starts as the pace and the points allow, in order of time."""
        starts: list[Start] = []
        for _ in range(wanted):
            paced = max(now, slots.next_start)
            if paced > now + AHEAD:
                break
            if self.points is None:
                start = Start(paced)
            else:
                kept = self._kept(limits) if is_bulk else 0.0
                given = self.points.give(paced, 1, demand=self._demand(now), kept=kept, spread=alone)
                if not given:
                    break
                start = given[0]
            slots.next_start = start.at + limits.gap * alone
            starts.append(start)
        return starts

    def _starved(self, now: float, slots: Slots, ask: Ask, limits: Limits, alone: int) -> tuple[Hold, float]:
        """Say what holds the next start up, and for how long."""
        paced = max(slots.next_start - now, 0.0)
        if self.points is not None:
            kept = 0.0 if ask.singles else self._kept(limits)
            pointed = self.points.wait(now, demand=self._demand(now), kept=kept, spread=alone)
            if pointed >= paced:
                return Hold.POINTS, max(pointed - AHEAD / 2, 0.001) if pointed > AHEAD else max(pointed, 0.001)
        return Hold.PACE, max(paced - AHEAD / 2, 0.001)

    def _kept(self, limits: Limits) -> float:
        """Points that bulk commands leave alone: only while single-object commands wait."""
        if self.points is None or not any(slots.singles for slots in self.slots.values()):
            return 0.0
        return limits.reserve * self.points.quota

    def _demand(self, now: float) -> int:
        """Requests that wait, and parked commands that will: those of the present page are back, or nearly."""
        return sum(slots.waiting for slots in self.slots.values()) + self.returns.ahead(now)

    def _sharers(self, slots: Slots) -> int:
        return max(sum(1 for share in slots.shares.values() if share.wants), 1)

    def _each(self, slots: Slots) -> float:
        return self._sharers(slots) / self.returns.rate if self.returns.rate else 0.0

    # What is parked, and what answers tell

    def park(self, now: float, count: int, *, hold: Hold, wait: float, limits: Limits) -> list[float]:
        """Give `count` commands their own time to come back, in seconds from now, none before `wait`."""
        told = self.points.rate(now) if hold is Hold.POINTS and self.points is not None else 0.0
        rate = told or self.returns.rate or FAST * limits.in_flight
        most = 1.0 / limits.gap if limits.gap else math.inf
        return self.returns.book(now, count, wait=wait, rate=rate, most=most, sure=told > 0)

    def count(self, now: float, started: int, connection: str, limits: Limits) -> None:
        """Count requests that were started, to know how fast the fleet goes."""
        slots = self.slots.get(connection)
        full = slots is not None and sum(share.demand for share in slots.shares.values()) >= limits.in_flight
        full = full or any(each.lacking for each in self.slots.values())
        self.returns.count(now, started, steady=self.phase(now) is Phase.OPEN, full=full)

    def observe(self, seen: Remaining) -> None:
        """Take in the points that an answer says are left."""
        if self.points is None:
            self.points = Points.first(seen)
        else:
            self.points.observe(seen)

    def leave(self, worker: str) -> None:
        """Give back what a worker holds, on every connection."""
        for slots in self.slots.values():
            slots.leave(worker)

    def only(self, worker: str) -> None:
        """Forget every other worker: they can't be seen."""
        for slots in self.slots.values():
            for other in [name for name in slots.shares if name != worker]:
                slots.leave(other)

    def merge(self, other: Gate, now: float, *, shift: float = 0.0) -> None:
        """Keep what another view knows of closings, after the two were apart; its clock was `shift` behind this one."""
        if other.closed_until + shift > max(self.closed_until, now):
            self.closed_until, self.shut = other.closed_until + shift, True
            self.generation = max(self.generation, other.generation)
        self.paused_until = max(self.paused_until, other.paused_until + shift)

    # As text, for the store

    def dump(self) -> str:
        """Give this as JSON text."""
        value = {name: getattr(self, name) for name in _PLAIN}
        value["paused_until"] = None if math.isinf(self.paused_until) else self.paused_until
        value["points"] = None if self.points is None else self.points.dump()
        value["returns"] = self.returns.dump()
        value["slots"] = {name: slots.dump() for name, slots in self.slots.items()}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def load(cls, text: str | bytes) -> Gate:
        """Read what `dump` gave."""
        value: dict[str, Any] = json.loads(text)
        points = value["points"]
        if value["paused_until"] is None:  # JSON has no infinity
            value["paused_until"] = math.inf
        return cls(
            # By name, and only those: workers of two versions may share a gate while they are being replaced.
            **{name: value[name] for name in _PLAIN if name in value},
            points=None if points is None else Points.load(points),
            returns=Returns.load(value["returns"]),
            slots={name: Slots.load(each) for name, each in value["slots"].items()},
        )


_PLAIN: Final = (
    "closed_until",
    "paused_until",
    "shut",
    "generation",
    "refusals",
    "probe_until",
    "probes_lost",
    "opened_at",
    "ramp_step",
    "settled_at",
)
