from __future__ import annotations

import pytest

from worker import valkey
from worker.events import Publisher


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
