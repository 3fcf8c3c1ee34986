"""Messages that no well-meaning client publishes, and every broker hands on: the worker answers them and goes on."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import pytest

from tests.fleet import CLOUDEVENT, command, eventually
from worker.events import Outgoing, Publisher, PublishFailed
from worker.topology import COMMANDS, DEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread
    from tests.fleet import Fleet

READ = "planpoint.unit.read"


class RawHeaders(amqp.Message):
    """A message whose header table is given as bytes."""

    def __init__(self, body: bytes, table: bytes) -> None:
        super().__init__(body)
        self.table = table

    def _serialize_properties(self) -> bytes:
        content_type = bytes([len(CLOUDEVENT)]) + CLOUDEVENT.encode()
        return struct.pack(">H", 0x8000 | 0x2000) + content_type + struct.pack(">I", len(self.table)) + self.table


def test_no_property_of_a_message_ends_a_worker(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """Dates beyond the calendar, names, ids, keys that are no UTF-8: run. Packed oddly: told. The worker lives."""
    fleet = make_fleet(amqp_url)
    (worker,) = fleet.start()
    (unit,) = sandbox.seed("planpoint", "units", count=1)

    def body(name: str) -> bytes:
        return json.dumps(command(READ, "tower", {"id": unit}, id=name)).encode()

    tables = {
        "milliseconds": b"\x01aT" + struct.pack(">Q", 1_795_000_000_000),
        "value": b"\x01aS" + struct.pack(">I", 2) + b"\xff\xfe",
        "name": b"\x02\xff\xfeS" + struct.pack(">I", 2) + b"ok",
    }
    with fleet.connection() as connection, connection.channel() as channel:
        for name, table in tables.items():
            channel.basic_publish(RawHeaders(body(name), table), exchange=COMMANDS, routing_key=READ)
    fleet.publish(body("correlation"), routing_key=READ, correlation_id=b"\xff" * 255)
    fleet.publish(body("key"), routing_key=b"planpoint.\xff")  # type: ignore[arg-type] # what no client of ours does
    task = {"task": READ, "id": "packed", "compression": "application/x-unheard-of"}
    fleet.publish(b"[[], {}, {}]", routing_key=READ, content_type="application/json", headers=task)
    assert fleet.wait("packed")["data"]["error"]["kind"] == "bad_command"
    for name in (*tables, "correlation", "key"):
        assert fleet.wait(name)["type"].endswith("succeeded")
    assert worker.process.poll() is None


def test_headers_that_fill_a_frame_cost_nobody_the_connection(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """No copy of such a message could be published: it is refused, and its dead letter carries what fits."""
    fleet = make_fleet(amqp_url)
    (worker,) = fleet.start()
    headers = {"crm-id": "7", **{f"h{n}": "x" * 1000 for n in range(128)}}
    bad = command(READ, "tower", {"id": "a" * 24})
    fleet.publish(json.dumps(bad).encode(), routing_key=READ, headers=headers)
    assert "headers have" in fleet.wait(bad["id"])["data"]["error"]["message"]
    (letter,) = eventually(fleet.dead, what="the dead letter")
    assert letter.headers["crm-id"] == "7"
    assert letter.headers["planrelay-error-kind"] == "bad_command"
    assert "broker.publisher_" not in worker.log.read_text()


def test_a_body_stays_the_bytes_it_was_whatever_its_encoding(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """What kombu calls `binary` is read; what says UTF-16 is refused with its bytes untouched."""
    fleet = make_fleet(amqp_url)
    fleet.start()
    (unit,) = sandbox.seed("planpoint", "units", count=1)
    good = command(READ, "tower", {"id": unit})
    fleet.publish(json.dumps(good).encode(), routing_key=READ, content_encoding="binary")
    assert fleet.wait(good["id"])["type"].endswith("succeeded")
    foreign = json.dumps(command(READ, "tower", {"id": "é"}), ensure_ascii=False).encode("utf-16")
    fleet.publish(foreign, routing_key=READ, content_encoding="utf-16")
    (letter,) = eventually(fleet.dead, what="the dead letter")
    assert bytes(letter.body) == foreign


def test_a_repeater_is_answered_by_its_own_id(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """One key, two ids, no correlation id: each is answered by its own, with one event of the first one's subject."""
    fleet = make_fleet(amqp_url)
    fleet.start()
    (unit,) = sandbox.seed("planpoint", "units", count=1)
    with fleet.connection() as connection:
        exchange = kombu.Exchange("", type="direct")
        queue = kombu.Queue("test-repeats", exchange, routing_key="test-repeats", expires=60)(connection.channel())
        queue.declare()
        for name in ("first", "again"):
            body = json.dumps(command(READ, "tower", {"id": unit}, id=name, idempotencykey="one")).encode()
            fleet.publish(body, routing_key=READ, reply_to="test-repeats")
            reply = eventually(lambda: queue.get(no_ack=True), what=f"the reply to {name}")
            assert reply.properties["correlation_id"] == name
            assert json.loads(reply.body)["subject"] == "first"
        queue.delete()


@pytest.mark.parametrize(
    "said",
    [
        {"headers": {"a": "x" * 200_000}},
        {"properties": {"correlation_id": "x" * 256}},
        {"headers": {"a": 2**64}},
        {"headers": {"a": {1, 2}}},
    ],
)
async def test_what_amqp_cannot_carry_is_refused_alone(amqp_url: str, said: dict[str, Any]) -> None:
    """The others are published over the same connection."""
    publisher = Publisher(amqp_url, systems=("planpoint",), name="hostile")
    publisher.start(asyncio.get_running_loop())
    try:
        bad = Outgoing(exchange="", routing_key=DEAD, body=b"{}", **said)
        with pytest.raises(PublishFailed, match="can't be encoded"):
            await asyncio.wait_for(publisher.publish(bad), 10)
        event = Outgoing(exchange="planrelay.events", routing_key="test", body=b"{}", mandatory=False)
        await asyncio.wait_for(publisher.publish(event), 10)
        assert publisher.last_error is None
    finally:
        await asyncio.to_thread(publisher.stop)
