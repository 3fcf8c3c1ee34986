"""The loop pool in a worker process on a real RabbitMQ: what runs, how it ends, and what survives which fault."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.broker.pool_worker import PoolWorker, Proxy
from worker import embedded, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.broker.pool_worker import Line

    Start = Callable[..., PoolWorker]


@pytest.fixture
def start(amqp_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start workers that the test's end kills."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(PoolWorker(amqp_url, tmp_path, **settings))


def left(worker: PoolWorker) -> int:
    """Count what a worker that has gone did not acknowledge."""
    end = time.monotonic() + 5
    count = worker.messages()
    while time.monotonic() < end:  # the broker takes a moment to notice that the connection is gone
        time.sleep(0.2)
        count, before = worker.messages(), count
        if count == before:
            break
    return count


def durations(worker: PoolWorker) -> list[float]:
    """Give how long each nap lasted."""
    began: dict[str, float] = {}
    for line in worker.lines("start"):
        began.setdefault(line["label"], line["at"])
    return [line["at"] - began[line["label"]] for line in worker.lines("end")]


# --- What runs --------------------------------------------------------------------------------------------------------


def test_five_hundred_coroutines_run_at_once_in_one_process(start: Start) -> None:
    """500 tasks of one second each are all in flight before the first has ended."""
    worker = start(worker_concurrency=500)
    for number in range(500):
        worker.send("nap", 3.0, str(number))
    ended = worker.until_count("end", 500)
    assert max(line["at"] for line in worker.lines("start")) < min(line["at"] for line in ended)
    assert len({line["pid"] for line in ended}) == 1


def test_requests_and_log_context_stay_with_their_job(start: Start) -> None:
    """In the body, its child tasks and threads, after others ran in between, each job sees its own request."""
    worker = start()
    ids = {worker.send("who", 0.05 + number / 500) for number in range(60)}
    lines = worker.until_count("who", 60)
    assert {line["label"] for line in lines} == ids
    for line in lines:
        assert set(line["seen"]) == {line["label"]}
        assert line["prerun"] == line["label"]


def test_what_the_coroutine_binds_reaches_the_tracer(start: Start) -> None:
    """The context is shared both ways: `task_postrun` sees what the body bound for the log."""
    worker = start()
    id_ = worker.send("who", 0.01)
    (line,) = worker.until_count("postrun", 1)
    assert line["context"] == {"prerun": id_, "command": id_}


def test_an_acknowledgement_does_not_wait_for_the_hub(start: Start) -> None:
    """On an idle worker of one slot the next task begins less than 50 ms after the last one's end."""
    worker = start(worker_concurrency=1)
    for number in range(12):
        worker.send("nap", 0.02, str(number))
    ended = worker.until_count("end", 12)
    began = worker.lines("start")
    gaps = sorted(after["at"] - before["at"] for before, after in zip(ended, began[1:], strict=False))
    assert gaps[len(gaps) // 2] < 0.05, gaps


def test_autoretry_sees_what_an_async_body_raises(start: Start) -> None:
    """`autoretry_for` retries an async body until it succeeds."""
    worker = start()
    worker.send("flaky", "f")
    lines = worker.until_count("flaky", 3)
    assert [line["retries"] for line in lines] == [0, 1, 2]
    worker.until(lambda worker: worker.lines("postrun", state="SUCCESS"))


def test_a_chain_runs_through_async_bodies(start: Start) -> None:
    """The result of one async body is the argument of the next."""
    worker = start()
    signature = worker.client.signature
    (signature("add", (1, 2), queue=worker.queue) | signature("add", (4,), queue=worker.queue)).delay()
    lines = worker.until_count("add", 2)
    assert [(line["x"], line["y"]) for line in lines] == [(1, 2), (3, 4)]


def test_no_more_jobs_run_than_the_limit_and_the_rest_wait(start: Start) -> None:
    """With two slots and ten messages prefetched, two run at a time, in order."""
    worker = start(worker_concurrency=2, worker_prefetch_multiplier=5)
    for number in range(10):
        worker.send("nap", 0.1, str(number))
    worker.until_count("end", 10)
    running, most = 0, 0
    for line in worker.lines():
        running += {"start": 1, "end": -1}.get(line["what"], 0)
        most = max(most, running)
    assert most == 2
    assert [line["label"] for line in worker.lines("start")] == [str(number) for number in range(10)]


def test_a_blocking_call_aside_lets_others_run(start: Start) -> None:
    """Four `offload`ed calls of half a second end together."""
    worker = start()
    for _ in range(4):
        worker.send("aside", 0.5)
    ended = [line["at"] for line in worker.until_count("aside", 4)]
    assert max(ended) - min(ended) < 0.4


def test_a_blocked_loop_is_measured_and_told(start: Start) -> None:
    """A task that blocks the loop for 4 s shows in the lag that `on_lag` is told, and the log says where it stands."""
    worker = start()
    worker.send("block", 4)
    (line,) = worker.until_count("lag", 1)
    assert 2 < line["seconds"] < 6
    assert worker.log.count("pool.loop_blocked") == 1
    assert "time.sleep(seconds)" in worker.log


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_the_same_tasks_run_in_celerys_own_pools(start: Start, pool: str) -> None:
    """Async bodies, requests and log context included, run under threads, prefork and solo."""
    worker = start(worker_pool=pool, worker_concurrency=4)
    ids = {worker.send("who", 0.05) for _ in range(8)}
    lines = worker.until_count("who", 8)
    assert {line["label"] for line in lines} == ids
    assert all(set(line["seen"]) == {line["label"]} for line in lines)
    worker.send("flaky", "f")
    worker.until_count("flaky", 3)
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("transport", ["kombu's", "ours"])
def test_tasks_run_on_valkey(tmp_path: Path, transport: str) -> None:
    """Where the hub polls Valkey, by kombu's transport or by ours, the loop turns as well, and what ends is settled."""
    url = embedded.ensure(tmp_path, linger=timedelta(seconds=1))
    broker = valkey.broker_url(url) if transport == "ours" else f"redis+socket://{urlsplit(url).path}"
    try:
        with PoolWorker(broker, tmp_path) as worker:
            for number in range(50):
                worker.send("nap", 0.5, str(number))
            worker.until_count("end", 50)
            assert max(durations(worker)) < 1.5
            worker.kill(signal.SIGTERM)
            assert worker.wait() == 0
            assert worker.messages() == 0
    finally:
        embedded.stop(tmp_path)


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


# --- How it ends ------------------------------------------------------------------------------------------------------


def outcomes(worker: PoolWorker, id_: str) -> list[Line]:
    """Give what Celery was told of a task's end."""
    return [line for line in worker.lines(label=id_) if line["what"] in {"failure", "revoked", "postrun"}]


def test_the_soft_limit_can_be_caught_in_the_coroutine(start: Start) -> None:
    """SoftTimeLimitExceeded is raised where the body awaits, and the body may go on after it."""
    worker = start()
    id_ = worker.send("limited", "catch")
    worker.until_count("postrun", 1)
    assert worker.lines("soft", label="catch")
    assert [(line["what"], line.get("state")) for line in outcomes(worker, id_)] == [("postrun", "SUCCESS")]


@pytest.mark.parametrize("how", ["plain", "group"])
def test_the_soft_limit_let_out_is_a_failure(start: Start, how: str) -> None:
    """What the body does not catch fails the task as SoftTimeLimitExceeded; a task group cancels its children first."""
    worker = start()
    id_ = worker.send("limited", how)
    worker.until_count("postrun", 1)
    assert [line.get("error") for line in worker.lines("failure", label=id_)] == ["SoftTimeLimitExceeded"]
    assert len(worker.lines("child-cancelled")) == (how == "group")


@pytest.mark.parametrize("deaf", [False, True])
def test_the_hard_limit_is_reported_once(start: Start, deaf: bool) -> None:
    """Past the hard limit the job is cancelled and fails once, even if its body ignores the cancellation."""
    worker = start(task_acks_on_timeout=True)
    id_ = worker.send("hard", deaf=deaf)
    worker.until_count("failure", 1)
    worker.send("nap", 0.2, "next")
    worker.until_count("end", 1)
    assert [line["error"] for line in worker.lines("failure", label=id_)] == ["TimeLimitExceeded"]
    assert not worker.lines("postrun", label=id_, state="SUCCESS")
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert left(worker) == 0


@pytest.mark.parametrize(
    ("how", "error"),
    [("exit", "WorkerLostError"), ("cancel", "CoroutineCancelled"), ("plain", "ValueError"), ("exit in a child", None)],
)
def test_no_way_to_end_a_task_ends_the_worker(start: Start, how: str, error: str | None) -> None:
    """SystemExit and CancelledError from a body are failures like any other, reported once; the worker lives."""
    worker = start()
    id_ = worker.send("fail", how)
    worker.send("nap", 0.5, "next")
    worker.until_count("end", 1)
    assert [line["error"] for line in worker.lines("failure", label=id_)] == ([] if error is None else [error])
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert left(worker) == 0


def test_revoke_terminate_cancels_one_job(start: Start) -> None:
    """A revoked job is cancelled, told of once as revoked and acknowledged; others go on."""
    worker = start()
    doomed = worker.send("nap", 30, "doomed")
    worker.send("nap", 1.5, "spared")
    worker.until_count("start", 2)
    worker.client.control.revoke(doomed, terminate=True)
    worker.until_count("end", 1)
    assert [line["label"] for line in worker.lines("cancelled")] == ["doomed"]
    assert [line["label"] for line in worker.lines("end")] == ["spared"]
    assert len(worker.lines("revoked", label=doomed)) == 1
    assert not worker.lines("failure")
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert left(worker) == 0


def test_revoke_terminate_reaches_a_job_that_still_waits(start: Start) -> None:
    """A job that is revoked while it waits for a slot never begins, and is acknowledged."""
    worker = start(worker_concurrency=1, worker_prefetch_multiplier=2)
    worker.send("nap", 1.5, "first")
    doomed = worker.send("nap", 30, "doomed")
    worker.until_count("start", 1)
    worker.until(lambda worker: _inspect(worker, "reserved"))
    worker.client.control.revoke(doomed, terminate=True)
    worker.until(lambda worker: worker.lines("revoked", label=doomed))
    worker.send("nap", 0.1, "last")
    worker.until_count("end", 2)
    assert [line["label"] for line in worker.lines("start")] == ["first", "last"]
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert left(worker) == 0


def _inspect(worker: PoolWorker, method: str) -> Any:
    inspect = worker.client.control.inspect(destination=[worker.hostname], timeout=2)
    return (getattr(inspect, method)() or {}).get(worker.hostname)


def test_inspect_answers_under_load(start: Start) -> None:
    """`ping`, `active` and `stats` answer while jobs run; each active job has a number of its own."""
    worker = start(worker_concurrency=30)
    for number in range(20):
        worker.send("nap", 4, str(number))
    worker.until_count("start", 20)
    assert _inspect(worker, "ping") == {"ok": "pong"}
    active = _inspect(worker, "active")
    assert len({job["worker_pid"] for job in active}) == 20
    pool = _inspect(worker, "stats")["pool"]
    assert (pool["implementation"], pool["running"], pool["max-concurrency"]) == ("worker.pool:LoopPool", 20, 30)
    assert pool["loop-lag"] < 5


def test_the_pool_grows_and_shrinks(start: Start) -> None:
    """`pool_grow` lets waiting jobs begin, `pool_shrink` lets fewer run."""
    worker = start(worker_concurrency=2, worker_prefetch_multiplier=10)
    for number in range(6):
        worker.send("nap", 4, str(number))
    worker.until_count("start", 2)
    worker.client.control.pool_grow(3, destination=[worker.hostname], reply=True)
    worker.until_count("start", 5)
    worker.client.control.pool_shrink(4, destination=[worker.hostname], reply=True)
    assert _inspect(worker, "stats")["pool"]["max-concurrency"] == 1
    worker.until_count("end", 6)


# --- Starting and stopping --------------------------------------------------------------------------------------------


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


def test_a_start_up_hook_that_fails_stops_the_worker(amqp_url: str, tmp_path: Path) -> None:
    """The worker ends with a failure status and still runs its shutdown hooks."""
    worker = PoolWorker(amqp_url, tmp_path, fail_at_start=True)
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
    assert left(worker) == 0


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
    assert left(worker) == 15


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
    assert left(worker) == 20
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
    assert left(worker) == 10


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
    assert left(worker) == 1


@pytest.mark.parametrize("task", ["block", "aside"])
def test_the_second_signal_ends_what_cannot_be_cancelled(start: Start, task: str) -> None:
    """A loop or a thread that blocks for a minute holds the process up for ten seconds after the second signal."""
    worker = start()
    worker.send(task, 60)
    worker.until(lambda worker: "received" in worker.log)
    worker.kill(signal.SIGTERM)
    time.sleep(5.2 if task == "block" else 0.2)  # what tells a blocked loop from a busy one is time
    began = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 70
    assert 8 < time.monotonic() - began < 14
    assert "pool.exit_forced" in worker.log
    assert left(worker) == 1


def test_a_worker_can_be_stopped_while_its_broker_is_away(amqp_url: str, tmp_path: Path) -> None:
    """SIGTERM is heard by a worker that never reached its broker."""
    with Proxy(amqp_url) as proxy:
        proxy.cut()
        worker = PoolWorker(amqp_url, tmp_path, through=proxy.url)
        worker.start(ready=False)
        worker.until(lambda worker: "Cannot connect" in worker.log)
        worker.kill(signal.SIGTERM)
        assert worker.wait(10) == 0


# --- Faults of the broker ---------------------------------------------------------------------------------------------


def test_calls_in_flight_outlive_a_broker_that_is_away(start: Start, amqp_url: str) -> None:
    """50 jobs of 4 s, the connection cut for 8 s: all end on time, and the worker consumes again afterwards."""
    with Proxy(amqp_url) as proxy:
        worker = start(through=proxy.url)
        for number in range(50):
            worker.send("nap", 4, str(number))
        worker.until_count("start", 50)
        proxy.cut()
        time.sleep(8)  # the length of the outage
        assert len(worker.lines("end")) == 50
        assert max(durations(worker)) < 4.5
        proxy.mend()
        worker.until_count("start", 100)  # their acknowledgements were void
        worker.until_count("end", 100)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert left(worker) == 0


def test_calls_in_flight_outlive_a_connection_that_fell_silent(start: Start, amqp_url: str) -> None:
    """Where nothing arrives and nothing is refused, heartbeats notice, and the jobs end on time all the same."""
    with Proxy(amqp_url) as proxy:
        worker = start(through=proxy.url, broker_heartbeat=2)
        for number in range(20):
            worker.send("nap", 9, str(number))
        worker.until_count("start", 20)
        proxy.freeze()
        worker.until_count("end", 20)
        assert max(durations(worker)) < 10
        proxy.cut()
        proxy.mend()
        worker.until_count("start", 40)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert left(worker) == 0


def test_jobs_can_be_cancelled_when_the_connection_is_lost(start: Start, amqp_url: str) -> None:
    """With Celery's own setting for it a lost connection cancels what runs, and the redelivery runs it again."""
    with Proxy(amqp_url) as proxy:
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
        assert left(worker) == 0


def test_a_worker_stops_well_while_it_tries_to_reconnect(start: Start, amqp_url: str) -> None:
    """SIGTERM in the middle of an outage: the jobs end, the process too, the messages are the broker's."""
    with Proxy(amqp_url) as proxy:
        worker = start(through=proxy.url)
        for number in range(10):
            worker.send("nap", 4, str(number))
        worker.until_count("start", 10)
        proxy.cut()
        worker.until(lambda worker: "Cannot connect" in worker.log)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 0
        assert len(worker.lines("end")) == 10
        assert max(durations(worker)) < 4.5
        assert left(worker) == 10


def test_a_connection_that_breaks_during_the_drain_does_not_stop_it(start: Start, amqp_url: str) -> None:
    """The jobs end, the process too; the messages are the broker's again."""
    with Proxy(amqp_url) as proxy:
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
        assert left(worker) == 10


def test_a_silent_broker_does_not_hold_up_the_stop(start: Start, amqp_url: str) -> None:
    """Jobs in flight end while the goodbye is not answered, and the process ends."""
    with Proxy(amqp_url) as proxy:
        worker = start(through=proxy.url, broker_heartbeat=60)
        for number in range(10):
            worker.send("nap", 2, str(number))
        worker.until_count("start", 10)
        proxy.freeze()
        worker.kill(signal.SIGTERM)
        worker.until_count("end", 10)
        assert max(durations(worker)) < 3
        worker.kill(signal.SIGTERM)
        worker.wait(25)


def test_five_cuts_in_a_row_lose_nothing(start: Start, amqp_url: str) -> None:
    """Cut again and again under load, every message is worked on at last and the queue is empty."""
    with Proxy(amqp_url) as proxy:
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
        assert left(worker) == 0


def test_stats_are_json(start: Start) -> None:
    """Everything that `inspect stats` tells of the pool can be written as JSON."""
    json.dumps(_inspect(start(), "stats")["pool"])
