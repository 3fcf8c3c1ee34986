"""
A small planrelay of its own for a test: sandbox, broker, worker processes, and a publisher that says anything.

Everything is real: workers are processes, the broker is RabbitMQ or the embedded Valkey, the vendors' stand-ins answer
on a socket. `Fleet` publishes raw messages (as a foreign system would) and collects result events and dead letters.
"""

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
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import kombu
import kombu.exceptions
import redis
from amqp.exceptions import NotFound, PreconditionFailed

from config.settings import Settings, load_settings
from sandbox import SandboxThread
from worker import embedded, topology, valkey
from worker.app import broker_url, is_amqp_url, state_url, transport_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SYSTEMS = ("barometerit", "planview_admin", "planpoint")
INCLUDE = [f"tasks.{system}" for system in SYSTEMS if (Path("tasks") / system / "tasks.py").exists()]
CLOUDEVENT = "application/cloudevents+json"


QUEUES = (*map(topology.work_queue, SYSTEMS), topology.BATCH, topology.UNROUTED, topology.DEAD)


def delete_queues(connect: Callable[[], kombu.Connection]) -> None:
    """Leave no queue of ours on a broker."""
    time.sleep(1)  # see `Fleet._wipe_amqp`: none of them may be younger
    with connect() as connection, connection.channel() as channel:
        for queue in QUEUES:
            channel.queue_delete(queue)


def eventually(probe: Callable[[], Any], *, within: float = 20.0, what: str = "") -> Any:
    """Ask until the answer is true; fails with what was asked when the time is up."""
    end = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what or probe}; last answer: {answer!r}")
        time.sleep(0.02)


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def toml(settings: Mapping[str, Any], path: str = "") -> str:
    """Write nested settings as TOML: JSON's strings, numbers and lists are TOML's too."""
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items() if value is not None]
    text = (f"[{path}]\n" if path else "") + "\n".join(lines) + "\n"
    for name, value in settings.items():
        if isinstance(value, dict):
            text += toml(value, f"{path}.{json.dumps(name)}" if path else json.dumps(name))
    return text


