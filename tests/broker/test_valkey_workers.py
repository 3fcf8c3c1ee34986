"""The Valkey transport under Celery: real workers, killed and stopped, and a server that is killed under them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Exchange, Queue

from worker import embedded, valkey

valkey.register()

LEASE = 1.0
Work = Callable[..., list["Worker"]]


def eventually(claim: Callable[[], Any], seconds: float = 40) -> None:
    """Wait until the claim holds; the server may be away meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if claim():
                return
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


class Worker:
    """A Celery worker of `tests.broker.valkey_app`."""

    def __init__(self, url: str, log: Path, *, pool: str, concurrency: int) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "tests.broker.valkey_app", "worker", "-l", "INFO"),
                    *("-P", pool, "-c", str(concurrency), "-n", f"{log.stem}@test"),
                ],
                env={**os.environ, "VALKEY_APP_SERVER": url, "VALKEY_APP_LEASE": str(LEASE)},
                stdout=output,
                stderr=output,
            )

    def ready(self) -> None:
        """Wait until it consumes."""
        eventually(lambda: b" ready." in self.log.read_bytes())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop it warmly and wait."""
        self.process.terminate()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a directory with a Valkey in it."""
    embedded.ensure(tmp_path, linger=timedelta(seconds=1))
    yield tmp_path
    embedded.stop(tmp_path)


@pytest.fixture
def url(data_dir: Path) -> str:
    """Give the server's URL."""
    return embedded.ensure(data_dir)


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    """Give a client that looks at what lies in the server."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    """Give an app that publishes to the workers' queue, and tries again when the connection is lost."""
    app = Celery("publisher", broker=valkey.broker_url(url), set_as_current=False)
    app.conf.update(
        task_queues=[Queue("valkey_app", Exchange("valkey_app", type="topic"), routing_key="#")],
        task_default_queue="valkey_app",
        task_default_exchange="valkey_app",
        task_default_exchange_type="topic",
        task_default_routing_key="work",
        task_publish_retry_policy={"max_retries": None, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.5},
    )
    yield app
    app.close()


@pytest.fixture
def work(url: str, tmp_path: Path) -> Iterator[Work]:
    """Give workers that are at work."""
    started: list[Worker] = []

    def some(number: int, *, pool: str = "threads", concurrency: int = 4) -> list[Worker]:
        workers = []
        for _ in range(number):
            workers.append(Worker(url, tmp_path / f"worker{len(started)}.log", pool=pool, concurrency=concurrency))
            started.append(workers[-1])
        for worker in workers:
            worker.ready()
        return workers

    yield some
    for worker in started:
        worker.kill()


def send(app: Celery, numbers: range) -> None:
    """Publish the numbers to be worked on."""
    for number in numbers:
        app.send_task("work", [number])


def more_is_done(server: redis.Redis, than: int) -> bool:
    """Tell whether work goes on."""
    return server.llen("done") > than


def nothing_is_left(server: redis.Redis) -> bool:
    """Tell whether every message was acknowledged."""
    return not server.exists("valkey_app") and not server.keys("planrelay:unacked:*")


def test_nothing_is_lost_when_workers_are_killed(app: Celery, work: Work, server: redis.Redis) -> None:
    """2,000 messages, three workers killed at work: each message is worked on, and acknowledged in the end."""
    send(app, range(2_000))  # before the workers, which may be faster than who publishes and would have nothing left
    for victim in work(3):
        at_work = partial(more_is_done, server, server.llen("done") + 50)
        eventually(at_work)
        victim.kill()
    assert not nothing_is_left(server)
    (survivor,) = work(1)
    eventually(lambda: nothing_is_left(server))
    done = Counter(int(number) for number in server.lrange("done", 0, -1))
    assert set(done) == set(range(2_000))
    # Twice ran only what was in a victim's hands.
    assert sum(done.values()) - 2_000 <= 3 * 8
    assert survivor.stop() == 0


def test_a_killed_workers_messages_run_again_within_two_leases(app: Celery, work: Work, server: redis.Redis) -> None:
    """A worker that lives takes over what a killed one held, soon after its lease is over."""
    both = {str(worker.process.pid) for worker in work(2)}
    app.send_task("hold", ["first"])
    eventually(lambda: server.llen("first:began") == 1)
    victim = str(server.lindex("first:began", 0))
    os.kill(int(victim), signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: server.llen("first:began") == 2)
    assert time.monotonic() - killed < 2 * LEASE + 1
    assert {server.lindex("first:began", 1)} == both - {victim}


