"""
How many of its requests a process may send again: a vendor that is down gets probes, not load.

Pure: times are seconds on one clock and come in as arguments. The budget is the fleet's; each process has its part of
the floor and of what may be saved up, and earns the share of its own first tries, so no one needs to be asked.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
"""Retries allowed for each first try."""

FLOOR: Final = 3.0
"""Retries a second that the whole fleet may make in any case."""

BURST: Final = 10.0
"""Retries that the whole fleet may save up."""

SHORTEST: Final = 1.0
"""Seconds for which a retry that has to wait does so at least."""


class RetryBudget:
    """The budget of one limit key in one process."""

    def __init__(self, now: float) -> None:
        """Begin with all that may be saved up."""
        self._saved = BURST
        self._since = now
        self._turn = now

    def earn(self) -> None:
        """Count a first try."""
        self._saved += SHARE

    def spend(self, now: float, workers: int) -> float:
        """Take one retry; gives 0, or, where there is none left, the seconds to wait, for each caller others."""
        self._saved = min(self._saved + FLOOR / workers * (now - self._since), max(BURST / workers, 1.0))
        self._since = now
        if self._saved >= 1:
            self._saved -= 1
            return 0.0
        self._turn = max(self._turn, now) + workers / FLOOR
        return max(self._turn - now, SHORTEST)
