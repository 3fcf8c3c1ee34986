"""
One process's view of one gate, and its turns at the state store.

A turn takes everything this process wants and knows for one limit key to the gate at once, and hands out what comes
back. Between turns requests start and end on what is leased, without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from worker.errors import RateLimited
from worker.gate import Gate, Phase
from worker.grants import Hold, Limits, refusal
from worker.points import Remaining
from worker.retry_budget import RetryBudget
from worker.shared_gates import PATIENCE, Copy, StoreAway
from worker.turns import Reply, Request, decide_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.permits import Line, Permit
    from worker.shared_gates import Alone, SharedGates
    from worker.throttle import Observer

log = structlog.get_logger("planrelay.throttle")

REFRESH: Final = 1.0
"""Seconds between two turns of a gate that is in use."""

STALE: Final = 2.5
"""Seconds after which a view is no longer believed."""

STALE_UNHEARD: Final = 0.1
"""The same while the worker does not hear what others change."""

LINGER: Final = 3.0
"""Seconds for which a gate is kept in view after its last request."""

FRUITLESS: Final = 0.01
"""Seconds until the next turn after one that gave nothing."""

AT_ONCE: Final = 1e-6
"""Seconds that are not worth a timer."""

TELL: Final = 0.02
"""Seconds within which the points of answers are told, several together."""

_SHUT: Final = frozenset({Phase.CLOSED, Phase.PAUSED, Phase.HALF_OPEN})


class Gatekeeper:
    """One process at one gate."""

    def __init__(
        self,
        key: str,
        gates: Alone | SharedGates,
        *,
        worker_id: str,
        clock: Callable[[], float],
        ceiling: float,
        observer: Observer | None,
    ) -> None:
        self.key = key
        self.gates = gates
        self.clock = clock
        self.lines: dict[str, Line] = {}
        self.copy = Copy()
        self._me = worker_id
        self._ceiling = ceiling
        self._observer = observer
        self._reports: list[Callable[[Gate, float], None]] = []
        self._open = False
        self._phase = Phase.OPEN
        self._turning = False
        self._fresh_until = -math.inf
        self._turned = -math.inf
        self._refreshed = -math.inf
        self._fruitful = True
        self._next: float | None = None
        """When a turn is due for those who wait."""
        self._wanted = self._urgent = False
        self._nudge = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._workers = 1
        self._settled = -math.inf
        self.budget = RetryBudget(clock())

    @property
    def busy(self) -> bool:
        """Whether this gate is in use here."""
        return self._task is not None

    def admits(self, now: float) -> bool:
        """Whether what is leased may be used now."""
        return self._open and not self._turning and now < self._fresh_until

    # Why a turn is needed

    def wake(self, *, urgent: bool = False) -> None:
        """Take a turn soon; `urgent`: at once."""
        self._wanted = True
        self._urgent |= urgent
        self._nudge.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"throttle.{self.key}")

    def wanted(self, line: Line) -> None:
        """Somebody waits on `line`."""
        line.active = self.clock()
        if not self._turning:  # else the turn that is under way may do for this one too
            self.wake()

    def changed(self, version: str, text: str) -> None:
        """Another worker changed the gate; an empty text: look at the store again."""
        if not text or self._turning:
            self.wake()
            return
        if _older(version, self.copy.version):
            return
        self.copy.take(version, text)
        self._view()
        lines = self.lines.values()
        if not self._open or any(line.queued or (line.wanted_elsewhere and line.held > line.used) for line in lines):
            self.wake()

    # What answers tell

    def report(self, permit: Permit, status: int, after: timedelta | None, points: float | None) -> None:
        """Take in how a request was answered."""
        gate = self.copy.gate
        if status == 429 or (status >= 500 and after is not None):
            self._refused(permit, status, after)
        elif gate.shut:
            took = self.clock() - permit.sent
            self._tell(lambda gate, now: gate.answered(now, generation=permit.generation, took=took), urgent=True)
        if points is not None and 200 <= status < 300:
            answered = self.clock()

            def observe(gate: Gate, now: float) -> None:
                ago = self.clock() - now
                gate.observe(Remaining(points, permit.start, permit.sent - ago, answered - ago))

            scarce = gate.points is not None and not gate.points.plenty(
                sum(line.queued for line in self.lines.values())
            )
            self._tell(observe, within=0.0 if scarce else TELL)

    def unanswered(self, permit: Permit) -> None:
        """Take in that a request got no answer, or was given up."""
        if self.copy.gate.shut:
            self._tell(lambda gate, now: gate.unanswered(now, generation=permit.generation), urgent=True)

    def _refused(self, permit: Permit, status: int, after: timedelta | None) -> None:
        opens = None if after is None else self.clock() + min(after.total_seconds(), 10 * 365 * 86_400.0)

        def close(gate: Gate, now: float) -> None:
            # In the store's time, on the late side of what is known of it: nobody comes back before the vendor's word.
            until = None if opens is None else now + max(opens - self.clock(), 0.0) + self.gates.slack
            gate.close(now, until=until, generation=permit.generation, ceiling=self._ceiling)
            if gate.points is not None and status == 429:
                gate.points.refuse(now - (self.clock() - permit.sent), permit.start)

        before = self.copy.gate.generation
        self._tell(close, urgent=True)
        permit.closing = self.copy.gate.generation
        if permit.closing > before:
            seconds = round(self.copy.gate.closed_for(self.gates.now()), 3)
            log.info("gate.closed", limit_key=self.key, status=status, seconds=seconds, asked=after is not None)

    def _tell(self, report: Callable[[Gate, float], None], *, urgent: bool = False, within: float = 0.0) -> None:
        """Change this process's own view at once, and the fleet's with the next turn."""
        report(self.copy.gate, self.gates.now())
        self._reports.append(report)
        self._view(reapply=False)
        if within and not urgent:
            due = self.clock() + within
            if self._next is None or due < self._next:
                self._next = due
                self._nudge.set()
        else:
            self.wake(urgent=urgent)

    def _view(self, *, reapply: bool = True) -> None:
        """Look at the gate as this process knows it now."""
        gate, now = self.copy.gate, self.gates.now()
        if reapply:
            for report in self._reports:
                report(gate, now)
        phase = gate.phase(now)
        closed = phase in {Phase.CLOSED, Phase.PAUSED}
        if self._phase in _SHUT and phase not in _SHUT:
            log.info("gate.opened", limit_key=self.key)
        self._phase = phase
        if closed:
            for line in self.lines.values():
                line.drop()
        self._open = not closed
        for name, line in self.lines.items():
            line.wanted_elsewhere = name in gate.slots and gate.slots[name].lacks_beside(self._me)
        if self._observer is not None:
            points = None if gate.points is None else max(gate.points.left, 0.0)
            self._observer.gate(self.key, closed=closed, points=points)

    # Turns

    async def _run(self) -> None:
        """Take turns while the gate is in use."""
        self.gates.listen()
        while True:
            self._wanted = self._urgent = False
            try:
                await self._turn()
            except Exception as error:  # a bug of ours: whatever it is, nobody may wait for ever
                log.exception("throttle.failed", limit_key=self.key)
                self._fail(error)
            if self._idle():
                await self._leave()
                if self._idle():
                    self._task = None
                    return
            await self._rest()

    def _fail(self, error: Exception) -> None:
        self._turned, self._fruitful = self.clock(), False
        self._reports.clear()
        for line in self.lines.values():
            for waiter in line.in_order:
                line.refuse(waiter, error)

    async def _rest(self) -> None:
        """Wait for a reason to take the next turn."""
        earliest = self._turned if self._fruitful else self._turned + FRUITLESS
        while not self._urgent:
            self._nudge.clear()
            due = self._refreshed + REFRESH
            if self._next is not None:
                due = min(due, self._next)
            left = (earliest if self._wanted else max(due, earliest)) - self.clock()
            if left <= AT_ONCE:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._nudge.wait()

    async def _turn(self) -> None:
        refreshing = self.clock() - self._refreshed >= REFRESH
        if refreshing:
            self._refreshed = self.clock()
        requests = [self._request(line, refreshing=refreshing) for line in self.lines.values()]
        reports = list(self._reports)
        self._next = None
        self._turning = True
        try:
            replies = await self._settle(requests, reports)
        finally:
            self._turning = False
        del self._reports[: len(reports)]
        self._turned = self.clock()
        self._fresh_until = self._turned + (STALE if self.gates.hears or self.gates.away else STALE_UNHEARD)
        self._view()
        self._fruitful = False
        for request, reply in zip(requests, replies, strict=True):
            self._hand_out(request, reply)
        asked = {waiter for request in requests for waiter in request.waiters}
        if any(waiter not in asked for line in self.lines.values() for waiter in line.in_order):
            self._wanted = True

    def _request(self, line: Line, *, refreshing: bool) -> Request:
        now = self.clock()
        waiters = line.in_order
        if refreshing and not waiters:
            line.drop()
        unused, line.unused = line.unused, 0
        wish = line.wish()
        if refreshing:
            line.refresh()
        return Request(
            line=line,
            ask=wish,
            limits=line.limits,
            begun=line.begun(),
            unused=unused,
            waiters=waiters,
            patience=[waiter.deadline - now for waiter in waiters],
        )

    async def _settle(self, requests: list[Request], reports: list[Callable[[Gate, float], None]]) -> list[Reply]:
        """Settle with the fleet; while the store is away, by this process's own view and its part of the limits."""

        def decide(gate: Gate, now: float, alone: int = 1) -> tuple[list[Reply], bool]:
            before = gate.outlook
            for report in reports:
                report(gate, now)
            replies = [decide_request(gate, now, self._me, request, alone=alone) for request in requests]
            return replies, before != gate.outlook

        try:
            replies = await self.gates.settle(self.key, self.copy, decide)
        except StoreAway:
            gate = self.copy.fresh()
            gate.only(self._me)
            requests = [replace(request, limits=self._part(request)) for request in requests]
            replies, _ = decide(gate, self.gates.now(), self._workers)
            self.copy.keep(gate)
            self.copy.apart, self.copy.offset = gate, self.gates.offset
        else:
            self._workers = self.copy.gate.workers
            self._settled = self.clock()
        return replies

    def _part(self, request: Request) -> Limits:
        """Give this process's part of the slots while it can't ask: no more than it holds, until all know of that."""
        part = max(request.limits.in_flight // self._workers, 1)
        if self.clock() < self._settled + STALE + PATIENCE:
            part = min(part, request.line.held)
        return replace(request.limits, in_flight=part)

    def _hand_out(self, request: Request, reply: Reply) -> None:
        line, grant = request.line, reply.grant
        if grant.starts is not None and grant.hold in {Hold.CLOSED, Hold.PAUSED, Hold.PROBE}:
            line.drop()
        line.accept(grant, self.gates.now())
        for waiter, seconds in reply.parked:
            line.refuse(waiter, refusal(grant.hold, line.connection, seconds))
        self._fruitful |= bool(line.serve() or reply.parked)
        waiting = line.in_order
        generation = self.copy.gate.generation
        for waiter in waiting:
            if grant.hold is not None and grant.hold.counted:
                waiter.counted |= grant.hold is Hold.POINTS or generation > waiter.knows
        if waiting:
            due = min(waiter.deadline for waiter in waiting)
            if grant.wait is not None:
                due = min(due, self.clock() + grant.wait)
            self._next = due if self._next is None else min(self._next, due)

    # Coming and going

    def _idle(self) -> bool:
        now = self.clock()
        return not self._reports and all(line.idle and line.active + LINGER < now for line in self.lines.values())

    async def _leave(self) -> None:
        unused = sum(line.unused + len(line.starts) for line in self.lines.values())
        for line in self.lines.values():
            line.leave()

        def leave(gate: Gate, now: float) -> tuple[None, bool]:
            lacking = any(slots.lacking for slots in gate.slots.values())
            gate.leave(self._me)
            gate.give_back(now, unused)
            return None, lacking

        self._fresh_until = -math.inf
        with contextlib.suppress(StoreAway):
            await self.gates.settle(self.key, self.copy, leave)

    async def stop(self) -> None:
        """Give everything back and stop taking turns."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._leave()

    # Retries

    def spend_retry(self) -> None:
        """Take a retry from the budget; raises `RateLimited` with a time of its own when there is none."""
        wait = self.budget.spend(self.clock(), self._workers)
        if wait:
            raise RateLimited(
                f"The retry budget of {self.key} is spent: too many of its requests fail.",
                after=timedelta(seconds=wait),
            )


def _older(version: str, known: str) -> bool:
    series, _, number = version.partition(":")
    known_series, _, known_number = known.partition(":")
    return series == known_series and int(number) <= int(known_number)
