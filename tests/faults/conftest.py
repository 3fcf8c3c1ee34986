"""A broker node and a state store of a file's own, and fleets on them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.rabbit import MISSING, Rabbit
from tests.faults.store import StateStore
from tests.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox import SandboxThread


@pytest.fixture(scope="module")
def rabbit_node() -> Iterator[Rabbit]:
    """Give the node of this file; skips where RabbitMQ is not installed, unless `PLANRELAY_TEST_FAULTS` demands it."""
    if MISSING is not None:
        if os.environ.get("PLANRELAY_TEST_FAULTS") == "required":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    with Rabbit() as node:
        yield node


@pytest.fixture
def store() -> Iterator[StateStore]:
    """Give a state store of the test's own, which seems to have been there for long."""
    with StateStore() as fresh:
        fresh.seem_old()
        yield fresh


@pytest.fixture
def fleet_on(
    tmp_path: Path, sandbox: SandboxThread, rabbit_node: Rabbit, store: StateStore
) -> Iterator[Callable[..., Fleet]]:
    """Give a maker of fleets on this file's node and the test's store; `amqp` and `state` lead elsewhere (a proxy)."""
    with contextlib.ExitStack() as stack:

        def make(*, amqp: str | None = None, state: str | None = None, **sections: Any) -> Fleet:
            fleet = Fleet(
                tmp_path, amqp=amqp or rabbit_node.url, sandbox=sandbox, state={"url": state or store.url}, **sections
            )
            return stack.enter_context(fleet)

        yield make


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Give a way to print a figure that was measured, also where the test passes."""

    def say(figure: str) -> None:
        with capfd.disabled():
            sys.stdout.write(f"\n  {figure}\n")

    return say