def test_a_task_that_runs_for_many_leases_runs_once(app: Celery, work: Work, server: redis.Redis) -> None:
    """Neither another worker nor a solo pool that blocks its hub makes a long task run twice."""
    work(1, pool="solo", concurrency=1)
    app.send_task("hold", ["long"])
    eventually(lambda: server.llen("long:began") == 1)
    send(app, range(20))
    work(1)
    eventually(lambda: server.llen("done") == 20)
    time.sleep(4 * LEASE)  # nothing may happen now, so there is nothing to poll for
    assert server.llen("long:began") == 1
    server.rpush("long:go", "")
    eventually(lambda: nothing_is_left(server))
    assert server.llen("long:ended") == 1


def test_a_worker_that_stood_still_goes_on(app: Celery, work: Work, server: redis.Redis) -> None:
    """A worker that was stopped for longer than its lease loses what it held to another, and works on afterwards."""
    workers = {str(worker.process.pid): worker for worker in work(2)}
    app.send_task("hold", ["nap"])
    eventually(lambda: server.llen("nap:began") == 1)
    sleeper = workers.pop(str(server.lindex("nap:began", 0)))
    (heir,) = workers.values()
    sleeper.signal(signal.SIGSTOP)
    eventually(lambda: server.llen("nap:began") == 2)
    sleeper.signal(signal.SIGCONT)
    server.rpush("nap:go", "", "")
    eventually(lambda: server.llen("nap:ended") == 2 and nothing_is_left(server))
    assert heir.stop() == 0
    send(app, range(10))
    eventually(lambda: nothing_is_left(server))
    assert server.llen("done") == 10


def test_a_server_that_is_killed_loses_nothing(app: Celery, work: Work, server: redis.Redis, data_dir: Path) -> None:
    """Publishers and workers go on when the server is killed twice under them; every number is worked on."""
    work(1)
    for begin in (0, 150):
        send(app, range(begin, begin + 100))
        os.kill(int((data_dir / "valkey" / "server.pid").read_text()), signal.SIGKILL)
        send(app, range(begin + 100, begin + 150))
    eventually(lambda: nothing_is_left(server))
    assert {int(number) for number in server.lrange("done", 0, -1)} == set(range(300))


def test_an_emptied_server_is_declared_again(app: Celery, work: Work, server: redis.Redis) -> None:
    """A worker notices that its queue is gone, and declares everything anew."""
    work(1)
    server.flushall()
    eventually(lambda: server.hexists("planrelay:queues", "valkey_app"))
    send(app, range(5))
    eventually(lambda: server.llen("done") == 5)


def test_a_warm_stop_gives_back_what_was_not_begun(app: Celery, work: Work, server: redis.Redis) -> None:
    """What a stopping worker holds and did not begin is in the queue at once, not after a lease."""
    (worker,) = work(1, concurrency=1)
    app.send_task("hold", ["busy"])
    eventually(lambda: server.llen("busy:began") == 1)
    send(app, range(3))
    worker.process.terminate()
    server.rpush("busy:go", "")
    assert worker.process.wait(timeout=30) == 0
    assert server.keys("planrelay:unacked:*") == []
    assert server.hgetall("planrelay:workers") == {}
    assert server.llen("valkey_app") + server.llen("done") == 3


def test_remote_control_works(app: Celery, work: Work, server: redis.Redis) -> None:
    """Ping, stats, active and revoke reach the workers and their answers come back; nothing of it stays behind."""
    work(2)
    inspect = app.control.inspect(["worker0@test", "worker1@test"], timeout=5)
    assert {name: answer["ok"] for name, answer in inspect.ping().items()} == {
        "worker0@test": "pong",
        "worker1@test": "pong",
    }
    assert {answer["broker"]["transport"] for answer in inspect.stats().values()} == {"planrelay"}
    app.send_task("hold", ["seen"], task_id="the-task")
    eventually(lambda: server.llen("seen:began") == 1)
    assert [task["id"] for tasks in inspect.active().values() for task in tasks] == ["the-task"]
    app.control.revoke("never-sent")
    eventually(lambda: all("never-sent" in revoked for revoked in inspect.revoked().values()))
    server.rpush("seen:go", "")
    assert [key for key in server.keys("*") if "reply" in key and "binding" not in key] == []
