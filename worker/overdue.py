"""
Parked copies that are due and do not come.

A copy that is due in the moment RabbitMQ starts finds its queue not there yet, and RabbitMQ tries again only after its
`dead_letter_worker_publisher_confirm_timeout`, three minutes by default. So each worker remembers for a while what it
has parked. What nobody has taken up some seconds after its time, though this worker has nothing else to do, is
published once more, of the same generation: a run of either copy makes the other stale, or the ledger answers it. A
memory that is lost with its worker costs those minutes and no command.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from worker.events import PublishFailed
from worker.ledger import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.delivery import Delivery
    from worker.message import Command

log = structlog.get_logger("planrelay.parking")

LATE: Final = 10.0
"""Seconds after its time from which a copy is looked for."""

QUIET: Final = 5
"""Seconds in a row in which this worker must have had room: else a copy may simply wait in its queue."""

SHORTEST: Final = timedelta(seconds=1)
"""A shorter wait does not lead through the ladder."""

LONGEST: Final = timedelta(minutes=15)
FORGOTTEN: Final = 300.0
"""Seconds after its time from which a copy is the broker's affair alone."""

MOST: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024
AT_ONCE: Final = 200


class Books(Protocol):
    """Who knows what was taken up (`worker.ledger.Ledger`)."""

    async def waiting(self, copies: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Say of each copy (key, generation, run) whether its command waits for it."""


class Overdue:
    """What one worker has parked and not seen taken up."""

    def __init__(
        self, ledger: Books, republish: Callable[[Delivery, Command], Awaitable[None]], *, room: Callable[[], bool]
    ) -> None:
        """`room`: whether this worker could take more commands if there were any."""
        self._ledger = ledger
        self._republish = republish
        self._room = room
        self._noted: list[tuple[float, int, Delivery, Command]] = []
        self._bytes = 0
        self._numbers = itertools.count()
        self._quiet = 0

    def note(self, delivery: Delivery, wait: timedelta, command: Command) -> None:
        """Remember a copy that was put away for `wait`, as far as there is room."""
        if not SHORTEST <= wait <= LONGEST or len(self._noted) >= MOST or self._bytes > MOST_BYTES:
            return
        due = asyncio.get_running_loop().time() + wait.total_seconds()
        heapq.heappush(self._noted, (due, next(self._numbers), delivery, command))
        self._bytes += len(delivery.body)

    async def watch(self) -> None:
        """Look each second, for ever."""
        while True:
            await asyncio.sleep(1)
            self._quiet = self._quiet + 1 if self._room() else 0
            now = asyncio.get_running_loop().time()
            self._take(now - FORGOTTEN)
            if self._quiet >= QUIET and (late := self._take(now - LATE, AT_ONCE)):
                await self._look(late)

    def _take(self, due: float, most: int = MOST) -> list[tuple[Delivery, Command]]:
        taken: list[tuple[Delivery, Command]] = []
        while self._noted and self._noted[0][0] <= due and len(taken) < most:
            _, _, delivery, command = heapq.heappop(self._noted)
            self._bytes -= len(delivery.body)
            taken.append((delivery, command))
        return taken

    async def _look(self, late: list[tuple[Delivery, Command]]) -> None:
        copies = [(command.key, each.journey.generation, each.journey.run) for each, command in late]
        try:
            waiting = await self._ledger.waiting(copies)
        except StoreAway:
            return
        for (delivery, command), waits in zip(late, waiting, strict=True):
            if waits:
                log.warning("parking.overdue", command_id=command.id, type=command.type, connection=command.connection)
                again = delivery.moved(not_before=None)  # of its generation: whoever parks first makes the other stale
                with contextlib.suppress(PublishFailed):  # it is the broker's affair, as before
                    await self._republish(again, command)
