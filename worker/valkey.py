"""
A kombu transport for Valkey and Redis that loses nothing and repeats nothing without need.

kombu's own takes a message off its queue first and notes it as unacknowledged second: a worker killed in between
loses it. It gives messages back by age alone, from one set shared by all: after an hour, and the long-running ones
twice. It drops what no queue takes. Here one script takes and notes; each channel owns what it took until it
acknowledges or falls silent; and a message that no queue takes is an error (`NoRoute`). The layout is in
`worker.queues`; connections, polling, pub/sub and remote control are kombu's.

`register()` once, then use `broker_url(...)`. Transport options, beside kombu's for Redis:

- `lease`: seconds of silence after which a consumer is dead and its messages are given back (default 12: with a beat
  each quarter of it, they run again within about 15 s).
- `event_exchanges`: exchanges whose messages may find no queue (default `planrelay.events`).

Priorities and queue lengths are not supported; of the queue arguments, `x-expires`, `x-dead-letter-exchange` and
`x-dead-letter-routing-key` are. Messages given back carry the header `x-delivery-count`, as RabbitMQ's quorum queues
do.
"""

import base64
import json
import os
import socket
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import redis
import structlog
from kombu.exceptions import ChannelError, InconsistencyError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads

from worker import queues
from worker.owners import Lease
from worker.queues import Delivery

SCHEME: Final = "planrelay"
BATCH: Final = 32
"""Messages taken in one go, at most: a worker's hub is back at its other work soon."""
BATCH_BYTES: Final = 4 * 1024 * 1024
TEMPORARY: Final = 60_000
"""Milliseconds after which an exclusive or auto-delete queue that nobody reads is gone, if it has no `x-expires`."""

log = structlog.get_logger("planrelay.valkey")


class NoRoute(ChannelError, LookupError):
    """No queue takes the message: nothing was published."""

    def __init__(self, exchange: str, routing_key: str) -> None:
        super().__init__(
            f"NO_ROUTE: no queue takes messages of exchange {exchange!r} with routing key {routing_key!r}; "
            "correct the routing key, or start a worker, which declares its queues",
            (60, 40),
            "Basic.publish",
            312,
        )


class QueueGone(redis.ConnectionError):
    """A queue that is being consumed is no longer declared: whoever reconnects declares it again."""


def register() -> None:
    """Make kombu know the scheme `planrelay`."""
    TRANSPORT_ALIASES[SCHEME] = "worker.valkey:Transport"


def broker_url(url: str) -> str:
    """
    Turn the URL of a Valkey or Redis server into the one kombu is to be given.

    Takes `redis://`, `rediss://`, `valkey://`, `valkeys://` and `unix:///path[?db=n]`; raises ValueError for others.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "redis" | "valkey":
            return urlunsplit(parts._replace(scheme=SCHEME))
        case "rediss" | "valkeys":
            asked = [parts.query] if parts.query else []
            query = "&".join(asked if "ssl_cert_reqs=" in parts.query else [*asked, "ssl_cert_reqs=required"])
            return urlunsplit(parts._replace(scheme=SCHEME, query=query))
        case "unix":
            query = f"?{parts.query.replace('db=', 'virtual_host=')}" if parts.query else ""
            return f"{SCHEME}+socket://{parts.netloc}{parts.path}{query}"
    raise ValueError(f"{parts.scheme}:// is not the URL of a Valkey server; use redis://, rediss:// or unix:///path")


class QoS(virtual.QoS):
    """Prefetch and acknowledgement: the server knows what is unacknowledged, this only counts."""

    def ack(self, delivery_tag: Any) -> None:
        """Forget the message; without effect if it has been given back meanwhile."""
        self.channel.settle(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Give the message back, or make it a dead letter where its queue was declared with a place for them."""
        if requeue:
            self.channel.give_back(delivery_tag)
        else:
            self.channel.bury(self._delivered.get(delivery_tag), delivery_tag)
        super().ack(delivery_tag)

    def restore_unacked(self) -> None:
        """Give back everything unacknowledged."""
        for delivery_tag in list(self._delivered):
            self.reject(delivery_tag, requeue=True)

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002 - kombu's signature
        """Give back everything unacknowledged, for the last time."""
        self._on_collect.cancel()
        self.channel.end_lease()


