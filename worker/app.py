"""
The Celery app, and the one place where the engine is put together.

`worker.celery` (lazily) is what `celery -A worker …` finds: pool, consumer, queues and schedule are in the app's own
configuration, so no flags are needed. Each operation of the slices named in `[worker] include` becomes a Celery task;
its body hands the ticket to the process's engine and returns when the command is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import structlog
from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.signals import celeryd_init, setup_logging, worker_process_init
from celery.worker import state as worker_state
from kombu.utils.url import maybe_sanitize_url

from config.settings import Settings, load_settings
from worker import embedded, topology, tracing, valkey
from worker.admission import Ticket
from worker.artifacts import Artifacts
from worker.backoff import Backoff
from worker.bridge import await_, process_loop
from worker.command import Operation, System
from worker.events import CONFIRM_PATIENCE, Publisher
from worker.gateway import Gateway, Wire
from worker.guard import guard, settle_in
from worker.ladder import Ladder, Shelf
from worker.ledger import Ledger
from worker.outcome import RetryPolicy
from worker.plans import Plans
from worker.pool import current
from worker.store import Store, connect
from worker.task import Ending, Engine, utc_now
from worker.telemetry import Endpoints, Metrics, Redactor, configure_logging
from worker.throttle import StoreAway
from worker.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from celery import Task

    from config.connections import Connection

log = structlog.get_logger("planrelay")

GATES_EVERY: Final = 5.0
"""Seconds between two looks at how the gates stand, for the metrics."""

REQUEUE_PAUSE: Final = 5.0
"""Seconds before a command that met a bug of the engine's own goes back to its queue."""


class CommandFailed(Exception):
    """A command ended as failed; what `AsyncResult.get()` raises where results are kept."""


class Slices:
    """The systems and operations that the settings include."""

    def __init__(self, include: Sequence[str]) -> None:
        self.systems: dict[str, System] = {}
        self.operations: dict[str, Operation] = {}
        for package in include:
            system: System = importlib.import_module(package).SYSTEM
            self.systems[system.name] = system
            for value in vars(importlib.import_module(f"{package}.tasks")).values():
                if isinstance(value, Operation):
                    self.operations[value.type] = value


class Relay(Celery):
    """The Celery app with planrelay's settings and slices, and in a worker its engine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.slices = Slices(settings.worker.include)
        self.redactor = Redactor(settings.secrets())
        self._host: Host | None = None
        self._host_lock = threading.Lock()
        super().__init__("planrelay", set_as_current=True)
        self.config_from_object(_configuration(settings, tuple(self.slices.systems)))
        for operation in self.slices.operations.values():
            self._task_of(operation)

    def _task_of(self, operation: Operation) -> Task:
        def body(task: Task, /, connection: str, data: dict[str, Any], idempotencykey: str | None = None) -> Any:
            ticket = task.request.get("ticket")
            if ticket is None:  # apply(), or a call: nothing was delivered, so nothing is settled
                return await_(self.host.engine.call(operation, connection, data, idempotencykey))
            return self._perform(ticket)

        body.__doc__ = operation.body.__doc__
        body.__name__ = operation.type.replace(".", "_")
        return self.task(
            body,
            name=operation.type,
            bind=True,
            acks_late=True,
            ignore_result=not self.settings.worker.results,
            throws=(CommandFailed,),  # it has been logged as what it is
            max_retries=None,
        )

    def _perform(self, ticket: Ticket) -> Any:
        try:
            ending, value = await_(self.host.engine.perform(ticket))
        except Exception as error:
            # Not a command's error, those are settled: the engine itself failed, and the command must not be lost.
            log.exception("command.unsettled", command_id=ticket.command.id)
            await_(asyncio.sleep(REQUEUE_PAUSE))
            raise Reject(str(error), requeue=True) from error
        if not self.settings.worker.results:
            return None
        if ending is Ending.DISCARDED:
            raise CommandFailed(value.message)  # not its own text: from that no secret was taken
        if ending in {Ending.DONE, Ending.REPEATED}:
            return value
        raise Ignore

    @property
    def host(self) -> Host:
        """The process's engine and all it stands on; outside a worker it is started on first use."""
        with self._host_lock:
            if self._host is None or self._host.pid != os.getpid():
                host = Host(self)
                process_loop().wait_for(host.start())
                self._host = host
            return self._host

    async def start_host(self) -> None:
        """Start the engine on the running loop: what a worker does before it consumes."""
        self._host = Host(self)
        await self._host.start()

    async def drain_host(self) -> None:
        """Begin to let go of what runs; returns at once."""
        if self._host is not None:
            self._host.drain()

    def note_lag(self, lag: timedelta) -> None:
        """Take down how late the loop turns."""
        if self._host is not None:
            self._host.metrics.lag(lag)

    async def stop_host(self) -> None:
        """Close what `start_host` opened."""
        if self._host is not None and self._host.pid == os.getpid():
            await self._host.stop()


