"""
Throughput of one worker process against Celery's own way and against no queue at all, in alternating rounds.

    .venv/bin/python benchmarks/throughput.py [--commands 2000] [--rounds 3]

Needs RabbitMQ on 127.0.0.1 (`PLANRELAY_TEST_AMQP`). The vendor is the sandbox, 100 ms a call. Each contestant gets the
same commands; what is measured is commands a second from the first call's arrival at the vendor to the last call's
answer, and for planrelay on to the last result event that the broker has.

- planrelay: one worker, everything on (validation, ledger, gate, confirmed events)
- prefork:   `celery worker -P prefork -c 8`, `asyncio.run` per task with aiohttp, late acks, quorum queue
- aiohttp:   500 calls at once, no queue, no ledger, no events

At last planrelay once more with a vendor that takes 3 s, to see how many calls one process has in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import kombu

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers.prefork import app, queue
from sandbox import SandboxProcess
from worker import embedded, topology

AMQP = os.environ.get("PLANRELAY_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672//")
SYSTEMS = ("barometerit", "planview_admin", "planpoint")
HERE = Path(__file__).parent


def settings(home: Path, base_url: str) -> Path:
    """Write the settings of the contestant planrelay."""
    path = home / "planrelay.toml"
    path.write_text(f"""
data_dir = "{home}/var"
[broker]
url = "{AMQP}"
[worker]
concurrency = 600
metrics_port = 0
[connections.tower]
system = "planpoint"
base_url = "{base_url}"
token = "sandbox-token"
max_in_flight = 500
""")
    return path


def publish(exchange: str, key: str, bodies: list[bytes], content_type: str, headers: list[dict[str, Any]]) -> None:
    """Publish everything before the clock starts; nobody consumes yet."""
    with kombu.Connection(AMQP) as connection:
        producer = kombu.Producer(connection.channel())
        for body, each in zip(bodies, headers, strict=True):
            producer.publish(
                body,
                exchange=exchange,
                routing_key=key,
                headers=each,
                content_type=content_type,
                content_encoding="utf-8",
                delivery_mode=2,
            )


def watch(worker: subprocess.Popen[bytes], commands: int, done: Callable[[], int]) -> float:
    """Wait until so many are done; gives when that was."""
    end = time.monotonic() + 180
    while (so_far := done()) < commands:
        if time.monotonic() > end or worker.poll() is not None:
            raise SystemExit(f"only {so_far} of {commands} commands were done")
        time.sleep(0.05)
    return time.monotonic()


def rate(sandbox: SandboxProcess, until: float | None = None) -> tuple[float, int]:
    """Give calls a second, from the first one's arrival to the last one's answer or `until`, and the most at once."""
    entries = sandbox.journal.entries(operation="unit.read")
    end = until or max(entry.answered or 0.0 for entry in entries)
    return len(entries) / (end - min(entry.arrived for entry in entries)), sandbox.journal.peak(vendor="planpoint")


def planrelay(sandbox: SandboxProcess, unit: str, commands: int) -> tuple[float, int]:
    """Measure one planrelay worker."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        env = {**os.environ, "PLANRELAY_CONFIG": str(settings(home, sandbox.base_url("planpoint")))}
        with kombu.Connection(AMQP) as connection:
            topology.declare(connection, SYSTEMS)
        bodies = [
            json.dumps(
                {
                    "specversion": "1.0",
                    "id": str(uuid.uuid4()),
                    "source": "/benchmark",
                    "type": "planpoint.unit.read",
                    "connection": "tower",
                    "data": {"id": unit},
                }
            ).encode()
            for _ in range(commands)
        ]
        none: list[dict[str, Any]] = [{} for _ in bodies]
        publish(topology.COMMANDS, "planpoint.unit.read", bodies, "application/cloudevents+json", none)
        log = (home / "log").open("wb")
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", "bench@%h"]
        with kombu.Connection(AMQP) as connection, connection.channel() as channel:
            told = topology.events_exchange()(channel)
            told.declare()
            events = kombu.Queue(f"benchmark.{uuid.uuid4().hex}", told, routing_key="#", exclusive=True)(channel)
            events.declare()
            worker = subprocess.Popen(command, cwd=HERE.parent, env=env, stdout=log, stderr=log)
            try:
                return rate(sandbox, watch(worker, commands, lambda: events.queue_declare(passive=True).message_count))
            finally:
                worker.terminate()
                worker.wait(60)
                embedded.stop(home / "var")


def prefork(sandbox: SandboxProcess, unit: str, commands: int) -> tuple[float, int]:
    """Measure Celery's own way."""
    url = f"{sandbox.base_url('planpoint')}/api/units/{unit}"
    env = {**os.environ, "BENCH_AMQP": AMQP, "BENCH_URL": url, "PYTHONPATH": str(HERE.parent)}
    ids = [str(uuid.uuid4()) for _ in range(commands)]
    with kombu.Connection(AMQP) as connection:
        app.conf.broker_url = AMQP
        queue(connection.channel()).declare()
    bodies = [json.dumps([[], {}, {}]).encode() for _ in ids]
    headers = [{"task": "peers.prefork.read", "id": each, "lang": "py"} for each in ids]
    publish("peers", "peers.prefork", bodies, "application/json", headers)
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.prefork", "worker", "-n", "peer@%h"]
    command += ["-P", "prefork", "-c", "8", "-l", "ERROR"]
    worker = subprocess.Popen(command, cwd=HERE.parent, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        watch(worker, commands, lambda: sandbox.journal.count(operation="unit.read"))
        time.sleep(0.5)  # for the last answers
        return rate(sandbox)
    finally:
        worker.terminate()
        worker.wait(60)
        with kombu.Connection(AMQP) as connection:
            queue(connection.channel()).delete()


def alone(sandbox: SandboxProcess, unit: str, commands: int) -> tuple[float, int]:
    """Measure aiohttp without any queue."""
    url = f"{sandbox.base_url('planpoint')}/api/units/{unit}"

    async def run() -> None:
        gate = asyncio.Semaphore(500)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": "Bearer sandbox-token"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def one() -> None:
                async with gate, session.get(url) as answer:
                    await answer.read()

            await asyncio.gather(*(one() for _ in range(commands)))

    asyncio.run(run())
    return rate(sandbox)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--commands", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    contestants = {"planrelay": planrelay, "prefork -c 8": prefork, "aiohttp alone": alone}
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    for number in range(options.rounds):
        for name, contestant in contestants.items():
            with SandboxProcess(latency="100ms") as sandbox:
                unit = sandbox.seed("planpoint", "units", count=1)[0]
                each, peaks[name] = contestant(sandbox, unit, options.commands)
            rates[name].append(each)
            print(f"round {number + 1}  {name:14} {each:8.0f} commands/s   {peaks[name]} at once", flush=True)
    ours = statistics.median(rates["planrelay"])
    print(f"\n{'':14} {'median/s':>9} {'min':>7} {'max':>7} {'at once':>8}   planrelay is")
    for name, found in rates.items():
        median = statistics.median(found)
        print(
            f"{name:14} {median:9.0f} {min(found):7.0f} {max(found):7.0f} {peaks[name]:8}   {ours / median:.2f} x of it"
        )
    with SandboxProcess(latency="3s") as sandbox:
        _, peak = planrelay(sandbox, sandbox.seed("planpoint", "units", count=1)[0], 1000)
    print(f"\nWith 3 s a call, one planrelay process had {peak} calls in flight at once (max_in_flight = 500).")


if __name__ == "__main__":
    main()
