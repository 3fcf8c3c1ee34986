"""
Every exchange, queue and routing key of planrelay, and how to declare them.

RabbitMQ: quorum queues bound to a topic exchange; what no queue takes falls through an alternate exchange to
`planrelay.unrouted`; dead letters end in `planrelay.dead`. Parked commands wait in the delayed-delivery ladder that
kombu defines (28 exchanges and queues with doubling TTLs, shared with other Celery applications of the broker).

On the embedded Valkey the same names exist, without the alternate exchange; parked commands wait in the state store.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from worker import amqp_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kombu import Connection

amqp_fields.install()  # here, because whoever speaks to a broker knows its topology

COMMANDS: Final = "planrelay.commands"
EVENTS: Final = "planrelay.events"
ALTERNATE: Final = "planrelay.alternate"
UNROUTED: Final = "planrelay.unrouted"
DEAD: Final = "planrelay.dead"
BATCH: Final = "planrelay.batch"

LADDER: Final = level_name(MAX_NUMBER_OF_BITS_TO_USE - 1)
"""Where a parked message enters the delayed-delivery ladder."""

LONGEST_WAIT: Final = timedelta(seconds=2**MAX_NUMBER_OF_BITS_TO_USE - 1)
"""The ladder holds nothing for longer (8.5 years): a key with more digits would lead nowhere at its end."""

DELIVERY_LIMIT: Final = 20
"""How often RabbitMQ delivers a message before it gives up: a backstop behind our own `worker_lost`."""

_QUORUM: Final = {"x-queue-type": "quorum"}


def work_queue(system: str) -> str:
    """Name the queue on which a system's commands wait."""
    return f"planrelay.{system}"


def queue_of(command_type: str) -> str:
    """Name the queue on which a command of this type waits."""
    return BATCH if command_type == BATCH else work_queue(command_type.partition(".")[0])


def commands_exchange(*, amqp: bool) -> Exchange:
    """The topic exchange that publishers use."""
    arguments = {"alternate-exchange": ALTERNATE} if amqp else None
    return Exchange(COMMANDS, type="topic", durable=True, arguments=arguments)


def events_exchange() -> Exchange:
    """The topic exchange on which results are told."""
    return Exchange(EVENTS, type="topic", durable=True)


def work_queues(systems: Iterable[str], *, amqp: bool) -> list[Queue]:
    """The queues that workers read: one per system, one for batches, and on RabbitMQ what fell through."""
    exchange = commands_exchange(amqp=amqp)
    arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    if amqp:
        arguments |= {
            **_QUORUM,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-overflow": "reject-publish",
            "x-dead-letter-strategy": "at-least-once",
        }
    queues = [
        Queue(work_queue(system), exchange, routing_key=f"{system}.#", durable=True, queue_arguments=arguments)
        for system in systems
    ]
    queues.append(Queue(BATCH, exchange, routing_key=BATCH, durable=True, queue_arguments=arguments))
    if amqp:
        alternate = Exchange(ALTERNATE, type="fanout", durable=True)
        queues.append(Queue(UNROUTED, alternate, routing_key="", durable=True, queue_arguments=arguments))
    return queues


def dead_queue(*, amqp: bool, delivery_limit: int | None = None) -> Queue:
    """The dead letters: kept until somebody replays or drops them."""
    arguments: dict[str, Any] | None = None
    if amqp:
        arguments = {**_QUORUM} if delivery_limit is None else {**_QUORUM, "x-delivery-limit": delivery_limit}
    return Queue(DEAD, Exchange("", type="direct"), routing_key=DEAD, durable=True, queue_arguments=arguments)


def declare(connection: Connection, systems: Sequence[str]) -> None:
    """Declare all of it; harmless where it exists, an error of the broker where it exists with other arguments."""
    amqp = is_amqp(connection)
    channel = connection.channel()
    try:
        # The alternate exchange and its queue come first, so that nothing that is published meanwhile finds a gap.
        for queue in reversed(work_queues(systems, amqp=amqp)):
            queue(channel).declare()
        events_exchange()(channel).declare()
        dead = dead_queue(amqp=amqp, delivery_limit=_unlimited(connection) if amqp else None)
        dead(channel).declare()
        if amqp:
            declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
            # Bound by hand, to the four work queues alone: Celery's own step binds every queue, and a catch-all there
            # doubles each parked command.
            any_delay = "*." * MAX_NUMBER_OF_BITS_TO_USE
            for system in systems:
                bound = Queue(work_queue(system), no_declare=True)(channel)
                bound.bind_to(CELERY_DELAYED_DELIVERY_EXCHANGE, routing_key=f"{any_delay}{system}.#")
            Queue(BATCH, no_declare=True)(channel).bind_to(
                CELERY_DELAYED_DELIVERY_EXCHANGE, routing_key=f"{any_delay}{BATCH}"
            )
    finally:
        channel.close()


def is_amqp(connection: Connection) -> bool:
    """Whether the broker is RabbitMQ."""
    return bool(connection.transport.driver_type == "amqp")


def delayed_key(seconds: int, routing_key: str) -> str:
    """Give the routing key that makes the ladder hold a message for whole `seconds` (at least 1)."""
    return str(calculate_routing_key(seconds, routing_key))


def _unlimited(connection: Connection) -> int | None:
    """RabbitMQ 4 gives every quorum queue a delivery limit of 20; -1 lifts it there, and is refused before."""
    properties = getattr(connection.connection, "server_properties", None) or {}
    version = str(properties.get("version", "3"))
    return -1 if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 4 else None
