"""
Parked copies that are due and do not come.

A copy that is due in the moment RabbitMQ starts finds its queue not there yet, and RabbitMQ tries again only after its
`dead_letter_worker_publisher_confirm_timeout`, three minutes by default. So each worker remembers for a while what it
has parked. Some seconds after its time it asks the ledger who took it up, and forgets it if somebody has. What nobody
has, though this worker has nothing else to do, is published once more, of the same generation: a run of either copy
makes the other stale, or the ledger answers it. A memory that is lost with its worker costs those minutes and no
command.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from dataclasses import dataclass, field, replace
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

AGAIN: Final = 5.0
"""Seconds after which one that waits, as this worker has no room or the ledger doesn't answer, is looked for again."""

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


@dataclass(frozen=True, slots=True, order=True)
class _Noted:
    look: float
    number: int
    due: float = field(compare=False)
    delivery: Delivery = field(compare=False)
    command: Command = field(compare=False)


class Overdue:
    """What one worker has parked and not seen taken up."""

    def __init__(
        self, ledger: Books, republish: Callable[[Delivery, Command], Awaitable[None]], *, room: Callable[[], bool]
    ) -> None:
        """`room`: whether this worker could take more commands if there were any."""
        self._ledger = ledger
        self._republish = republish
        self._room = room
        self._noted: list[_Noted] = []
        self._bytes = 0
        self._numbers = itertools.count()
        self._quiet = 0

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, delivery: Delivery, wait: timedelta, command: Command) -> None:
        """Remember a copy that was put away for `wait`, as far as there is room."""
        if not SHORTEST <= wait <= LONGEST or len(self._noted) >= MOST or self._bytes > MOST_BYTES:
            return
        due = asyncio.get_running_loop().time() + wait.total_seconds()
        self._keep(_Noted(due + LATE, next(self._numbers), due, delivery, command))

    async def watch(self) -> None:
        """Look each second, for ever."""
        while True:
            await asyncio.sleep(1)
            self._quiet = self._quiet + 1 if self._room() else 0
            if late := self._take(asyncio.get_running_loop().time()):
                await self._look(late)

    def _keep(self, noted: _Noted) -> None:
        heapq.heappush(self._noted, noted)
        self._bytes += len(noted.delivery.body)

    def _take(self, now: float) -> list[_Noted]:
        taken: list[_Noted] = []
        while self._noted and self._noted[0].look <= now and len(taken) < AT_ONCE:
            taken.append(heapq.heappop(self._noted))
            self._bytes -= len(taken[-1].delivery.body)
        return [noted for noted in taken if now < noted.due + FORGOTTEN]

    async def _look(self, late: list[_Noted]) -> None:
        copies = [(each.command.key, each.delivery.journey.generation, each.delivery.journey.run) for each in late]
        try:
            waiting = await self._ledger.waiting(copies)
        except StoreAway:
            waiting = [True] * len(late)
            self._quiet = 0  # without the ledger nobody can tell
        for noted, waits in zip(late, waiting, strict=True):
            if not waits:
                continue
            if self._quiet < QUIET:  # it may just stand in its queue
                self._keep(replace(noted, look=asyncio.get_running_loop().time() + AGAIN))
                continue
            command = noted.command
            log.warning("parking.overdue", command_id=command.id, type=command.type, connection=command.connection)
            # Of its generation: whoever parks first makes the other stale.
            again = noted.delivery.moved(not_before=None)
            with contextlib.suppress(PublishFailed):  # it is the broker's affair, as before
                await self._republish(again, command)
