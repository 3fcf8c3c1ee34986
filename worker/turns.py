"""
One connection's part of a gatekeeper's turn: what its process wants, and what becomes of who waits.

Pure: nothing is changed but the gate that is decided on, so a turn that lost its race is simply decided again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.gate import PAUSE_LOOK, Gate
from worker.grants import Ask, Grant, Hold, Limits

if TYPE_CHECKING:
    from worker.permits import Line, Waiter

SHORTEST_PARK: Final = 1.0
"""Seconds for which a command is parked at least: less is not worth the broker's trouble."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a line wants, as it was when the turn began."""

    line: Line
    ask: Ask
    limits: Limits
    begun: int
    """Requests started since the last turn: told at each, since each may end the time over which they are counted."""
    unused: int
    """Starts to be given back."""
    waiters: list[Waiter]
    patience: list[float]
    """Seconds that each waiter has left."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What it gets; `parked` are the waiters that must go, each with the seconds until it may come back."""

    grant: Grant
    parked: list[tuple[Waiter, float]]


def decide_request(gate: Gate, now: float, worker: str, request: Request, *, alone: int = 1) -> Reply:
    """Ask the gate for a line, and park the waiters that would wait longer than they have patience."""
    ask, name = request.ask, request.line.connection.name
    gate.give_back(now, request.unused)
    gate.count(now, request.begun, name, request.limits)
    grant = gate.ask(now, worker, name, ask, request.limits, alone=alone)
    if grant.hold is None:
        return Reply(grant, [])
    served = grant.held - ask.used
    if grant.starts is not None:
        served = min(served, ask.ready + len(grant.starts))
    gone = [
        place
        for place in range(max(served, 0), ask.waiting)
        if grant.expected(place - served) > request.patience[place] or request.patience[place] <= 0
    ]
    times = gate.park(now, len(gone), hold=grant.hold, wait=_least(grant), limits=request.limits)
    share = gate.slots[name].shares[worker]
    share.wants -= len(gone)
    share.singles = min(share.singles, share.wants)
    return Reply(grant, [(request.waiters[place], at) for place, at in zip(gone, times, strict=True)])


def _least(grant: Grant) -> float:
    """Give the seconds for which who is parked stays away at least."""
    wait = grant.wait or 0.0
    match grant.hold:
        case Hold.CLOSED:
            return wait
        case Hold.PAUSED:
            return min(wait, PAUSE_LOOK)
        case Hold.POINTS:
            return max(wait, SHORTEST_PARK)
        case _:
            return SHORTEST_PARK
