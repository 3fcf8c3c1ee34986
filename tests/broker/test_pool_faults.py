"""The loop pool when its broker fails: cut off, silent, or away."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.broker.pool_worker import PoolWorker, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., PoolWorker]


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> str:
    """Give RabbitMQ's URL; every queue here has a name of its own, so these tests may run beside others on it."""
    url: str = request.getfixturevalue("amqp_url")
    return url


@pytest.fixture
def start(broker: str, tmp_path: Path) -> Iterator[Start]:
    """Start workers that the test's end kills."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(PoolWorker(broker, tmp_path, **settings))


def test_calls_in_flight_outlive_a_broker_that_is_away(start: Start, broker: str) -> None:
    """50 jobs of 4 s, the connection cut for 8 s: all end on time, and the worker consumes again afterwards."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url)
        for number in range(50):
            worker.send("nap", 4, str(number))
        worker.until_count("start", 50)
        proxy.cut()
        time.sleep(8)  # the length of the outage
        assert len(worker.lines("end")) == 50
        assert max(worker.durations()) < 5
        proxy.mend()
        worker.until_count("start", 100)  # their acknowledgements were void
        stop_at_once(worker)
        assert worker.left() == 50


def test_calls_in_flight_outlive_a_connection_that_fell_silent(start: Start, broker: str) -> None:
    """Where nothing arrives and nothing is refused, heartbeats notice, and the jobs end on time all the same."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url, broker_heartbeat=2)
        for number in range(20):
            worker.send("nap", 7, str(number))
        worker.until_count("start", 20)
        proxy.freeze()
        worker.until_count("end", 20)
        assert max(worker.durations()) < 8
        assert "Connection to broker lost" in worker.log
        proxy.cut()
        proxy.mend()
        worker.until_count("start", 40)
        stop_at_once(worker)
        assert worker.left() == 20


def stop_at_once(worker: PoolWorker) -> None:
    """End a worker without waiting for what runs."""
    worker.kill(signal.SIGTERM)
    worker.until(lambda worker: worker.lines("drain"))
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0


def test_jobs_can_be_cancelled_when_the_connection_is_lost(start: Start, broker: str) -> None:
    """With Celery's own setting for it a lost connection cancels what runs, and the redelivery runs it again."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url, worker_cancel_long_running_tasks_on_connection_loss=True)
        for number in range(10):
            worker.send("nap", 3, str(number))
        worker.until_count("start", 10)
        proxy.cut()
        worker.until_count("cancelled", 10)
        proxy.mend()
        worker.until_count("end", 10)
        assert len(worker.lines("start")) == 20
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert worker.left() == 0


def test_a_worker_stops_well_while_it_tries_to_reconnect(start: Start, broker: str) -> None:
    """SIGTERM in the middle of an outage: the jobs end, the process too, the messages are the broker's."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url)
        for number in range(10):
            worker.send("nap", 4, str(number))
        worker.until_count("start", 10)
        proxy.cut()
        worker.until(lambda worker: "Cannot connect" in worker.log)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert len(worker.lines("end")) == 10
        assert max(worker.durations()) < 4.5
        assert worker.left() == 10


def test_a_connection_that_breaks_during_the_drain_does_not_stop_it(start: Start, broker: str) -> None:
    """The jobs end, the process too; the messages are the broker's again."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url)
        for number in range(10):
            worker.send("nap", 3, str(number))
        worker.until_count("start", 10)
        worker.kill(signal.SIGTERM)
        worker.until(lambda worker: worker.lines("drain"))
        proxy.cut()
        assert worker.wait() == 0
        assert len(worker.lines("end")) == 10
        assert worker.lines("shutdown")
        assert worker.left() == 10


def test_a_silent_broker_does_not_hold_up_the_stop(start: Start, broker: str) -> None:
    """Jobs in flight end while the goodbye is not answered, and the process ends."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url, broker_heartbeat=60)
        for number in range(10):
            worker.send("nap", 2, str(number))
        worker.until_count("start", 10)
        proxy.freeze()
        worker.kill(signal.SIGTERM)
        worker.until_count("end", 10)
        assert max(worker.durations()) < 3
        worker.kill(signal.SIGTERM)
        worker.wait(25)


def test_five_cuts_in_a_row_lose_nothing(start: Start, broker: str) -> None:
    """Cut again and again under load, every message is worked on at last and the queue is empty."""
    with Proxy(broker) as proxy:
        worker = start(through=proxy.url, worker_concurrency=20)
        for number in range(200):
            worker.send("nap", 0.3, str(number))
        for _ in range(5):
            time.sleep(0.7)  # between the faults
            proxy.cut()
            proxy.mend()
        worker.until(lambda worker: len({line["label"] for line in worker.lines("end")}) == 200, 60)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert worker.left() == 0
