"""What a message in a Valkey queue looks like."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.queues import Delivery, deliveries, envelope


@given(
    queue=st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1),
    count=st.integers(0, 10**6),
    body=st.binary(),
)
def test_an_answer_is_read_as_it_was_written(queue: str, count: int, body: bytes) -> None:
    """Queue, delivery count and message are told apart, whatever the message holds."""
    message = envelope(body, exchange="e", routing_key="r", content_type=None, headers={}, properties={}).encode()
    held = f"{queue}\n{count or ''}".encode() + message
    assert deliveries([7, held]) == [Delivery(7, queue, count, message)]


def test_equal_messages_have_equal_envelopes() -> None:
    """An envelope holds no chance and no clock: the same copy parked twice is one."""
    values: dict[str, Any] = {"exchange": "e", "routing_key": "r", "content_type": "text/plain", "headers": {"a": []}}
    first = envelope(b"body", properties={"correlation_id": "1"}, **values)
    assert first == envelope(b"body", properties={"correlation_id": "1"}, **values)
    assert json.loads(first)["headers"] == {"a": []}
