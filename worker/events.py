"""
Publish, confirmed: result events, parked copies and dead letters.

One thread with a connection of its own does the publishing, because a publish can block (a full socket, a broker that
throttles), and nothing that blocks may run on the loop. Publishes are pipelined: hundreds wait for their confirms at
once. `publish` returns only when the broker has the message; while the broker is away it waits, and what was not
confirmed is published again after the reconnect. So a message may be published twice, and never not at all.

What the broker refuses it refuses by closing the channel or the connection, without a word which of the messages under
way it means. So those are set aside: a second publisher, with a connection of its own, publishes one after the other,
each as soon as the broker has judged the one before (which it does at once, however late it confirms). The one that
meets the same there is it (`PublishFailed`), and for a while its destination is set aside from the beginning. Nobody
else waits for any of that. It is one file because both are the same thing, and all of each is one thread's.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from amqp import spec
from amqp.exceptions import AMQPError, ChannelError
from kombu import Connection, Exchange, Producer
from kombu.exceptions import OperationalError

from worker import topology

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger("planrelay.events")

WINDOW: Final = 512
"""Messages that may wait for their confirm at once."""

CONFIRM_PATIENCE: Final = 30.0
"""Seconds without a confirm after which the connection is taken for dead."""

GATHER: Final = 0.001
"""Seconds to let messages gather before a turn of publishing: each turn takes the interpreter from the loop."""

HEADER_FRAME: Final = 20
"""Bytes that a header frame has beside the properties."""

WARY: Final = 60.0
"""Seconds for which messages to a destination that was refused are set aside."""

REFUSALS: Final = frozenset({501, 502, 503, 504, 505, 506, 530, 540, 541})
"""Reply codes of a connection that was closed for what was sent on it; the others come with a broker that stops."""

_PUBLISH: Final = (60, 40)
"""`basic.publish`, as the broker names what it closed a channel for."""


class PublishFailed(Exception):
    """The broker refused the message: nothing has it."""


class Unroutable(PublishFailed):
    """The routing key leads to no queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to be published. `mandatory`: an error where no queue takes it."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    mandatory: bool = True


class Bell:
    """Wakes a thread that waits for it in `select`; ringing it again while it rings costs nothing."""

    def __init__(self, reader: socket.socket, writer: socket.socket) -> None:
        self._reader = reader
        self._writer = writer
        self._ringing = False
        reader.setblocking(False)  # noqa: FBT003 - the socket API's own
        writer.setblocking(False)  # noqa: FBT003 - the socket API's own

    def fileno(self) -> int:
        """Give what `select` waits for."""
        return self._reader.fileno()

    def ring(self) -> None:
        """Wake the thread, from any other."""
        if self._ringing:
            return
        self._ringing = True
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"\0")

    def take(self) -> None:
        """Take note of it; whoever rang before this returns has said what for, and the caller looks at that next."""
        with contextlib.suppress(BlockingIOError, OSError):
            while self._reader.recv(4096):
                pass
        # Only now: a ring that came in between would be taken with the others, and hold back all that follow.
        self._ringing = False

    def close(self) -> None:
        """Close it."""
        self._reader.close()
        self._writer.close()


@dataclass(slots=True)
class _Pending:
    message: Outgoing
    confirmed: asyncio.Future[None]
    sent: float = 0.0
    """When it was last published (monotonic)."""
    first: float = 0.0
    """When it was first published."""
    judged: bool = False
    """Whether the broker has taken it, as far as was asked: what is missing is its confirm."""
    returned: bool = False


