"""The loop pool in a worker process on a real RabbitMQ: what runs, and how it ends."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.broker.pool_worker import PoolWorker
from worker import embedded, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.broker.pool_worker import Line

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
            assert max(worker.durations()) < 1.5
            worker.kill(signal.SIGTERM)
            assert worker.wait() == 0
            assert worker.messages() == 0
    finally:
        embedded.stop(tmp_path)


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
    assert worker.left() == 0


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
    assert worker.left() == 0


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
    assert worker.left() == 0


def test_revoke_terminate_reaches_a_job_that_still_waits(start: Start) -> None:
    """A job that is revoked while it waits for a slot never begins, and is acknowledged."""
    worker = start(worker_concurrency=1, worker_prefetch_multiplier=2)
    worker.send("nap", 1.5, "first")
    doomed = worker.send("nap", 30, "doomed")
    worker.until_count("start", 1)
    worker.until(lambda worker: worker.inspect("reserved"))
    worker.client.control.revoke(doomed, terminate=True)
    worker.until(lambda worker: worker.lines("revoked", label=doomed))
    worker.send("nap", 0.1, "last")
    worker.until_count("end", 2)
    assert [line["label"] for line in worker.lines("start")] == ["first", "last"]
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.left() == 0


def test_inspect_answers_under_load(start: Start) -> None:
    """`ping`, `active` and `stats` answer while jobs run; each active job has a number of its own."""
    worker = start(worker_concurrency=30)
    for number in range(20):
        worker.send("nap", 4, str(number))
    worker.until_count("start", 20)
    assert worker.inspect("ping") == {"ok": "pong"}
    active = worker.inspect("active")
    assert len({job["worker_pid"] for job in active}) == 20
    pool = worker.inspect("stats")["pool"]
    assert (pool["implementation"], pool["running"], pool["max-concurrency"]) == ("worker.pool:LoopPool", 20, 30)
    assert pool["loop-lag"] < 5


def test_the_pool_grows_and_shrinks(start: Start) -> None:
    """`pool_grow` lets waiting jobs begin, `pool_shrink` lets fewer run."""
    worker = start(worker_concurrency=2, worker_prefetch_multiplier=10)
    for number in range(6):
        worker.send("nap", 2.5, str(number))
    worker.until_count("start", 2)
    worker.client.control.pool_grow(3, destination=[worker.hostname], reply=True)
    worker.until_count("start", 5)
    worker.client.control.pool_shrink(4, destination=[worker.hostname], reply=True)
    assert worker.inspect("stats")["pool"]["max-concurrency"] == 1
    worker.until_count("end", 6)


def test_stats_are_json(start: Start) -> None:
    """Everything that `inspect stats` tells of the pool can be written as JSON."""
    json.dumps(start().inspect("stats")["pool"])
