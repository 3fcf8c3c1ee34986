"""
Where gates are kept: in the state store for the whole fleet, or in this process alone.

A gate is one text under one key. It changes by compare-and-swap: whoever decided on the text that is still there wins,
the others decide anew on the winner's. Every answer of the store brings its time, and all times in a gate are the
store's, so the workers' clocks don't matter. A change that others wait for is published with the same script.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from worker.gate import Gate
from worker.store import Script, Store, StoreAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Alone", "Copy", "SharedGates", "StoreAway"]

log = structlog.get_logger("planrelay.throttle")

PREFIX: Final = "planrelay:gate:"
CHANNEL: Final = "planrelay:gates"

PATIENCE: Final = 1.0
"""Seconds for an answer of the store; a worker without one goes on by its own view."""

RETRIES: Final = (0.5, 5.0)
"""Shortest and longest time, in seconds, between two looks at a store that is away."""

KEPT: Final = 7 * 86_400
"""Seconds for which the store remembers a gate that nobody uses: what was learned of a vendor's windows is worth it."""

LONGEST_CLOSING: Final = 10 * 365 * 86_400
"""Seconds for which a gate that is paused for good is remembered beyond that."""

RACES: Final = 1_000
"""Lost races in a row after which something else must be wrong: each was won by somebody."""

_SWAP: Final = Script.of("""
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local known = redis.call('HMGET', KEYS[1], 'version', 'gate')
local timely = math.abs(time[1] + time[2] / 1e6 - tonumber(ARGV[7])) < 2  -- else it was decided by a clock that was set
if ARGV[2] ~= '' and timely and (known[1] or '') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'version', ARGV[2], 'gate', ARGV[3])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  if ARGV[5] ~= '' then
    redis.call('PUBLISH', ARGV[5], ARGV[6] .. '\\n' .. ARGV[2] .. '\\n' .. ARGV[3])
  end
  return {1, now}
end
return {0, now, known[1] or '', known[2] or ''}
""")
"""
KEYS: the gate. ARGV: version known, version to be ('': only read), text to be, seconds kept, channel or '', key,
and the time by which it was decided.
"""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Copy:
    """What a process last knew of a gate: `text` as it was settled, `gate` with what the process has seen since."""

    gate: Gate = field(default_factory=Gate)
    version: str = ""
    text: str = ""
    apart: Gate | None = None
    """How the gate stood here while the store was away: its closings are to be told when the store is back."""
    offset: float = 0.0
    """How far `apart`'s clock was from this process's own."""

    def take(self, version: str, text: str) -> None:
        """Take in what the store has."""
        self.version, self.text, self.gate = version, text, Gate.load(text)

    def fresh(self) -> Gate:
        """Give the gate as it was last settled, to decide on."""
        return Gate.load(self.text) if self.text else Gate()

    def keep(self, gate: Gate) -> None:
        """Keep what was settled."""
        self.gate, self.text = gate, gate.dump()


Listener = Callable[[str | None, str, str], None]
"""Is told a key, a version and a text that another worker wrote; or None: look at the store again."""


class Alone:
    """Gates of one process that shares its limits with nobody else."""

    away: None = None
    slack: Final = 0.0
    hears: Final = True
    offset: Final = 0.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        self.listeners: list[Listener] = []
        self._copies: dict[str, tuple[str, str]] = {}

    async def settle(self, key: str, copy: Copy, decide: Callable[[Gate, float], tuple[Answer, bool]]) -> Answer:
        """Decide on the gate; `copy` holds it afterwards."""
        copy.version, copy.text = self._copies.get(key, ("", ""))
        gate = copy.fresh()
        answer, notify = decide(gate, self.now())
        copy.keep(gate)
        copy.version = _next(copy.version)
        self._copies[key] = (copy.version, copy.text)
        if notify:
            for listener in self.listeners:
                listener(key, copy.version, copy.text)
        return answer

    async def edit(self, key: str, change: Callable[[Gate, float], None]) -> None:
        """Change the gate, and let everybody know."""
        await self.settle(key, Copy(), _editing(change))

    async def read(self, key: str) -> tuple[Gate, float]:
        """Give the gate and the time."""
        return Copy(text=self._copies.get(key, ("", ""))[1]).fresh(), self.now()

    def listen(self) -> None:
        """Everybody is told at once: there is nothing to hear."""

    async def close(self) -> None:
        """Nothing to close."""


