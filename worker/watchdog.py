"""Who blocks the loop: a thread that notices, and says where it stands."""

from __future__ import annotations

import sys
import threading
import traceback
from time import monotonic
from typing import Final

import structlog

log = structlog.get_logger("planrelay.pool")

BLOCKED: Final = 2.0
"""Seconds without a beat after which a loop counts as blocked."""

FRAMES: Final = 12
"""Innermost frames of the stack that are told."""


class Watchdog:
    """Logs `pool.loop_blocked` once per blockage, with the stack of the thread that should turn the loop."""

    def __init__(self) -> None:
        self._thread = 0
        self._beaten = monotonic()
        self._over = threading.Event()

    def watch(self, thread: int) -> None:
        """Begin to watch the loop of this thread (its `ident`)."""
        self._thread = thread
        self._beaten = monotonic()
        threading.Thread(target=self._watch, name="planrelay-watchdog", daemon=True).start()

    def beat(self) -> None:
        """The loop turns."""
        self._beaten = monotonic()

    def stop(self) -> None:
        """End the watch."""
        self._over.set()

    def _watch(self) -> None:
        told = 0.0
        while not self._over.wait(BLOCKED / 2):
            beaten = self._beaten
            if monotonic() - beaten < BLOCKED or beaten == told:
                continue
            told = beaten
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001  documented, underscore and all
            stack = traceback.format_list(traceback.extract_stack(frame)[-FRAMES:])
            log.error("pool.loop_blocked", for_s=round(monotonic() - beaten, 1), stack="".join(stack))
