"""A message, and the copies that are made of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from worker.delivery import HEADERS_LIMIT, Delivery, Journey
from worker.errors import BadCommand, Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def delivery(*, headers: Mapping[str, Any] | None = None, **properties: Any) -> Delivery:
    """Make one."""
    return Delivery(
        body=b"{}",
        content_type="application/json",
        content_encoding=None,
        headers=headers or {},
        properties=properties,
        journey=Journey(received=NOW),
        queue_key="planpoint.unit.read",
    )


@pytest.mark.parametrize("wait", [timedelta(days=365 * 30), timedelta.max])
def test_a_wait_that_the_ladder_cannot_hold_is_cut_to_what_it_can(wait: timedelta) -> None:
    """A key of more digits would lead nowhere; the carried instant has the copy parked again."""
    copy = delivery().parked(wait, key="planpoint.unit.read", user=None)
    assert copy.routing_key == "1." * 28 + "planpoint.unit.read"


def test_headers_that_no_copy_could_carry_are_refused() -> None:
    """With ours they must fit into one frame."""
    delivery(headers={"a": "x" * (HEADERS_LIMIT - 100)}).check_headers()
    with pytest.raises(BadCommand, match=r"headers have 65,5\d\d bytes, over 65,536"):
        delivery(headers={"a": "x" * HEADERS_LIMIT}).check_headers()


def test_a_dead_letter_leaves_out_the_headers_that_do_not_fit() -> None:
    """The small ones stay, which say most."""
    letter = delivery(headers={"big": "x" * HEADERS_LIMIT, "ce-id": "7"}).dead(
        BadCommand("No."), attempts=1, key=None, user=None
    )
    assert letter.headers["ce-id"] == "7"
    assert "big" not in letter.headers


def test_a_dead_letter_tells_the_vendor_s_sentence_in_utf_8() -> None:
    """JSON may hold half of a surrogate pair."""
    letter = delivery().dead(Invalid("bad \ud800 name"), attempts=1, key=None, user=None)
    assert letter.headers["planrelay-error-message"] == "bad ? name"


@pytest.mark.parametrize("queue", ["planrelay.planpoint", "planrelay.dead", "celery_delayed_3", "w@h.celery.pidbox"])
def test_an_answer_goes_to_no_queue_of_our_own(queue: str) -> None:
    """It would come back as a command, or as one to Celery."""
    with pytest.raises(BadCommand, match="a queue of planrelay's own"):
        delivery(reply_to=queue).check_reply()


def test_an_answer_goes_to_any_other_queue() -> None:
    """Direct reply-to among them."""
    delivery(reply_to="amq.rabbitmq.reply-to.g1h2").check_reply()


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"received": "2026-11-22T12:00:00"}',
        '{"received": 5}',
        '{"received": "2026-11-22T12:00:00Z", "attempt": "2"}',
        '{"received": "2026-11-22T12:00:00Z", "run": true}',
        '{"received": "2026-11-22T12:00:00Z", "status": "500"}',
        '{"received": "2026-11-22T12:00:00Z", "notes": []}',
    ],
)
def test_a_journey_that_no_worker_wrote_is_none(forged: str) -> None:
    """A publisher that shares the worker's broker user can write the header, and harms nobody by it."""
    with pytest.raises((ValueError, TypeError)):
        Journey.load(forged)


def test_a_journey_survives_its_header() -> None:
    """Written and read again it is the same."""
    journey = Journey(received=NOW, attempt=3, deferrals=2, not_before=NOW, status=500, notes={"s:a": "1"}, unsure=True)
    assert Journey.load(journey.dump()) == journey