class Publisher:
    """
    The worker's way to the broker for everything it publishes.

    `systems` are those whose queues are declared (with all the rest of the topology) on every connect; None: nothing is
    declared. `gives_up`: a message that the broker has certainly taken, and whose queue does not confirm it in
    `patience` seconds, is given up as `PublishFailed`; never one that waits for the broker itself. `of` is the
    publisher whose messages this one tries alone.
    """

    def __init__(
        self,
        url: str,
        *,
        systems: Sequence[str] | None,
        options: Mapping[str, Any] | None = None,
        name: str = "planrelay",
        gives_up: bool = False,
        patience: float = CONFIRM_PATIENCE,
        of: Publisher | None = None,
    ) -> None:
        self._url = url
        self._options = dict(options or {})
        self._systems = None if systems is None else tuple(systems)
        self._name = name
        self._gives_up = gives_up
        self._patience = patience
        self._waiting: deque[_Pending] = deque()
        self._of = of
        self._aside: Publisher | None = None
        """Who tries alone what may be refused; from the first time on that anything may."""
        self.wary: dict[tuple[str, str], float] = {} if of is None else of.wary
        """Destinations of which a message was refused, and until when they are set aside."""
        self._last: deque[_Pending] = deque()
        """What waits here for a wary destination, behind everything else."""
        self._trial: _Pending | None = None
        """What the broker has not judged yet, where each message is tried alone."""
        self._asked = False
        """Whether the broker is still to answer that it has judged it."""
        self._open: dict[int, _Pending] = {}
        self._tag = 0
        self._heard = 0.0
        """When the broker last confirmed something."""
        self._proven = 0.0
        """When the latest message was published that it confirmed: it has read all that was published before."""
        self._stopping = False
        self._settled: list[tuple[_Pending, Exception | None]] = []
        self._settle_lock = threading.Lock()
        self._bell = Bell(*socket.socketpair())
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready = threading.Event()
        """Set while connected with the whole topology declared."""
        self.last_error: str | None = None
        self.amqp = False
        self._redeclare = False
        # From the URL and not from the connection: the consumer may have parked copies before this one stands, and a
        # copy whose user is not ours has lost its journey, which makes it look like a leftover.
        self.user = _user(Connection(url, transport_options=self._options))
        """The broker user of this worker (RabbitMQ validates a message's user-id against it); None on Valkey."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; confirms are told to `loop`."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name=f"{self._name}-publisher", daemon=True)
        self._thread.start()

    async def publish(self, message: Outgoing) -> None:
        """
        Publish and wait until the broker has it, however long it is away; raises `Unroutable` or `PublishFailed`.

        Starts the thread where nobody has.
        """
        if self._thread is None:
            self.start(asyncio.get_running_loop())
        pending = _Pending(message, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        self._bell.ring()
        await pending.confirmed

    def redeclare(self) -> None:
        """Declare the topology again before anything else is published: something of it seems to be gone."""
        self._redeclare = True
        self._bell.ring()

    def pending(self) -> int:
        """Messages that are not confirmed yet."""
        own = len(self._waiting) + len(self._last) + len(self._open)
        return own if self._aside is None else own + self._aside.pending()

    def silent(self) -> float:
        """Give the seconds for which a message has waited for its confirm since it was first published."""
        now = time.monotonic()
        own = [*self._open.values(), *self._waiting, *self._last]
        waited = now - min((pending.first for pending in own if pending.first), default=now)
        return waited if self._aside is None else max(waited, self._aside.silent())

    def hand(self, pending: _Pending) -> None:
        """Take over a message from the publisher that this one is set aside for, or the other way round."""
        self._waiting.append(pending)
        self._bell.ring()

    def stop(self, timeout: float = 5.0) -> None:
        """Publish what is waiting if the broker is there, and end the thread."""
        self._stopping = True
        self._bell.ring()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return
        if self._aside is not None:
            self._aside.stop(timeout)
        self._bell.close()

    # From here on: in the thread.

    def _run(self) -> None:
        failures = 0
        while not (self._stopping and (failures or not self.pending())):
            refused = False
            connection = Connection(self._url, transport_options=self._options, heartbeat=20, connect_timeout=5)
            try:
                connection.connect()
                self._declare(connection)
                self.amqp = topology.is_amqp(connection)
                self.user = _user(connection)
                failures = 0
                self.last_error = None
                self.ready.set()
                if self.amqp:
                    self._serve_amqp(connection)
                else:
                    self._serve_virtual(connection)
            except (
                AMQPError,
                OSError,
                OperationalError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as error:
                failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                code, method = getattr(error, "reply_code", None), getattr(error, "method_sig", None)
                refused = bool(self._open) and (code in REFUSALS or method == _PUBLISH)
                log.warning("broker.publisher_lost", reason=self.last_error, pending=self.pending(), failures=failures)
            except Exception as error:  # a library's slip: without this thread everybody would wait for ever
                failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                log.exception("broker.publisher_failed", pending=self.pending(), failures=failures)
            finally:
                self.ready.clear()
                with contextlib.suppress(Exception):
                    connection.collect(socket_timeout=1)
            self._take_back(refused=self.last_error if refused else None)
            if refused:
                failures = 0  # it is told, or set aside
            if failures:
                self._pause(min(5.0, 0.1 * 2 ** min(failures, 6)))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            select.select([self._bell], [], [], left)
            if not self._stopping:
                time.sleep(min(0.05, max(end - time.monotonic(), 0)))
            self._bell.take()

    def _declare(self, connection: Connection) -> None:
        if self._systems is not None:
            with self._patiently(connection):
                topology.declare(connection, self._systems)

    def _patiently(self, connection: Connection) -> contextlib.AbstractContextManager[Any]:
        """Give up (`TimeoutError`) where the broker does not answer: py-amqp itself waits for ever."""
        amqp = topology.is_amqp(connection)
        return connection.connection.transport.having_timeout(self._patience) if amqp else contextlib.nullcontext()

    def _take_back(self, *, refused: str | None = None) -> None:
        """What was not confirmed goes first in line again; where one of them was `refused`, it is told or sought."""
        taken = [self._open[tag] for tag in sorted(self._open)]
        trial, self._trial = self._trial, None
        if refused is not None:
            culprit = trial if self._of is not None else taken[0] if len(taken) == 1 else None
            if culprit is not None:
                taken.remove(culprit)
                self._refuse(culprit, f"The broker refuses it: {refused}")
        again = []
        for pending in taken:
            pending.returned = False
            if self._of is not None and pending.judged:
                self._of.hand(pending)  # an innocent one, that needs no second trial
            elif self._of is None and refused is not None:
                self._set_aside(pending)
            else:
                again.append(pending)
        self._waiting.extendleft(reversed(again))
        self._open.clear()
        self._tell()

    def _set_aside(self, pending: _Pending) -> None:
        if self._aside is None:
            self._aside = Publisher(
                self._url,
                systems=None,
                options=self._options,
                name=f"{self._name}-aside",
                gives_up=self._gives_up,
                patience=self._patience,
                of=self,
            )
            if self._loop is not None:
                self._aside.start(self._loop)
        self._aside.hand(pending)

    def _refuse(self, pending: _Pending, reason: str) -> None:
        now = time.monotonic()
        out = pending.message
        for where, until in list(self.wary.items()):
            if until <= now:
                self.wary.pop(where, None)
        self.wary[out.exchange, out.routing_key] = now + WARY
        log.warning("broker.refused", exchange=out.exchange, routing_key=out.routing_key, reason=reason)
        self._settle(pending, PublishFailed(reason))

    def _serve_amqp(self, connection: Connection) -> None:
        raw = connection.connection
        # Else amqp looks before each publish whether the broker has said "blocked": it reads no more then, and we wait.
        raw.client_properties["capabilities"]["connection.blocked"] = False
        channel = self._channel(connection)
        beat = time.monotonic()
        while True:
            if self._redeclare:
                self._redeclare = False
                self._declare(connection)
            try:
                self._publish_next(channel)
                if self._stopping and not self.pending():
                    return
                self._tell()
                self._await(connection, raw)
            except ChannelError as error:
                if error.method_sig != _PUBLISH:
                    raise
                self._take_back(refused=str(error))
                channel.collect()
                channel = self._channel(connection)
            now = time.monotonic()
            self._look_for_silence(now)
            if now - beat > 5:
                connection.heartbeat_check(rate=4)
                beat = now

    def _channel(self, connection: Connection) -> Any:
        with self._patiently(connection):
            channel = connection.channel()
            channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        # Once closed, py-amqp would open it again in the middle of reading, with the time-out of a look at what came.
        channel.open = lambda: None
        channel._callbacks[spec.Basic.QosOk] = self._on_judged  # noqa: SLF001 - its public way waits for the answer
        self._tag = 0
        self._asked = False
        self._heard, self._proven = time.monotonic(), 0.0
        return channel

    def _await(self, connection: Connection, raw: Any) -> None:
        """Wait for the broker or the loop, and take in what the broker says."""
        readable, _, _ = select.select([raw.sock, self._bell], [], [], 1.0)
        if self._bell in readable:
            # The loop wakes us for the first of a burst: a moment later there are more, and one turn serves all.
            time.sleep(GATHER)
            self._bell.take()
        if raw.sock in readable:
            with contextlib.suppress(TimeoutError):
                while _has_more(raw.sock):
                    connection.drain_events(timeout=0.0001)

    def _look_for_silence(self, now: float) -> None:
        """Take the connection for dead where no confirm comes at all; what the broker has taken may be given up."""
        oldest = next(iter(self._open.values()), None)
        if oldest is None or now - oldest.sent <= self._patience:
            return
        silent = {tag: each for tag, each in self._open.items() if now - each.sent > self._patience}
        if self._gives_up:
            for tag, pending in list(silent.items()):
                if pending.judged or self._proven - pending.sent > self._patience:
                    del self._open[tag], silent[tag]
                    reason = f"The broker has taken it, and does not confirm it in {self._patience:g} s."
                    log.warning("broker.unconfirmed", routing_key=pending.message.routing_key, reason=reason)
                    self._settle(pending, PublishFailed(reason))
        if silent and now - self._heard > self._patience:
            if self._gives_up and self._of is None:
                for tag, pending in silent.items():  # there the broker is asked whether it has taken them
                    del self._open[tag]
                    self._set_aside(pending)
            message = f"no confirm for {self._patience:.0f} s"
            raise OperationalError(message)

    def _publish_next(self, channel: Any) -> None:
        """Publish what there is, as many as may be under way; where each is tried alone, one at a time."""
        while len(self._open) < WINDOW and not self._asked and (pending := self._next()) is not None:
            self._publish(channel, pending)

    def _next(self) -> _Pending | None:
        while self._waiting:
            pending = self._waiting.popleft()
            message = pending.message
            if self.wary.get((message.exchange, message.routing_key), 0.0) <= time.monotonic():
                return pending
            if self._of is None:
                self._set_aside(pending)
            else:
                self._last.append(pending)
        return self._last.popleft() if self._last else None

    def _on_judged(self) -> None:
        if self._trial is not None:
            self._trial.judged = True
        self._asked, self._trial = False, None

    def _publish(self, channel: Any, pending: _Pending) -> None:
        message = pending.message
        try:
            prepared = channel.prepare_message(
                message.body,
                priority=message.properties.get("priority"),
                content_type=message.properties.get("content_type"),
                content_encoding=message.properties.get("content_encoding"),
                headers=dict(message.headers),
                properties={
                    key: value
                    for key, value in message.properties.items()
                    if key not in {"priority", "content_type", "content_encoding"}
                },
            )
            # Serialised here and once: what fails inside of `basic_publish` would cost the connection, and so would a
            # header frame that is too large, again and again.
            properties = prepared._serialize_properties()  # noqa: SLF001 - py-amqp has no public way
            prepared._serialize_properties = lambda: properties  # noqa: SLF001 - as above
            if len(properties) + HEADER_FRAME > channel.connection.frame_max:
                raise ValueError(f"headers of {len(properties):,} bytes do not fit into a frame")
        except Exception as error:  # noqa: BLE001 - a value that AMQP can't carry is this message's problem alone
            self._settle(pending, PublishFailed(f"The message can't be encoded for AMQP: {error}"))
            return
        self._tag += 1
        pending.sent = time.monotonic()
        pending.first = pending.first or pending.sent
        pending.judged = False
        self._open[self._tag] = pending
        if self._of is not None:
            self._trial, self._asked = pending, True
        channel.basic_publish(
            prepared, exchange=message.exchange, routing_key=message.routing_key, mandatory=message.mandatory
        )
        if self._asked:  # the broker answers this at once: it has judged by then all that was published before
            channel.send_method(spec.Basic.Qos, "lBb", (0, 0, False))

    def _confirm(self, tag: int, multiple: bool, error: Callable[[_Pending], Exception | None]) -> None:  # noqa: FBT001 - as AMQP gives it
        self._heard = time.monotonic()
        tags = [t for t in self._open if t <= tag] if multiple else [tag]
        for each in tags:
            pending = self._open.pop(each, None)
            if pending is not None:
                self._proven = max(self._proven, pending.sent)
                self._settle(pending, error(pending))

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - as AMQP gives it
        self._confirm(tag, multiple, _outcome)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - as AMQP gives it
        self._confirm(tag, multiple, lambda _: PublishFailed("The broker refused the message (nack)."))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:  # noqa: ARG002 - as AMQP gives it
        # A return precedes its confirm and names no tag: the first open message that looks the same is the one.
        for pending in self._open.values():
            out = pending.message
            same = out.exchange == exchange and out.routing_key == routing_key and out.body == _bytes(message.body)
            if same and out.mandatory and not pending.returned:
                pending.returned = True
                return

    def _serve_virtual(self, connection: Connection) -> None:
        channel = connection.channel()
        producer = Producer(channel)
        while True:
            if self._redeclare:
                self._redeclare = False
                self._declare(connection)
            while self._waiting:
                pending = self._waiting.popleft()
                message = pending.message
                pending.sent = time.monotonic()
                self._open[0] = pending
                try:
                    self._publish_virtual(producer, message)
                    error: Exception | None = None
                except (LookupError, ValueError) as refused:
                    error = Unroutable(f"{message.exchange}/{message.routing_key} leads to no queue: {refused}")
                self._settle(self._open.pop(0), error)
                if len(self._settled) >= 32:
                    self._tell()
            self._tell()
            if self._stopping:
                return
            select.select([self._bell], [], [], 1.0)
            self._bell.take()

    def _publish_virtual(self, producer: Producer, message: Outgoing) -> None:
        properties = dict(message.properties)
        producer.publish(
            message.body,
            exchange=Exchange(message.exchange, type="topic" if message.exchange else "direct", no_declare=True),
            routing_key=message.routing_key,
            headers=dict(message.headers),
            content_type=properties.pop("content_type", None) or "application/octet-stream",
            content_encoding=properties.pop("content_encoding", None) or "utf-8",
            mandatory=message.mandatory,
            declare=[],
            **properties,
        )

    def _settle(self, pending: _Pending, error: Exception | None) -> None:
        if pending is self._trial:
            self._trial = None
        with self._settle_lock:
            self._settled.append((pending, error))

    def _tell(self) -> None:
        if self._settled and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        with self._settle_lock:
            settled, self._settled = self._settled, []
        for pending, error in settled:
            if pending.confirmed.done():
                continue
            if error is None:
                pending.confirmed.set_result(None)
            else:
                pending.confirmed.set_exception(error)


def _user(connection: Connection) -> str | None:
    """Give whom RabbitMQ takes us for: a URL without a user means the transport's own default."""
    if not topology.is_amqp(connection):
        return None
    user: str | None = connection.userid or connection.transport.default_connection_params.get("userid")
    return user


def _outcome(pending: _Pending) -> Exception | None:
    if not pending.returned:
        return None
    out = pending.message
    return Unroutable(f"The routing key {out.routing_key!r} of exchange {out.exchange!r} leads to no queue.")


def _has_more(sock: socket.socket) -> bool:
    """Tell whether there is something to read; under TLS it may have been taken off the wire already."""
    return bool(isinstance(sock, ssl.SSLSocket) and sock.pending()) or bool(select.select([sock], [], [], 0)[0])


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)
