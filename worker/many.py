"""
Many small pieces of work of one command, several side by side.

What stands against the whole connection (a closed gate, refused credentials) ends the work at once. Pieces that failed
are left for later while the others go on; a vendor that fails many in a row is left in peace. Afterwards
`raise_failures` gives the command the fate that fits: work that got further is no failed attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from worker.errors import RelayError, TransportError, Unavailable
from worker.run import Postpone

if TYPE_CHECKING:
    from worker.run import Run

SIDE_BY_SIDE: Final = 8
"""Requests of one command in flight; the connection's own limit holds besides."""

PATIENCE: Final = 2 * SIDE_BY_SIDE
"""Failures in a row after which the vendor is left in peace: the command is tried again later as a whole."""

REFUSED_SHARE: Final = 0.4
REFUSED_LEAST: Final = 20

T = TypeVar("T")


def too_many(refused: int, tried: int) -> bool:
    """Tell whether so many of those tried were refused that a run stops itself (`quarantined`)."""
    return refused >= REFUSED_LEAST and refused > REFUSED_SHARE * tried


class Many(Generic[T]):
    """Does pieces of work; afterwards `failures` has those that may be tried again."""

    def __init__(self, run: Run, *, total: int, done: int = 0) -> None:
        """`total` and `done` are for the progress that `planrelay show` tells."""
        self._run = run
        self._total = total
        self._done = done
        self.halted = False
        self.failures: list[tuple[T, RelayError]] = []
        self._waits: list[Postpone] = []
        self._in_a_row = 0
        self._got_on = False

    @property
    def left(self) -> int:
        """How many are not done yet."""
        return self._total - self._done

    @property
    def open(self) -> bool:
        """Whether some failed, or have to wait, and may be tried again."""
        return bool(self.failures or self._waits)

    def halt(self) -> None:
        """Begin nothing more."""
        self.halted = True

    async def each(self, jobs: Iterable[T], do: Callable[[T], Awaitable[int]]) -> None:
        """
        Do all; `do` gives how many things it got done, and raises what it can't settle itself.

        Raises what ends the work at once, as soon as everything in flight has ended.
        """
        queue = iter(jobs)
        ends = await asyncio.gather(*(self._work(queue, do) for _ in range(SIDE_BY_SIDE)), return_exceptions=True)
        raised = [end for end in ends if isinstance(end, BaseException)]
        for error in raised:
            if isinstance(error, RelayError):
                raise error
        if raised:
            raise raised[0]

    async def raise_failures(self) -> None:
        """Raise the failure that a later attempt may overcome, if there was any."""
        if self.failures:
            errors = [error for _, error in self.failures]
            worst = max(errors, key=lambda error: getattr(error, "after", None) or timedelta(0))
            raise await self._run.unfinished(worst, left=self.left) if self._got_on else worst
        if self._waits:
            raise max(self._waits, key=lambda postponed: postponed.wait)

    async def _work(self, queue: Iterator[T], do: Callable[[T], Awaitable[int]]) -> None:
        for job in queue:
            if self.halted:
                return
            try:
                await self._run.breathe()
                done = await do(job)
            except (TransportError, Unavailable) as error:
                self.failures.append((job, error))
                self._in_a_row += 1
                self.halted |= self._in_a_row >= PATIENCE
            except Postpone as postponed:
                if postponed.reason != "unresolved":
                    self.halted = True
                    raise
                self._waits.append(postponed)  # this one alone has to wait: what it sent may still be running
            except BaseException:
                self.halted = True
                raise
            else:
                self._in_a_row = 0
                self._got_on |= done > 0
                self._done += done
                self._run.progress(self._done, self._total)
