"""Celery's hub turns the loop: a kombu poller that runs asyncio while it waits."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from worker.pool import LoopPool

TURN_EVERY: Final = 0.001
"""Seconds that a hub busy with the broker may go on before the loop gets its turn."""

BLIND_POLL: Final = 0.005
"""Seconds between two looks at a poller that has no descriptor of its own (not epoll)."""


class LoopPoller:
    """
    A kombu poller that runs asyncio while it waits.

    The poller that it wraps stays the hub's own: descriptors registered with either are seen by both.
    """

    def __init__(self, pool: LoopPool, hub: Any) -> None:
        self._pool = pool
        self._hub = hub
        self._inner = hub.poller
        self.register = self._inner.register
        self.unregister = self._inner.unregister
        # An epoll descriptor becomes readable when one that it watches does. kombu does not give it away freely.
        epoll = getattr(self._inner, "_epoll", None)
        self._descriptor: int | None = None if epoll is None else epoll.fileno()
        self._watching = False
        self._polling = False
        self._turn_due = 0.0

    def poll(self, timeout: float) -> Any:
        """Give the events of the wrapped poller within `timeout` seconds, having turned the loop."""
        pool = self._pool
        if monotonic() < self._turn_due and (events := self._inner.poll(0)):
            return events  # the broker is busy, and the loop had its turn less than a moment ago
        if pool.loop.is_closed():
            return ()
        if self._descriptor is None:
            timeout = BLIND_POLL
        elif not self._watching:
            self._watching = True
            pool.loop.add_reader(self._descriptor, self._on_readable)
        # `call_soon` from the hub's own thread does not end a poll: the hub trusts that something else will.
        if getattr(self._hub, "_ready", None):
            timeout = 0
        self._polling = True
        try:
            pool.turn(timeout)
        finally:
            self._polling = False
        self._turn_due = monotonic() + TURN_EVERY
        lost, pool.connection_lost = pool.connection_lost, None
        if lost is not None:
            raise lost
        return () if pool.loop.is_closed() else self._inner.poll(0)

    def close(self) -> None:
        """Close the wrapped poller: the hub is about to make a new one, or to end."""
        self._unwatch()
        self._inner.close()

    def _on_readable(self) -> None:
        if self._polling:
            self._pool.loop.stop()
        else:  # the loop turns without the hub: what is ready stays ready, and must not keep the loop awake
            self._unwatch()

    def _unwatch(self) -> None:
        if self._descriptor is not None and self._watching and not self._pool.loop.is_closed():
            self._pool.loop.remove_reader(self._descriptor)
        self._watching = False
