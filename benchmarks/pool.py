"""
What one process does with 2,000 messages of 100 ms each: the loop pool against Celery's prefork, in alternating rounds.

    python benchmarks/pool.py [--messages N] [--rounds N] [--broker URL]

Each round fills a quorum queue of its own, then starts a worker, and counts from the first body's start to the last
one's end. Under prefork the same body runs in `asyncio.run`, eight processes side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

if os.environ.get("BENCH_LOOP") == "asyncio":
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed

from celery import Celery
from kombu import Connection, Queue

from worker.pool import coroutine_task

AMQP = "amqp://guest:guest@127.0.0.1:5672//"
ROOT = Path(__file__).parents[1]
QUEUE = os.environ.get("BENCH_QUEUE", "planrelay-bench")
PACE = float(os.environ.get("BENCH_SECONDS", "0.1"))
DIARY = os.open(os.environ.get("BENCH_DIARY", os.devnull), os.O_WRONLY | os.O_APPEND)

app = Celery("benchmarks.pool", broker=os.environ.get("BENCH_BROKER", AMQP), set_as_current=False)
app.conf.update(
    task_queues=[Queue(QUEUE, durable=True, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_create_missing_queues=False,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_pool=os.environ.get("BENCH_POOL", "worker.pool:LoopPool"),  # `-P prefork` would not override it
    worker_consumer="worker.pool:LoopConsumer",
)


async def body() -> None:
    """Wait as long as an HTTP call would."""
    os.write(DIARY, b"%d\n" % time.time_ns())
    await asyncio.sleep(PACE)
    os.write(DIARY, b"%d\n" % time.time_ns())


@app.task(name="on_the_loop")
@coroutine_task
async def on_the_loop() -> None:
    """Run the body on the process's one loop."""
    await body()


@app.task(name="by_itself")
def by_itself() -> None:
    """Run the body on a loop of its own."""
    asyncio.run(body())


KINDS: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "loop pool, uvloop": ("on_the_loop", ["-c", "200"], {}),
    "loop pool, asyncio": ("on_the_loop", ["-c", "200"], {"BENCH_LOOP": "asyncio"}),
    "prefork -c 8, asyncio.run": ("by_itself", ["-c", "8"], {"BENCH_POOL": "prefork"}),
}


def measure(kind: str, messages: int, broker: str) -> tuple[float, float]:
    """Run one round; gives messages a second and the worker's CPU milliseconds per message, boot included."""
    task, options, environ = KINDS[kind]
    queue = f"planrelay-bench-{uuid.uuid4().hex[:8]}"
    with tempfile.NamedTemporaryFile() as diary, Connection(broker) as connection:
        _fill(connection, queue, task, messages)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        worker = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "celery",
                    "-A",
                    "benchmarks.pool",
                    "worker",
                    "-n",
                    f"{queue}@bench",
                    "-l",
                    "ERROR",
                ),
                *("--without-gossip", "--without-mingle", "--without-heartbeat", *options),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **environ, "BENCH_QUEUE": queue, "BENCH_DIARY": diary.name, "BENCH_BROKER": broker},
        )
        path = Path(diary.name)
        try:
            while path.read_bytes().count(b"\n") < 2 * messages:
                assert worker.poll() is None, "the worker ended"
                time.sleep(0.1)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
            connection.default_channel.queue_delete(queue)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        instants = [int(line) for line in path.read_text().split()]
    spent = (max(instants) - min(instants)) / 1e9
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return messages / spent, cpu / messages * 1000


def _fill(connection: Any, queue: str, task: str, messages: int) -> None:
    channel = connection.default_channel
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    text = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    for _ in range(messages):
        id_ = str(uuid.uuid4())
        message = channel.prepare_message(
            text,
            content_type="application/json",
            content_encoding="utf-8",
            headers={"lang": "py", "task": task, "id": id_, "root_id": id_},
            properties={"delivery_mode": 2, "correlation_id": id_},
        )
        channel.basic_publish(message, exchange="", routing_key=queue)
    while channel.queue_declare(queue, passive=True).message_count < messages:
        time.sleep(0.05)


def main() -> None:
    """Print each round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", default=AMQP)
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only this one (may be repeated)")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in arguments.kind or KINDS}
    for number in range(1, arguments.rounds + 1):
        for kind, found in rates.items():
            rate, cpu = measure(kind, arguments.messages, arguments.broker)
            found.append(rate)
            print(
                f"round {number}  {kind:28} {rate:7.0f} messages/s  {cpu:6.2f} ms CPU each, boot included", flush=True
            )
    for kind, found in rates.items():
        print(f"median   {kind:28} {statistics.median(found):7.0f} messages/s")


if __name__ == "__main__":
    main()
