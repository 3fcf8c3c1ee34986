"""
What py-amqp can't read of a message's properties, read all the same: no publisher can end a worker by them.

py-amqp takes every text for UTF-8 and every timestamp for a date before the year 10000, and raises `ValueError` in the
middle of reading the connection where one is not: an error that Celery takes for its own end. RabbitMQ hands both on as
they came (a correlation id of raw bytes, milliseconds where AMQP has seconds), to one worker after the other.

It also decodes each body by its `content_encoding` before anybody asked: bodies stay the bytes that they were.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from amqp import abstract_channel, serialization
from kombu.transport import pyamqp

_LARGEST: Final = 2**63 - 1
_read_item: Final = serialization._read_item  # noqa: SLF001 - py-amqp has no public way
_loads: Final = serialization.loads


def text(value: Any) -> Any:
    """Decode bytes as UTF-8, with `?` for what is none (never longer than it came); anything else is given back."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("utf-8", errors="replace").replace("\ufffd", "?")


class _Forgiving(bytes):
    """Bytes whose parts are decoded by `text`."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Forgiving(part) if isinstance(part, bytes) else part

    def decode(self, *_: Any) -> str:
        return str(text(bytes(self)))


def read_item(buf: bytes, offset: int) -> tuple[Any, int]:
    """Read one value of a header table: a date that the calendar lacks as its number, text that is none as bytes."""
    start = offset + 1
    match buf[offset : offset + 1]:
        case b"T":
            try:
                return _read_item(buf, offset)  # type: ignore[no-any-return] # py-amqp says nothing of types
            except (ValueError, OverflowError, OSError):
                (seconds,) = struct.unpack_from(">Q", buf, start)
                return min(seconds, _LARGEST), start + 8
        case b"S":
            (length,) = struct.unpack_from(">I", buf, start)
            end = start + 4 + length
            found = bytes(buf[start + 4 : end])
            try:
                return found.decode("utf-8"), end
            except UnicodeDecodeError:
                return found, end
        case _:
            return _read_item(buf, offset)  # type: ignore[no-any-return] # as above


def loads(form: str, buf: bytes, offset: int) -> tuple[list[Any], int]:
    """Read a method's arguments (a routing key is one)."""
    try:
        return _loads(form, buf, offset)  # type: ignore[no-any-return] # as above
    except UnicodeDecodeError:
        return _loads(form, _Forgiving(buf), offset)  # type: ignore[no-any-return] # as above


def install() -> None:
    """Have py-amqp read so, in this process."""
    serialization.pstr_t = text
    serialization._read_item = read_item  # noqa: SLF001 - as above
    abstract_channel.loads = loads
    pyamqp.Channel.auto_decode = property(lambda _: False, lambda _, __: None)
