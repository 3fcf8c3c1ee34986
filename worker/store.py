"""
The state store: one Valkey or Redis, reached over one loop, with the calls of one turn sent together.

A script call costs a round trip; at a thousand commands a second that is most of a worker's time. Calls that are made
in the same turn of the loop therefore travel as one pipeline: nobody waits longer, and the cost is shared.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET_TIMEOUT: Final = 5.0
"""Seconds until an answer of the store is given up; a healthy one answers within milliseconds."""

SIDE_BY_SIDE: Final = 4
"""Pipelines under way at once: each takes a connection, which stays. What comes meanwhile goes out with the next."""

AWAY_PAUSE: Final = 0.5
"""Seconds after a failure during which calls fail at once instead of each waiting for its own time-out."""


class StoreAway(Exception):
    """The state store does not answer, or refuses to write."""


def connect(url: str) -> Redis:
    """Make a client of the state store at `url` (`redis://`, `rediss://`, `unix://`); it connects when first used."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=2.0,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, known to the server by its digest."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> Script:
        # SHA-1 is how the server names scripts (EVALSHA), not a safeguard.
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class _Call:
    script: Script
    keys: Sequence[str]
    args: Sequence[Any]
    answer: asyncio.Future[Any]


class Store:
    """Script calls on the state store; raises `StoreAway` where it can't be reached or can't write."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.away_since: float | None = None
        """Loop time of the first failure since the last answer, None while it answers."""
        self._pending: list[_Call] = []
        self._scheduled = False
        self._flushing: set[asyncio.Task[None]] = set()
        self._fail_until = 0.0

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script; calls made in the same turn of the loop share one round trip."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._fail_until:
            message = "The state store did not answer a moment ago."
            raise StoreAway(message)
        call = _Call(script, keys, args, loop.create_future())
        self._pending.append(call)
        if not self._scheduled and len(self._flushing) < SIDE_BY_SIDE:
            self._scheduled = True
            loop.call_soon(self._flush)
        return await call.answer

    def _flush(self) -> None:
        self._scheduled = False
        calls, self._pending = self._pending, []
        if not calls:
            return
        task = asyncio.get_running_loop().create_task(self._send(calls))
        self._flushing.add(task)
        task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushing.discard(task)
        if self._pending and not self._scheduled:
            self._flush()

    async def _send(self, calls: list[_Call]) -> None:
        try:
            answers = await self._execute(calls)
            unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:  # a fresh or flushed server: it does not know the scripts yet
                for script in {calls[i].script for i in unknown}:
                    await self.redis.script_load(script.source)
                for i, answer in zip(unknown, await self._execute([calls[i] for i in unknown]), strict=True):
                    answers[i] = answer
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may wait for an answer that never comes
            calls, self._pending = [*calls, *self._pending], []  # those that wait would only wait for the same
            answers = [error] * len(calls)
        self._settle(calls, answers)

    async def _execute(self, calls: list[_Call]) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    def _settle(self, calls: list[_Call], answers: list[Any]) -> None:
        now = asyncio.get_running_loop().time()
        failed = False
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                failed = True
                if not call.answer.done():
                    away = StoreAway(f"The state store did not do as asked: {answer}")
                    away.__cause__ = answer
                    call.answer.set_exception(away)
            elif not call.answer.done():
                call.answer.set_result(answer)
        if failed:
            self.away_since = now if self.away_since is None else self.away_since
            self._fail_until = now + AWAY_PAUSE
        else:
            self.away_since = None

    async def close(self) -> None:
        """Let what is under way finish, and close the connections."""
        while self._flushing:
            await asyncio.gather(*self._flushing, return_exceptions=True)
            await asyncio.sleep(0)  # what came meanwhile goes out now
        await self.redis.aclose()