class Host:
    """One process's engine, and what it stands on: store, publisher, HTTP side, endpoints."""

    def __init__(self, app: Relay) -> None:
        self.app = app
        self.pid = os.getpid()
        self.worker_id = f"{socket.gethostname()}:{self.pid}:{uuid.uuid4().hex[:8]}"
        settings = app.settings
        self.metrics = Metrics()
        self.store = Store(connect(state_url(settings)))
        systems = tuple(app.slices.systems)
        amqp = settings.broker.url is not None and is_amqp_url(settings.broker.url.get_secret_value())
        url, options = broker_url(settings), transport_options(amqp=amqp)
        self.publisher = Publisher(url, systems=systems, options=options)
        self.answers = Publisher(url, systems=None, options=options, name="planrelay-answers", gives_up=True)
        retry = settings.retry
        policy = RetryPolicy(
            max_attempts=retry.max_attempts,
            backoff=Backoff(retry.backoff_initial, retry.backoff_ceiling),
            max_retry_after=retry.max_retry_after,
        )
        self.wire = Wire(
            settings=settings,
            systems=app.slices.systems,
            redis=self.store.redis,
            worker_id=self.worker_id,
            observer=self.metrics,
            clock=utc_now,
            rng=SystemRandom(),
            learn=app.redactor.learn,
        )
        self.queue_store = None if amqp else Store(connect(queue_store_url(settings)))
        ledger = Ledger(self.store, owner=self.worker_id, lease=settings.worker.lease)
        self.parking: Ladder | Shelf = (
            Ladder(self.publisher, ledger, room=self._room) if self.queue_store is None else Shelf(self.queue_store)
        )
        self.engine = Engine(
            settings=settings,
            operations=app.slices.operations,
            ledger=ledger,
            publisher=self.publisher,
            answers=self.answers,
            parking=self.parking,
            gateway=self._gateway,
            artifacts=Artifacts(settings.artifacts.allowed, cwd=Path.cwd()),
            turnstile=Turnstile(settings.worker.concurrency),
            metrics=self.metrics,
            policy=policy,
            clock=utc_now,
            rng=SystemRandom(),
            amqp=amqp,
            redactor=app.redactor,
            plans=Plans(self.store),
            revoked=lambda command_id: command_id in worker_state.revoked,
        )
        self.endpoints = Endpoints(
            self.metrics, self.problems, host=settings.worker.metrics_host, port=settings.worker.metrics_port
        )
        self._rhythm: list[asyncio.Task[Any]] = []
        self._side: set[asyncio.Task[Any]] = set()
        self._thread = 0
        self.loop: asyncio.AbstractEventLoop

    def _room(self) -> bool:
        """Whether nothing can be waiting for this worker in its queues: it has fewer commands than it takes at once."""
        return self.publisher.ready.is_set() and len(self.engine.jobs) < self.engine.turnstile.limit

    def _gateway(self, connection: Connection, **how: Any) -> Gateway:
        return Gateway(self.wire, connection, **how)

    async def start(self) -> None:
        """Open everything; returns once the broker has the whole topology."""
        self.loop = loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._traces = tracing.start()
        self.publisher.start(loop)
        await self.wire.start()
        own = (self.engine.keep_claims(), self._watch_gates())
        self._rhythm = [*map(loop.create_task, own), *self.parking.rhythm(loop)]
        if current() is not None:  # in a worker: nobody else is ours to end
            self._rhythm.append(loop.create_task(guard(self.app.settings.worker.max_memory)))
        if self.app.settings.worker.metrics_port:
            await self.endpoints.start()
        if current() is not None:
            settle_in()

    async def stop(self) -> None:
        """Close everything, the publisher last: what waits for its confirm still gets it."""
        for task in self._rhythm:
            task.cancel()
        await asyncio.gather(*self._rhythm, return_exceptions=True)
        with contextlib.suppress(StoreAway, TimeoutError):
            async with asyncio.timeout(1):  # a courtesy, which must not keep the publisher from its last confirms
                await self.engine.ledger.leave()
        await self.endpoints.stop()
        await self.wire.close()
        await asyncio.gather(*(asyncio.to_thread(each.stop) for each in (self.answers, self.publisher)))
        await asyncio.to_thread(tracing.stop, self._traces)
        await self.store.close()
        if self.queue_store is not None:
            await self.queue_store.close()

    def spawn(self, work: Coroutine[Any, Any, None], then: Callable[[Any], None]) -> None:
        """Run something of the engine's on its loop, from the consumer's side; `then` gets the finished future."""
        loop = self.loop
        if threading.get_ident() == self._thread:
            task = loop.create_task(work)
            self._side.add(task)
            task.add_done_callback(self._side.discard)
            task.add_done_callback(lambda done: self.then(then, done))
        else:
            asyncio.run_coroutine_threadsafe(work, loop).add_done_callback(then)

    def then(self, callback: Callable[[Any], None], done: Any) -> None:
        """Call what belongs beside the hub: the pool ends the loop's turn for it, so that an ack does not wait."""
        pool = current()
        if pool is not None:
            pool.call_soon(callback, done)
        else:
            callback(done)

    async def _watch_gates(self) -> None:
        """Keep the gates' metrics true, also where no command has come by since a gate closed or opened."""
        keys = {connection.limit_key for connection in self.app.settings.connections.values()}
        while True:
            with contextlib.suppress(StoreAway):
                for view in await self.wire.throttle.look(keys):
                    self.metrics.gate(view.limit_key, closed=view.closed_for is not None, points=view.points)
            await asyncio.sleep(GATES_EVERY)

    def drain(self) -> None:
        """Begin to let go: what runs may finish within the drain timeout, the rest goes back to the broker."""
        drain = self.engine.drain(self.app.settings.worker.drain_timeout)
        self._rhythm.append(asyncio.get_running_loop().create_task(drain))

    async def problems(self) -> Mapping[str, str]:
        """What keeps this worker from being ready: name → reason."""
        found: dict[str, str] = {}
        if not self.publisher.ready.is_set():
            found["broker"] = self.app.redactor.message(self.publisher.last_error or "not connected yet")
        elif self.engine.teller.refused:
            count, reason = len(self.engine.teller.refused), next(reversed(self.engine.teller.refused.values()))
            found["broker"] = self.app.redactor.message(f"messages that it refuses: {count}; {reason}")
        elif (silent := self.publisher.silent()) > CONFIRM_PATIENCE:
            found["broker"] = f"a message has waited for its confirm for {silent:.0f} s"
        try:
            async with asyncio.timeout(2):
                await self.store.redis.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, the store does not answer
            found["state"] = self.app.redactor.message(f"{type(error).__name__}: {error}")
        if self.engine.draining:
            found["worker"] = "draining"
        return found


