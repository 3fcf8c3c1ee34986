"""A points window, as Planview Admin limits its customers: so many points in each window of the clock."""

import math
from dataclasses import dataclass

from sandbox.switches import Quota


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may pass: `remaining` points after it (None: no limit), or `retry_after` whole seconds."""

    remaining: int | None
    retry_after: int | None = None


class PointsWindow:
    """Counts points; a window begins wherever the clock is a multiple of its length."""

    def __init__(self) -> None:
        self._window = -1
        self._spent = 0
        self._quota: Quota | None = None

    def take(self, quota: Quota | None, cost: int, now: float) -> Verdict:
        """
        Spends `cost` points if the window still has them.

        Retry-After is rounded up to whole seconds, so whoever waits that long finds a new window
        (planview_admin.txt, "Working with Rate Limits").
        """
        if quota is None:
            return Verdict(None)
        period = quota.period.total_seconds()
        window = math.floor(now / period)
        if window != self._window or quota != self._quota:
            self._window, self._spent, self._quota = window, 0, quota
        if self._spent + cost > quota.points:
            return Verdict(max(0, quota.points - self._spent), max(1, math.ceil((window + 1) * period - now)))
        self._spent += cost
        return Verdict(quota.points - self._spent)
