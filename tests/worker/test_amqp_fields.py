"""What py-amqp can't read of a message is read all the same."""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

import pytest
from amqp import serialization

from worker import amqp_fields

LONG_AGO, IN_MILLISECONDS = 0, 1_795_000_000_000


def table(*items: tuple[bytes, bytes]) -> bytes:
    """Write a header table of names and values that are encoded already."""
    rows = b"".join(bytes([len(name)]) + name + value for name, value in items)
    return struct.pack(">I", len(rows)) + rows


def long_string(value: bytes) -> bytes:
    """Write a text of a table."""
    return b"S" + struct.pack(">I", len(value)) + value


def read(written: bytes) -> Any:
    """Read a table the way py-amqp reads a message's headers."""
    amqp_fields.install()
    (found,), _ = serialization.loads("F", written, 0)
    return found


def test_a_text_that_is_no_utf_8_keeps_what_can_be_read() -> None:
    """It grows no longer than it came, so that it fits where it fitted."""
    assert amqp_fields.text(b"caf\xe9") == "caf?"
    assert len(amqp_fields.text(b"\xff" * 255)) == 255


def test_a_header_that_is_no_text_stays_bytes() -> None:
    """A copy of the message then carries what came."""
    assert read(table((b"a", long_string(b"\xff\xfe")), (b"b", long_string(b"ok")))) == {"a": b"\xff\xfe", "b": "ok"}


def test_a_header_whose_name_is_no_text_has_one() -> None:
    """Whoever looks for a prefix of it finds a text."""
    assert read(table((b"\xff", long_string(b"ok")))) == {"?": "ok"}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(LONG_AGO, datetime(1970, 1, 1)), (IN_MILLISECONDS, IN_MILLISECONDS), (2**64 - 1, 2**63 - 1)],  # noqa: DTZ001 - as py-amqp gives it
)
def test_a_date_that_the_calendar_lacks_is_its_number(seconds: int, expected: object) -> None:
    """Milliseconds where AMQP has seconds lead beyond the year 9999."""
    assert read(table((b"t", b"T" + struct.pack(">Q", seconds)))) == {"t": expected}


def test_a_nested_table_is_read_in_the_same_way() -> None:
    """RabbitMQ's own x-death is one."""
    inner = table((b"t", b"T" + struct.pack(">Q", IN_MILLISECONDS)))
    assert read(table((b"x", b"F" + inner))) == {"x": {"t": IN_MILLISECONDS}}


def test_a_routing_key_that_is_no_utf_8_is_read() -> None:
    """A topic binding takes any bytes."""
    assert amqp_fields.loads("sLbs", b"\x01c" + b"\0" * 8 + b"\0" + b"\x02k\xff", 0)[0] == ["c", 0, False, "k?"]
