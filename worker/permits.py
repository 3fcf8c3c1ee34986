"""What one process may send on one connection, from what it has leased: slots, starts, and who waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.grants import Ask, Grant, Limits
from worker.points import Start

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from config.connections import Connection
    from worker.gatekeeper import Gatekeeper

LOT: Final = 2
"""Slots that a worker takes beyond what it needs now, where nobody else wants them."""

LEAST_SPARE: Final = 4
MOST_SPARE: Final = 32
"""Starts that a worker keeps ready, where there are plenty of points: as many as it lately used, between these."""

AT_ONCE: Final = 1e-6
"""Seconds that are not worth a timer."""

_ANY: Final = Start(0.0)


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for its permit until `deadline`, then goes away to come back later."""

    future: asyncio.Future[Start]
    bulk: bool
    deadline: float
    knows: int
    """The closing that its command has waited for already."""
    counted: bool = False
    """Whether its wait is a deferral."""


class Permit:
    """Leave to send one request. Say with `report` what became of it; one that is not reported counts as unanswered."""

    __slots__ = ("_keeper", "closing", "deferrals", "generation", "reported", "sent", "start", "waited")

    def __init__(self, keeper: Gatekeeper, start: Start, *, deferrals: int = 0, waited: float = 0.0) -> None:
        self._keeper = keeper
        self.start = start
        self.sent = keeper.clock()
        self.generation = keeper.copy.gate.generation
        self.closing = -1
        """The closing that this request's refusal led to; -1: it was not refused."""
        self.deferrals = deferrals
        """How many waits for the gate came before it: 0 or 1."""
        self.waited = waited
        """Seconds that it waited, for the gate or for a slot."""
        self.reported = False

    def report(self, status: int, *, after: timedelta | None = None, points: float | None = None) -> None:
        """Say how the request was answered: `after` as the vendor asks from now on, `points` as it says are left."""
        self.reported = True
        self._keeper.report(self, status, after, points)


class Line:
    """The part of this process in one connection."""

    def __init__(self, connection: Connection, keeper: Gatekeeper, clock: Callable[[], float]) -> None:
        self.connection = connection
        self.keeper = keeper
        self.used = 0
        """Requests in flight."""
        self.held = 0
        """Slots leased."""
        self.target = 0
        """Slots to come down to."""
        self.free = False
        """Whether requests may start whenever there is a slot; else each needs one of `starts`."""
        self.starts: deque[tuple[float, Start]] = deque()
        self.wanted_elsewhere = False
        """Whether another worker lacks slots."""
        self.unused = 0
        """Starts that were dropped and are to be given back."""
        self.active = clock()
        """When this was last used."""
        self._clock = clock
        self._waiting: tuple[deque[Waiter], deque[Waiter]] = (deque(), deque())
        self._peak = 0
        self._begun = 0
        self._uncounted = 0
        self._lately = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limits(self) -> Limits:
        """What the configuration allows."""
        pace = self.connection.pace
        gap = 0.0 if pace is None else pace.per.total_seconds() / pace.count
        return Limits(in_flight=self.connection.max_in_flight, gap=gap, reserve=self.connection.reserve)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and nothing waits."""
        return not self.used and not self.queued

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting[0]) + len(self._waiting[1])

    @property
    def in_order(self) -> list[Waiter]:
        """Who waits, in the order in which they are let in: single objects first, each first come first served."""
        return [waiter for queue in self._waiting for waiter in queue if not waiter.future.done()]

    def wish(self) -> Ask:
        """Say what this process would like to have."""
        singles, bulk = (sum(not waiter.future.done() for waiter in queue) for queue in self._waiting)
        keep = 0 if self.idle and not self._peak else max(self._peak, self.used + singles + bulk + LOT)
        spare = min(max(self._begun, self._lately, singles + bulk, LEAST_SPARE), MOST_SPARE)
        return Ask(used=self.used, singles=singles, bulk=bulk, keep=keep, ready=len(self.starts), spare=spare)

    def refresh(self) -> None:
        """Forget how busy it was half a moment ago."""
        self._lately, self._begun = self._begun, 0
        self._peak = max(self.used, self._peak // 2)

    def begun(self) -> int:
        """Give the requests started since the last time this was asked."""
        begun, self._uncounted = self._uncounted, 0
        return begun

    # Requests

    def take(self) -> Start | None:
        """Start a request at once, if what is leased allows it and nobody waits before it."""
        if self.used >= self.held or self._waiting[0] or self._waiting[1]:
            return None
        return self._take(self._clock())

    async def wait(self, waiter: Waiter) -> Start:
        """Wait for leave to start; raises what the gatekeeper says."""
        self._waiting[waiter.bulk].append(waiter)
        self.keeper.wanted(self)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release()  # it was let in at the very moment it gave up
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting[waiter.bulk].remove(waiter)

    def release(self) -> None:
        """End a request: its slot goes to the next one here, or back where other workers are short of them."""
        self.used -= 1
        self.active = self._clock()
        if self.held > self.target and self.held > self.used:
            self.held -= 1
            self.keeper.wake()
        self.serve()
        if self.used < self.held and self.wanted_elsewhere:
            self.keeper.wake()

    def serve(self) -> int:
        """Let in who may start now, and set a timer for who may start later; gives how many were let in."""
        served = 0
        now = self._clock()
        while waiter := self._first():
            start = self._take(now)
            if start is None:
                break
            self._waiting[waiter.bulk].popleft()
            waiter.future.set_result(start)
            served += 1
        if self._timer is None and self.starts and self.starts[0][0] > now + AT_ONCE:
            self._timer = asyncio.get_running_loop().call_later(self.starts[0][0] - now, self._due)
        return served

    def refuse(self, waiter: Waiter, error: Exception) -> None:
        """Send a request away; after a `RateLimited` it comes back as a parked command."""
        if not waiter.future.done():
            waiter.future.set_exception(error)

    def _take(self, now: float) -> Start | None:
        if self.used >= self.held or not self.keeper.admits(now):
            return None
        start = _ANY
        if not self.free:
            if not self.starts or self.starts[0][0] > now + AT_ONCE:
                return None
            start = self.starts.popleft()[1]
        self.used += 1
        self._begun += 1
        self._uncounted += 1
        self._peak = max(self._peak, self.used)
        return start

    def _first(self) -> Waiter | None:
        for queue in self._waiting:
            while queue:
                if not queue[0].future.done():
                    return queue[0]
                queue.popleft()
        return None

    def _due(self) -> None:
        self._timer = None
        if self.idle and self.starts:  # whoever it was for has gone: somebody else may wait for it
            self.drop()
            self.keeper.wake()
        self.serve()

    # Leases

    def accept(self, grant: Grant, store_now: float) -> None:
        """Take what was granted."""
        self.held, self.target = grant.held, grant.target
        self.free = grant.starts is None
        if self.free:
            self.drop()
        now = self._clock()
        for start in grant.starts or ():
            self.starts.append((now + max(start.at - store_now, 0.0), start))

    def drop(self) -> None:
        """Forget the starts that were not used; they are given back at the next asking."""
        self.unused += len(self.starts)
        self.starts.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """Hold nothing any more."""
        self.drop()
        self.held = self.target = self.unused = self._peak = self._lately = self._uncounted = 0