class SharedGates:
    """Gates in the state store."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self.listeners: list[Listener] = []
        self.away: str | None = None
        """Why the store is not there; None: it is."""
        self.slack = 0.0
        """Seconds by which `now` may be behind the store's clock."""
        self.hears = False
        """Whether what other workers change is heard at once."""
        self._redis = redis
        self._store = Store(redis)
        self._clock = clock
        self.offset = 0.0
        """The store's time less this process's own; 0 until the store has answered."""
        self._synced = False
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def now(self) -> float:
        """Give the store's time, never ahead of it: what opens at a time opens a little later, not earlier."""
        return self._clock() + self.offset

    async def settle(self, key: str, copy: Copy, decide: Callable[[Gate, float], tuple[Answer, bool]]) -> Answer:
        """
        Decide on the gate as it is in the store; `copy` holds it afterwards.

        `decide` changes the gate it gets, and says whether the others should know at once; it may be called more than
        once, each time with a fresh gate. Raises `StoreAway`.
        """
        if self.away is not None:
            raise StoreAway(self.away)
        if not self._synced or not copy.version:
            await self._swap(key, copy)
        for _ in range(RACES):
            gate = copy.fresh()
            now = self.now()
            gate.look_at(now)
            if copy.apart is not None:
                gate.merge(copy.apart, now, shift=self.offset - copy.offset)
            answer, notify = decide(gate, now)
            if await self._swap(key, copy, gate, notify=notify, now=now):
                copy.apart = None
                return answer
        raise StoreAway(f"The gate {key} changed {RACES} times while it was being decided on.")

    async def edit(self, key: str, change: Callable[[Gate, float], None]) -> None:
        """Change the gate, and let every worker know; raises `StoreAway`."""
        await self.settle(key, Copy(), _editing(change))

    async def read(self, key: str) -> tuple[Gate, float]:
        """Give the gate and the time; raises `StoreAway`."""
        copy = Copy()
        await self._swap(key, copy)
        return copy.gate, self.now()

    def listen(self) -> None:
        """Hear from now on what other workers change."""
        self._watch("listen", self._listen)

    async def close(self) -> None:
        """Stop listening; the client is its owner's to close."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _swap(
        self, key: str, copy: Copy, gate: Gate | None = None, *, notify: bool = False, now: float = 0.0
    ) -> bool:
        """
        Put `gate` in the copy's place, if that is what the store has; else, or without one, take the store's.

        It was decided at `now`: where that is not the store's time, its clock was set, and the decision is void.
        """
        arguments: list[Any] = [copy.version, "", "", 0, "", key, 0]
        if gate is not None:
            kept = KEPT + int(min(gate.closed_for(self.now()), LONGEST_CLOSING))
            arguments = [copy.version, _next(copy.version), gate.dump(), kept, CHANNEL if notify else "", key, now]
        sent = self._clock()
        try:
            async with asyncio.timeout(PATIENCE):
                done, time, *found = await self._store.call(_SWAP, [PREFIX + key], arguments)
        except (StoreAway, TimeoutError, RedisError, OSError) as error:
            self._lost(error)
            raise StoreAway(self.away) from error
        answered = self._clock()
        self.offset = float(time) - answered
        self.slack = answered - sent
        self._synced = True
        if done:
            copy.version, copy.text, copy.gate = arguments[1], arguments[2], gate or copy.gate
            return True
        found_version, found_text = (part.decode() for part in found)
        if found_version:
            copy.take(found_version, found_text)
        else:
            # Not there, or emptied since: what this process last knew is the best there is to begin with again.
            copy.version = ""
        return False

    def _lost(self, error: Exception) -> None:
        if self.away is None:
            reason = str(error) or type(error).__name__
            self.away = reason if reason.startswith("The state store") else f"The state store does not answer: {reason}"
            log.warning("throttle.degraded", reason=self.away)
        self._watch("recover", self._recover)

    def _tell(self, key: str | None, version: str, text: str) -> None:
        for listener in self.listeners:
            listener(key, version, text)

    def _watch(self, name: str, work: Callable[[], Any]) -> None:
        task = self._tasks.get(name)
        if task is None or task.done():
            self._tasks[name] = asyncio.get_running_loop().create_task(work(), name=f"throttle.{name}")

    async def _recover(self) -> None:
        pause, longest = RETRIES
        while self.away is not None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            with contextlib.suppress(StoreAway, TimeoutError, RedisError, OSError):
                async with asyncio.timeout(PATIENCE):
                    await self._redis.ping()
                self.away = None
                log.info("throttle.restored")
                self._tell(None, "", "")

    async def _listen(self) -> None:
        """Hear what other workers publish, for ever; what is missed meanwhile is seen at the next look."""
        pause, longest = RETRIES
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    while True:
                        message = await pubsub.get_message(timeout=60.0)
                        if message is not None and message["type"] == "message":
                            self._tell(*message["data"].decode().split("\n", 2))
                        elif message is not None and not self.hears:
                            pause, self.hears = RETRIES[0], True
                            self._tell(None, "", "")  # something may have been missed
            except (TimeoutError, RedisError, OSError) as error:
                log.debug("throttle.unheard", reason=str(error))
            if self.hears:
                self.hears = False
                self._tell(None, "", "")
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)


def _editing(change: Callable[[Gate, float], None]) -> Callable[[Gate, float], tuple[None, bool]]:
    def decide(gate: Gate, now: float) -> tuple[None, bool]:
        change(gate, now)
        return None, True

    return decide


def _next(version: str) -> str:
    """Name the version after this one; a gate that begins anew has versions of its own, so that none is met twice."""
    series, _, number = version.partition(":")
    return f"{series}:{int(number) + 1}" if series else f"{uuid4().hex[:12]}:1"
