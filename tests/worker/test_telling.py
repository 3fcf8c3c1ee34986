"""Telling: what an exchange refuses is tried until it takes it, what a sender's own queue refuses is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from tests.worker.virtual_time import run_virtually
from worker.delivery import Delivery, Journey
from worker.events import Outgoing, PublishFailed, Unroutable
from worker.result_event import ResultEvent
from worker.telling import ANSWER_TRIES, PAUSES, Teller


class Wire:
    """Where messages go: refuses the first so many."""

    user: str | None = None

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.tried: list[float] = []
        self.taken: list[Outgoing] = []

    async def publish(self, message: Outgoing) -> None:
        """Take it, or not."""
        self.tried.append(asyncio.get_running_loop().time())
        if self.refusals:
            raise self.refusals.pop(0)
        self.taken.append(message)

    def redeclare(self) -> None:
        """There is nothing to declare."""


class Count(Counter[str]):
    """What was counted."""

    def publish_refused(self, to: str) -> None:
        """Count it."""
        self[to] += 1


EVENT = ResultEvent(type="planpoint.unit.read.succeeded", id="e", body=b"{}")


def a_delivery(reply_to: str | None) -> Delivery:
    """Make a delivery of which nothing counts but who asked."""
    return Delivery(
        body=b"",
        content_type=None,
        content_encoding=None,
        headers={},
        properties={"reply_to": reply_to},
        journey=Journey(received=datetime(2026, 1, 1, tzinfo=UTC)),
        queue_key="",
    )


def test_what_the_exchange_refuses_is_published_in_the_end_and_seen_meanwhile() -> None:
    """Eight refusals: pauses double up to their limit, the reason is there to be shown, then it is gone."""
    publisher, answers, count = Wire(*[PublishFailed("(403) ACCESS_REFUSED")] * 8), Wire(), Count()
    teller = Teller(publisher, answers, count)

    async def tell() -> None:
        telling = asyncio.create_task(teller.tell(EVENT, a_delivery("asker"), subject="c"))
        await asyncio.sleep(5)
        assert list(teller.refused.values()) == ["(403) ACCESS_REFUSED"]
        assert len(answers.taken) == 1
        await telling

    run_virtually(tell())

    shortest, longest = PAUSES
    pauses = [later - earlier for earlier, later in pairwise(publisher.tried)]
    assert pauses == pytest.approx([min(shortest * 2**n, longest) for n in range(8)])
    assert len(publisher.taken) == 1
    assert teller.refused == {}
    assert count == {"exchange": 8}


@pytest.mark.parametrize(
    ("refusal", "tries"), [(PublishFailed("(541) INTERNAL_ERROR"), ANSWER_TRIES), (Unroutable("nobody is there"), 1)]
)
def test_what_the_askers_queue_refuses_ends(refusal: Exception, tries: int) -> None:
    """A few tries, none where nobody is there any more; counted once, and the event is out."""
    publisher, answers, count = Wire(), Wire(*[refusal] * 100), Count()
    teller = Teller(publisher, answers, count)

    run_virtually(teller.tell(EVENT, a_delivery("asker"), subject="c"))

    assert len(publisher.taken) == 1
    assert len(answers.tried) == tries
    assert count == {"reply_to": 1}
    assert teller.refused == {}
