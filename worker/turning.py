"""
An event loop that somebody else turns: synchronous code, again and again, while it waits for something of its own.

Celery's hub is that somebody (`worker.poller`); where there is none, the loop has a thread of its own. What is to
happen on the other side (the hub's, where the broker's connection lives) is left with `call_soon`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import structlog

from worker.bridge import new_event_loop
from worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger("planrelay.pool")

P = ParamSpec("P")
T = TypeVar("T")

BEAT: Final = 0.5
"""Seconds between two measurements of the loop's lag."""

LAST_TURN: Final = 1.0
"""Seconds that a loop in a thread of its own may take to stop."""


class Turning:
    """A loop, the thread that turns it, and the calls that go from the one side to the other."""

    loop: asyncio.AbstractEventLoop
    """Where everything asynchronous in this process lives: sessions, connections, servers."""

    def __init__(self, *, threaded: bool) -> None:
        self.on_lag: list[Callable[[timedelta], object]] = []
        """Told twice a second how late the loop is."""
        self.lag = timedelta()
        self.closed = False
        self.connection_lost: Exception | None = None
        """What told one of the calls that the broker's connection is broken; for the hub to hear."""
        self.threaded = threaded
        self._thread = threading.get_ident()
        self._spinner = threading.Thread(target=self._spin, name="planrelay-loop", daemon=True)
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._driving = 0
        self._watchdog = Watchdog()

    # What the other side knows better

    def is_connection_error(self, error: Exception) -> bool:  # noqa: ARG002  this side knows of no connection
        """Tell whether an error of a call means that the broker's connection is broken."""
        return False

    def between_turns(self) -> None:
        """Do what is to be done each time the loop has come to rest."""

    def check_stop(self) -> None:
        """Raise what ends a wait, if it is to end."""

    def hear_stop(self, error: SystemExit) -> None:
        """Take note of a stop that was asked for in the loop's own thread, where nobody catches it."""

    # From synchronous code

    def call_soon(self, fun: Callable[..., object], *args: Any) -> None:
        """
        Call beside the hub, as soon as the loop has ended its present turn; from any thread.

        For what belongs to the broker's connection, above all acknowledgements: the hub is not busy then, and wakes.
        """
        if self.threaded:
            self.in_loop(self.call, fun, args)
        else:
            self._calls.append((fun, args))
            self.wake()

    def wake(self) -> None:
        """End the hub's present poll, so that it looks at its timers and ready callbacks; from any thread."""
        if self.threaded:
            return
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # closed meanwhile: nobody polls any more
                self.loop.call_soon_threadsafe(self.loop.stop)
        elif self.loop.is_running():
            self.loop.stop()

    def drive(self, fun: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call a function that blocks, in a thread, and turn the loop until it has ended; its result or error is given.

        For the hub's side only (the consumer's steps). The function alone may use the broker's connection meanwhile:
        jobs go on, and what Celery is to hear of them waits. In any other thread it is called right there.
        """
        future = self.aside(fun, *args, **kwargs)
        self.wait(future)
        return future.result()

    def aside(self, fun: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin to call a function that blocks, in a thread of its own; `wait` for what is given."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(fun(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  WorkerShutdown is a SystemExit
                future.set_exception(error)
            self.wake()

        if self.threaded or self.closed or threading.get_ident() != self._thread:
            run()
        else:
            threading.Thread(target=copy_context().run, args=(run,), name="planrelay-aside", daemon=True).start()
        return future

    def wait(self, future: Future[Any], patience: float = math.inf) -> bool:
        """Turn the loop until the future is done (True) or the patience is over."""
        end = monotonic() + patience
        self._driving += 1
        try:
            while not future.done() and (left := end - monotonic()) > 0:
                self.turn(min(left, 1.0))
        finally:
            self._driving -= 1
        return future.done()

    def drive_until(self, awaitable: Awaitable[T]) -> T:
        """Turn the loop until the awaitable is done, from synchronous code outside of any job."""
        if self.threaded or threading.get_ident() != self._thread:
            return asyncio.run_coroutine_threadsafe(_wait_for(awaitable), self.loop).result()
        task = asyncio.ensure_future(awaitable, loop=self.loop)
        task.add_done_callback(lambda _: self.loop.stop())
        while not task.done():
            self.turn(1.0)
            self.check_stop()
        return task.result()

    def turn(self, timeout: float) -> None:
        """Run the loop for up to `timeout` seconds or until woken; 0 is one turn. Then make the calls that it left."""
        loop = self.loop
        if timeout <= 0 or (self._calls and not self._driving):
            loop.stop()
        else:
            due = loop.time() + timeout
            # One alarm serves many polls: it may wake the hub once too often, and costs nothing each time.
            if self._alarm is None or self._alarm.when() > due:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = loop.call_at(due, self._ring)
        self._run_loop()
        while self._calls and not self._driving:
            fun, args = self._calls.popleft()
            self.call(fun, args)
        self.between_turns()

    # Within

    def begin_turning(self) -> None:
        """Make the loop; a thread begins to turn it, or the caller will."""
        self.loop = new_event_loop()
        if self.threaded:
            self._spinner.start()
            self._thread = self._spinner.ident or 0
        else:
            self._thread = threading.get_ident()

    def begin_measuring(self) -> None:
        """Measure the lag from now on, and have a blocked loop named. On the loop."""
        self._beat(monotonic())
        self._watchdog.watch(threading.get_ident())

    def end_turning(self) -> None:
        """Close the loop."""
        self.closed = True
        self._watchdog.stop()
        if self.threaded:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._spinner.join(LAST_TURN)
        if not self.loop.is_running():
            self.loop.close()

    def in_loop(self, fun: Callable[..., object], *args: Any) -> None:
        """Call in the loop's thread: right here if this is it."""
        if threading.get_ident() == self._thread:
            fun(*args)
        else:
            with suppress(RuntimeError):  # closed meanwhile
                self.loop.call_soon_threadsafe(fun, *args)

    def in_its_thread(self) -> bool:
        """Tell whether the caller is in the loop's thread."""
        return threading.get_ident() == self._thread

    def call(self, fun: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Call what must not end the turning by an error."""
        try:
            fun(*args)
        except MemoryError:
            raise
        except Exception as error:
            if self.is_connection_error(error):
                self.connection_lost = error
            else:
                log.exception("pool.callback_failed", callback=repr(fun))

    def _ring(self) -> None:
        self._alarm = None
        self.loop.stop()

    def _run_loop(self) -> None:
        try:
            self.loop.run_forever()
        except SystemExit as error:
            if type(error) is not SystemExit:
                raise  # Celery's WorkerShutdown or WorkerTerminate
            log.exception("pool.exit_ignored", code=error.code)  # some task's own idea, not the operator's

    def _spin(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self.closed:
            try:
                self._run_loop()
            except SystemExit as error:
                self.hear_stop(error)

    def _beat(self, due: float) -> None:
        # uvloop's own time stands still for the whole of a turn, whatever was called in it before this.
        now = monotonic()
        self._watchdog.beat()
        self.lag = timedelta(seconds=max(0.0, now - due))
        for tell in self.on_lag:
            self.call(tell, (self.lag,))
        self.loop.call_later(BEAT, self._beat, monotonic() + BEAT)


async def _wait_for(awaitable: Awaitable[T]) -> T:
    return await awaitable
