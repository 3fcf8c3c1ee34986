"""The Python client: what it waits for comes, or it says that it does not."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from tests.fleet import Fleet
from worker.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import SandboxThread

READ = "planpoint.unit.read"


def say(fleet: Fleet, queue: str, body: bytes, **properties: Any) -> None:
    """Write to a queue as anybody can who knows its name."""
    with fleet.connection() as connection:
        kombu.Producer(connection.channel()).publish(
            body,
            exchange="",
            routing_key=queue,
            content_type="application/json",
            content_encoding="utf-8",
            **properties,
        )


async def test_a_command_from_a_coroutine_is_answered_also_after_garbage(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """What is no event in the queue of answers keeps nobody waiting."""
    fleet = make_fleet(amqp_url)
    fleet.start()
    (unit,) = sandbox.seed("planpoint", "units", count=1)
    with Client(fleet.settings) as client:
        sent = await client.asend(READ, connection="tower", data={"id": unit})
        assert sent.result(20)["subject"] == sent.id
        say(fleet, client._answers.queue, b"{nope", correlation_id="x")  # noqa: SLF001 - its name is nobody's business
        event = await client.acall(READ, connection="tower", data={"id": unit}, timeout=20)
        assert event["type"] == f"{READ}.succeeded"


def test_an_answer_that_nobody_waits_for_is_not_remembered(
    make_fleet: Callable[..., Fleet], amqp_url: str, sandbox: SandboxThread
) -> None:
    """Nobody runs the commands, each call times out, and the client does not grow."""
    fleet = make_fleet(amqp_url)
    with Client(fleet.settings) as client:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                client.call(READ, connection="tower", data={"id": "a" * 24}, timeout=0.01)
        gc.collect()
        assert len(client._answers._expected) == 0  # noqa: SLF001 - what must not grow
