"""Shutdown signals, answered when it is safe."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from worker.pool import LoopPool

    Handler = Callable[[int, FrameType | None], object]

log = structlog.get_logger("planrelay.pool")

STUCK: Final = 5.0
"""Seconds after which a signal that nobody answered means that the loop is blocked."""

AT_ONCE: Final = 10.0
"""Seconds from a cold shutdown, or the end of a warm one's work, to the end of the process, whatever still holds it up
(a thread that blocks)."""

EX_SOFTWARE: Final = 70
"""The status of a process that had to be ended so, as Celery's own for failures."""


class ShutdownSignals:
    """
    Holds Celery's shutdown handlers back until the hub is between two events.

    Celery's handlers close consumers, cancel tasks and sleep, wherever the main thread happens to be. Here they run
    when the loop has ended a turn; while they wait (worker_soft_shutdown_timeout) the loop turns on. A second signal
    means at once. Where nobody answers, because a task blocks the loop, the handler runs on the spot as before.
    """

    def __init__(self, pool: LoopPool) -> None:
        self._pool = pool
        self._held: dict[int, Handler] = {}
        self._came: deque[tuple[int, float]] = deque()
        self._answered = False
        self._answering = False
        self._stuck = False
        self._force: threading.Timer | None = None

    def hold_back(self) -> None:
        """Take the place of those handlers that Celery has installed by now."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            handler = signal.getsignal(number)
            if callable(handler) and getattr(handler, "__name__", "").startswith("worker_"):  # Celery's mark
                self._held[number] = handler
                signal.signal(number, self._on_signal)

    def let_go(self) -> None:
        """Put Celery's handlers back; a process that a signal is to end has nothing more to do."""
        for number, handler in self._held.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._held.clear()
        if self._answered:
            self._end_by_force()

    def answer(self) -> None:
        """Run the handlers of the signals that came."""
        self._stuck = False
        if self._came:
            self._answer_all()

    def _answer_all(self) -> None:
        if self._answering:
            return
        self._answering = True
        try:
            while self._came:
                number, _ = self._came.popleft()
                if (handler := self._held.get(number)) is not None:
                    self._answer(number, handler)
                    self.hold_back()  # Celery's handlers replace one another
        finally:
            self._answering = False

    def _answer(self, number: int, handler: Handler) -> None:
        second = self._answered or self._pool.draining.is_set()
        if second and handler.__name__ == "worker_Warm":
            handler = self._held.get(signal.SIGQUIT, handler)
        if handler.__name__ == "worker_Cold":
            self._soften(wait=not second and not self._stuck)
            self._end_by_force()
        self._answered = True
        handler(number, None)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stuck = self._stuck or (bool(self._came) and monotonic() - self._came[0][1] > STUCK)
        self._came.append((number, monotonic()))
        if self._stuck:
            self._answer_all()
        else:
            with suppress(RuntimeError):  # closed meanwhile
                self._pool.loop.call_soon_threadsafe(self._pool.loop.stop)

    def _soften(self, *, wait: bool) -> None:
        """Wait for Celery's soft shutdown, with the loop turning; Celery itself would sleep."""
        conf = self._pool.app.conf
        until = monotonic() + (float(conf.worker_soft_shutdown_timeout or 0) if wait else 0)
        conf.worker_soft_shutdown_timeout = 0
        even_idle = conf.worker_enable_soft_shutdown_on_idle
        while not self._came and (self._pool.busy or even_idle) and monotonic() < until:
            self._pool.rest()

    def _end_by_force(self) -> None:
        if self._force is None:
            self._force = threading.Timer(AT_ONCE, _exit)
            self._force.daemon = True
            self._force.start()


def _exit() -> None:
    log.error("pool.exit_forced", after_s=AT_ONCE, threads=[thread.name for thread in threading.enumerate()])
    os._exit(EX_SOFTWARE)
