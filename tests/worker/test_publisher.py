"""The publisher before a broker that is slow to confirm, or silent: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from amqp import spec
from amqp.exceptions import ChannelError, error_for_code

from worker import events
from worker.events import Outgoing, Publisher, PublishFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 0.5


class Broker:
    """A broker as the publisher sees it: takes what it is given at once, and confirms while it is `confirming`."""

    def __init__(self) -> None:
        self.confirming = True
        self.reading = True
        """Whether it takes anything: in an alarm it leaves all of it in the socket."""
        self.taken: list[bytes] = []
        self.connections = 0
        self._owed: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def confirm(self, confirm: Callable[[], None]) -> None:
        """Send a confirm, now or when it is asked to go on."""
        with self._lock:
            if not self.confirming:
                self._owed.append(confirm)
                return
        confirm()

    def go_on(self) -> None:
        """Read again, and confirm everything."""
        with self._lock:
            self.confirming = self.reading = True
            owed, self._owed = self._owed, []
        for confirm in owed:
            confirm()


class Raw:
    """The wire: what the broker says, in order."""

    def __init__(self) -> None:
        self.client_properties: dict[str, Any] = {"capabilities": {}}
        self.frame_max = 131072
        self.transport = mock.Mock(having_timeout=contextlib.nullcontext)
        self.sock, self._broker_end = socket.socketpair()
        self._said: deque[Callable[[], None]] = deque()

    def say(self, frame: Callable[[], None]) -> None:
        """Send a frame to the publisher."""
        self._said.append(frame)
        with contextlib.suppress(OSError):
            self._broker_end.send(b"x")

    def drain(self) -> None:
        """Take in one frame."""
        self.sock.recv(1)
        self._said.popleft()()

    def close(self) -> None:
        """End it."""
        self.sock.close()
        self._broker_end.close()


class Channel:
    """A channel, which the broker closes over the first message for the exchange `nowhere`."""

    def __init__(self, broker: Broker, raw: Raw) -> None:
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self._callbacks: dict[Any, Callable[..., None]] = {}
        self.connection = raw
        self._broker = broker
        self._tag = 0
        self._closed = False

    def confirm_select(self) -> None:
        """Confirm is all it does."""

    def prepare_message(self, body: bytes, **_: Any) -> mock.Mock:
        """Make a message."""
        message = mock.Mock(body=body)
        message._serialize_properties = lambda: b""  # noqa: SLF001 - as py-amqp names it
        return message

    def basic_publish(self, message: Any, *, exchange: str, **_: Any) -> None:
        """Take a message."""
        if self._closed or not self._broker.reading:
            return
        self._tag += 1
        tag = self._tag
        if exchange == "nowhere":
            self._closed = True
            self.connection.say(self._close)
            return
        self._broker.taken.append(message.body)
        self._broker.confirm(lambda: self.connection.say(lambda: self._ack(tag)))

    def _close(self) -> None:
        """Hear that the broker has closed it, as py-amqp does."""
        self.open()
        raise error_for_code(404, "NOT_FOUND", spec.Basic.Publish, ChannelError)

    def open(self) -> None:
        """Open it again: there is no time for that in the middle of reading."""
        raise TimeoutError

    def _ack(self, tag: int) -> None:
        for hear in list(self.events["basic_ack"]):
            hear(tag, False)

    def send_method(self, method: Any, *_: Any) -> None:
        """Answer what has an answer."""
        if method == spec.Basic.Qos and not self._closed and self._broker.reading:
            self.connection.say(self._callbacks[spec.Basic.QosOk])

    def collect(self) -> None:
        """Say no more."""
        self._closed = True
        self.events.clear()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """Give a broker that every publisher finds."""
    broker = Broker()

    class Connection:
        connection_errors = channel_errors = ()
        userid = "guest"

        def __init__(self, *_: Any, **__: Any) -> None:
            self.transport = mock.Mock(driver_type="amqp")

        def connect(self) -> None:
            broker.connections += 1
            self.connection = Raw()

        def channel(self) -> Channel:
            return Channel(broker, self.connection)

        def heartbeat_check(self, rate: int) -> None:
            """Nothing is heard from it."""

        def drain_events(self, **_: Any) -> None:
            self.connection.drain()

        def collect(self, **_: Any) -> None:
            self.connection.close()

    monkeypatch.setattr(events, "Connection", Connection)
    yield broker
    broker.go_on()


def message(body: str, exchange: str = "fine") -> Outgoing:
    """Make a message."""
    return Outgoing(exchange=exchange, routing_key="x", body=body.encode(), mandatory=False)


async def until(true: Callable[[], bool]) -> None:
    """Wait for it; a publisher that doesn't come to it fails the test."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


