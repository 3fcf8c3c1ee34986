"""
How near to a vendor's limit a fleet comes without stepping over it: time over the ideal, and 429s earned.

    .venv/bin/python benchmarks/politeness.py [--reads 1000] [--quota 50/2s] [--workers 4]

The sandbox gives Planview Admin's points in fixed windows (planview_admin.txt, "Working with Rate Limits"). The same
reads are done by a fleet of planrelay workers and by as many Celery workers with `autoretry_for` and an exponential
backoff (at most 30 s), each with eight calls at once in the whole fleet, on embedded Valkeys. No bulk work waits.

The ideal is what the windows allow: from the first call's arrival to the beginning of the window in which the last one
fits. Times are those of the vendor's journal. The contestants start when their workers are ready.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[1]))

from celery import Celery

from benchmarks.one_worker import settings
from benchmarks.peers import naive
from config.settings import load_settings
from sandbox import SandboxProcess
from worker import embedded
from worker.client import Client

HERE = Path(__file__).parent
PATIENCE = 300.0
"""Seconds after which a contestant is stopped, and what it got done is counted."""


@dataclass(frozen=True)
class Course:
    """What is to be done: `points` in each window of `period` seconds."""

    reads: int
    points: int
    period: float
    workers: int

    def ideal(self, first: float) -> float:
        """Give the seconds from the first call (epoch) to the window in which the last read fits."""
        windows = math.ceil(self.reads / self.points) - 1
        return windows * self.period - first % self.period


def started(stack: ExitStack, command: list[str], env: dict[str, str], log: Path) -> None:
    """Start a worker that ends with the stack."""
    file = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(command, cwd=HERE.parent, env={**os.environ, **env}, stdout=file, stderr=file)

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def ready(app: Celery, count: int) -> None:
    """Wait until so many workers answer."""
    end = time.monotonic() + 60
    while len(app.control.ping(timeout=1)) < count:
        if time.monotonic() > end:
            raise SystemExit("the workers did not start")


def finished(sandbox: SandboxProcess, course: Course) -> None:
    """Wait until every read was answered with success, or the patience is at an end."""
    end = time.monotonic() + PATIENCE
    while sandbox.journal.count(operation="user.read", status=200) < course.reads and time.monotonic() < end:
        time.sleep(0.25)


def planrelay(sandbox: SandboxProcess, ids: list[str], course: Course, home: Path) -> None:
    """Let a fleet of planrelay do it."""
    account = {"client_id": "sandbox-client", "client_secret": "sandbox-secret"}
    path = settings(home, "planview_admin", base_url=sandbox.base_url("planview_admin"), **account)
    with ExitStack() as stack:
        stack.callback(embedded.stop, home / "var")
        for number in range(course.workers):
            command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", f"w{number}@bench"]
            started(stack, command, {"PLANRELAY_CONFIG": str(path)}, home / f"w{number}.log")
        loaded = load_settings(path, {})
        with Client(loaded, source="/benchmark") as client:
            end = time.monotonic() + 60
            while sum((home / f"w{n}.log").read_text().count("ready.") for n in range(course.workers)) < course.workers:
                if time.monotonic() > end:
                    raise SystemExit("the workers did not start:\n" + (home / "w0.log").read_text()[-2000:])
                time.sleep(0.1)

            async def publish() -> None:
                for start in range(0, len(ids), 100):
                    sends = [
                        client.asend("planview_admin.user.read", connection="vendor", data={"id": id}, answer=False)
                        for id in ids[start : start + 100]
                    ]
                    await asyncio.gather(*sends)

            asyncio.run(publish())
            finished(sandbox, course)


def celery(sandbox: SandboxProcess, ids: list[str], course: Course, home: Path) -> None:
    """Let Celery's own way do it."""
    base = sandbox.base_url("planview_admin")
    basic = base64.b64encode(b"sandbox-client:sandbox-secret").decode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
    with urlopen(Request(f"{base}/io/v1/oauth2/token", b"grant_type=client_credentials", headers)) as answer:
        token = json.load(answer)["id_token"]
    url = embedded.ensure(home / "var", linger=timedelta(seconds=5))
    broker = url.replace("unix://", "redis+socket://")
    env = {"BENCH_BROKER": broker, "BENCH_TOKEN": token}
    with ExitStack() as stack:
        stack.callback(embedded.stop, home / "var")
        for number in range(course.workers):
            command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.naive", "worker", "-l", "ERROR"]
            command += ["-n", f"peer{number}@bench", "-P", "threads", "-c", str(8 // course.workers or 1)]
            started(stack, command, env, home / f"peer{number}.log")
        naive.app.conf.broker_url = broker
        ready(naive.app, course.workers)
        for id in ids:
            naive.read.delay(f"{base}/public/v1/user/{id}")
        finished(sandbox, course)
        naive.app.close()


def told(name: str, sandbox: SandboxProcess, course: Course) -> None:
    """Print what the vendor saw."""
    entries = sandbox.journal.entries(operation="user.read")
    done = [entry for entry in entries if entry.status == 200]
    refused = sum(entry.status == 429 for entry in entries)
    first = min(entry.arrived_at.timestamp() for entry in entries)
    span = max(entry.arrived_at.timestamp() for entry in done) - first
    ideal = course.ideal(first)
    over = f"{span / ideal:5.2f} x" if len(done) >= course.reads else "never"
    print(
        f"{name:22} {len(done):6} {span:8.1f} s {ideal:8.1f} s {over:>9} {refused:7} {refused / len(entries):8.1%}",
        flush=True,
    )


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--quota", default="50/2s")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    points, _, period = options.quota.partition("/")
    course = Course(options.reads, int(points), float(period.removesuffix("s")), options.workers)
    contestants: dict[str, Callable[[SandboxProcess, list[str], Course, Path], None]] = {
        "planrelay": planrelay,
        "celery, autoretry_for": celery,
    }
    print(f"{course.reads} reads, {options.quota}, {course.workers} workers")
    print(f"{'':22} {'done':>6} {'time':>10} {'ideal':>10} {'over it':>9} {'429s':>7} {'of calls':>8}")
    for name, contestant in contestants.items():
        with tempfile.TemporaryDirectory() as folder, SandboxProcess(quota=options.quota) as sandbox:
            ids = sandbox.seed("planview_admin", "users", course.reads)
            contestant(sandbox, ids, course, Path(folder))
            told(name, sandbox, course)


if __name__ == "__main__":
    main()
