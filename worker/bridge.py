"""
The way from a synchronous call to a coroutine and back.

Celery calls a task's body synchronously, from deep inside its tracer. Under `worker.pool` that tracer runs in a
greenlet: `await_` hands the coroutine up to the event loop, which turns on while the greenlet stands still, and comes
back with the result (SQLAlchemy's asyncio extension does the same). Anywhere else (`apply()`, the threads, prefork and
solo pools, a test) the same call runs the coroutine on one loop per process, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import os
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from greenlet import getcurrent, greenlet

try:
    from uvloop import new_event_loop as _new_event_loop
except ImportError:  # the extra `speed` is not installed, or there is no wheel for this platform
    from asyncio import new_event_loop as _new_event_loop  # type: ignore[assignment]  # less precise, and enough

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

__all__ = ["await_", "bridged", "identity", "new_event_loop", "offload", "process_loop", "whose"]

P = ParamSpec("P")
T = TypeVar("T")

identity: ContextVar[Hashable | None] = ContextVar("planrelay_identity", default=None)
"""Whose work this context belongs to: set for each job, inherited by the coroutines and tasks it starts."""


def whose() -> Hashable:
    """Name the job that the caller works for; outside of any, the greenlet (one per thread), as Celery itself does."""
    mine = identity.get()
    return getcurrent() if mine is None else mine


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop: uvloop's where it is installed."""
    return _new_event_loop()


class _Bridged(greenlet):  # type: ignore[misc]  # greenlet is Any
    """A greenlet whose parent awaits on its behalf."""


async def bridged(
    fun: Callable[..., T], *args: Any, guard: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None
) -> T:
    """
    Call a synchronous function that may call `await_`, without blocking the loop while it does.

    The function runs in the caller's own context, so that what it binds (structlog, OpenTelemetry) reaches the
    coroutines that it hands up. `guard` wraps each of those before it is awaited.
    """
    parent = getcurrent()
    child = _Bridged(fun, parent)
    child.gr_context = parent.gr_context
    handed = child.switch(*args)
    while not child.dead:
        try:
            value = await (handed if guard is None else guard(handed))
        except BaseException as error:  # noqa: BLE001  CancelledError belongs to the function as much as any other
            child.parent = getcurrent()
            handed = child.throw(error)
        else:
            child.parent = getcurrent()
            handed = child.switch(value)
    result: T = handed
    return result


def await_(awaitable: Awaitable[T]) -> T:
    """
    Wait for an awaitable from synchronous code and give its result.

    Raises what it raises; RuntimeError when called from a coroutine, which must say `await` instead.
    """
    current = getcurrent()
    if isinstance(current, _Bridged):
        result: T = current.parent.switch(awaitable)
        return result
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return process_loop().wait_for(awaitable)
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    raise RuntimeError(
        "A task with an async body was called from a coroutine, where waiting would stop the event loop: "
        "await the function that the task was made from, or send the task to the broker."
    )


def offload(fun: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call a blocking function from synchronous code: in a job, in a thread while the loop turns; elsewhere, right here.

    For the publishes and result writes that Celery does inside a task. The thread sees the caller's context.
    """
    if isinstance(getcurrent(), _Bridged):
        return await_(asyncio.to_thread(fun, *args, **kwargs))
    return fun(*args, **kwargs)


class ProcessLoop:
    """An event loop in a thread of its own, for processes whose main thread runs none."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="planrelay-loop", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _turn(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Run the awaitable on the loop and wait for it; what interrupts the waiting (a time limit) cancels it."""

        async def run() -> T:
            return await awaitable

        # What runs over there still works for the caller: `task.request` is the caller's.
        context = copy_context()
        context.run(identity.set, whose())
        future = context.run(asyncio.run_coroutine_threadsafe, run(), self.loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop and its thread; what still runs there is abandoned. A forked child leaves its parent's be."""
        if self.pid != os.getpid() or self.loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self.loop.close()


_process_loop: ProcessLoop | None = None
_process_loop_lock = threading.Lock()


def process_loop() -> ProcessLoop:
    """Give this process's own loop, started when first asked for and again in a forked child."""
    global _process_loop  # noqa: PLW0603  there is one per process, and a process is what globals belong to
    loop = _process_loop
    if loop is None or loop.pid != os.getpid() or loop.loop.is_closed():
        with _process_loop_lock:
            loop = _process_loop
            if loop is None or loop.pid != os.getpid() or loop.loop.is_closed():
                loop = _process_loop = ProcessLoop()
    return loop
