"""
Celery's consumer, taught to take plain CloudEvents off the same queues as Celery's own messages.

A CloudEvent becomes a Celery request in memory: same message, same acknowledgement, no second hop. What is no command
(stock Celery 5.7 dies of some of it and silently loses other) is answered and dead-lettered with its bytes untouched.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Final

import structlog
from kombu import compression
from vine import promise as vine_promise

from worker.delivery import Delivery
from worker.errors import BadCommand
from worker.pool import LoopConsumer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future

    from kombu import Message

    from worker.admission import Ticket
    from worker.task import Engine

log = structlog.get_logger("planrelay.consumer")
logger = logging.getLogger("planrelay.consumer")

LONGEST_PAUSE: Final = 4.0
"""Seconds between two tries to reach the broker, at most."""


for _compression in compression.encoders():
    # kombu unpacks whatever a `compression` header names before anybody can look: a bomb, and the end of "untouched".
    # A body that stays as it came is refused like any other that is no JSON.
    compression.register(None, lambda body: body, _compression)


class Admitted:
    """A command as Celery's strategy expects a message: one whose body is read already."""

    __slots__ = (
        "_message",
        "body",
        "content_encoding",
        "content_type",
        "delivery_info",
        "headers",
        "payload",
        "properties",
    )

    def __init__(self, message: Message, ticket: Ticket) -> None:
        command = ticket.command
        self.headers = {
            "task": command.type,
            "id": command.id,
            "root_id": command.id,
            # What Celery shows of a task's arguments (inspect, events, logs) must hold nothing personal.
            "argsrepr": "()",
            "kwargsrepr": f"{{'connection': {command.connection!r}}}",
            "ticket": ticket,
        }
        # "args" in the payload is how Celery knows a body that is decoded already.
        self.payload = {"args": (), "kwargs": {"connection": command.connection, "data": dict(command.data)}}
        self.body = b""
        self.content_type = "application/json"
        self.content_encoding = "utf-8"
        self.properties = {"correlation_id": command.id}
        self.delivery_info = message.delivery_info


class Consumer(LoopConsumer):
    """Consumes work queues; hands commands to Celery and everything else to the engine's `refuse`."""

    class Blueprint(LoopConsumer.Blueprint):
        """Without mingle and gossip (they block the loop for nothing we need) and Celery's own delayed delivery."""

        default_steps: ClassVar[list[str]] = [
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.mingle:Mingle",
            "celery.worker.consumer.events:Events",
            "celery.worker.consumer.heart:Heart",
            "celery.worker.consumer.control:Control",
            "celery.worker.consumer.tasks:Tasks",
            "celery.worker.consumer.consumer:Evloop",
            "celery.worker.consumer.agent:Agent",
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["without_mingle"] = True
        kwargs["without_gossip"] = True
        super().__init__(*args, **kwargs)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long the broker is away, and soon once it is back (kombu's own pause grows to 30 s)."""
        conn.ensure_connection = functools.partial(conn.ensure_connection, interval_max=LONGEST_PAUSE)
        return super().ensure_connected(conn)

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """
        Connect for Celery's own events, which nobody waits for.

        With confirms, each heartbeat of the worker (every 2 s) would hold the loop up until the broker has answered.
        """
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": False}
        return self.ensure_connected(connection)

    @property
    def engine(self) -> Engine:
        """The process's engine, made when the pool started."""
        return self.app.host.engine  # type: ignore[no-any-return] # Celery's attribute, our app

    def create_task_handler(self, promise: Callable[..., Any] = vine_promise) -> Callable[[Message], None]:
        """Give the callback for each message: never raises, so that no message can end the worker."""
        engine = self.engine

        def on_message(message: Message) -> None:
            delivery = Delivery.of(message, now=engine.now(), user=engine.publisher.user, amqp=engine.amqp)
            try:
                ticket = engine.admission.read(delivery)
                strategy = self.strategies[ticket.command.type]
            except BadCommand as error:
                self._refuse(message, delivery, error)
                return
            except Exception as error:
                log.exception("consumer.unreadable")
                self._refuse(message, delivery, BadCommand(f"The message could not be read: {type(error).__name__}."))
                return
            ack = promise(self.call_soon_ack, (message.ack_log_error,))
            reject = promise(self.call_soon_ack, (message.reject_log_error,))
            strategy(Admitted(message, ticket), None, ack, reject, self.on_task_message)

        return on_message

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Refuse what kombu can't decode (an unheard-of `compression`); stock Celery acknowledges and loses it."""
        engine = self.engine
        delivery = Delivery.of(message, now=engine.now(), user=engine.publisher.user, amqp=engine.amqp)
        error = BadCommand(f"The message could not be decoded: {type(exc).__name__}.")
        try:  # for its sender, who is to be answered
            error.command = engine.admission.read(delivery).command  # type: ignore[attr-defined] # carried to `refuse`
        except BadCommand as better:
            error = better
        except Exception:
            log.exception("consumer.unreadable")
        self._refuse(message, delivery, error)

    def _refuse(self, message: Message, delivery: Delivery, error: BadCommand) -> None:
        """Answer and dead-letter on the loop; acknowledge when that is confirmed."""

        def settled(done: Future[None] | asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:  # else the broker delivers it again
                self.call_soon_ack(message.ack_log_error, logger, self.connection_errors)

        self.app.host.spawn(self.engine.refuse(delivery, error), settled)
