"""The publisher: whose messages are its own, and that it is woken for each."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from worker import valkey
from worker.events import Bell, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("amqp://relay:secret@127.0.0.1:5672//", "relay"),
        ("amqp://127.0.0.1//", "guest"),
        ("planrelay+valkey", None),
    ],
)
def test_whose_messages_are_ours_is_known_before_the_broker_answers(url: str, user: str | None) -> None:
    """A worker that starts consuming before it can publish believes its fleet's parked copies all the same."""
    if not url.startswith("amqp"):
        valkey.register()
        url = valkey.broker_url("redis://127.0.0.1:1/0")
    publisher = Publisher(url, systems=())
    assert publisher.user == user
    publisher.stop()


class Busy(socket.socket):
    """A socket that is read while somebody rings."""

    ring: Callable[[], None]

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read, a moment too late."""
        self.ring()
        return super().recv(size, flags)


def test_no_ring_is_lost() -> None:
    """The loop rings while the publisher takes note of an earlier ring: the next one is heard."""
    reader, writer = socket.socketpair()
    busy = Busy(fileno=reader.detach())
    bell = Bell(busy, writer)
    busy.ring = bell.ring
    bell.ring()
    bell.take()
    bell.ring()
    heard, _, _ = select.select([bell], [], [], 0)
    bell.close()

    assert heard
