"""
Publish commands and await their results, from Python: `Client`, for synchronous and asynchronous programs.

```python
with Client() as client:
    event = client.call("planpoint.unit.read", connection="tower", data={"id": "…"})      # the result event, a dict
    sent = client.send("planpoint.unit.update", connection="tower", data={…})             # published and confirmed
    event = sent.result(timeout=30)
```
In a coroutine: `await client.acall(…)`. Every publish is confirmed by the broker before it returns; answers come to a
queue of the client's own (`reply_to`), which is gone when the client closes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import difflib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

import structlog
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError

from config.settings import Settings, load_settings
from worker import rfc3339, topology
from worker.app import Slices, broker_url, is_amqp_url, transport_options
from worker.bridge import process_loop
from worker.errors import BadCommand
from worker.events import Outgoing, Publisher
from worker.message import CLOUDEVENT

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("planrelay.client")

SOURCE: Final = "/planrelay/client"
REPLY_EXPIRES_MS: Final = 60 * 60 * 1000

READY_PATIENCE: Final = 30.0
"""Seconds that the first command may wait for the queue of its answer."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A published command: its id, and the result event to come."""

    id: str
    answer: concurrent.futures.Future[dict[str, Any]]

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the result event; raises `TimeoutError`."""
        return self.answer.result(timeout)


class Client:
    """A confirmed way in and an awaited way out; close it, or use it as a context manager."""

    def __init__(self, settings: Settings | None = None, *, source: str = SOURCE) -> None:
        if not structlog.is_configured():  # as it comes it prints to standard output, which is the program's own
            structlog.configure(
                processors=[structlog.stdlib.render_to_log_kwargs],
                logger_factory=structlog.stdlib.LoggerFactory(),
                wrapper_class=structlog.stdlib.BoundLogger,
            )
        self._settings = settings if settings is not None else load_settings()
        self._source = source
        self._slices = Slices(self._settings.worker.include)
        url = broker_url(self._settings)
        options = transport_options(amqp=is_amqp_url(url))
        self._publisher = Publisher(url, systems=tuple(self._slices.systems), options=options, name="client")
        self._loop = process_loop().loop
        self._publisher.start(self._loop)
        self._answers = _Answers(url, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        type: str,
        *,
        connection: str,
        data: Mapping[str, Any] | None = None,
        id: str | None = None,
        idempotencykey: str | None = None,
        expiry: datetime | None = None,
        answer: bool = True,
        timeout: float | None = 30,
    ) -> Sent:
        """
        Publish one command and wait for the broker's confirm.

        Raises `BadCommand` for a type or data that planrelay would refuse, `TimeoutError` where the broker is away.
        `answer`: ask for the result event; without it `Sent.result` never comes.
        """
        publishing, sent = self._prepare(type, connection, data, id, idempotencykey, expiry, answer=answer)
        publish = asyncio.run_coroutine_threadsafe(self._publisher.publish(publishing), self._loop)
        try:
            publish.result(timeout)
        finally:
            publish.cancel()
        return sent

    async def asend(self, type: str, *, connection: str, data: Mapping[str, Any] | None = None, **more: Any) -> Sent:
        """Publish one command from a coroutine; see `send`."""
        if more.get("answer", True) and not self._answers.ready:
            await asyncio.to_thread(self._answers.wait)
        publishing, sent = self._prepare(
            type,
            connection,
            data,
            more.get("id"),
            more.get("idempotencykey"),
            more.get("expiry"),
            answer=more.get("answer", True),
        )
        publish = asyncio.run_coroutine_threadsafe(self._publisher.publish(publishing), self._loop)
        await asyncio.wrap_future(publish)
        return sent

    def call(self, type: str, *, timeout: float | None = None, **more: Any) -> dict[str, Any]:
        """Publish a command and wait for its result event."""
        return self.send(type, **more).result(timeout)

    async def acall(self, type: str, *, timeout: float | None = None, **more: Any) -> dict[str, Any]:  # noqa: ASYNC109 - as `call` has it
        """Publish a command from a coroutine and await its result event."""
        sent = await self.asend(type, **more)
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(sent.answer)

    def _prepare(
        self,
        type_: str,
        connection: str,
        data: Mapping[str, Any] | None,
        id_: str | None,
        idempotencykey: str | None,
        expiry: datetime | None,
        *,
        answer: bool,
    ) -> tuple[Outgoing, Sent]:
        operation = self._slices.operations.get(type_)
        if operation is None:
            near = difflib.get_close_matches(type_, self._slices.operations, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadCommand(f"type {type_!r} is no command; {hint}`planrelay operations` lists them.")
        operation.validate(data or {})
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": id_ or str(uuid.uuid4()),
            "source": self._source,
            "type": type_,
            "time": rfc3339.write(datetime.now(UTC)),
            "connection": connection,
            "data": dict(data or {}),
        }
        if idempotencykey is not None:
            event["idempotencykey"] = idempotencykey
        if expiry is not None:
            event["expirytime"] = rfc3339.write(expiry)
        token = uuid.uuid4().hex
        sent = Sent(event["id"], self._answers.expect(token) if answer else concurrent.futures.Future())
        properties: dict[str, Any] = {"content_type": CLOUDEVENT, "delivery_mode": 2, "message_id": event["id"]}
        if answer:
            properties |= {"reply_to": self._answers.queue, "correlation_id": token}
        return (
            Outgoing(
                exchange=topology.COMMANDS,
                routing_key=type_,
                body=json.dumps(event, separators=(",", ":")).encode(),
                properties=properties,
            ),
            sent,
        )

    def close(self) -> None:
        """Publish what is waiting, and close the connections."""
        self._publisher.stop()
        self._answers.close()


class _Answers:
    """The client's own queue of answers, read in a thread of its own."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.queue = f"planrelay-client.{uuid.uuid4().hex}"
        self._url = url
        self._options = dict(options)
        # An answer that nobody waits for any more (a time-out, say) is not remembered for ever.
        self._expected: WeakValueDictionary[str, concurrent.futures.Future[dict[str, Any]]] = WeakValueDictionary()
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="planrelay-answers", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the queue exists."""
        return self._ready.is_set()

    def wait(self) -> None:
        """Wait until the queue exists; raises `TimeoutError`. An answer to a queue that is not there yet is lost."""
        if not self._ready.wait(READY_PATIENCE):
            raise TimeoutError(f"The broker has not answered within {READY_PATIENCE:.0f} s.")

    def expect(self, token: str) -> concurrent.futures.Future[dict[str, Any]]:
        """Give the future of the answer with this correlation id; the queue exists when this returns."""
        self.wait()
        future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        self._expected[token] = future
        return future

    def close(self) -> None:
        self._closing.set()
        self._thread.join(3)

    def _run(self) -> None:
        # Not exclusive to a connection: answers that come while the connection is down must find the queue.
        queue = Queue(
            self.queue,
            Exchange("", type="direct"),
            routing_key=self.queue,
            durable=True,
            expires=REPLY_EXPIRES_MS / 1000,
        )
        while not self._closing.is_set():
            try:
                with Connection(
                    self._url, transport_options=self._options, heartbeat=20, connect_timeout=5
                ) as connection:
                    consumer = connection.Consumer(queue, accept=["json", CLOUDEVENT], no_ack=True)
                    consumer.on_message = self._on_message
                    with consumer:
                        self._ready.set()
                        while not self._closing.is_set():
                            with contextlib.suppress(TimeoutError):
                                connection.drain_events(timeout=0.5)
                            connection.heartbeat_check()
                        consumer.channel.queue_delete(self.queue)
            except Exception as error:  # noqa: BLE001 - without this thread everybody would wait for ever
                log.warning("client.answers_lost", reason=f"{type(error).__name__}: {error}")
                self._closing.wait(0.5)

    def _on_message(self, message: Any) -> None:
        with contextlib.suppress(ValueError):  # anybody may write to a queue whose name it knows
            event = json.loads(message.body)
            future = self._expected.pop(str(message.properties.get("correlation_id")), None)
            if future is not None and not future.done():
                future.set_result(event)


def listen(
    settings: Settings,
    pattern: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_loss: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """
    Give result events as they come, of types that match a topic pattern (`planpoint.#`); reconnects for ever.

    `on_loss` is told why whenever the broker went away: what is told until it is back is not heard here.
    """
    url = broker_url(settings)
    options = transport_options(amqp=is_amqp_url(url))
    name = f"planrelay-events.{uuid.uuid4().hex}"
    queue = Queue(
        name, topology.events_exchange(), routing_key=pattern, durable=False, exclusive=True, auto_delete=True
    )
    waiting: list[dict[str, Any]] = []
    lost = False
    while not stop():
        try:
            with Connection(url, transport_options=options, heartbeat=20, connect_timeout=5) as connection:
                consumer = connection.Consumer(queue, accept=["json", CLOUDEVENT], no_ack=True)
                consumer.on_message = lambda message: waiting.extend(events_in(message.body))
                with consumer:
                    lost = False
                    while not stop():
                        with contextlib.suppress(TimeoutError):
                            connection.drain_events(timeout=0.5)
                        connection.heartbeat_check()
                        while waiting:
                            yield waiting.pop(0)
        except (OSError, OperationalError, *Connection(url).connection_errors) as error:
            if not lost:
                on_loss(f"{type(error).__name__}: {error}")
            lost = True
            time.sleep(0.5)


def events_in(body: bytes | str) -> list[dict[str, Any]]:
    """Give the event that a message holds; none where it holds something else, which anybody may have published."""
    try:
        event = json.loads(body)
    except ValueError:
        return []
    return [event] if isinstance(event, dict) else []
