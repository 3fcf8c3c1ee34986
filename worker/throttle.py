"""
The fleet's courtesy: who may send the next request, decided together with every other worker.

`Throttle.permit` is asked before each request. Each process keeps its own view of the gates it uses (`worker.gate`),
leases slots and starts in small lots, and so answers most calls without asking anybody. What the view can't answer is
settled with the state store: a process's wishes for one limit key go there together, as one compare-and-swap of the
whole gate, on the store's own clock; a lost race is decided anew on what the winner wrote. A change that others wait
for (a gate closed or opened, slots given back) is published, and every view is renewed each second while it is in use.
A gate that nobody uses costs nothing.

While the store is away each worker goes on with its own view and its part of the limits: what is allowed divided by the
workers it last knew of. `Throttle.degraded` then says why.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from worker.gatekeeper import Gatekeeper
from worker.permits import Line, Permit, Waiter
from worker.shared_gates import Alone, SharedGates, StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from redis.asyncio import Redis

    from config.connections import Connection
    from worker.gate import Gate

__all__ = ["Admission", "GateView", "Observer", "Permit", "StoreAway", "Throttle", "view"]


class Observer(Protocol):
    """Who is told how the gates stand."""

    def gate(self, limit_key: str, *, closed: bool, points: float | None = None) -> None:
        """Say how a gate stands."""
        ...

    def gate_wait(self, limit_key: str, waited: timedelta) -> None:
        """Count time that a request waited."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """How a gate stands: `closed_for` is None while it is open, `timedelta.max` while it is paused until `resume`."""

    limit_key: str
    phase: str
    closed_for: timedelta | None
    points: float | None
    in_flight: int
    waiting: int
    workers: int


class Throttle:
    """Every gate of this process."""

    def __init__(
        self,
        redis: Redis | None,
        *,
        worker_id: str,
        ceiling: timedelta,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        gates: Alone | None = None,
    ) -> None:
        """
        Make one; without `redis` this process limits itself alone.

        `ceiling` bounds the guesses at how long a gate stays closed. Throttles of one process may share `gates`.
        """
        self.worker_id = worker_id
        self.clock = clock
        self.ceiling = ceiling.total_seconds()
        self.observer = observer
        self.gates: Alone | SharedGates = gates or Alone(clock)
        if redis is not None:
            self.gates = SharedGates(redis, clock)
        self.gates.listeners.append(self._changed)
        self._keepers: dict[str, Gatekeeper] = {}
        self._lines: dict[str, Line] = {}

    @property
    def degraded(self) -> str | None:
        """Why this worker limits itself by its own view; None: the fleet limits itself together."""
        return self.gates.away

    def permit(
        self, connection: Connection, *, max_wait: timedelta, bulk: bool = False, retry: bool = False, knows: int = -1
    ) -> Admission:
        """
        Ask for leave to send one request; `async with` waits for it, and holds the slot until the block ends.

        A wait longer than `max_wait` raises `RateLimited` (the gate is closed, the points are spent, the retry budget
        is empty) or `Crowded` (requests in flight, pace), with the time to come back in `after`, each command its own.
        `retry`: this request was sent before and failed. `knows`: the closing that the command has waited for already
        (`Permit.closing`), which is not counted twice.
        """
        line = self._lines.get(connection.name)
        if line is None or line.connection is not connection:
            line = self._line(connection)
        return Admission(
            line, bulk=bulk, retry=retry, max_wait=max_wait.total_seconds(), knows=knows, observer=self.observer
        )

    async def pause(self, limit_key: str, duration: timedelta | None = None) -> None:
        """Close a gate for the whole fleet, for a time or until `resume`; raises `StoreAway`."""
        seconds = math.inf if duration is None else duration.total_seconds()
        await self.gates.edit(limit_key, lambda gate, now: gate.pause(now + seconds))
        self._wake(limit_key)

    async def resume(self, limit_key: str) -> None:
        """Open a gate for the whole fleet, whoever closed it; raises `StoreAway`."""
        await self.gates.edit(limit_key, lambda gate, now: gate.resume(now))
        self._wake(limit_key)

    async def look(self, limit_keys: Iterable[str]) -> list[GateView]:
        """Give how gates stand now; raises `StoreAway`."""
        return [view(key, *await self.gates.read(key)) for key in limit_keys]

    async def close(self) -> None:
        """Give everything back and stop."""
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
        self._keepers.clear()
        self._lines.clear()
        self.gates.listeners.remove(self._changed)
        await self.gates.close()

    def _line(self, connection: Connection) -> Line:
        keeper = self._keepers.get(connection.limit_key)
        if keeper is None:
            keeper = self._keepers[connection.limit_key] = Gatekeeper(
                connection.limit_key,
                self.gates,
                worker_id=self.worker_id,
                clock=self.clock,
                ceiling=self.ceiling,
                observer=self.observer,
            )
        line = keeper.lines.get(connection.name)
        if line is None:
            line = keeper.lines[connection.name] = Line(connection, keeper, self.clock)
        line.connection = connection
        self._lines[connection.name] = line
        return line

    def _wake(self, limit_key: str) -> None:
        keeper = self._keepers.get(limit_key)
        if keeper is not None and keeper.busy:
            keeper.wake(urgent=True)

    def _changed(self, limit_key: str | None, version: str, text: str) -> None:
        """Another worker changed a gate; None: the store is back, look again."""
        for key, keeper in self._keepers.items():
            if limit_key in {None, key} and keeper.busy:
                keeper.changed(version, text)


def view(limit_key: str, gate: Gate, now: float) -> GateView:
    """Say in one value how a gate stands at `now`."""
    closed = gate.closed_for(now)
    shares = [share for slots in gate.slots.values() for share in slots.shares.values()]
    return GateView(
        limit_key=limit_key,
        phase=gate.phase(now).value,
        closed_for=(timedelta.max if math.isinf(closed) else timedelta(seconds=closed)) if closed else None,
        points=None if gate.points is None else max(gate.points.left, 0.0),
        in_flight=sum(share.used for share in shares),
        waiting=sum(share.wants for share in shares),
        workers=gate.workers if shares else 0,
    )


class Admission:
    """One request on its way through the gate."""

    __slots__ = ("_bulk", "_keeper", "_knows", "_line", "_max_wait", "_observer", "_permit", "_retry")

    def __init__(
        self, line: Line, *, bulk: bool, retry: bool, max_wait: float, knows: int, observer: Observer | None
    ) -> None:
        self._line = line
        self._keeper = line.keeper
        self._bulk = bulk
        self._retry = retry
        self._max_wait = max_wait
        self._knows = knows
        self._observer = observer
        self._permit: Permit

    async def __aenter__(self) -> Permit:
        if self._retry:
            self._keeper.spend_retry()
        start = self._line.take()
        if start is None:
            self._permit = await self._wait()
        else:
            self._permit = Permit(self._keeper, start)
        if not self._retry:
            self._keeper.budget.earn()
        return self._permit

    async def _wait(self) -> Permit:
        clock = self._keeper.clock
        began = clock()
        waiter = Waiter(
            future=asyncio.get_running_loop().create_future(),
            bulk=self._bulk,
            deadline=began + self._max_wait,
            knows=self._knows,
        )
        start = await self._line.wait(waiter)
        waited = clock() - began
        if self._observer is not None:
            self._observer.gate_wait(self._keeper.key, timedelta(seconds=waited))
        return Permit(self._keeper, start, deferrals=int(waiter.counted), waited=waited)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._permit.reported:
            self._keeper.unanswered(self._permit)
        self._line.release()