def is_amqp_url(url: str) -> bool:
    """Whether a broker URL is one of RabbitMQ's."""
    return url.startswith(("amqp://", "amqps://", "pyamqp://"))


def broker_url(settings: Settings) -> str:
    """The broker that the settings name, else the embedded Valkey's, as kombu understands it."""
    url = settings.broker.url
    if url is not None and is_amqp_url(url.get_secret_value()):
        return url.get_secret_value()
    valkey.register()
    return valkey.broker_url(queue_store_url(settings))


def queue_store_url(settings: Settings) -> str:
    """The Valkey that holds the queues, where RabbitMQ does not."""
    url = settings.broker.url
    return url.get_secret_value() if url is not None else embedded.ensure(settings.data_dir)


def state_url(settings: Settings) -> str:
    """The state store that the settings name, else the embedded Valkey's."""
    url = settings.state.url
    if url is not None:
        return url.get_secret_value()
    if settings.broker.url is not None and not is_amqp_url(settings.broker.url.get_secret_value()):
        return settings.broker.url.get_secret_value()
    return embedded.ensure(settings.data_dir)


def transport_options(*, amqp: bool) -> dict[str, Any]:
    """What kombu must know of our exchanges, per kind of broker."""
    return {} if amqp else {"event_exchanges": [topology.EVENTS]}


