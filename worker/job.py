"""
One task in the pool: Celery's tracer in a greenlet, its time limits, and how it may end.

Celery is told by callbacks, which run beside the hub: accepted first, then one outcome and never two.
"""

from __future__ import annotations

import asyncio
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError

from worker.bridge import bridged, identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from worker.pool import LoopPool

T = TypeVar("T")

GRACE: Final = 5.0
"""Seconds a cancelled job has to clean up (and to give its command back) before it is abandoned."""


class _SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):  # type: ignore[misc]  # billiard's is Any
    """
    The soft time limit, as it arrives in a coroutine.

    It is a cancellation too, so that `asyncio.TaskGroup`, `timeout` and libraries unwind as they do for one.
    """


class CoroutineCancelled(Exception):
    """The coroutine was cancelled, and not by the pool."""


class Job:
    """One task in the pool; also what Celery keeps as the request's `ApplyResult`."""

    def __init__(self, pool: LoopPool, pid: int, call: Callable[[], Any], options: dict[str, Any]) -> None:
        self.pid = pid
        self.call = call
        self.accept_callback: Callable[..., object] = options.get("accept_callback") or _nothing
        self.callback: Callable[..., object] = options.get("callback") or _nothing
        self.error_callback: Callable[..., object] = options.get("error_callback") or _nothing
        self.timeout_callback: Callable[..., object] = options.get("timeout_callback") or _nothing
        self.soft: float | None = options.get("soft_timeout") or pool.options.get("soft_timeout")
        self.hard: float | None = options.get("timeout") or pool.options.get("timeout")
        self.task: asyncio.Task[Any] | None = None
        self.settled = False  # nobody waits for its outcome any more
        self.timed_out = False
        self._pool = pool
        self._cancelled = False
        self._soft_due = False
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> asyncio.Task[Any]:
        """Begin to run on the loop."""
        loop = self._pool.loop
        if self.soft:
            self._timers.append(loop.call_later(self.soft, self._soften))
        if self.hard:
            self._timers.append(loop.call_later(self.hard, self._harden))
        self.task = loop.create_task(self._run(), context=self._pool.context.copy())
        return self.task

    def cancel(self) -> None:
        """Ask the job to end; an outcome that it reaches nevertheless still counts."""
        self._cancelled = True
        if self.task is not None:
            self.task.cancel()

    def abandon(self) -> None:
        """Ask the job to end, whatever it still does."""
        self.settled = True
        self.cancel()

    def terminate(self, signal: int | None = None) -> None:
        """Do as Celery's `Request.terminate` and `Request.cancel` ask."""
        self._pool.terminate_job(self.pid, signal)

    def stop_timers(self) -> None:
        """The job has ended: no time limit applies."""
        for timer in self._timers:
            timer.cancel()

    async def _run(self) -> Any:
        identity.set(self.pid)
        try:
            return await bridged(self.call, guard=self._guarded)
        except SystemExit as error:
            if type(error) is not SystemExit:
                raise  # Celery's WorkerShutdown or WorkerTerminate: not the job's, and the worker must hear it
            raise WorkerLostError(repr(error)) from error

    async def _guarded(self, awaitable: Awaitable[Any]) -> Any:
        """Await for the tracer, which understands Exceptions and knows nothing of cancellation."""
        try:
            value = await (awaitable if self.soft is None else _interruptible(self, awaitable))
        except _SoftLimit as error:
            raise SoftTimeLimitExceeded(*error.args) from None
        except asyncio.CancelledError as error:
            if self._cancelled:
                raise
            raise CoroutineCancelled("The task's coroutine was cancelled from within.") from error
        if self.settled or self.timed_out:
            # Revoked or out of time, and the body would not hear it: the tracer must not report a success.
            raise asyncio.CancelledError
        return value

    def take_soft(self) -> bool:
        """Tell once that the soft limit has struck (and that no cancellation has overtaken it)."""
        due, self._soft_due = self._soft_due and not self._cancelled, False
        if due and self.task is not None:
            self.task.uncancel()
        return due

    def _soften(self) -> None:
        self._soft_due = True
        self._pool.call_soon(self.timeout_callback, True, self.soft)  # noqa: FBT003  Celery's signature
        if self.task is not None:
            self.task.cancel()

    def _harden(self) -> None:
        self.timed_out = True
        self.cancel()
        self._timers.append(self._pool.loop.call_later(GRACE, self._pool.lose, self))


@coroutine
def _interruptible(job: Job, awaitable: Awaitable[Any]) -> Generator[Any, Any, Any]:
    """Await, and turn the cancellation that the soft limit asked for into `_SoftLimit` where the body stands."""
    body = _as_coroutine(awaitable)
    step: Callable[[Any], Any] = body.send
    value: Any = None
    while True:
        try:
            waited_for = step(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield waited_for
            step = body.send
        except BaseException as error:  # noqa: BLE001  whatever arrives is the body's
            step, value = body.throw, error
        if (step == body.send or isinstance(value, asyncio.CancelledError)) and job.take_soft():
            step, value = body.throw, _SoftLimit(job.soft)


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for a callback that was not given."""
