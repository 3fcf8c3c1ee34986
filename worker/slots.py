"""
A connection's limits of its own: how many requests are in flight in the whole fleet, and how fast they start.

Pure: times are seconds on one clock (the state store's) and come in as arguments. Workers lease slots in lots; a lease
that its worker no longer renews runs out. Where the workers want more than there is, slots are divided as water fills
cups: nobody gets more than it wants, the rest is even, and what can't be divided evenly goes round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LEASE: Final = 10.0
"""Seconds after which the slots of a worker that fell silent are free again."""

TURN: Final = 0.25
"""Seconds for which an odd slot stays with one worker before it goes to the next."""


@dataclass(slots=True)
class Share:
    """One worker's part: requests in flight, slots leased (in flight or ready), requests waiting beyond those."""

    used: int = 0
    held: int = 0
    wants: int = 0
    singles: int = 0
    seen: float = 0.0

    @property
    def demand(self) -> int:
        """Slots that it has a use for."""
        return self.used + self.wants

    @property
    def lacks(self) -> bool:
        """Whether it has a use for more than it holds."""
        return self.demand > self.held


@dataclass(slots=True)
class Slots:
    """The slots of one connection."""

    shares: dict[str, Share] = field(default_factory=dict)
    next_start: float = 0.0
    """When the pace allows the next request."""

    def ask(self, now: float, worker: str, wish: Share, *, keep: int, limit: int) -> int:
        """
        Settle how many slots `worker` holds from now on (`wish.held`), and give how many it should come down to.

        It is never asked to drop a slot in use: the ones above its part go back as their requests end. `keep` is what
        it would like to hold ready though nothing waits for it.
        """
        self.shares[worker] = wish
        wish.seen = now
        others = [share for name, share in self.shares.items() if name != worker]
        free = limit - sum(share.held for share in others)
        want = max(wish.demand, min(keep, free))
        if any(share.lacks for share in others) or want > free:
            want = divide({name: share.demand for name, share in self.shares.items()}, limit, now)[worker]
        wish.held = max(wish.used, min(want, free))
        return min(want, wish.held)

    def expire(self, now: float) -> None:
        """Forget the workers that fell silent."""
        for name in [name for name, share in self.shares.items() if share.seen + LEASE < now]:
            del self.shares[name]

    def set_back(self, seconds: float) -> None:
        """The clock was set back."""
        self.next_start -= seconds
        for share in self.shares.values():
            share.seen -= seconds

    def leave(self, worker: str) -> None:
        """Give back everything that `worker` holds."""
        self.shares.pop(worker, None)

    @property
    def lacking(self) -> bool:
        """Whether any worker wants more than it holds."""
        return any(share.lacks for share in self.shares.values())

    @property
    def outlook(self) -> tuple[object, ...]:
        """What of it others wait for: who lacks slots, and whether any come free."""
        lacking = tuple(sorted(name for name, share in self.shares.items() if share.lacks))
        return (lacking, sum(share.held for share in self.shares.values())) if lacking else ()

    def lacks_beside(self, worker: str) -> bool:
        """Whether any other worker wants more than it holds."""
        return any(share.lacks for name, share in self.shares.items() if name != worker)

    @property
    def waiting(self) -> int:
        """Requests that wait, in all workers."""
        return sum(share.wants for share in self.shares.values())

    @property
    def singles(self) -> int:
        """Requests of single-object commands that wait, in all workers."""
        return sum(share.singles for share in self.shares.values())

    def dump(self) -> Any:
        """Give this as JSON values."""
        shares = {
            name: [share.used, share.held, share.wants, share.singles, round(share.seen, 3)]
            for name, share in self.shares.items()
        }
        return [round(self.next_start, 6), shares]

    @classmethod
    def load(cls, value: Any) -> Slots:
        """Read what `dump` gave."""
        next_start, shares = value
        return cls({name: Share(*share) for name, share in shares.items()}, next_start)


def divide(demands: Mapping[str, int], limit: int, now: float) -> dict[str, int]:
    """Divide `limit` slots: no worker gets more than its demand, the others evenly, odd slots by turns."""
    parts: dict[str, int] = {}
    left = limit
    thirsty = dict(demands)
    while thirsty:
        even = left // len(thirsty)
        content = {name: demand for name, demand in thirsty.items() if demand <= even}
        if not content:
            break
        for name, demand in content.items():
            parts[name] = demand
            left -= demand
            del thirsty[name]
    if thirsty:
        even, odd = divmod(max(left, 0), len(thirsty))
        turn = int(now / TURN)
        for place, name in enumerate(sorted(thirsty)):
            parts[name] = even + ((place - turn) % len(thirsty) < odd)
    return parts