def _configuration(settings: Settings, systems: tuple[str, ...]) -> dict[str, Any]:
    url = broker_url(settings)
    amqp = is_amqp_url(url)
    state = state_url(settings)
    return {
        "broker_url": url,
        "broker_transport_options": {
            **transport_options(amqp=amqp),
            **({"confirm_publish": True} if amqp else {"lease": min(12.0, settings.worker.lease.total_seconds())}),
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_heartbeat": 30,
        "result_backend": state.replace("unix://", "redis+socket://") if settings.worker.results else None,
        "task_ignore_result": not settings.worker.results,
        "task_queues": topology.work_queues(systems, amqp=amqp),
        "task_default_exchange": topology.COMMANDS,
        "task_default_exchange_type": "topic",
        "task_default_queue": topology.work_queue(systems[0]),
        "task_default_routing_key": topology.BATCH,
        "task_create_missing_queues": False,
        "task_acks_late": True,
        "task_acks_on_failure": True,  # it is settled: its dead letter is confirmed by then
        "task_acks_on_timeout": False,
        "task_reject_on_worker_lost": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # Two workers of one name share a control queue; an exclusive one would end the second's connection for ever.
        "control_queue_exclusive": False,
        "worker_pool": "worker.pool:LoopPool",
        "worker_consumer": "worker.consumer:Consumer",
        "worker_concurrency": settings.worker.concurrency,
        "worker_prefetch_multiplier": 1,
        # What runs goes on while the broker is away: the ledger knows a redelivered copy.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "planrelay_drain_timeout": settings.worker.drain_timeout.total_seconds() + DRAIN_MARGIN.total_seconds(),
        "beat_scheduler": "worker.schedule:Scheduler",
        "beat_max_loop_interval": 5,
        "beat_enable_remote_control": True,
        # Only looked at: the scheduler brings a connection of its own. `inspect conf` would show a password in it.
        "redbeat_redis_url": maybe_sanitize_url(state),
        "redbeat_redis_options": {},
        "redbeat_key_prefix": "planrelay:beat:",
        "redbeat_lock_timeout": 30,
        "timezone": "UTC",
        "enable_utc": True,
    }


DRAIN_MARGIN: Final = timedelta(seconds=10)
"""What the pool allows beyond the drain timeout, for giving unfinished commands back confirmed."""


def make_app(settings: Settings | None = None) -> Relay:
    """Build the app from the settings (read from the usual places if none are given)."""
    app = Relay(settings if settings is not None else load_settings())

    @worker_process_init.connect(weak=False)
    def begin(**_: Any) -> None:
        pool = current()
        if pool is not None and pool.app is app:  # the signal is everybody's: a process may have made other apps
            # Every prefetched command becomes a job at once, so that what can't run now is parked and keeps nobody
            # out; how many run is the turnstile's to say, with a fair turn for each connection.
            pool.limit = app.settings.worker.concurrency * (len(app.slices.systems) + 2)
            pool.on_startup.append(app.start_host)
            pool.on_drain.append(app.drain_host)
            pool.on_shutdown.append(app.stop_host)
            pool.on_lag.append(app.note_lag)

    @celeryd_init.connect(weak=False)  # ahead of what Celery warns of before it sets up its logs
    @setup_logging.connect(weak=False)
    def configure(loglevel: Any = None, **_: Any) -> None:
        # Celery's own default is WARNING, which would hide the edges of a command's life.
        configure_logging(
            app.redactor, level=min(loglevel, logging.INFO) if isinstance(loglevel, int) else logging.INFO
        )

    return app
