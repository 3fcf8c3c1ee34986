"""What every folder of tests shares: a clean environment, RabbitMQ if there is one, a free port."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import settings
from kombu import Connection

from tests.faults.rabbit import MISSING, Rabbit
from tests.fleet import delete_queues
from tests.fleet_fixtures import broker, make_fleet, sandbox
from tests.shares import Shares

__all__ = ["broker", "make_fleet", "sandbox"]

AMQP_VARIABLE = "PLANRELAY_TEST_AMQP"
AMQP_DEFAULT = "amqp://guest:guest@127.0.0.1:5672//"
ON_CI = os.environ.get("CI", "").lower() == "true"
BROKER_EACH = AMQP_VARIABLE not in os.environ and MISSING is None
"""Whether every process of tests but the first can start a RabbitMQ node of its own."""

# An operator's own settings must not reach a test, nor the processes that a test starts.
for _name in [name for name in os.environ if name.startswith("PLANRELAY_") and name != AMQP_VARIABLE]:
    del os.environ[_name]

# No deadline: how long an example takes depends on who else is using the machine.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if ON_CI else "dev")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """
    Keep a file's tests in one process; and where there is one broker for all, every file that uses it in the same one.

    The names of exchanges and queues are fixed by contract: two tests on one broker would read each other's messages.
    """
    # `broker` asks for the URL only while a test is set up.
    shared = set() if BROKER_EACH else {"amqp_url", "broker"}
    on_broker = {item.path for item in items if shared & {*getattr(item, "fixturenames", ())}}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("amqp" if item.path in on_broker else item.nodeid.partition("::")[0]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shares:
    """Share the tests so that the end of one process ends nothing else."""
    return Shares(config, log)


@pytest.fixture(scope="session")
def amqp_url(worker_id: str) -> Iterator[str]:
    """
    Give the URL of a RabbitMQ that answers, from `PLANRELAY_TEST_AMQP` or the default on this machine.

    Where none answers the test is skipped; with `CI=true` it fails. Of several processes the first one gets it; the
    others get a node of their own, if one can be started here (else `PLANRELAY_TEST_AMQP` leads them to it too).
    """
    url = os.environ.get(AMQP_VARIABLE) or AMQP_DEFAULT
    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.connect()
    except (OSError, *Connection(url).connection_errors) as error:
        parts = urlsplit(url)
        reason = (
            f"No RabbitMQ answers at {parts.hostname}:{parts.port or 5672} ({error}): "
            f"start one there, or set {AMQP_VARIABLE} to the URL of another."
        )
        if ON_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    if BROKER_EACH and worker_id not in {"master", "gw0"}:
        with Rabbit() as node:
            yield node.url
        return
    yield url
    delete_queues(lambda: Connection(url))


@pytest.fixture
def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
