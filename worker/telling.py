"""
Telling, confirmed: result events, answers and dead letters go out until the broker has them, and are never dropped.

A message is acknowledged only after what it led to is confirmed, so whoever calls here waits; while the broker is away,
for as long as that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol

import structlog

from worker import tracing
from worker.events import Outgoing, PublishFailed, Unroutable
from worker.ledger import StoreAway
from worker.result_event import ResultEvent
from worker.topology import EVENTS

if TYPE_CHECKING:
    from worker.delivery import Delivery
    from worker.errors import RelayError

log = structlog.get_logger("planrelay.command")

ANSWER_TRIES: Final = 3
"""How often an answer is published that its queue refuses."""

PAUSES: Final = (0.1, 10.0)
"""Shortest and longest pause, in seconds, before a refused message is published again."""

_EVENT: Final = {"content_type": "application/cloudevents+json", "delivery_mode": 2}


class Publishing(Protocol):
    """The confirmed way to the broker (`worker.events.Publisher`)."""

    user: str | None

    async def publish(self, message: Outgoing) -> None:
        """Publish and wait for the confirm."""

    def redeclare(self) -> None:
        """Declare the topology again before the next publish."""


class Counting(Protocol):
    """Where it is counted (`worker.telemetry.Metrics`)."""

    def publish_refused(self, to: Literal["exchange", "reply_to"]) -> None:
        """Count a message that the broker did not take."""


class Teller:
    """
    Who tells what became of a command.

    `answers` is a connection of their own: a `reply_to` is the sender's, and RabbitMQ closes the connection for some.
    """

    def __init__(self, publisher: Publishing, answers: Publishing, metrics: Counting) -> None:
        self._publisher = publisher
        self._answers = answers
        self._metrics = metrics
        self.refused: dict[object, str] = {}
        """Why each message that the broker refuses, and that is tried again, was refused last."""

    async def tell(self, event: ResultEvent, delivery: Delivery, *, subject: str, asked: str = "") -> None:
        """Publish a result event, to everybody and to whoever waits for the answer to its own id (`asked`)."""
        with tracing.telling(event.type):
            await self._tell_all(event, delivery, subject=subject, asked=asked or subject)

    async def announce(self, event: ResultEvent, subject: str) -> None:
        """Publish an event to everybody, as one of the command `subject`."""
        properties = {**_EVENT, "message_id": event.id, "correlation_id": subject}
        if self._publisher.user is not None:
            properties["user_id"] = self._publisher.user
        await self.certainly(
            Outgoing(exchange=EVENTS, routing_key=event.type, body=event.body, properties=properties, mandatory=False)
        )

    async def _tell_all(self, event: ResultEvent, delivery: Delivery, *, subject: str, asked: str) -> None:
        everybody = self.announce(event, subject)
        if delivery.reply_to is None or delivery.reply_is_ours:
            await everybody
            return
        await asyncio.gather(everybody, self._answer(event, delivery, asked))

    async def _answer(self, event: ResultEvent, delivery: Delivery, asked: str) -> None:
        correlation = delivery.properties.get("correlation_id") or asked
        reply = Outgoing(
            exchange="",
            routing_key=delivery.reply_to or "",
            body=event.body,
            properties={**_EVENT, "message_id": event.id, "correlation_id": correlation},
        )
        reason, pause = "", PAUSES[0]
        for tries in range(ANSWER_TRIES):
            if tries:
                await asyncio.sleep(pause)
                pause *= 2
            try:
                await self._answers.publish(reply)
            except PublishFailed as error:
                reason = str(error)
                if isinstance(error, Unroutable):  # whoever asked has gone
                    break
            else:
                return
        # The event on planrelay.events is the lasting one: it is out, or will be.
        self._metrics.publish_refused("reply_to")
        log.warning("event.reply_undelivered", reply_to=delivery.reply_to, reason=reason, tries=tries + 1)

    async def bury(self, delivery: Delivery, error: RelayError, *, attempts: int, key: str | None) -> None:
        """Put the message with its reason among the dead letters."""
        await self.certainly(delivery.dead(error, attempts=attempts, key=key, user=self._publisher.user))

    async def certainly(self, message: Outgoing) -> None:
        """Publish a message until the broker has it."""
        await self.insist(lambda: self._publisher.publish(message))

    async def insist(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Publish until the broker has it: a refused message stays unacknowledged here, it is never dropped."""
        pause, longest = PAUSES
        token = object()
        try:
            while True:
                try:
                    await publish()
                except (PublishFailed, StoreAway) as error:
                    self.refused[token] = str(error)
                    self._metrics.publish_refused("exchange")
                    log.error("broker.publish_refused", reason=str(error), again_in_s=pause)  # noqa: TRY400 - no traceback: a fact
                    self._publisher.redeclare()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
                else:
                    return
        finally:
            self.refused.pop(token, None)
