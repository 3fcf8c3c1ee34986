"""A worker process of `tests.broker.pool_app`, its diary, and a network between it and its broker that can fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

from amqp import ChannelError
from celery import Celery
from kombu import Connection, Queue

from worker import valkey

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

Line = dict[str, Any]


class PoolWorker:
    """One `celery worker` process; leaving the block kills what is left of it and deletes its queue."""

    def __init__(self, broker: str, folder: Path, *, options: tuple[str, ...] = (), **settings: Any) -> None:
        valkey.register()
        self.queue = f"planrelay-test-pool-{uuid.uuid4().hex[:12]}"
        self.broker = broker  # as the test reaches it; the worker may go through a proxy
        self.diary_path = folder / f"{self.queue}.jsonl"
        self.log_path = folder / f"{self.queue}.log"
        self.hostname = f"{self.queue}@test"
        self._through = settings.pop("through", broker)
        self._environ = settings.pop("environ", {})
        self._settings = settings
        self._options = options
        self.client = Celery("pool-test", broker=broker, set_as_current=False)
        self.client.conf.update(
            task_default_queue=self.queue, task_queues=[Queue(self.queue, durable=True)], task_ignore_result=True
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(Exception), Connection(self.broker) as connection:
            connection.default_channel.queue_delete(self.queue)
        self.client.close()

    def start(self, *, ready: bool = True) -> None:
        """Start the process; `ready`: and wait until it takes messages."""
        self.diary_path.touch()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "tests.broker.pool_app", "worker", "-n", self.hostname),
                    *("--without-gossip", "--without-mingle", "-l", "INFO", *self._options),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "POOL_BROKER": self._through,
                    "POOL_DIARY": str(self.diary_path),
                    "POOL_APP": json.dumps({"queue": self.queue, **self._settings}),
                    **self._environ,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            self.until(lambda worker: worker.lines("ready"))

    def send(self, task: str, *args: Any, **kwargs: Any) -> str:
        """Publish one task; gives its id."""
        return str(self.client.send_task(task, args, kwargs, queue=self.queue).id)

    def lines(self, what: str | None = None, **where: Any) -> list[Line]:
        """Give what the diary says so far."""
        found = [json.loads(line) for line in self.diary_path.read_text().splitlines()]
        return [
            line
            for line in found
            if (what is None or line["what"] == what) and all(line.get(key) == value for key, value in where.items())
        ]

    def until(self, done: Callable[[PoolWorker], object], patience: float = PATIENCE) -> None:
        """Wait until `done` says so; fails with the worker's log."""
        end = time.monotonic() + patience
        while not done(self):
            assert self.process is not None
            if time.monotonic() > end or self.process.poll() is not None:
                state = "still runs" if self.process.poll() is None else f"ended with {self.process.returncode}"
                raise AssertionError(f"Not in {patience} s; the worker {state}:\n{self.log[-6000:]}")
            time.sleep(0.02)

    def until_count(self, what: str, count: int, patience: float = PATIENCE) -> list[Line]:
        """Wait for so many lines of a kind."""
        self.until(lambda worker: len(worker.lines(what)) >= count, patience)
        return self.lines(what)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for the end of the process; gives its status."""
        assert self.process is not None
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"The worker still runs after {patience} s:\n{self.log[-6000:]}") from None

    def messages(self) -> int:
        """Count what the queue holds ready: all of it once the worker has gone."""
        with Connection(self.broker) as connection:
            try:
                return int(connection.default_channel.queue_declare(self.queue, passive=True).message_count)
            except ChannelError:  # Valkey keeps no empty queues
                return 0

    def left(self) -> int:
        """Count what a worker that has gone did not acknowledge; the broker takes a moment to see that it has."""
        end = time.monotonic() + 5
        count, before = self.messages(), -1
        while count != before and time.monotonic() < end:
            time.sleep(0.25)
            count, before = self.messages(), count
        return count

    def durations(self) -> list[float]:
        """Give how long each nap lasted, the first time it ended."""
        began = {line["label"]: line["at"] for line in reversed(self.lines("start"))}
        ended = {line["label"]: line["at"] for line in reversed(self.lines("end"))}
        return [at - began[label] for label, at in ended.items()]

    def inspect(self, method: str) -> Any:
        """Ask the worker by remote control."""
        asked = self.client.control.inspect(destination=[self.hostname], timeout=3)
        return (getattr(asked, method)() or {}).get(self.hostname)

    @property
    def log(self) -> str:
        """Give what the worker said on its outputs."""
        return self.log_path.read_text(errors="replace")


class Proxy:
    """A TCP way to the broker that a test can cut, or freeze so that nothing arrives and nobody hears of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: set[socket.socket] = set()
        port = self._listener.getsockname()[1]
        user = f"{parts.username}:{parts.password}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flows.set()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._open.clear()
        for each in tuple(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._open.set()
        self._flows.set()

    def freeze(self) -> None:
        """Swallow what comes, on present and new connections, without closing any."""
        self._flows.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._sockets |= {near, far}
            for here, there in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                self._flows.wait()
                there.sendall(data)
        for each in (here, there):
            self._sockets.discard(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
