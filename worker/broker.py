"""
The broker as an operator sees it: how full the queues are, and what of our topology is missing or differs.

Nothing here changes anything: what exists is asked for passively, and only what exists is declared once more, which a
broker answers with what differs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE, level_name

from worker import topology

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_PATIENCE: Final = 5
"""Seconds until a broker that does not answer is given up."""

_REASON: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*?: received (?P<ours>.+?) but current is (?P<theirs>.+)$"
)
_TYPED: Final = re.compile(r"the value (.+) of type '\w+'")


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a queue is: messages that wait (not those that a worker holds), and who reads it."""

    queue: str
    messages: int
    consumers: int | None
    """None where the broker doesn't know: Valkey."""


@contextlib.contextmanager
def connected(url: str, options: Mapping[str, Any]) -> Iterator[Connection]:
    """Connect to the broker for a moment; raises `ConnectionError` where it does not answer, or not to the end."""
    connection = Connection(url, transport_options=dict(options), connect_timeout=CONNECT_PATIENCE)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        yield connection
    except (OperationalError, *connection.connection_errors) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
    finally:
        connection.release()


def depths(connection: Connection, systems: Sequence[str]) -> list[Depth]:
    """Say how full each of our queues is; one that no worker has declared yet is left out."""
    amqp = topology.is_amqp(connection)
    names = [queue.name for queue in topology.work_queues(systems, amqp=amqp)]
    found = (depth(connection, name) for name in [*names, topology.DEAD])
    return [each for each in found if each is not None]


def depth(connection: Connection, queue: str) -> Depth | None:
    """Say how full a queue is; None: there is no such queue."""
    with _channel(connection) as channel:
        try:
            declared = channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return None
    return Depth(
        queue, int(declared.message_count), int(declared.consumer_count) if topology.is_amqp(connection) else None
    )


def on_the_ladder(connection: Connection) -> int:
    """Count what waits in RabbitMQ's delayed-delivery queues, which other Celery applications of the broker share."""
    found = (depth(connection, level_name(level)) for level in range(MAX_NUMBER_OF_BITS_TO_USE))
    return sum(each.messages for each in found if each is not None)


def differences(connection: Connection, systems: Sequence[str]) -> list[str] | None:
    """
    Say what of the topology is missing on the broker or has other arguments there, one sentence each.

    None: there is no queue of ours at all, because no worker has been there yet. Bindings can't be asked for over AMQP;
    workers make them whenever they connect.
    """
    plan = _Plan(connection)
    topology.declare(plan, systems)
    if not depths(connection, systems):
        return None
    found = (declared.difference(connection) for declared in plan.declared)
    return list(dict.fromkeys(sentence for sentence in found if sentence is not None))


@dataclass(frozen=True, slots=True)
class _Declared:
    """One exchange or queue, as `worker.topology` would declare it."""

    what: str
    name: str
    arguments: Mapping[str, Any]

    def difference(self, connection: Connection) -> str | None:
        """Compare it with what the broker has; Valkey keeps no exchanges, and no arguments to compare."""
        amqp = topology.is_amqp(connection)
        if self.what == "exchange" and not amqp:
            return None
        with _channel(connection) as channel:
            try:
                self._declare(channel, passive=True)
            except connection.channel_errors:
                return f"{self.what} {self.name} is missing; start a worker, which declares it"
        if not amqp:
            return None
        with _channel(connection) as channel:
            try:
                self._declare(channel, passive=False)
            except connection.channel_errors as error:
                empty = "when it is empty, " if self.what == "queue" else ""
                return (
                    f"{self.what} {self.name} {_said(str(error))}; "
                    f"delete it {empty}then start a worker, which declares it anew"
                )
        return None

    def _declare(self, channel: Any, *, passive: bool) -> None:
        declare = channel.exchange_declare if self.what == "exchange" else channel.queue_declare
        declare(**{**self.arguments, "passive": passive, "nowait": False})


def _said(error: str) -> str:
    found = _REASON.search(error.strip())
    if found is None:
        return f"differs: {error.strip()}"
    ours, theirs = (_TYPED.sub(r"\1", found[name]) for name in ("ours", "theirs"))
    return f"has {found['name']} {theirs} and this version declares {ours}"


class _Plan:
    """Stands where a connection stands while `worker.topology` declares, and takes down what it would declare."""

    def __init__(self, connection: Connection) -> None:
        self.transport = connection.transport
        self.connection = connection.connection  # of which the topology asks the server's version
        self.declared: list[_Declared] = []

    def channel(self) -> _PlanChannel:
        return _PlanChannel(self)


class _PlanChannel:
    """A channel that declares nothing."""

    is_open = True

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self.connection = self
        self.client = self
        self.transport = plan.transport

    def exchange_declare(self, **arguments: Any) -> None:
        self._plan.declared.append(_Declared("exchange", arguments["exchange"], arguments))

    def queue_declare(self, **arguments: Any) -> Any:
        self._plan.declared.append(_Declared("queue", arguments["queue"], arguments))
        return arguments["queue"], 0, 0

    def prepare_queue_arguments(self, arguments: Any, **_: Any) -> Any:
        return arguments

    def exchange_bind(self, **_: Any) -> None: ...

    def queue_bind(self, **_: Any) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _channel(connection: Connection) -> Iterator[Any]:
    """Open a channel for one question: a broker closes it when the answer is no."""
    channel = connection.channel()
    try:
        yield channel
    finally:
        with contextlib.suppress(*connection.channel_errors, *connection.connection_errors):
            channel.close()