class Channel(kombu_redis.Channel):
    """A channel whose consumers own what they take."""

    QoS = QoS
    supports_batch_publish = False
    priority_steps = (0,)
    socket_timeout = 10.0
    lease = 12.0
    event_exchanges: Iterable[str] = ("planrelay.events",)
    from_transport_options = (
        *virtual.Channel.from_transport_options,
        *("fanout_prefix", "fanout_patterns", "queue_order_strategy"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"),
        *("max_connections", "health_check_interval", "client_name"),
        *("lease", "event_exchanges"),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._pid = os.getpid()
        self._next_tag = 1
        self._undelivered: deque[Delivery] = deque()
        self._no_ack_queues: set[str] = set()
        self._lease: Lease | None = None
        self._scripts: dict[str, Any] = {}
        self._commands: redis.Redis | None = None
        super().__init__(*args, **kwargs)

    # Publishing

    def basic_publish(
        self,
        message: dict[str, Any],
        exchange: str,
        routing_key: str,
        mandatory: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        **_: Any,
    ) -> None:
        """
        Put the message into every queue it is routed to, at once; the server has written it down when this returns.

        Raises NoRoute if there is none and the message is `mandatory`, or persistent and not an event.
        """
        self._inplace_augment_message(message, exchange, routing_key)
        kind = self.typeof(exchange, default="topic").type if exchange else "direct"
        if kind == "fanout":
            self._put_fanout(exchange, message, routing_key)
        elif not self._run(queues.PUT, exchange, routing_key, kind, dumps(message)):
            persistent = message["properties"].get("delivery_mode", 2) == 2
            if mandatory or (persistent and exchange not in self.event_exchanges):
                raise NoRoute(exchange, routing_key)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self._run(queues.PUT, "", queue, "direct", dumps(message))

    # Queues

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        if "\n" in queue:
            raise ValueError(f"queue name {queue!r} contains a newline; choose one without")
        arguments = kwargs.get("arguments") or {}
        dead = None
        if "x-dead-letter-exchange" in arguments:
            dead = [arguments["x-dead-letter-exchange"], arguments.get("x-dead-letter-routing-key", queue)]
        unused = arguments.get("x-expires") or (TEMPORARY if auto_delete or kwargs.get("exclusive") else "")
        if auto_delete:
            self.auto_delete_queues.add(queue)
        self._run(queues.DECLARE, queue, json.dumps(dead) if dead else "", unused)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        with self.conn_or_acquire() as client:
            return bool(client.hexists("planrelay:queues", queue))

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        self._run(queues.DELETE, queue)

    # Consuming

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001 - kombu's signature
        """Begin to consume; what already waits is taken at once."""
        if no_ack:
            self._no_ack_queues.add(queue)
        else:
            self._no_ack_queues.discard(queue)
            self._begin_lease()
        consumer = super().basic_consume(queue, no_ack, *args, **kwargs)
        if queue in self.active_queues:  # not one of pub/sub's
            self._undelivered.extend(self._take([queue], 0, no_ack=self._no_ack_queues))  # rings if something waits
        return consumer

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Take one message, or return None."""
        if not no_ack:
            self._begin_lease()
        for delivery in self._take([queue], 1, no_ack={queue} if no_ack else set()):
            message = self.Message(self._open(delivery), channel=self)
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return message
        return None

    def _brpop_start(self, timeout: float | None = None) -> None:
        active = self.active_queues
        if active:
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            self.client.connection.send_command("BRPOP", *map(queues.bell, active), timeout or self.brpop_timeout)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        # The bell rang, or a second has passed: both mean, have a look.
        waiting = self._queue_cycle.consume(len(self.active_queues))
        if waiting:
            room = BATCH if not self.qos.prefetch_count else min(BATCH, self.qos.can_consume_max_estimate())
            self._undelivered.extend(self._take(waiting, room, no_ack=self._no_ack_queues))
            self._queue_cycle.rotate(waiting[0])
        if not self.deliver_next():
            raise Empty
        # To the hub all of them; drain_events() is to deliver one at a time. A callback that raises leaves the rest.
        while not self.connection.cycle._in_protected_read and self.deliver_next():  # noqa: SLF001 - kombu's two halves
            pass
        return True

    def deliver_next(self) -> bool:
        """Hand over the next message that was taken; return False if there is none."""
        if not self._undelivered:
            return False
        delivery = self._undelivered.popleft()
        if delivery.queue in self.connection._callbacks:  # noqa: SLF001 - kombu's two halves
            self.connection._deliver(self._open(delivery), delivery.queue)  # noqa: SLF001 - the same
        else:  # cancelled by way of another channel
            self.give_back(delivery.tag)
        return True

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        cancelled = super()._basic_cancel(consumer_tag)
        for delivery in [each for each in reversed(self._undelivered) if each.queue == queue]:
            self._undelivered.remove(delivery)
            self.give_back(delivery.tag)
        return cancelled

    def _take(self, waiting: list[str], room: int, *, no_ack: set[str]) -> list[Delivery]:
        turns = [word for queue in waiting for word in (queue, "no_ack" if queue in no_ack else "ack")]
        try:
            answer = self._run(queues.TAKE, self.owner, self._next_tag, room, BATCH_BYTES, *turns)
        except redis.ResponseError as error:
            if str(error).startswith("GONE "):
                raise QueueGone(f"queue {str(error)[5:]} was deleted, or the server emptied") from error
            raise
        taken = queues.deliveries(answer)
        self._next_tag = max([self._next_tag, *(delivery.tag + 1 for delivery in taken)])
        return taken

    def _open(self, delivery: Delivery) -> dict[str, Any]:
        try:
            payload = _sound(loads(delivery.message))
        except Exception:  # noqa: BLE001 - whatever a stranger pushed, the consumer shall see its bytes and decide
            foreign = {"exchange": "", "routing_key": delivery.queue, "content_type": "application/octet-stream"}
            payload = json.loads(queues.envelope(delivery.message, headers={}, properties={}, **foreign))
        properties = payload["properties"]
        properties["delivery_info"]["redelivered"] = delivery.count > 0
        properties["delivery_tag"] = delivery.tag or uuid.uuid4().hex
        if delivery.count:
            payload["headers"]["x-delivery-count"] = delivery.count
        return payload

    # Acknowledging

    def settle(self, tag: Any) -> None:
        """Forget a message for good."""
        if not isinstance(tag, int):  # pub/sub, or taken without acknowledgement: nothing is kept
            return
        self._check_open()
        with self.conn_or_acquire() as client:
            if not client.hdel(f"planrelay:unacked:{self.owner}", tag):
                log.warning("ack.too_late", owner=self.owner, delivery_tag=tag)

    def give_back(self, tag: Any) -> None:
        """Put a message back at the head of its queue."""
        if isinstance(tag, int) and tag:
            self._check_open()
            self._run(queues.RETURN, self.owner, tag)

    def bury(self, message: Any, tag: Any) -> None:
        """Make a message a dead letter of its queue; drop it where the queue has no place for them."""
        if isinstance(tag, int):
            self._check_open()
            letter = dict(message._raw) if message else {}  # noqa: SLF001 - kombu keeps what came in there
            letter["headers"] = {**letter.get("headers", {}), "x-first-death-reason": "rejected"}
            self._run(queues.REJECT, self.owner, tag, dumps(letter))

    def _check_open(self) -> None:
        if self.closed:
            raise redis.ConnectionError("the channel is closed: its unacknowledged messages have been given back")

    def _begin_lease(self) -> None:
        if self._lease is None:
            client = redis.Redis(connection_pool=redis.ConnectionPool(**self._connparams()))
            self._lease = Lease(client, self.owner, float(self.lease))

    def end_lease(self) -> None:
        """Give back everything this channel holds; a forked child has nothing to give back."""
        lease, self._lease = self._lease, None
        if lease and os.getpid() == self._pid:
            lease.end()

    def close(self) -> None:
        """Close; whatever is unacknowledged goes back to its queue."""
        self._in_poll = None  # kombu would wait for the answer, and take messages by it
        self.end_lease()
        self._undelivered.clear()
        if not self.closed:
            with suppress(*self.connection.connection_errors):  # a server that is away forgets its listeners by itself
                for queue in list(self.auto_delete_queues):
                    self.queue_delete(queue)
            self.auto_delete_queues.clear()
        super().close()

    @contextmanager
    def conn_or_acquire(self, client: redis.Redis | None = None) -> Iterator[redis.Redis]:
        """Give the channel's client; kombu makes one for each command, at the price of the command itself."""
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = self._create_client()
        yield client or self._commands

    def _run(self, script: str, *args: Any) -> Any:
        with self.conn_or_acquire() as client:
            if script not in self._scripts:
                self._scripts[script] = client.register_script(script)
            return self._scripts[script](args=args, client=client)


def _sound(payload: dict[str, Any]) -> dict[str, Any]:
    """Give the payload back if kombu can make a message of it; raise if not."""
    properties, headers, info = payload["properties"], payload["headers"], payload["properties"]["delivery_info"]
    encoding, body = properties.get("body_encoding"), payload["body"]
    if not (isinstance(headers, dict) and isinstance(info, dict) and isinstance(body, str)):
        raise TypeError
    if encoding == "base64":
        base64.b64decode(body, validate=True)
    elif encoding not in {None, "utf-8"}:
        raise ValueError
    return payload


class Transport(kombu_redis.Transport):
    """kombu's Redis transport with the channel above."""

    Channel = Channel
    driver_name = "valkey"
    implements = kombu_redis.Transport.implements.extend(batch_publish=False)
    supports_batch_publish = False
    recoverable_connection_errors = tuple(
        error for error in kombu_redis.Transport.connection_errors if error not in (KeyError, InconsistencyError)
    )
    recoverable_channel_errors = ()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, or whatever else came; raise TimeoutError if nothing does."""
        if not any(channel.deliver_next() for channel in list(self.channels)):
            super().drain_events(connection, timeout)

    def close_connection(self, connection: Any) -> None:
        """Close every channel, also after one that could not be closed cleanly."""
        for channel in [*self._avail_channels, *self.channels]:
            with suppress(*self.connection_errors):
                channel.close()
        super().close_connection(connection)