def run(publisher: Publisher, story: Callable[[Publisher], Any]) -> None:
    """Let a story happen."""
    try:
        asyncio.run(story(publisher))
    finally:
        publisher.stop()


def test_a_refused_message_is_found_however_late_the_broker_confirms(broker: Broker) -> None:
    """Nothing is confirmed at all: the last of a hundred is told, the others and a later one are published."""
    broker.confirming = False

    async def story(publisher: Publisher) -> None:
        fine = [asyncio.create_task(publisher.publish(message(f"{number}"))) for number in range(100)]
        bad = asyncio.create_task(publisher.publish(message("bad", "nowhere")))
        async with asyncio.timeout(30):
            with pytest.raises(PublishFailed, match="404"):
                await bad
        later = asyncio.create_task(publisher.publish(message("later")))
        await until(lambda: b"later" in broker.taken and len(broker.taken) >= 201)
        assert not any(each.done() for each in fine)
        broker.go_on()
        async with asyncio.timeout(30):
            await asyncio.gather(*fine, later)

    run(Publisher("amqp://x", systems=None), story)
    assert set(broker.taken) == {b"later", *(f"{number}".encode() for number in range(100))}


def test_nobody_waits_behind_a_destination_that_is_refused(broker: Broker) -> None:
    """Over and over the same is refused, and nothing is confirmed: what others publish is published once."""
    publisher = Publisher("amqp://x", systems=None)

    async def story(publisher: Publisher) -> None:
        with pytest.raises(PublishFailed):
            await publisher.publish(message("bad", "nowhere"))
        broker.confirming = False
        bad = [asyncio.create_task(publisher.publish(message("bad", "nowhere"))) for _ in range(20)]
        fine = [asyncio.create_task(publisher.publish(message(f"{number}"))) for number in range(20)]
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*bad, return_exceptions=True)
        assert {type(answer) for answer in answers} == {PublishFailed}
        await until(lambda: len(broker.taken) >= 20)
        assert sorted(broker.taken) == sorted(f"{number}".encode() for number in range(20))
        broker.go_on()
        async with asyncio.timeout(30):
            await asyncio.gather(*fine)

    run(publisher, story)


def test_how_long_a_message_has_waited_outlasts_the_connections_that_were_given_up(broker: Broker) -> None:
    """Nothing is confirmed: connection after connection is taken for dead, and the wait is one."""
    broker.confirming = False

    async def story(publisher: Publisher) -> None:
        began = time.monotonic()
        waiting = asyncio.create_task(publisher.publish(message("x")))
        await until(lambda: broker.connections >= 4)
        await until(publisher.ready.is_set)
        assert publisher.silent() > 3 * PATIENCE
        assert publisher.silent() <= time.monotonic() - began
        broker.go_on()
        async with asyncio.timeout(30):
            await waiting
        assert publisher.silent() == 0.0

    run(Publisher("amqp://x", systems=None, patience=PATIENCE), story)


def test_a_broker_that_reads_nothing_is_waited_for(broker: Broker) -> None:
    """An alarm, after something was confirmed: no queue is given up for it, and it is all published in the end."""

    async def story(publisher: Publisher) -> None:
        await publisher.publish(message("before"))
        broker.reading = False
        waiting = [asyncio.create_task(publisher.publish(message(f"{number}"))) for number in range(3)]
        await until(lambda: broker.connections >= 7)
        assert not any(each.done() for each in waiting)
        broker.go_on()
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)

    run(Publisher("amqp://x", systems=None, patience=PATIENCE, gives_up=True), story)


def test_a_queue_that_confirms_nothing_is_given_up_though_nobody_else_publishes(broker: Broker) -> None:
    """The broker has taken the message and says so: its queue is what is silent."""
    broker.confirming = False

    async def story(publisher: Publisher) -> None:
        async with asyncio.timeout(30):
            with pytest.raises(PublishFailed, match="does not confirm"):
                await publisher.publish(message("x"))

    run(Publisher("amqp://x", systems=None, patience=PATIENCE, gives_up=True), story)
