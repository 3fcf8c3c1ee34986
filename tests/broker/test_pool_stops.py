"""The loop pool's worker processes: how they start and stop, by which signal."""

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


def test_hooks_run_on_the_loop_and_in_order(start: Start) -> None:
    """Start-up, drain, drained and shutdown hooks run on the pool's loop; Celery's process signals come once each."""
    worker = start()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert [line["what"] for line in worker.lines()] == [
        *("process_init", "startup", "ready", "drain", "drained", "shutdown", "process_shutdown")
    ]
    assert [line["on_loop"] for line in worker.lines() if "on_loop" in line] == [True] * 4
    assert [line["draining"] for line in worker.lines() if "draining" in line] == [False, True, True, True]


def test_a_start_up_hook_that_fails_stops_the_worker(broker: str, tmp_path: Path) -> None:
    """The worker ends with a failure status and still runs its shutdown hooks."""
    worker = PoolWorker(broker, tmp_path, fail_at_start=True)
    worker.start(ready=False)
    assert worker.wait() != 0
    assert [line["what"] for line in worker.lines()] == ["process_init", "startup", "shutdown", "process_shutdown"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGQUIT, 0), (signal.SIGINT, 1)])
def test_an_idle_worker_stops_at_once(start: Start, number: signal.Signals, status: int) -> None:
    """A signal ends the poll that it falls into; the status is Celery's own."""
    worker = start()
    time.sleep(0.3)  # well into a poll
    began = time.monotonic()
    worker.kill(number)
    assert worker.wait() == status
    assert time.monotonic() - began < 2


def test_sigterm_lets_everything_in_flight_finish(start: Start) -> None:
    """100 jobs in flight end within the drain timeout and are all acknowledged."""
    worker = start()
    for number in range(100):
        worker.send("nap", 1.5, str(number))
    worker.until_count("start", 100)
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert len(worker.lines("end")) == 100
    assert worker.left() == 0


def test_what_is_not_done_within_the_drain_timeout_goes_back(start: Start) -> None:
    """Jobs that outlast the drain timeout are cancelled without an outcome, and the broker has their messages again."""
    worker = start(planrelay_drain_timeout=1)
    for number in range(20):
        worker.send("nap", 0.5 if number < 5 else 60, str(number))
    worker.until_count("start", 20)
    began = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - began < 4
    assert len(worker.lines("end")) == 5
    assert len(worker.lines("cancelled")) == 15
    assert not worker.lines("failure")
    assert worker.left() == 15


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGQUIT),
    ],
)
def test_a_second_signal_stops_at_once(start: Start, first: signal.Signals, second: signal.Signals) -> None:
    """During a drain the second signal cancels what runs; nothing is acknowledged, nothing lost."""
    worker = start()
    for number in range(20):
        worker.send("nap", 60, str(number))
    worker.until_count("start", 20)
    worker.kill(first)
    worker.until(lambda worker: worker.lines("drain"))
    began = time.monotonic()
    worker.kill(second)
    assert worker.wait() == (0 if first is signal.SIGTERM else 1)
    assert time.monotonic() - began < 3
    assert len(worker.lines("cancelled")) == 20
    assert worker.left() == 20
    assert worker.lines("shutdown")


def test_a_soft_shutdown_turns_the_loop_while_it_waits(start: Start) -> None:
    """With `worker_soft_shutdown_timeout` the short jobs finish, the long ones go back."""
    worker = start(worker_soft_shutdown_timeout=2, environ={"REMAP_SIGTERM": "SIGQUIT"})
    for number in range(20):
        worker.send("nap", 1 if number < 10 else 60, str(number))
    worker.until_count("start", 20)
    began = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert 1.5 < time.monotonic() - began < 5
    assert len(worker.lines("end")) == 10
    assert worker.left() == 10


def test_a_worker_whose_loop_is_blocked_can_be_stopped(start: Start) -> None:
    """Signals that the blocked loop does not answer are answered on the spot, up to Celery's hard shutdown."""
    worker = start()
    worker.send("block", 60)
    worker.until_count("block", 1)
    worker.kill(signal.SIGTERM)
    time.sleep(5.2)  # what tells a blocked loop from a busy one is time
    assert worker.process is not None
    end = time.monotonic() + 5
    while worker.process.poll() is None and time.monotonic() < end:
        worker.kill(signal.SIGTERM)
        time.sleep(0.2)
    assert worker.process.poll() is not None
    assert worker.left() == 1


def test_the_second_signal_ends_what_cannot_be_cancelled(start: Start) -> None:
    """A thread that blocks for a minute holds the process up for ten seconds after the second signal."""
    worker = start()
    worker.send("aside", 60)
    worker.until(lambda worker: "received" in worker.log)
    worker.kill(signal.SIGTERM)
    worker.until(lambda worker: worker.lines("drain"))
    began = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 70
    assert 8 < time.monotonic() - began < 14
    assert "pool.exit_forced" in worker.log
    assert worker.left() == 1


def test_a_drain_ends_though_something_cannot_be_cancelled(start: Start) -> None:
    """A thread that a disk holds for good: its message goes back, and the process ends without a second signal."""
    worker = start(planrelay_drain_timeout=0.1)
    worker.send("aside", 60)
    worker.until(lambda worker: "received" in worker.log)
    worker.kill(signal.SIGTERM)
    assert worker.wait(40) == 70
    assert "pool.exit_forced" in worker.log
    assert worker.left() == 1


def test_a_worker_can_be_stopped_while_its_broker_is_away(broker: str, tmp_path: Path) -> None:
    """SIGTERM is heard by a worker that never reached its broker."""
    with Proxy(broker) as proxy:
        proxy.cut()
        worker = PoolWorker(broker, tmp_path, through=proxy.url)
        worker.start(ready=False)
        worker.until(lambda worker: "Cannot connect" in worker.log)
        worker.kill(signal.SIGTERM)
        assert worker.wait(10) == 0


@pytest.mark.parametrize(("again", "done"), [(False, 5), (True, 0)])
def test_signals_are_heard_where_there_is_no_hub(tmp_path: Path, again: bool, done: int) -> None:
    """On a filesystem transport the loop has a thread of its own: one signal drains, a second stops at once."""
    for name in ("messages", "control"):
        (tmp_path / name).mkdir()
    folders = {
        "data_folder_in": str(tmp_path / "messages"),
        "data_folder_out": str(tmp_path / "messages"),
        "control_folder": str(tmp_path / "control"),
    }
    with PoolWorker("filesystem://", tmp_path, broker_transport_options=folders) as worker:
        worker.client.conf.broker_transport_options = folders
        for number in range(5):
            worker.send("nap", 20 if again else 3, str(number))
        worker.until_count("start", 5)
        worker.kill(signal.SIGTERM)
        if again:
            worker.until(lambda worker: worker.lines("drain"))
            worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert len(worker.lines("end")) == done
        assert worker.lines("shutdown")
