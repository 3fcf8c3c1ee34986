"""
One event loop per process: a Celery pool whose jobs are coroutines, and whose loop Celery's own hub turns.

Named by `worker_pool = "worker.pool:LoopPool"`; public hooks of Celery only. How it fits together:

- Celery's worker asks its hub for the next event; the hub asks its *poller*. `register_with_event_loop` wraps that
  poller in a `LoopPoller`, which runs asyncio until a descriptor of the old poller is ready, the time is up, or the hub
  has something to do (a finished job: its acknowledgement must not wait). Broker and jobs so share one thread.
- A `Job` is an asyncio task that runs Celery's unmodified tracer in a greenlet (`worker.bridge`); a coroutine body is
  handed up and awaited on the loop. `task.request` and `current_task` follow the job, not the greenlet.
- Shutdown handlers run between two events, not in the middle of one (`worker.shutdown`). A warm stop turns hub and loop
  on until the jobs are done or the patience is over; what is left then is cancelled and stays unacknowledged.
- Whatever waits for the broker is moved aside (`LoopConsumer`): the loop must turn while the broker is away.
- Transports without a hub (memory, filesystem) leave the loop no one to turn it: there it runs in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import os
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import structlog
from billiard.einfo import ExceptionInfo
from celery import bootsteps, signals
from celery._state import _task_stack
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured, WorkerTerminate
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state
from celery.worker.consumer import Consumer

from worker.bridge import await_, identity, whose
from worker.job import GRACE, Job
from worker.poller import LoopPoller
from worker.shutdown import ShutdownSignals
from worker.turning import Turning

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

log = structlog.get_logger("planrelay.pool")

P = ParamSpec("P")
T = TypeVar("T")

DRAIN_TIMEOUT: Final = 25.0
"""Seconds a warm stop waits for running jobs where `planrelay_drain_timeout` does not say."""

COLD_GRACE: Final = 1.0
"""Seconds a cancelled job has to clean up when the operator said: at once."""

HOOK_TIMEOUT: Final = 10.0
"""Seconds that one hook of the last act may take."""

COLD_HOOK_TIMEOUT: Final = 3.0
"""The same when the operator said: at once."""

SOCKET_PATIENCE: Final = 5.0
"""Seconds that closing a broker connection may wait for a peer that fell silent."""

_current: LoopPool | None = None


def current() -> LoopPool | None:
    """Give the pool that runs in this process, None where there is none (`apply()`, threads, prefork, a test)."""
    return _current


def coroutine_task(fun: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """
    Make the synchronous body that Celery sees from an `async def` one: `app.task(bind=True)(coroutine_task(body))`.

    Put it below Celery's own decorators, so that `autoretry_for`, `pydantic` and the argument check meet a function
    like any other. It runs in every pool, in `apply()` and when called; from a coroutine, await the body itself.
    """

    @functools.wraps(fun)
    def body(*args: P.args, **kwargs: P.kwargs) -> T:
        if identity.get() is None:  # not in the pool, which has done it for all tasks
            _share_stacks(_task_stack.stack)
        return await_(fun(*args, **kwargs))

    body.__signature__ = inspect.signature(fun)  # type: ignore[attr-defined]  # what Celery checks calls against
    return body


def _share_stacks(tasks: Iterable[Any]) -> None:
    """Let `current_task` and `task.request` follow the job into its coroutines, tasks and threads."""
    for stack in (_task_stack, *(task.request_stack for task in tasks)):
        stack.__ident_func__ = whose


class LoopPool(Turning, BasePool):
    """Runs each task on one event loop; up to `limit` at a time, further ones wait their turn."""

    signal_safe = False
    task_join_will_block = True
    body_can_be_buffer = False

    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        BasePool.__init__(self, *args, **kwargs)
        # Celery passes `threads` where it has no hub to register the pool with.
        Turning.__init__(self, threaded=bool(self.options.get("threads", True)))
        self.on_startup: list[Callable[[], Awaitable[object]]] = []
        """Awaited in order before the first message; one that fails stops the worker."""
        self.on_drain: list[Callable[[], Awaitable[object]]] = []
        """Awaited when a warm stop begins, within its patience: to have running jobs give their work back."""
        self.on_drained: list[Callable[[], Awaitable[object]]] = []
        """Awaited when a warm stop has ended its jobs; the broker connection still stands."""
        self.on_shutdown: list[Callable[[], Awaitable[object]]] = []
        """Awaited last, in reverse order, however the worker stops."""
        self.draining = asyncio.Event()
        self.context = copy_context()
        self._hub: Any = None
        self._hub_lost = False
        self._pids = itertools.count(1)
        self._running: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._tracked: set[asyncio.Future[Any]] = set()
        self._idle = asyncio.Event()
        self._signals = ShutdownSignals(self)
        self._stopping = False
        self._hurry = asyncio.Event()

    # Celery's hooks

    def on_start(self) -> None:
        """Start the loop and what lives on it."""
        global _current  # noqa: PLW0603  one worker per process, and tasks must find its pool
        if not hasattr(_task_stack, "_local"):
            raise ImproperlyConfigured("USE_FAST_LOCALS mixes up the requests of jobs on one loop: unset it.")
        self.begin_turning()
        self.context = copy_context()
        self._idle.set()
        if not self.threaded:
            self._signals.hold_back()
        _current = self
        _share_stacks(self.app.tasks.values())
        signals.worker_process_init.send(sender=self._hostname)
        try:
            self.drive_until(self._begin())
        except BaseException:
            self._close()
            raise

    def register_with_event_loop(self, hub: Any) -> None:
        """Wrap the hub's poller: at each (re)start of the consumer, since a lost connection makes a fresh one."""
        self._hub = hub
        self.connection_lost = None
        _share_stacks(self.app.tasks.values())
        if not isinstance(hub.poller, LoopPoller):
            hub.poller = LoopPoller(self, hub)

    def on_apply(self, target: Callable[..., Any], args: Any = (), kwargs: Any = None, **options: Any) -> Job:
        """Run one task; `options` are Celery's callbacks and time limits."""
        job = Job(self, next(self._pids), functools.partial(target, *args, **(kwargs or {})), options)
        if self.in_its_thread():
            self._admit(job)
        else:
            self.call_soon(self._admit, job)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:  # noqa: ARG002  a coroutine has no signals
        """Cancel a running job for good. The request that asks for it announces the end: no callback follows."""
        self.in_loop(self._terminate, pid)

    def grow(self, n: int = 1) -> None:
        """Let `n` more jobs run at a time."""
        self.limit += n
        self.in_loop(self._admit_waiting)

    def shrink(self, n: int = 1) -> None:
        """Let `n` fewer jobs run at a time, at least one; those that run go on."""
        self.limit = max(1, self.limit - n)

    def flush(self) -> None:
        """Forget the jobs that have not begun: their messages are the broker's again."""
        self._waiting.clear()

    def on_stop(self) -> None:
        """Stop warm: see `planrelay_drain_timeout`. Called again, or after a cold signal: at once."""
        if self._stopping or self._driving or self.closed or (self.loop.is_running() and not self.threaded):
            # Asked by a signal: in the middle of a stop, of a step aside, or of a job that blocks the loop.
            self.in_loop(self._hurry.set)
            return
        patience = float(self.app.conf.get("planrelay_drain_timeout", DRAIN_TIMEOUT))
        if self.threaded:
            self._signals.hold_back()
        self._stop(0.0 if state.should_terminate else patience)

    def on_terminate(self) -> None:
        """Stop cold: running jobs are cancelled, their messages go back to the broker."""
        self.in_loop(self._hurry.set)
        if not self.closed:
            self._stop(0.0)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "loop": f"{type(self.loop).__module__}.{type(self.loop).__name__}",
            "loop-lag": round(self.lag.total_seconds(), 6),
            "draining": self.draining.is_set(),
            "processes": [os.getpid()],
        }

    # The hub's side of the turning

    def is_connection_error(self, error: Exception) -> bool:
        """Tell by the connection errors that the consumer told the hub of."""
        return self._hub is not None and isinstance(error, self._hub.propagate_errors)

    def between_turns(self) -> None:
        """Answer the signals that came."""
        self._signals.answer()

    def check_stop(self) -> None:
        """Raise Celery's WorkerShutdown or WorkerTerminate once a signal has asked for it."""
        if not self._stopping:
            state.maybe_shutdown()

    def hear_stop(self, error: SystemExit) -> None:
        """Have the consumer's thread raise what a task raised in the loop's."""
        if isinstance(error, WorkerTerminate):
            state.should_terminate = error.code
        else:
            state.should_stop = error.code

    # For the engine

    @property
    def busy(self) -> bool:
        """Whether any job runs or waits."""
        return bool(self._running or self._waiting)

    def track(self, work: asyncio.Future[T]) -> asyncio.Future[T]:
        """Have a stop wait for this task of the loop as it does for jobs; what is not done in time is cancelled."""
        self._tracked.add(work)
        self._idle.clear()
        work.add_done_callback(self._untrack)
        return work

    def rest(self) -> None:
        """Let a moment pass in which jobs go on and the broker hears that we live."""
        if self.threaded:
            sleep(0.05)
        else:
            self.turn(0.5)
            if self._hub is not None:
                self._hub.fire_timers()

    # Running jobs

    def lose(self, job: Job) -> None:
        """A job outlived its hard limit and the grace: report it, and give its place away."""
        log.error("pool.job_ignores_cancellation", job=job.pid, limit_s=job.hard)
        if not job.settled:
            job.settled = True
            self.call_soon(job.timeout_callback, False, job.hard)  # noqa: FBT003  Celery's signature
        self.call_soon(self._leave, job)

    def _admit(self, job: Job) -> None:
        if self.closed:
            return
        if len(self._running) < self.limit:
            self._launch(job)
        else:
            self._waiting.append(job)

    def _admit_waiting(self) -> None:
        while self._waiting and len(self._running) < self.limit:
            self._launch(self._waiting.popleft())

    def _launch(self, job: Job) -> None:
        self._running[job.pid] = job
        self._idle.clear()
        self.call(job.accept_callback, (job.pid, monotonic()))
        if job.settled:  # revoked while it waited: Celery says so when it is accepted
            self._leave(job)
        else:
            job.start().add_done_callback(lambda task: self._ended(job, task))

    def _terminate(self, pid: int) -> None:
        if (job := self._running.get(pid)) is not None:
            job.abandon()

    def _ended(self, job: Job, task: asyncio.Task[Any]) -> None:
        job.stop_timers()
        self.call_soon(self._settle, job, task)

    def _settle(self, job: Job, task: asyncio.Task[Any]) -> None:
        """Tell Celery how the job ended, if it still wants to know, and let the next one in."""
        error = None if task.cancelled() else task.exception()
        unwanted, job.settled = job.settled, True
        try:
            if unwanted:
                pass
            elif job.timed_out:
                job.timeout_callback(False, job.hard)  # noqa: FBT003  Celery's signature
            elif task.cancelled() or isinstance(error, (KeyboardInterrupt, SystemExit)):
                pass  # a shutdown: the message stays unacknowledged
            elif error is None:
                job.callback(task.result())
            else:
                job.error_callback(ExceptionInfo((type(error), error, error.__traceback__)))
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        self._running.pop(job.pid, None)
        if not self._stopping:
            self._admit_waiting()
        self._rest_if_done()

    def _untrack(self, work: asyncio.Future[Any]) -> None:
        self._tracked.discard(work)
        self._rest_if_done()

    def _rest_if_done(self) -> None:
        if not self._running and not self._tracked:
            self._idle.set()

    async def _begin(self) -> None:
        self.begin_measuring()
        for hook in self.on_startup:
            await hook()

    # Stopping

    def _stop(self, patience: float) -> None:
        self._stopping = True
        try:
            self._pump(self._drain(patience))
        finally:
            self._close()

    def _pump(self, work: Coroutine[Any, Any, None]) -> None:
        """Turn hub and loop until `work` is done: heartbeats go out, acknowledgements too."""
        if self.threaded:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
            while not future.done():
                with suppress(TimeoutError):
                    future.result(timeout=0.1)
                self._signals.answer()
            future.result()
            return
        task = self.loop.create_task(work)
        task.add_done_callback(lambda _: self.loop.stop())
        while not task.done():
            self._tick()
        self.loop.stop()
        self._tick()  # the last acknowledgements
        task.result()

    def _tick(self) -> None:
        hub = self._hub
        if hub is None or self._hub_lost or not (hub.readers or hub.writers):  # without descriptors a hub just sleeps
            self.turn(1.0)
            return
        try:
            hub.run_once()
        except Exception as error:  # noqa: BLE001  the connection broke: jobs go on, their messages come again
            self._hub_lost = True
            log.warning("pool.connection_lost_while_stopping", error=repr(error))

    async def _drain(self, patience: float) -> None:
        self.draining.set()
        self._waiting.clear()
        began = monotonic()
        if patience > 0:
            finish = asyncio.ensure_future(self._finish())
            hurry = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait({finish, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            finish.cancel()
            hurry.cancel()
        for job in tuple(self._running.values()):
            job.cancel()
        for work in tuple(self._tracked):
            work.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(COLD_GRACE if self._cold else GRACE):
                await self._idle.wait()
        log.info("pool.drained", left=len(self._running), seconds=round(monotonic() - began, 3))
        if not self._cold:
            await self._call_hooks(self.on_drained)

    @property
    def _cold(self) -> bool:
        return bool(state.should_terminate) or self._hurry.is_set()

    async def _finish(self) -> None:
        await self._call_hooks(self.on_drain, patience=None)
        await self._idle.wait()

    async def _call_hooks(
        self, hooks: Iterable[Callable[[], Awaitable[object]]], *, patience: float | None = HOOK_TIMEOUT
    ) -> None:
        for hook in hooks:
            try:
                async with asyncio.timeout(patience):
                    await hook()
            except Exception:
                log.exception("pool.hook_failed", hook=repr(hook))

    def _close(self) -> None:
        global _current  # noqa: PLW0603  see on_start
        if self.closed:
            return
        self._stopping = True
        try:
            self.drive_until(self._end())
        finally:
            self._signals.let_go()
            self.end_turning()
            _current = None
            signals.worker_process_shutdown.send(sender=self._hostname, pid=os.getpid(), exitcode=0)

    async def _end(self) -> None:
        await self._call_hooks(reversed(self.on_shutdown), patience=COLD_HOOK_TIMEOUT if self._cold else HOOK_TIMEOUT)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=COLD_GRACE)
        await self.loop.shutdown_asyncgens()

    @property
    def _hostname(self) -> str | None:
        app_and_hostname: tuple[Any, str | None] = self.options.get("initargs") or (None, None)
        return app_and_hostname[1]


class LoopConsumer(Consumer):
    """
    Celery's consumer, with everything that waits for the broker moved aside.

    Connecting, declaring, saying goodbye: each step's start and stop runs in a thread while the loop turns, so that
    the calls in flight outlive a broker that is away. Consumer steps of ours may therefore block. A subclass with a
    `Blueprint` of its own derives it from this one's.
    """

    class Blueprint(Consumer.Blueprint):
        """Celery's steps; all but the last, which is the hub's own turning, run aside."""

        def start(self, parent: Any) -> None:
            """Start each step after the other (as Celery's own does, but for `_aside`)."""
            self.state = bootsteps.RUN
            if self.on_start:
                self.on_start()
            steps = [step for step in parent.steps if step is not None]
            for number, step in enumerate(steps, start=1):
                self.started = number
                if step.last:
                    step.start(parent)
                else:
                    _aside(parent.pool, step.start, parent)

        def restart(self, parent: Any, *args: Any, **kwargs: Any) -> None:
            """Stop each step, for a new start or for good."""
            pool = parent.pool
            if not isinstance(pool, LoopPool):
                super().restart(parent, *args, **kwargs)
                return
            if parent.task_consumer is not None:  # what still arrives is taken up when the goodbye is over
                parent.task_consumer.on_message = functools.partial(pool.call_soon, parent.task_consumer.on_message)
            goodbye = pool.aside(super().restart, parent, *args, **kwargs)
            if not pool.wait(goodbye, SOCKET_PATIENCE):
                log.warning("pool.broker_silent", patience_s=SOCKET_PATIENCE)
                parent.hang_up()
                pool.wait(goodbye)
            goodbye.result()

    def register_with_event_loop(self, hub: Any) -> None:
        """Keep what Celery's loop does next from holding ours up: it asks for messages, and waits for a first one."""
        super().register_with_event_loop(hub)
        if not isinstance(self.pool, LoopPool) or self.task_consumer is None:
            return
        # A lost connection and each try for a new one leave thousands of objects that hold each other. In a quiet
        # worker nothing looks for such for a long time, and memory would grow with each outage until then.
        gc.collect()
        self.task_consumer.consume = functools.partial(_consume_aside, self.pool, self.task_consumer)
        if self.connection.transport.driver_type == "amqp":  # only there does it wait
            self.connection.drain_events = functools.partial(_drain_once, self.connection)

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Call from the hub, at once also when the loop asks."""
        promise = super().call_soon(p, *args, **kwargs)
        self._wake()
        return promise

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge from the hub, at once also when the loop asks."""
        promise = super().call_soon_ack(p, *args, **kwargs)
        self._wake()
        return promise

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Let go of the broken connection aside: a peer that fell silent makes even that wait."""
        if self.connection is not None:
            _aside(self.pool, _drop, self.connection)
        super().on_connection_error_after_connected(exc)

    def hang_up(self) -> None:
        """Close the connections without a word: the peer answers none. What was not acknowledged comes again."""
        events = getattr(self.event_dispatcher, "connection", None)
        for connection in filter(None, (self.connection, events)):
            _aside(self.pool, _drop, connection)

    def shutdown(self) -> None:
        """Say goodbye to the broker, which need not answer: all acknowledgements are out."""
        if self.connection is not None:
            patience = COLD_GRACE if state.should_terminate else SOCKET_PATIENCE
            bound_open_broker_sockets(self.connection, patience)
        super().shutdown()

    def _wake(self) -> None:
        if isinstance(self.pool, LoopPool):
            self.pool.wake()


def _aside(pool: Any, fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return pool.drive(fun, *args, **kwargs) if isinstance(pool, LoopPool) else fun(*args, **kwargs)


# The next two each take Celery's place once, and then are gone.


def _consume_aside(pool: LoopPool, consumer: Any) -> None:
    """Ask for messages while the loop turns: the broker answers for each queue."""
    del consumer.consume
    take_up = consumer.on_message
    consumer.on_message = functools.partial(pool.call_soon, take_up)  # what comes already: not in that thread
    try:
        pool.drive(consumer.consume)
    finally:
        consumer.on_message = take_up


def _drain_once(connection: Any, **_: Any) -> Any:
    """Take what is there already, without waiting for it: the hub hears of what comes."""
    del connection.drain_events
    return connection.drain_events(timeout=0)


def _drop(connection: Any) -> None:
    bound_open_broker_sockets(connection, COLD_GRACE)
    with suppress(Exception):
        connection.collect(socket_timeout=COLD_GRACE)
