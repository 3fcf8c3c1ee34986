"""
The two places where a parked command waits: RabbitMQ's delayed-delivery ladder, or the state store beside the queues.

Either way a park is confirmed when `park` returns, and no worker holds the command.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker import parking, topology
from worker.overdue import Overdue

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.delivery import Delivery
    from worker.ledger import Ledger
    from worker.message import Command
    from worker.store import Store
    from worker.telling import Publishing


class Ladder:
    """Parking on RabbitMQ: a copy that comes back through the delayed-delivery ladder."""

    def __init__(self, publisher: Publishing, ledger: Ledger, *, room: Callable[[], bool]) -> None:
        """`room`: whether this worker could take more commands if there were any."""
        self._publisher = publisher
        self._overdue = Overdue(ledger, self._publish, room=room)

    async def park(self, delivery: Delivery, wait: timedelta, command: Command) -> None:
        """Put the copy away for `wait`; returns when the broker has confirmed it."""
        await self._publish(delivery, command, wait)
        self._overdue.note(delivery, wait, command)

    async def _publish(self, delivery: Delivery, command: Command, wait: timedelta = timedelta(0)) -> None:
        await self._publisher.publish(delivery.parked(wait, key=command.type, user=self._publisher.user))

    def rhythm(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        """Give what must run beside: the watch for what is due and does not come."""
        return [loop.create_task(self._overdue.watch())]


class Shelf:
    """Parking on Valkey: a copy in the store that any worker puts back into its queue when it is due."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def park(self, delivery: Delivery, wait: timedelta, command: Command) -> None:
        """Put the copy away for `wait`; returns when the store has it."""
        copy = delivery.parked(timedelta(0), key=command.type, user=None)
        queue = topology.queue_of(command.type)
        await parking.park(self._store, copy, key=command.key, queue=queue, wait=wait)

    def rhythm(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        """Give what must run beside: the mover of what is due."""
        return [loop.create_task(parking.mover(self._store, asyncio.Event()))]
