"""What the broker refuses by closing a channel or the whole connection: it costs its own message, and no other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import threading
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from kombu import Connection

from tests.fleet import command, eventually
from worker.events import Outgoing, Publisher, PublishFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox import SandboxThread
    from tests.fleet import Fleet

READ = "planpoint.unit.read"

GARBAGE = "amq.rabbitmq.reply-to." + base64.b64encode(b"no pid").decode() + ".key"
"""Looks like RabbitMQ's own name for who waits: its channel ends over it, and takes the connection along (541)."""

REFUSED = {
    "403": Outgoing(exchange="amq.rabbitmq.trace", routing_key="x", body=b"an internal exchange"),
    "404": Outgoing(exchange="nowhere", routing_key="x", body=b"no such exchange"),
    "406": Outgoing(exchange="amq.direct", routing_key="x", body=b"somebody else's", properties={"user_id": "nobody"}),
    "541": Outgoing(exchange="", routing_key=GARBAGE, body=b"to nobody"),
}


@pytest.fixture
def queue(amqp_url: str) -> Iterator[str]:
    """Give a queue of the test's own."""
    name = f"test-refused-{uuid4().hex[:8]}"
    with Connection(amqp_url) as connection:
        channel = connection.channel()
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        yield name
        channel.queue_delete(name)


def good(queue: str, number: int) -> Outgoing:
    """Make a message that nobody minds."""
    return Outgoing(exchange="", routing_key=queue, body=str(number).encode(), properties={"delivery_mode": 2})


def arrived(url: str, queue: str) -> Counter[int]:
    """Take everything out of a queue; gives how often each came."""
    found: Counter[int] = Counter()
    with Connection(url) as connection:
        channel = connection.channel()
        while message := channel.basic_get(queue, no_ack=True):
            found[int(message.body)] += 1
    return found


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_refused_message_is_found_among_the_others_and_told_alone(amqp_url: str, queue: str, code: str) -> None:
    """Two of three hundred under way at once are refused: those two are told so, the others are published."""
    publisher = Publisher(amqp_url, systems=None)
    messages = [good(queue, number) for number in range(300)]
    messages[100:100] = messages[200:200] = [REFUSED[code]]

    async def publish() -> list[object]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)

    try:
        answers = asyncio.run(publish())
    finally:
        publisher.stop()

    failed = [(message.body, str(error)) for message, error in zip(messages, answers, strict=True) if error is not None]
    assert [body for body, _ in failed] == [REFUSED[code].body] * 2
    assert all(code in reason for _, reason in failed)
    assert sorted(arrived(amqp_url, queue)) == list(range(300))


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_destination_that_was_refused_is_tried_alone_from_then_on(amqp_url: str, queue: str, code: str) -> None:
    """Over and over the same is refused: after the first time nothing else is published twice for it."""
    publisher = Publisher(amqp_url, systems=None)

    async def publish() -> None:
        async with asyncio.timeout(60):
            with pytest.raises(PublishFailed):
                await publisher.publish(REFUSED[code])
            for turn in range(5):
                fine = [publisher.publish(good(queue, 10 * turn + number)) for number in range(10)]
                answers = await asyncio.gather(*fine, publisher.publish(REFUSED[code]), return_exceptions=True)
                assert [type(answer) for answer in answers] == [type(None)] * 10 + [PublishFailed]

    try:
        asyncio.run(publish())
    finally:
        publisher.stop()

    assert arrived(amqp_url, queue) == Counter(range(50))


class Deaf:
    """Forwards to a broker, and keeps its confirm of the first message of each channel to itself."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        self._links: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._links += [client, server]
                for work in (self._there, self._back):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                server.sendall(piece)
            server.shutdown(socket.SHUT_RDWR)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.makefile("rb") as stream:
            while len(head := stream.read(7)) == 7:
                rest = bytearray(stream.read(struct.unpack(">I", head[3:])[0] + 1))
                if head[0] != 1 or self._passes(rest):
                    client.sendall(head + rest)
            client.shutdown(socket.SHUT_RDWR)

    def _passes(self, method: bytearray) -> bool:
        if method[:4] != b"\x00\x3c\x00\x50":  # basic.ack
            return True
        first = struct.unpack(">Q", method[4:12])[0] == 1
        method[12] = 0  # and not for those before it
        return not first


class Frozen(Deaf):
    """Forwards to a broker, and keeps the answer to the first channel that is opened to itself."""

    opened = 0

    def _passes(self, method: bytearray) -> bool:
        if method[:4] != b"\x00\x14\x00\x0b":  # channel.open-ok
            return True
        self.opened += 1
        return self.opened > 1


def test_a_broker_that_stops_in_the_middle_of_a_beginning_is_left(amqp_url: str, queue: str) -> None:
    """Connected, and its channel is never opened: the next connection is tried, and publishes."""
    with Frozen(amqp_url) as frozen:
        publisher = Publisher(frozen.url, systems=None, patience=0.5)

        async def publish() -> None:
            async with asyncio.timeout(20):
                await publisher.publish(good(queue, 1))

        try:
            asyncio.run(publish())
        finally:
            publisher.stop()

    assert frozen.opened == 2
    assert arrived(amqp_url, queue) == Counter([1])


def test_a_destination_that_confirms_nothing_is_given_up_where_that_is_wanted(amqp_url: str, queue: str) -> None:
    """Others are confirmed, this one is not (a queue without its majority): in the end it is told."""
    with Deaf(amqp_url) as deaf:
        publisher = Publisher(deaf.url, systems=None, gives_up=True, patience=1.0)

        async def publish() -> None:
            async with asyncio.timeout(60):
                silent = asyncio.create_task(publisher.publish(good(queue, 0)))
                number = 0
                while not silent.done():
                    number += 1
                    await asyncio.sleep(0.1)
                    if number > 1:
                        await publisher.publish(good(queue, number))
                with pytest.raises(PublishFailed):
                    await silent
                assert number > 5

        try:
            asyncio.run(publish())
        finally:
            publisher.stop()


def test_an_answer_that_the_broker_refuses_holds_up_nothing(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """A reply_to over which RabbitMQ ends the connection: its command and all others are told, and it is counted."""
    fleet = make_fleet(amqp_url)
    (worker,) = fleet.start()
    (unit,) = sandbox.seed("planpoint", "units", count=1)
    commands = [command(READ, "tower", {"id": unit}) for _ in range(60)]
    for number, each in enumerate(commands):
        reply_to = GARBAGE if number % 20 == 0 else None
        fleet.publish(json.dumps(each).encode(), routing_key=READ, reply_to=reply_to)
    for each in commands:
        assert fleet.wait(each["id"])["type"] == f"{READ}.succeeded"

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics") as answer:
            return str(answer.read().decode())

    eventually(lambda: 'planrelay_publishes_refused_total{to="reply_to"} 3.0' in metrics(), what="the metric")
    eventually(lambda: fleet.depth("planrelay.planpoint") == 0, what="the acknowledgements")
    assert "event.reply_undelivered" in worker.log.read_text()
    ids = [event["id"] for event in fleet.events()]
    assert len(ids) == len(set(ids))
