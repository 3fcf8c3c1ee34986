"""
How long to wait before trying again.

Pure: chance is an argument. The arithmetic (`base`) is apart from the chance (`wait`): each can be tested alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random  # noqa: TID251 - the type alone: chance is an argument
from typing import Final

_TICK: Final = timedelta.resolution
_MOST_DOUBLINGS: Final = (timedelta.max // _TICK).bit_length()
"""After so many doublings even the shortest wait is past every ceiling."""

VENDOR_JITTER: Final = timedelta(seconds=30)
"""The most that chance adds to a wait that a vendor asked for."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `initial` up to `ceiling`; both positive, `ceiling` at least `initial`."""

    initial: timedelta
    ceiling: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) < self.initial <= self.ceiling:
            raise ValueError(f"A backoff needs 0 < initial <= ceiling, got {self.initial} and {self.ceiling}.")

    def base(self, attempt: int) -> timedelta:
        """Give the wait after the `attempt`-th try (from 1; less counts as 1), before chance has its say."""
        doublings = min(max(attempt, 1) - 1, _MOST_DOUBLINGS)
        # In whole microseconds, which never overflow: a timedelta would, long before the ceiling is asked.
        return min(self.initial // _TICK << doublings, self.ceiling // _TICK) * _TICK

    def wait(self, attempt: int, rng: Random) -> timedelta:
        """Give `base(attempt)` with jitter: anywhere between half and all of it, never 0, never over the ceiling."""
        whole = self.base(attempt) // _TICK
        return rng.randint((whole + 1) // 2, whole) * _TICK


def vendor_wait(after: timedelta, rng: Random) -> timedelta:
    """Give the wait that a vendor asked for, never less, plus jitter: up to a tenth of it or 30 s, the smaller."""
    jitter = rng.uniform(0, min(after / 10, VENDOR_JITTER) / _TICK)
    return after + min(int(jitter) * _TICK, timedelta.max - after)