class Worker:
    """One worker process of the fleet."""

    def __init__(self, fleet: Fleet, name: str, env: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = fleet.home / f"{name}.log"
        environ = {**os.environ, "PLANRELAY_CONFIG": str(fleet.config), **env}
        environ["PLANRELAY_WORKER__METRICS_PORT"] = str(self.port)
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--hostname", f"{name}@test"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=fleet.home, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> bool:
        """Ask the worker itself."""
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as link:
            link.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in link.recv(64)
        return False

    def kill(self) -> None:
        """End at once, as by the kernel."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, *, wait: float = 60) -> int:
        """Stop warm, as a redeploy does; gives the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(wait)

    def tail(self, lines: int = 40) -> str:
        """Give the end of the worker's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Fleet:
    """A broker's worth of planrelay, for one test."""

    def __init__(self, home: Path, *, amqp: str | None, sandbox: SandboxThread, **sections: Mapping[str, Any]) -> None:
        self.home = home
        self.sandbox = sandbox
        self.config = home / "planrelay.toml"
        self.workers: list[Worker] = []
        settings: dict[str, Any] = {
            "data_dir": str(home / "var"),
            "worker": {
                "include": INCLUDE,
                "lease": "2s",
                "drain_timeout": "10s",
                "concurrency": 100,
                **sections.pop("worker", {}),
            },
            "http": {"request_timeout": "2s", **sections.pop("http", {})},
            "retry": {"backoff_initial": "200ms", "backoff_ceiling": "2s", **sections.pop("retry", {})},
            "artifacts": {"allowed": ["./var/artifacts/"]},
            "connections": {**self._connections(), **sections.pop("connections", {})},
            **sections,
        }
        if amqp is not None:
            settings["broker"] = {"url": amqp}
        self.config.write_text(toml(settings))
        self.settings: Settings = load_settings(self.config, {})
        valkey.register()
        self.url = broker_url(self.settings)
        self.state = state_url(self.settings)
        self.amqp = is_amqp_url(self.url)
        self._events: deque[dict[str, Any]] = deque()
        self._event_queue = f"test-events.{uuid.uuid4().hex}"
        self._closing = False

    def _connections(self) -> dict[str, Any]:
        base = self.sandbox.base_url
        return {
            "tower": {
                "system": "planpoint",
                "base_url": base("planpoint"),
                "token": "sandbox-token",
                "max_in_flight": 64,
            },
            "acme-bit": {
                "system": "barometerit",
                "base_url": base("barometerit"),
                "username": "svc-relay",
                "password": "sandbox-password",
                "max_in_flight": 64,
            },
            "acme-admin": {
                "system": "planview_admin",
                "base_url": base("planview_admin"),
                "client_id": "sandbox-client",
                "client_secret": "sandbox-secret",
                "max_in_flight": 64,
            },
        }

    def connection(self) -> kombu.Connection:
        """Give a fresh connection to the broker."""
        options = {**transport_options(amqp=self.amqp), **({"confirm_publish": True} if self.amqp else {})}
        return kombu.Connection(self.url, transport_options=options, connect_timeout=5)

    def __enter__(self) -> Self:
        self._wipe()
        try:
            with self.connection() as connection:
                topology.declare(connection, SYSTEMS)
        except PreconditionFailed:  # a test, or another version, left a queue with other arguments
            delete_queues(self.connection)
            with self.connection() as connection:
                topology.declare(connection, SYSTEMS)
        ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(ready,), daemon=True)
        self._listener.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._closing:
            return
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        self._closing = True
        self._listener.join(5)
        self._wipe()
        if self.settings.state.url is None and (self.settings.broker.url is None or self.amqp):
            embedded.stop(self.settings.data_dir)

    def _wipe(self) -> None:
        """Leave nothing of ours on a broker that others use too."""
        redis.Redis.from_url(self.state).flushdb() if not self.amqp else self._wipe_amqp()

    def _wipe_amqp(self) -> None:
        store = redis.Redis.from_url(self.state)
        for key in store.scan_iter("planrelay:*", count=1000):
            store.delete(key)
        # Emptied, not deleted: RabbitMQ 3.10 may lose its dead-lettering, for every queue of the node, when a queue
        # goes that was declared an instant ago.
        for queue in (*QUEUES, *(f"celery_delayed_{level}" for level in range(28))):
            with self.connection() as connection, contextlib.suppress(NotFound):
                connection.channel().queue_purge(queue)
        with self.connection() as connection, connection.channel() as channel:
            channel.queue_delete(self._event_queue)

    def _listen(self, ready: threading.Event) -> None:
        while not self._closing:
            try:
                with self.connection() as connection:
                    # It outlives the broker's restarts, and this listener's connection.
                    queue = kombu.Queue(
                        self._event_queue,
                        topology.events_exchange(),
                        routing_key="#",
                        durable=self.amqp,
                        auto_delete=not self.amqp,
                        exclusive=not self.amqp,
                        expires=600 if self.amqp else None,
                    )
                    consumer = connection.Consumer(queue, accept=["json", CLOUDEVENT], no_ack=not self.amqp)
                    consumer.on_message = self._heard
                    with consumer:
                        ready.set()
                        while not self._closing:
                            with contextlib.suppress(TimeoutError):
                                connection.drain_events(timeout=0.1)
            except (OSError, kombu.exceptions.KombuError, *kombu.Connection(self.url).connection_errors):
                time.sleep(0.1)  # the broker is away: its queue keeps what is told meanwhile

    def _heard(self, message: Any) -> None:
        self._events.append(json.loads(message.body))
        if self.amqp:
            message.ack()

    def start(self, count: int = 1, *, env: Mapping[str, str] | None = None) -> list[Worker]:
        """Start workers and wait until they are ready."""
        fresh = [Worker(self, f"w{len(self.workers) + n}", env or {}) for n in range(count)]
        self.workers += fresh
        for worker in fresh:
            eventually(worker.ready, within=40, what=f"a worker that is ready; its log:\n{worker.tail()}")
        return fresh

    def publish(
        self,
        body: bytes,
        *,
        routing_key: str,
        exchange: str = topology.COMMANDS,
        content_type: str | None = CLOUDEVENT,
        headers: Mapping[str, Any] | None = None,
        **properties: Any,
    ) -> None:
        """Publish any bytes, as a foreign system would."""
        with self.connection() as connection:
            kombu.Producer(connection.channel()).publish(
                body,
                exchange=exchange,
                routing_key=routing_key,
                content_type=content_type,
                content_encoding=properties.pop("content_encoding", "utf-8"),
                headers=dict(headers or {}),
                delivery_mode=2,
                **properties,
            )

    def send_all(self, commands: list[dict[str, Any]]) -> list[str]:
        """Publish many commands over one connection; gives their ids."""
        with self.connection() as connection:
            producer = kombu.Producer(connection.channel())
            for command in commands:
                producer.publish(
                    json.dumps(command).encode(),
                    exchange=topology.COMMANDS,
                    routing_key=command["type"],
                    content_type=CLOUDEVENT,
                    content_encoding="utf-8",
                    delivery_mode=2,
                )
        return [command["id"] for command in commands]

    def send(self, type_: str, connection: str, data: Mapping[str, Any], **attributes: Any) -> str:
        """Publish one command; gives its id."""
        event = command(type_, connection, data, **attributes)
        return self.send_all([event])[0]

    def events(self, command_id: str | None = None) -> list[dict[str, Any]]:
        """Give the result events so far, of one command or of all."""
        return [event for event in list(self._events) if command_id is None or event["subject"] == command_id]

    def wait(self, command_id: str, *, within: float = 20) -> dict[str, Any]:
        """Wait for a command's result event."""
        found: list[dict[str, Any]] = eventually(
            lambda: self.events(command_id), within=within, what=f"an event of {command_id}\n{self._tails()}"
        )
        return found[0]

    def _tails(self) -> str:
        return "\n".join(worker.tail(25) for worker in self.workers)

    def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue."""
        with self.connection() as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def dead(self) -> list[Any]:
        """Take every dead letter."""
        letters = []
        with self.connection() as connection, connection.channel() as channel:
            queue = kombu.Queue(topology.DEAD, no_declare=True)(channel)
            while (message := queue.get(no_ack=True)) is not None:
                letters.append(message)
        return letters


def command(type_: str, connection: str, data: Mapping[str, Any], **attributes: Any) -> dict[str, Any]:
    """Build a structured CloudEvent command."""
    return {
        "specversion": "1.0",
        "id": attributes.pop("id", str(uuid.uuid4())),
        "source": "/test",
        "type": type_,
        "connection": connection,
        "data": dict(data),
        **attributes,
    }
