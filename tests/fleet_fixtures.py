"""Fleets of their own for tests of the whole: on RabbitMQ (one test at a time) and on the embedded Valkey."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import SandboxThread
from tests.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def sandbox() -> Iterator[SandboxThread]:
    """Give the vendors' stand-ins, fresh."""
    with SandboxThread() as serving:
        yield serving


@pytest.fixture
def make_fleet(tmp_path: Path, sandbox: SandboxThread) -> Iterator[Callable[..., Fleet]]:
    """Give a maker of fleets that are gone after the test."""
    with contextlib.ExitStack() as stack:

        def make(amqp: str | None = None, **sections: Any) -> Fleet:
            return stack.enter_context(Fleet(tmp_path, amqp=amqp, sandbox=sandbox, **sections))

        yield make


@pytest.fixture(params=["rabbitmq", "valkey"])
def broker(request: pytest.FixtureRequest) -> str | None:
    """Give each broker in turn: an AMQP URL, or None for the embedded Valkey."""
    url: str = request.getfixturevalue("amqp_url")
    return url if request.param == "rabbitmq" else None
