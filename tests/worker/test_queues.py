"""The pure part of the queues in Valkey: who is dead, and what a message looks like."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.queues import Delivery, Watch, deliveries, envelope


def test_silence_for_as_long_as_the_patience_is_death() -> None:
    """An owner whose beat stays the same for the whole patience is dead, one that beats is not."""
    watch = Watch(patience=4)
    dead = [watch.observe({"a": b"1", "b": b"%d" % now}, now) for now in range(6)]
    assert dead == [[], [], [], [], [("a", b"1")], [("a", b"1")]]


def test_a_break_in_watching_gives_everybody_a_fresh_start() -> None:
    """After a pause longer than half the patience nobody is dead: the watcher or the server was away, not the owner."""
    watch = Watch(patience=4)
    for now in (0, 1, 2, 3):
        assert watch.observe({"a": b"1"}, now) == []
    assert watch.observe({"a": b"1"}, 6) == []
    assert watch.observe({"a": b"1"}, 8) == []
    assert watch.observe({"a": b"1"}, 9) == []
    assert watch.observe({"a": b"1"}, 10) == [("a", b"1")]


def test_an_owner_that_comes_back_starts_afresh() -> None:
    """An owner that was gone from the list and is there again is watched from then on."""
    watch = Watch(patience=2)
    watch.observe({"a": b"1"}, 0)
    watch.observe({}, 1)
    assert watch.observe({"a": b"1"}, 2) == []
    assert watch.observe({"a": b"1"}, 3) == []
    assert watch.observe({"a": b"1"}, 4) == [("a", b"1")]


@given(
    gaps=st.lists(st.floats(0.01, 10), max_size=30),
    patience=st.floats(0.5, 8),
)
def test_nobody_is_dead_before_the_patience_is_over(gaps: list[float], patience: float) -> None:
    """However irregular the looks, who is called dead was silent for the patience, and was never out of sight."""
    watch = Watch(patience=patience)
    now = 0.0
    in_sight_since = 0.0
    watch.observe({"a": b"1"}, now)
    for gap in gaps:
        now += gap
        if gap > patience / 2:
            in_sight_since = now
        dead = watch.observe({"a": b"1"}, now)
        assert not dead or now - in_sight_since >= patience


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
